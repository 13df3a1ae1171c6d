"""Problems out of rows of files. What is wrong with a row is named by its line, and stops, or is left out.

Two prompts are the same if they differ in white space alone.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_jax.tasks.data_files import DataFile, Fault, rows_message
from rlvr_jax.tasks.heldout import HELDOUT_ONE_IN, fair_order, is_heldout
from rlvr_jax.tasks.problem import RowProblem

log = logging.getLogger(__name__)

BAD_ROWS = ("stop", "skip")
REPEATED_PROMPTS = ("keep", "skip", "stop")
OVERLAP = ("skip", "stop")
ProblemOf = Callable[[dict[str, Any]], RowProblem]  # raises ValueError saying what is wrong with the row


@dataclass(frozen=True)
class RowPolicy:
    """What becomes of rows that are not as they should be."""

    bad_rows: str  # cannot be used: one of BAD_ROWS; "skip" leaves them out with a warning
    repeated_prompts: str  # of one set: one of REPEATED_PROMPTS; "keep" warns, "skip" keeps the first of each
    overlap: str  # training problems that are held out: one of OVERLAP; "skip" leaves them out of training


@dataclass(frozen=True)
class FileProblems:
    """What files hold."""

    train: list[RowProblem]
    heldout: list[RowProblem]  # in an order of which any beginning is a fair sample
    fingerprint: str


@dataclass(frozen=True)
class _Placed:
    problem: RowProblem
    file: DataFile
    number: int


def same_text(text: str) -> str:
    """`text` as it is compared: without white space around, one space for each run of it inside."""
    return " ".join(text.split())


def file_problems(
    files: Sequence[DataFile], heldout_files: Sequence[DataFile], problem_of: ProblemOf, policy: RowPolicy
) -> FileProblems:
    """Training and held-out problems; without held-out files a hash of the content holds one in ten out.

    Raises ValueError naming the rows, or saying that nothing is left to train on.
    """
    train = _without_repeats(_usable(files, problem_of, policy), policy)
    if heldout_files:
        heldout = _without_repeats(_usable(heldout_files, problem_of, policy), policy)
        train = _without_heldout(train, heldout, policy)
    else:
        everything = train
        train = [placed for placed in everything if not is_heldout(placed.problem.content)]
        heldout = [placed for placed in everything if is_heldout(placed.problem.content)]
        if not train:
            raise ValueError(
                f"all {len(everything)} problems of {_names(files)} are held out, which a hash of the prompt decides "
                f"for one in {HELDOUT_ONE_IN}; add problems, or name a file for each in task.path and task.heldout_path"
            )
    joined = "+".join(file.fingerprint for file in (*files, *heldout_files))
    return FileProblems(
        train=[placed.problem for placed in train],
        heldout=sorted((placed.problem for placed in heldout), key=lambda problem: fair_order(problem.prompt)),
        fingerprint=hashlib.blake2b(joined.encode(), digest_size=16).hexdigest(),
    )


def _usable(files: Sequence[DataFile], problem_of: ProblemOf, policy: RowPolicy) -> list[_Placed]:
    """The problems of all rows that can be used. Raises ValueError where others are there and may not be."""
    found, errors = [], []
    for file in files:
        faults = list(file.faults)
        for number, row in file.rows:
            try:
                found.append(_Placed(problem_of(row), file, number))
            except ValueError as error:
                faults.append((number, str(error)))
        if faults and policy.bad_rows == "stop":
            errors.append(rows_message(file.path, file.unit, sorted(faults)))
        elif faults:
            log.warning("%s", rows_message(file.path, file.unit, sorted(faults), what="left out"))
    if errors:
        raise ValueError("\n".join([*errors, "correct them, or leave them out with task.bad_rows='skip'"]))
    if not found:
        raise ValueError(f"{_names(files)}: no row can be used; name other files")
    return found


def _without_repeats(found: list[_Placed], policy: RowPolicy) -> list[_Placed]:
    """One problem per content, or all of them, as the policy has it."""
    first_of: dict[str, _Placed] = {}
    for placed in found:
        first_of.setdefault(placed.problem.content, placed)
    firsts = [(placed, first_of[placed.problem.content]) for placed in found]
    repeats = [(placed, _repeated(placed, first)) for placed, first in firsts if placed is not first]
    if not repeats:
        return found
    message = _listed(repeats, what="with the prompt of an earlier one")
    if policy.repeated_prompts == "stop":
        raise ValueError(f"{message}\nremove them, or set task.repeated_prompts='skip' or 'keep'")
    if policy.repeated_prompts == "keep":
        log.warning("%s\nthey are kept; task.repeated_prompts='skip' leaves them out", message)
        return found
    log.warning("%s\nthey are left out", message)
    return list(first_of.values())


def _repeated(placed: _Placed, first: _Placed) -> str:
    file = "" if first.file is placed.file else f" of {first.file.path}"
    is_same = same_text(first.problem.answer) == same_text(placed.problem.answer)
    return f"as {first.file.unit} {first.number}{file}{'' if is_same else ', with another answer'}"


def _without_heldout(train: list[_Placed], heldout: list[_Placed], policy: RowPolicy) -> list[_Placed]:
    """The training problems that are not held out."""
    heldout_of = {placed.problem.content: placed for placed in heldout}
    kept = [placed for placed in train if placed.problem.content not in heldout_of]
    if len(kept) == len(train):
        return kept
    if not kept:
        raise ValueError(
            f"every prompt of {_names([placed.file for placed in train])} is also in task.heldout_path; "
            "name a file with other problems"
        )
    both = [(placed, heldout_of.get(placed.problem.content)) for placed in train]
    held_out = [(placed, f"as {held.file.unit} {held.number} of {held.file.path}") for placed, held in both if held]
    message = _listed(held_out, what="with a prompt that is held out")
    if policy.overlap == "stop":
        raise ValueError(f"{message}\nremove them, or leave them out of training with task.overlap='skip'")
    log.warning("%s\n%d of %d problems are not trained on", message, len(train) - len(kept), len(train))
    return kept


def _listed(rows: list[tuple[_Placed, str]], *, what: str) -> str:
    """The message of rows with something to say of each, file by file."""
    by_file: dict[int, tuple[DataFile, list[Fault]]] = {}
    for placed, why in rows:
        by_file.setdefault(id(placed.file), (placed.file, []))[1].append((placed.number, why))
    return "\n".join(rows_message(file.path, file.unit, faults, what=what) for file, faults in by_file.values())


def _names(files: Sequence[DataFile]) -> str:
    return ", ".join(dict.fromkeys(file.path for file in files))

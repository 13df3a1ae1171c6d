"""Problems from a user's file, graded by exact answers or by functions of the user's."""

import bisect
import hashlib
import logging
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from rlvr_jax.tasks.data_files import DataFile, read_data_file, unusable_rows
from rlvr_jax.tasks.heldout import HELDOUT_ONE_IN, fair_order, is_heldout
from rlvr_jax.tasks.problem import Grades, RowProblem, nth
from rlvr_jax.tasks.rewards import EXACT, Rewards
from rlvr_jax.tasks.template import Template, field_text

log = logging.getLogger(__name__)


class JsonlTask:
    """One problem per row of a file; a second file, or one row in ten, is held out."""

    name = "jsonl"

    def __init__(
        self,
        *,
        path: str,
        heldout_path: str,
        template: str,
        answer_field: str,
        demonstration_field: str,
        rewards: tuple[str, ...],
        reward_weights: tuple[float, ...],
        correct_at: float,
        reward_limit_s: float,
        reward_workers: int,
    ):
        """Reads the files and starts the rewards. Raises ValueError with the rows, fields or functions at fault.

        Args:
            answer_field: "" if rows have no answer, which rules out "exact".
            demonstration_field: what the warm start imitates; "" for the answer.
        """
        if EXACT in rewards and not answer_field:
            raise ValueError("task.rewards has 'exact', which needs answers; set task.answer_field to a field of them")
        fields = {"template": Template(template), "answer": answer_field, "demonstration": demonstration_field}
        files = [read_data_file(file) for file in (path, heldout_path) if file]
        problems = [_problems(file, **fields) for file in files]
        if heldout_path:
            self._train, heldout = _without_heldout(path, *problems), problems[1]
        else:
            self._train, heldout = _split(path, problems[0])
        self._heldout = sorted(heldout, key=lambda problem: fair_order(problem.prompt))
        if n_repeated := len(self._train) - len({problem.prompt for problem in self._train}):
            log.warning(
                "%s: %d of %d training problems repeat the prompt of another", path, n_repeated, len(self._train)
            )
        self.fingerprint = hashlib.blake2b(
            "+".join(file.fingerprint for file in files).encode(), digest_size=16
        ).hexdigest()
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        everything = self._train + self._heldout
        self.longest_answer = max(len(problem.answer) for problem in everything)
        self.longest_demonstration = max(len(problem.demonstration) for problem in everything)
        self._has_demonstrations = bool(demonstration_field or answer_field)
        self._demonstrations = sorted((p.demonstration.strip(), p.demonstration) for p in self._train)
        self._rewards = Rewards(
            rewards,
            weights=reward_weights,
            correct_at=correct_at,
            limit_s=reward_limit_s,
            n_processes=reward_workers,
        )

    def train_problem(self, index: int) -> RowProblem:
        return nth(self._train, index)

    def heldout_problem(self, index: int) -> RowProblem:
        return nth(self._heldout, index)

    def grade(self, problems: Sequence[RowProblem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        return self._rewards.grade(problems, completion_texts)

    def close(self) -> None:
        """Ends the processes of the rewards."""
        self._rewards.close()

    def demonstration(self, problem: RowProblem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The row's own demonstration, or that of another training row that differs in more than white space."""
        if not self._has_demonstrations:
            raise ValueError(
                "the warm start needs something to imitate; set task.demonstration_field or task.answer_field "
                "to a field of it, or warmstart.enabled=False"
            )
        if rng.random() < p_correct:
            return problem.demonstration
        own, others = problem.demonstration.strip(), self._demonstrations
        first = bisect.bisect_left(others, own, key=itemgetter(0))
        n_equal = bisect.bisect_right(others, own, key=itemgetter(0)) - first  # a block, as they are sorted
        if n_equal == len(others):
            return _garbled(own)
        drawn = int(rng.integers(len(others) - n_equal))
        return others[drawn if drawn < first else drawn + n_equal][1]


def _garbled(text: str) -> str:
    """Another text than `text`, which begins and ends with no white space, of no more characters."""
    rotated = text[1:] + text[:1]
    return rotated if rotated != text else text[:-1]


def _problems(file: DataFile, *, template: Template, answer: str, demonstration: str) -> list[RowProblem]:
    problems, faults = [], []
    for number, row in file.rows:
        try:
            problems.append(_problem(row, template, answer=answer, demonstration=demonstration))
        except ValueError as error:
            faults.append((number, str(error)))
    if faults:
        raise unusable_rows(file.path, file.unit, faults)
    return problems


def _problem(row: dict[str, Any], template: Template, *, answer: str, demonstration: str) -> RowProblem:
    def text_of(field: str, setting: str) -> str:
        text = field_text(row, field, setting=setting)
        if not text.strip():
            raise ValueError(f"field {field!r}, which {setting} names, is empty; fill it, or remove the row")
        return text

    prompt = template.fill(row)
    if not prompt.strip():
        raise ValueError("its prompt is empty; fill the fields that task.template names, or remove the row")
    answer_text = text_of(answer, "task.answer_field") if answer else ""
    shown = text_of(demonstration, "task.demonstration_field") if demonstration else answer_text
    return RowProblem(prompt, answer_text, content=prompt, row=row, demonstration=shown)


def _split(path: str, problems: list[RowProblem]) -> tuple[list[RowProblem], list[RowProblem]]:
    """Training and held-out problems out of one file; rows of one prompt stay together."""
    train = [problem for problem in problems if not is_heldout(problem.content)]
    if not train:
        raise ValueError(
            f"all {len(problems)} problems of {path} are held out, which a hash of the prompt decides for one in "
            f"{HELDOUT_ONE_IN}; add problems, or name a file for each in task.path and task.heldout_path"
        )
    return train, [problem for problem in problems if is_heldout(problem.content)]


def _without_heldout(path: str, problems: list[RowProblem], heldout: list[RowProblem]) -> list[RowProblem]:
    """The problems of the training file whose prompts are not held out."""
    heldout_contents = {problem.content for problem in heldout}
    train = [problem for problem in problems if problem.content not in heldout_contents]
    if n_dropped := len(problems) - len(train):
        log.warning("%s: %d of %d problems are not trained on: they are held out", path, n_dropped, len(problems))
    if not train:
        raise ValueError(f"every prompt of {path} is also in task.heldout_path; name a file with other problems")
    return train

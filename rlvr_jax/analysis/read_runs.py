"""Run directories as plain records. Long tables stay on disk and are streamed."""

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.series import Column, Series, aligned, is_number, read_columns

Row = dict[str, Any]

RUN_FILE, METRICS_FILE, EVALS_FILE = "run.json", "metrics.jsonl", "evals.jsonl"
NEEDED = ("batch.n_prompts", "batch.n_rollouts", "task.name")
# what a run.json of an older version does not hold: what that version did
OLDER = {
    "seed": 0,
    "n_updates": 0,
    "batch.minibatch_prompts": 0,
    "batch.epochs_per_buffer": 1,
    "eval.target_metric": "pass@1",
    "eval.targets": [],
    "eval.k": [],
    "eval.n_problems": 0,
    "eval.every_updates": 0,
    "optimizer.lr_rule": "constant",
}


@dataclass(frozen=True)
class RunRecord:
    """One run directory. Rows are as written; null stands for a number that meant nothing."""

    folder: Path
    study: str
    point: str
    status: str
    config: dict[str, Any]  # by dotted field; what an older version lacks is filled in from OLDER
    plan: dict[str, Any]
    evals: list[Row]  # one per evaluation, the start included
    run: Row = field(default_factory=dict)  # the whole of run.json: versions, devices, git_revision, ...
    notes: list[str] = field(default_factory=list)  # what could not be read
    _columns: dict[str, Column] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Tells runs of several studies apart."""
        return f"{self.study}/{self.point}"

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def n_prompts(self) -> int:
        return self.config["batch.n_prompts"]

    @property
    def n_rollouts(self) -> int:
        return self.config["batch.n_rollouts"]

    @property
    def minibatch_prompts(self) -> int:
        """Prompts of one optimiser update."""
        return self.config["batch.minibatch_prompts"] or self.n_prompts

    @property
    def updates_per_step(self) -> int:
        epochs = self.config["batch.epochs_per_buffer"]
        return self.plan.get("updates_per_step") or epochs * max(1, self.n_prompts // self.minibatch_prompts)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def target_name(self) -> str:
        """The column of `evals` that targets are read from, such as "eval/digits/pass@1"."""
        return f"eval/{self.config['task.name']}/{self.config['eval.target_metric']}"

    def rows(self) -> Iterator[Row]:
        """metrics.jsonl, one row per update, streamed. What cannot be read is left out and said in `notes`."""
        yield from _readable_rows(self.folder / METRICS_FILE, self.notes)

    def series(self, *names: str) -> Series:
        """Columns of metrics.jsonl as arrays. Columns not asked for before cost one pass over the file.

        A row that does not name any of them is not parsed: a measured update may be one in many.
        """
        missing = [name for name in names if name not in self._columns]
        if missing:
            marks = [json.dumps(name).encode() for name in missing]
            rows = _readable_rows(self.folder / METRICS_FILE, self.notes, marks=marks)
            self._columns.update(read_columns(rows, missing))
        return aligned({name: self._columns[name] for name in names})

    def scan(self, *names: str) -> dict[str, None]:
        """The names of all columns of metrics.jsonl in order; the same pass keeps columns `names` for `series`."""
        found: dict[str, None] = {}
        absurd: Counter[str] = Counter()

        def noticed() -> Iterator[Row]:
            for row in self.rows():
                absurd.update(name for name in names if row.get(name) is not None and not is_number(row[name]))
                if not row.keys() <= found.keys():
                    found.update(dict.fromkeys(row))
                yield row

        self._columns.update(read_columns(noticed(), names))
        if absurd:
            counts = ", ".join(f"{name} in {n} row(s)" for name, n in absurd.items())
            self.notes.append(
                f"{self.folder / METRICS_FILE} holds no number to compute with for {counts}: left out there."
            )
        return found


def find_runs(paths: list[Path], *, notes: list[str] | None = None) -> list[RunRecord]:
    """Every run at or below the given folders, sorted by folder.

    Args:
        notes: given, what cannot be used is left out and said here; else it is refused.

    Raises:
        FileNotFoundError: naming a folder that holds no run, or none of several does.
        ValueError: naming a run.json that cannot be read.
    """
    records = {}
    empty = []
    for path in paths:
        files, without = _run_files(path)
        if not files:
            empty.append(_why_empty(path))
        if notes is not None:
            notes += [f"{folder} holds no {RUN_FILE} and is left out." for folder in without]
        for file in files:
            if file.parent.resolve() in records:
                continue
            try:
                records[file.parent.resolve()] = _record(file)
            except ValueError as error:
                if notes is None:
                    raise
                notes.append(f"{error}; it is left out.")
    if empty and (notes is None or not records):
        raise FileNotFoundError("; ".join([*empty, *(notes or [])]))
    if not records:
        raise ValueError(" ".join(notes or []))
    if notes is not None:
        notes += [f"{text}; it is left out." for text in empty]
    return [records[folder] for folder in sorted(records)]


def _why_empty(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; give a run directory, or a folder that holds some"
    if not path.is_dir():
        return f"{path} is a file; give the folder that it is in"
    return f"{path} holds no run (no {RUN_FILE} at or below it)"


def _run_files(path: Path) -> tuple[list[Path], list[Path]]:
    """(every run.json at or below a folder, folders beside runs that are empty or look like a run without one)."""
    files, without = [], []
    visited = set()  # links are followed, and may lead back
    for folder, folders, names in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders.sort()
        if RUN_FILE in names:
            files.append(Path(folder, RUN_FILE))
            folders.clear()  # checkpoints hold thousands of files
        elif Path(folder) != path and (not (folders or names) or {METRICS_FILE, EVALS_FILE} & set(names)):
            without.append(Path(folder))
    return sorted(files), without


def _record(file: Path) -> RunRecord:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        study, point, status, config, plan = (run[name] for name in ("study", "point", "status", "config", "plan"))
        lacking = [name for name in NEEDED if name not in config]
        if lacking:
            raise KeyError(", ".join(lacking))
        config = OLDER | dict(config)
        _check(config, plan)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is no run.json of this library ({type(error).__name__}: {error})") from error
    notes: list[str] = []
    return RunRecord(
        folder=file.parent,
        study=shown(study),
        point=shown(point),
        status=shown(status),
        config=config,
        plan=plan,
        evals=list(_readable_rows(file.parent / EVALS_FILE, notes)),
        run=run,
        notes=notes,
    )


def shown(value: Any) -> str:
    """A name or setting on one line: whatever does not print, such as a newline, as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))


def _check(config: dict[str, Any], plan: Any) -> None:
    """Raises TypeError where a field that is computed with has a value that it cannot have."""
    whole = ("seed", "batch.n_prompts", "batch.n_rollouts", "batch.minibatch_prompts", "batch.epochs_per_buffer")
    for name in whole:
        lowest = 1 if name in NEEDED or name == "batch.epochs_per_buffer" else 0
        if type(config[name]) is not int or (config[name] < lowest and name != "seed"):
            raise TypeError(f"{name} is {config[name]!r}")
    targets = config["eval.targets"]
    if not isinstance(targets, list) or not all(is_number(target) for target in targets):
        raise TypeError(f"eval.targets is {targets!r}")
    if not isinstance(config["eval.k"], list):
        raise TypeError(f"eval.k is {config['eval.k']!r}")
    if not isinstance(plan, dict):
        raise TypeError(f"plan is {plan!r}")


def read_rows(
    path: Path, *, on_damage: Callable[[str], None] | None = None, marks: list[bytes] | None = None
) -> Iterator[Row]:
    """Rows of a JSON-lines file, plain or gzipped; a last line that was cut is left out.

    Args:
        on_damage: told in words of each line that cannot be read, which is left out.
        marks: lines that hold none of them are skipped unread.

    Raises:
        ValueError: without `on_damage`, naming a line that is no JSON and not the last: that is damage, not a kill.
    """
    if not path.exists():
        return
    damage = None
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if damage is not None:
                    if on_damage is None:
                        raise ValueError(damage)
                    on_damage(damage)
                    damage = None
                if marks and not any(mark in line for mark in marks):
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # no JSON, or a character cut in two
                    damage = f"{path} line {number} is no JSON ({error}): {line[:80]!r}"
                    continue
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error):  # killed while it wrote this gzip member
            damage = "cut"
    if damage is not None and on_damage is not None:
        on_damage(f"the last line of {path} was cut and is left out")


def _readable_rows(path: Path, notes: list[str], *, marks: list[bytes] | None = None) -> Iterator[Row]:
    """Rows with a number under "update"; whatever cannot be read is left out and said, once."""
    n_said = 0

    def say(text: str) -> None:
        nonlocal n_said
        n_said += 1
        if n_said <= 3 and f"{text}." not in notes:  # a few lines tell what all would
            notes.append(f"{text}.")

    try:
        for row in read_rows(path, on_damage=say, marks=marks):
            if isinstance(row, dict) and is_number(row.get("update")):
                yield row
            else:
                say(f"a line of {path} has no number under update and is left out: {str(row)[:80]}")
    except OSError as error:
        say(f"{path} cannot be read ({error.strerror or error})")
    if n_said > 3:
        say_all = f"{n_said} lines of {path} cannot be read and are left out."
        if say_all not in notes:
            notes.append(say_all)


def column(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """(updates, values) of the rows that have a number under `name`."""
    pairs = [(row["update"], row[name]) for row in rows if is_number(row.get(name))]
    return [float(update) for update, _ in pairs], [float(value) for _, value in pairs]

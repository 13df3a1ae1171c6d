"""Run directories as plain records."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run directory. Rows are as written; null stands for a number that meant nothing."""

    folder: Path
    study: str
    point: str
    status: str
    config: dict[str, Any]  # by dotted field
    plan: dict[str, Any]
    metrics: list[Row]  # one per update
    evals: list[Row]  # one per evaluation, the start included

    @property
    def n_prompts(self) -> int:
        return self.config["batch.n_prompts"]

    @property
    def n_rollouts(self) -> int:
        return self.config["batch.n_rollouts"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def target_name(self) -> str:
        """The column of `evals` that targets are read from, such as "eval/digits/pass@1"."""
        return f"eval/{self.config['task.name']}/{self.config['eval.target_metric']}"


def find_runs(paths: list[Path]) -> list[RunRecord]:
    """Every run at or below the given folders, sorted by folder.

    Raises FileNotFoundError naming a folder that holds none, ValueError naming a run.json that cannot be read.
    """
    records = {}
    for path in paths:
        found = sorted(path.rglob("run.json")) if path.is_dir() else []
        if not found:
            raise FileNotFoundError(f"{path} holds no run (no run.json at or below it)")
        for file in found:
            records[file.parent.resolve()] = _record(file)
    return [records[folder] for folder in sorted(records)]


def _record(file: Path) -> RunRecord:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        fields = {name: run[name] for name in ("study", "point", "status", "config", "plan")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no run.json of this library ({type(error).__name__}: {error})") from error
    folder = file.parent
    return RunRecord(
        folder=folder,
        metrics=list(read_rows(folder / "metrics.jsonl")),
        evals=list(read_rows(folder / "evals.jsonl")),
        **fields,
    )


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON-lines file, plain or gzipped; a last line that was cut is left out.

    Raises ValueError naming a line that is no JSON and not the last: that is damage, not a kill.
    """
    if not path.exists():
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:  # no JSON, or a character cut in two
                    if next(lines, None) is None:
                        return  # the process was killed while it wrote this line
                    raise ValueError(f"{path} line {number} is no JSON ({error}): {line[:80]!r}") from error
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return  # killed while it wrote this gzip member


def column(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """(updates, values) of the rows that have a number under `name`."""
    pairs = [(row["update"], row[name]) for row in rows if _is_number(row.get(name))]
    return [float(update) for update, _ in pairs], [float(value) for _, value in pairs]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)

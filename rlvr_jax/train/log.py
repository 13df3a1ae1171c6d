"""The run directory: exact rows as JSON lines, and TensorBoard events as a view of them.

A row that cannot be written ends the run: it is the record. A sink that only shows (TensorBoard,
sample tables) may fail; that is counted in health/sink_errors.
"""

import gzip
import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX import summary as tb_summary
from tensorboardX.proto.summary_pb2 import Summary

from rlvr_jax.analysis.read_runs import Row, read_rows

log = logging.getLogger(__name__)

METRICS_FILE, EVALS_FILE, ROLLOUTS_FILE, RUN_FILE = "metrics.jsonl", "evals.jsonl", "rollouts.jsonl.gz", "run.json"


class RunLog:
    """Writers of one run directory. Rows of updates after `last_update` are cut when it opens."""

    def __init__(self, folder: Path, *, last_update: int):
        self.folder = folder
        self.sink_errors = 0
        for name in (METRICS_FILE, EVALS_FILE, ROLLOUTS_FILE):
            cut_rows(folder / name, last_update=last_update)
        self._metrics = (folder / METRICS_FILE).open("a", encoding="utf-8")
        self._evals = (folder / EVALS_FILE).open("a", encoding="utf-8")
        self._writer: SummaryWriter | None = None
        self._sink(lambda: self._open_events(purge_step=last_update + 1))

    def _open_events(self, *, purge_step: int) -> None:
        # purge_step makes a reader forget what an interrupted process wrote past the checkpoint
        self._writer = SummaryWriter(str(self.folder), purge_step=purge_step)

    def metrics(self, row: Row) -> None:
        """One row per update; `row` holds update, step, prompts, rollouts, tokens, seconds and the metrics."""
        _append(self._metrics, row | {"health/sink_errors": self.sink_errors})
        self._scalars(row)

    def evaluation(self, row: Row) -> None:
        """One row per evaluation, with the same counters."""
        _append(self._evals, row)
        self._scalars(row)

    def rollouts(self, rows: list[Row], *, update: int) -> None:
        """A table of completions, to rollouts.jsonl.gz and as TensorBoard text."""
        self._sink(lambda: _append_gzip(self.folder / ROLLOUTS_FILE, rows))
        self._sink(lambda: self._add(tb_summary.text("rollouts", _markdown_table(rows)), update))

    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None:
        """A distribution in TensorBoard only."""
        self._sink(lambda: self._writer.add_histogram(name, values, update))

    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None:
        """The point's settings with its final numbers, for TensorBoard's hparams tab.

        As summaries in this same event file: SummaryWriter.add_hparams opens a sub-run.
        """
        finite = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        for part in tb_summary.hparams(plain, finite):
            self._sink(lambda part=part: self._add(part, update))

    def _scalars(self, row: Row) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value)  # not add_scalar: it turns pass@1 into pass_1
            for name, value in row.items()
            if "/" in name and _json_number(value) is not None
        ]
        self._sink(lambda: self._add(Summary(value=values), row["update"]))

    def _add(self, summary: Summary, update: int) -> None:
        self._writer.file_writer.add_summary(summary, update)

    def _sink(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a view must not end the run it shows, whatever its library raises
            self.sink_errors += 1
            if self.sink_errors == 1:
                log.warning("a log sink failed and the run goes on (%s: %s)", type(error).__name__, error)

    def flush(self) -> None:
        """Everything written so far is with the operating system."""
        self._sink(lambda: self._writer.flush())

    def close(self) -> None:
        self._metrics.close()
        self._evals.close()
        self._sink(lambda: self._writer.close())


def cut_rows(path: Path, *, last_update: int) -> None:
    """Drops rows of updates after `last_update`, and a cut last line. Leaves the file as it is or complete."""
    if not path.exists():
        return
    partial = path.with_name(path.name + ".partial")
    kept = (row for row in read_rows(path) if row["update"] <= last_update)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(partial, "wt", encoding="utf-8") as out:
        for row in kept:
            out.write(_line(row))
    partial.replace(path)


def write_json(path: Path, content: Row) -> None:
    """A whole JSON file; a reader sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _append(file: IO[str], row: Row) -> None:
    file.write(_line(row))
    file.flush()  # a killed process loses at most the line it was writing


def _append_gzip(path: Path, rows: Iterable[Row]) -> None:
    with gzip.open(path, "at", encoding="utf-8") as out:
        out.writelines(_line(row) for row in rows)


def _line(row: Row) -> str:
    return json.dumps({name: _json_number(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _json_number(value: Any) -> Any:
    """NaN and infinities become null: JSON has no such numbers."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown_table(rows: list[Row]) -> str:
    columns = ["prompt", "completion", "answer", "reward", "length_tokens"]
    lines = ["|" + "|".join(columns) + "|", "|" + "---|" * len(columns)]
    for row in rows[:64]:
        cells = [str(row[column]).replace("|", "\\|").replace("\n", " ")[:200] for column in columns]
        lines.append("|" + "|".join(cells) + "|")
    return "\n".join(lines)

"""The run directory: exact rows as JSON lines, and sinks that show them.

A row that cannot be written ends the run: it is the record. What only shows (train/sinks.py, the
sampled tables) may fail; that is counted in health/sink_errors.
"""

import contextlib
import gzip
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from rlvr_jax.analysis.read_runs import Row, read_rows
from rlvr_jax.train.sinks import Sink, append_whole

log = logging.getLogger(__name__)

METRICS_FILE, EVALS_FILE, ROLLOUTS_FILE, RUN_FILE = "metrics.jsonl", "evals.jsonl", "rollouts.jsonl.gz", "run.json"
NOISE_FOLDER = "noise"


class RunLog:
    """Writers of one run directory. Rows of updates after `last_update` are cut when it opens."""

    def __init__(self, folder: Path, *, last_update: int, sinks: Mapping[str, Callable[[], Sink]]):
        """`sinks` opens each sink, by the name that a warning gives it."""
        self.folder = folder
        self.sink_errors = 0
        self._warned: set[str] = set()
        for name in (METRICS_FILE, EVALS_FILE):
            cut_rows(folder / name, last_update=last_update)
        self._guarded(ROLLOUTS_FILE, lambda: cut_rows(folder / ROLLOUTS_FILE, last_update=last_update))
        self._guarded(NOISE_FOLDER, lambda: cut_noise(folder / NOISE_FOLDER, last_update=last_update))
        self._metrics = (folder / METRICS_FILE).open("a", encoding="utf-8")
        self._evals = (folder / EVALS_FILE).open("a", encoding="utf-8")
        with contextlib.suppress(OSError):  # some network file systems cannot
            _sync(folder)  # the files' names, which syncing the files does not cover
        self._sinks: dict[str, Sink] = {}
        for name, open_sink in sinks.items():
            self._guarded(name, lambda name=name, open_sink=open_sink: self._sinks.update({name: open_sink()}))

    def metrics(self, row: Row) -> None:
        """One row per update; `row` holds update, step, prompts, rollouts, tokens, seconds and the metrics."""
        row = row | {"health/sink_errors": self.sink_errors}
        _append(self._metrics, row)
        self._scalars(row)

    def evaluation(self, row: Row) -> None:
        """One row per evaluation, with the same counters."""
        _append(self._evals, row)
        self._scalars(row)

    def rollouts(self, rows: list[Row], *, update: int) -> None:
        """A table of completions, one row each."""
        self._table("completions", rows, shown_as="rollouts", update=update)

    def prompts(self, rows: list[Row], *, update: int) -> None:
        """A table of the step's prompts, each once, with how its rollouts did."""
        self._table("prompts", rows, shown_as="prompts", update=update)

    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None:
        """A distribution, in the sinks only; of the finite values, and not shown without any."""
        finite = values[np.isfinite(values)]
        if finite.size:
            self._show(lambda sink: sink.histogram(name, finite, update=update))

    def noise(self, arrays: dict[str, np.ndarray], *, update: int) -> None:
        """What a measured update knows of each rollout, as noise/update_N.npz."""
        self._guarded(NOISE_FOLDER, lambda: save_arrays(self.folder / NOISE_FOLDER / f"update_{update}.npz", arrays))

    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None:
        """The point's settings with its final numbers, by which sinks compare points."""
        finite = {name: value for name, value in metrics.items() if _is_finite(value)}
        self._show(lambda sink: sink.hparams(settings, finite, update=update))

    def flush(self) -> None:
        """Every row is on the disk, and would be there after a power cut."""
        for file in (self._metrics, self._evals):
            file.flush()
            os.fsync(file.fileno())
        self._show(lambda sink: sink.flush())

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # from the last to the first, even if one of them raises
            closing.callback(self._show, lambda sink: sink.close())
            closing.callback(self._evals.close)
            closing.callback(self._metrics.close)

    def _table(self, table: str, rows: list[Row], *, shown_as: str, update: int) -> None:
        if rows:
            kept = [{"table": table} | row for row in rows]
            self._guarded(ROLLOUTS_FILE, lambda: _append_gzip(self.folder / ROLLOUTS_FILE, kept))
            self._show(lambda sink: sink.table(shown_as, rows, update=update))

    def _scalars(self, row: Row) -> None:
        shown = {name: value for name, value in row.items() if _is_finite(value)}
        self._show(lambda sink: sink.scalars(shown))

    def _show(self, write: Callable[[Sink], None]) -> None:
        for name, sink in self._sinks.items():
            self._guarded(name, lambda sink=sink: write(sink))

    def _guarded(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a view must not end the run it shows, whatever its library raises
            self.sink_errors += 1
            if name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "%s failed and the run goes on (%s: %s); health/sink_errors counts what else fails",
                    name,
                    type(error).__name__,
                    error,
                )


class SilentLog:
    """What a process writes that is not the first of several: nothing."""

    def metrics(self, row: Row) -> None: ...
    def evaluation(self, row: Row) -> None: ...
    def rollouts(self, rows: list[Row], *, update: int) -> None: ...
    def prompts(self, rows: list[Row], *, update: int) -> None: ...
    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None: ...
    def noise(self, arrays: dict[str, np.ndarray], *, update: int) -> None: ...
    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


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
    _replace(path, partial)


def cut_noise(folder: Path, *, last_update: int) -> None:
    """Deletes the arrays of updates after `last_update`."""
    for path in folder.glob("update_*.npz"):
        if int(path.stem.removeprefix("update_")) > last_update:
            path.unlink()


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A .npz file, and its folder; a reader sees the whole file or none."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    _replace(path, partial)


def write_json(path: Path, content: Row) -> None:
    """A whole JSON file; a reader sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _replace(path, partial)


def _replace(path: Path, partial: Path) -> None:
    _sync(partial)  # else a power cut can keep the new name and lose what it names
    partial.replace(path)


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append(file: IO[str], row: Row) -> None:
    file.write(_line(row))
    file.flush()  # a killed process loses at most the line it was writing


def _append_gzip(path: Path, rows: list[Row]) -> None:
    member = gzip.compress("".join(_line(row) for row in rows).encode())
    with path.open("ab", buffering=0) as file:
        append_whole(file, member)


def _line(row: Row) -> str:
    """ASCII, so that whatever a model wrote can be encoded: half a surrogate pair becomes an escape like any other."""
    return json.dumps({name: _json_number(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _json_number(value: Any) -> Any:
    """NaN and infinities become null: JSON has no such numbers."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)

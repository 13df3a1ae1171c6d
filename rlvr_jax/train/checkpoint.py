"""Training state on disk, through orbax: complete or invisible, newest and best kept."""

import contextlib
import functools
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from rlvr_jax.train.processes import any_process, is_first, wait_for_all
from rlvr_jax.train.state import TrainState

log = logging.getLogger(__name__)

# orbax reports every save at INFO, what it was asked for at WARNING, and at ERROR what it raises as well
logging.getLogger("absl").setLevel(logging.CRITICAL)


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved, or none in a folder can be read."""


class Checkpoints:
    """The checkpoints of one run, numbered by update.

    Each holds the TrainState and `progress`, the host's counters. Saving happens in the
    background; a checkpoint gets its name only when it is complete.
    """

    def __init__(self, folder: Path, *, keep_newest: int, keep_best: int, is_read_only: bool = False):
        _ignore_closed_event_loops()
        self.folder = folder
        self._last_update: int | None = None  # whose saving was begun last
        # two policies: one that ranks by the metric alone would delete a newest that got worse
        policy = AnyPreservationPolicy(
            [LatestN(keep_newest), *([BestN(get_metric_fn=_rank, n=keep_best)] if keep_best else [])]
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if is_read_only else policy,
                best_fn=_rank,  # or orbax keeps no metrics on disk, and a resumed run could not rank what it finds
                create=not is_read_only,
                cleanup_tmp_directories=not is_read_only,
                read_only=is_read_only,
            ),
        )

    def save(self, state: TrainState, progress: dict[str, Any], *, update: int, accuracy: float | None) -> None:
        """Starts a save; `accuracy` (None if not evaluated here) ranks it among the best."""
        if update in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        metrics = {"accuracy": -1.0 if accuracy is None else accuracy}
        self.check()
        self._last_update = update
        with self._saving():
            self._manager.save(update, args=items, metrics=metrics)

    def check(self) -> None:
        """Raises CheckpointError if saving in the background failed since the last look."""
        if not self._manager.is_saving_in_progress():
            self.wait()  # returns at once; orbax raises here what its thread met

    def restore_newest(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest readable checkpoint, or None if there is none at all.

        A damaged one is set aside (renamed, not deleted) with a warning and the one before is tried.
        Raises CheckpointError when every one is damaged.
        """
        damaged: dict[int, Exception] = {}
        for update in sorted(self._manager.all_steps(), reverse=True):
            found, fault = None, None
            try:
                found = self.restore(update, like)
            except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
                fault = error
            if not any_process(fault is not None):
                self._set_aside(damaged, going_on_from=update)
                return found
            damaged[update] = fault or CheckpointError("another process cannot read it")
        if damaged:
            update, error = max(damaged.items())
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} (updates {sorted(damaged)}) can be read; "
                f"of update {update}: {type(error).__name__}: {first_line(error)}. "
                + (
                    "Delete the run directory to start over"
                    if jax.process_count() == 1
                    else "If the files are whole, see why that process cannot read them; else delete the run directory"
                )
            )
        return None

    def _set_aside(self, damaged: dict[int, Exception], *, going_on_from: int) -> None:
        """Only once an older one was read: if none can be, the fault may not lie in the files."""
        for update, error in damaged.items():
            aside, n = self.folder / f"damaged_{update}", 1
            while aside.exists():  # the same update can be damaged twice
                aside, n = self.folder / f"damaged_{update}_{n}", n + 1
            if is_first():
                (self.folder / str(update)).rename(aside)
            log.warning(
                "checkpoint of update %d is damaged (%s: %s); set aside as %s, going on from update %d",
                *(update, type(error).__name__, first_line(error), aside, going_on_from),
            )
        if damaged:
            wait_for_all("damaged checkpoints set aside")
            self._manager.reload()

    def restore(self, update: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The checkpoint of one update, placed as `like` is."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            update,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()),
        )
        return restored.state, restored.progress

    def all_updates(self) -> list[int]:
        """Updates with a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when what was saved is complete on disk."""
        with self._saving():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk comes as many kinds, from several layers
            raise CheckpointError(
                f"the checkpoint of update {self._last_update} could not be saved in {self.folder} "
                f"({type(error).__name__}: {first_line(error)}); earlier ones are whole. "
                "Free the disk and run the same command to go on"
            ) from error

    def close(self) -> None:
        """Waits for what is being saved. Raises CheckpointError if that fails."""
        with self._saving():
            self._manager.close()


def _rank(metrics: dict[str, float]) -> float:
    accuracy = metrics["accuracy"]
    return accuracy if math.isfinite(accuracy) else -math.inf  # NaN sorts anywhere


@functools.cache  # once per process
def _ignore_closed_event_loops() -> None:
    """Keeps harmless tracebacks off the terminal.

    When one array of a checkpoint cannot be read or written, tensorstore is still at work on the
    others; as they end they report to an event loop that orbax has closed, to the log of asyncio, or to
    nobody. Remove when orbax waits for them (seen with orbax-checkpoint 0.12.8).
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    earlier = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not str(unraisable.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
            earlier(unraisable)

    sys.unraisablehook = hook


def first_line(error: Exception) -> str:
    """Of an error's message, which may be empty."""
    return (str(error).splitlines() or [""])[0][:200]

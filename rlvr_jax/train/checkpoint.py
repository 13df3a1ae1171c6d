"""Training state on disk, through orbax: complete or invisible, newest and best kept."""

import logging
import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from rlvr_jax.train.state import TrainState

log = logging.getLogger(__name__)

# orbax reports every save at INFO
logging.getLogger("absl").setLevel(logging.WARNING)


class CheckpointError(RuntimeError):
    """No checkpoint in a folder can be read."""


class Checkpoints:
    """The checkpoints of one run, numbered by update.

    Each holds the TrainState and `progress`, the host's counters. Saving happens in the
    background; a checkpoint gets its name only when it is complete.
    """

    def __init__(self, folder: Path, *, keep_newest: int, keep_best: int):
        self.folder = folder
        # two policies: one that ranks by the metric alone would delete a newest that got worse
        policy = AnyPreservationPolicy(
            [LatestN(keep_newest), *([BestN(get_metric_fn=_rank, n=keep_best)] if keep_best else [])]
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, create=True, cleanup_tmp_directories=True
            ),
        )

    def save(self, state: TrainState, progress: dict[str, Any], *, update: int, accuracy: float | None) -> None:
        """Starts a save; `accuracy` (None if not evaluated here) ranks it among the best."""
        if update in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        metrics = {"accuracy": -1.0 if accuracy is None else accuracy}
        self._manager.save(update, args=items, metrics=metrics)

    def restore_newest(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest readable checkpoint, or None if there is none at all.

        A damaged one is set aside (renamed, not deleted) with a warning and the one before is tried.
        Raises CheckpointError when every one is damaged.
        """
        updates = sorted(self._manager.all_steps(), reverse=True)
        for update in updates:
            try:
                return self.restore(update, like)
            except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
                aside = self.folder / f"damaged_{update}"
                log.warning(
                    "checkpoint of update %d is damaged (%s: %s); set aside as %s, trying the one before",
                    update, type(error).__name__, _first_line(error), aside,
                )  # fmt: skip
                (self.folder / str(update)).rename(aside)
                self._manager.reload()
        if updates:
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read (updates {sorted(updates)}); they were set "
                "aside as damaged_*. Delete the run directory to start over"
            )
        return None

    def restore(self, update: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The checkpoint of one update, placed as `like` is."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            update,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()),
        )
        return restored.state, restored.progress

    def all_updates(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when what was saved is complete on disk; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _rank(metrics: dict[str, float]) -> float:
    accuracy = metrics["accuracy"]
    return accuracy if math.isfinite(accuracy) else -math.inf  # NaN sorts anywhere


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]

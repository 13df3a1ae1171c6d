"""One evaluation of a saved policy, outside any run."""

from pathlib import Path

import jax

from rlvr_jax.models.spec import Params, initial_params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.evaluate import build_evaluator
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.study import cache_folder
from rlvr_jax.train.warmstart import starting_params


def evaluate_checkpoint(config: TrainConfig, checkpoint: Path | None) -> tuple[str, dict[str, float]]:
    """What was evaluated, in words, and its eval/ metrics.

    Args:
        checkpoint: a run directory (its newest checkpoint), one folder of its `checkpoints/`, or
            None for the policy that runs of this config start from.

    Raises:
        ConfigError: as `assemble`.
        CheckpointError: there is no such checkpoint, or it does not hold this config's model.
    """
    parts = assemble(config)
    evaluate = build_evaluator(config.eval, parts, config.sampling)
    if checkpoint is None:
        progress = Progress("warm start")
        params = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        progress.close()
        return "the starting policy", evaluate(params)
    params, update = _saved_params(config, parts, checkpoint)
    return f"{checkpoint}, update {update}", evaluate(params)


def _saved_params(config: TrainConfig, parts: Parts, checkpoint: Path) -> tuple[Params, int]:
    folder, update = checkpoint / "checkpoints", None
    if not folder.is_dir() and checkpoint.name.isdigit():
        folder, update = checkpoint.parent, int(checkpoint.name)
    if not folder.is_dir():
        raise CheckpointError(f"--checkpoint={checkpoint} is neither a run directory nor a folder of its checkpoints/")
    checkpoints = Checkpoints(folder, keep_newest=1, keep_best=0, is_read_only=True)
    known = checkpoints.all_updates()
    update = update if update is not None else max(known, default=None)
    if update not in known:
        raise CheckpointError(f"{folder} has no complete checkpoint of update {update}; it has {known}")
    optimizer = build_programs(config, parts).optimizer
    params = initial_params(parts.spec, jax.random.key(0))  # only its shapes matter
    like = jax.device_put(initial_state(params, optimizer), replicated(parts.mesh))
    try:
        state, progress = checkpoints.restore(update, like)
    except Exception as error:  # orbax raises many kinds
        raise CheckpointError(
            f"checkpoint {folder / str(update)} cannot be read as the model of this config "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}); is --config the one it was trained with?"
        ) from error
    finally:
        checkpoints.close()
    return state.params, progress["update"]

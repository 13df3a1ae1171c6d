"""One evaluation of a saved policy, outside any run."""

from pathlib import Path

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.evaluate import build_evaluator
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.saved_policy import saved_state
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
    state, update = saved_state(config, parts, checkpoint)
    return f"{checkpoint}, update {update}", evaluate(state.params)

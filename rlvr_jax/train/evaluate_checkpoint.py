"""One evaluation of a saved policy, outside any run."""

from pathlib import Path

from rlvr_jax.models.lora import policy_params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.evaluate import build_evaluator
from rlvr_jax.train.out_of_memory import out_of_memory_explained
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.saved_policy import check_base_weights, saved_state
from rlvr_jax.train.starting_policy import starting_params, starting_words
from rlvr_jax.train.starting_state import held_params
from rlvr_jax.train.study import cache_folder

EVALUATION_FIX = "use less of eval.n_problems, eval.n_samples or sampling.max_new_tokens, or more of placement.fsdp"


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
    with out_of_memory_explained(parts.memory, lambda: "the evaluation", fix=EVALUATION_FIX):
        return _evaluated(config, parts, checkpoint)


def _evaluated(config: TrainConfig, parts: Parts, checkpoint: Path | None) -> tuple[str, dict[str, float]]:
    evaluate, start = build_evaluator(config.eval, parts, config.sampling), None
    if checkpoint is None or parts.lora is not None:
        progress = Progress(starting_words(config, parts))
        start = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        start = held_params(start, parts)
        progress.close()
    if checkpoint is None:  # an adapter changes nothing yet
        return "the starting policy", evaluate(start)
    state, update = saved_state(config, parts, checkpoint)
    if parts.lora is not None:
        check_base_weights(checkpoint, start)
    return f"{checkpoint}, update {update}", evaluate(policy_params(state.params, start, parts.lora))

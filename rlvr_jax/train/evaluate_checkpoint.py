"""One evaluation of a saved policy, outside any run."""

from pathlib import Path
from typing import NamedTuple

from rlvr_jax.models.lora import policy_params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.cache_folder import cache_folder
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.evaluate import build_evaluator
from rlvr_jax.train.out_of_memory import out_of_memory_explained
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.saved_policy import check_base_weights, saved_state
from rlvr_jax.train.starting_policy import starting_params, starting_words
from rlvr_jax.train.starting_state import held_params

EVALUATION_FIX = "use less of eval.n_problems, eval.n_samples or sampling.max_new_tokens, or more of placement.fsdp"


class Evaluation(NamedTuple):
    """What was evaluated, and how it did."""

    what: str  # in words
    update: int
    n_problems: int
    metrics: dict[str, float]  # eval/...


def evaluate_checkpoint(config: TrainConfig, checkpoint: Path | None) -> Evaluation:
    """One evaluation of a saved policy.

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


def _evaluated(config: TrainConfig, parts: Parts, checkpoint: Path | None) -> Evaluation:
    evaluate, start = build_evaluator(config.eval, parts, config.sampling), None
    n_problems = config.eval.n_problems or parts.task.n_heldout
    if checkpoint is None or parts.lora is not None:
        progress = Progress(starting_words(config, parts))
        start = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        start = held_params(start, parts)
        progress.close()
    if checkpoint is None:  # an adapter changes nothing yet
        return Evaluation("the starting policy", 0, n_problems, evaluate(start))
    state, update = saved_state(config, parts, checkpoint)
    if parts.lora is not None:
        check_base_weights(checkpoint, start)
    metrics = evaluate(policy_params(state.params, start, parts.lora))
    return Evaluation(f"{checkpoint}, update {update}", update, n_problems, metrics)

"""What cannot work in the settings of the algorithm, and what works but may surprise."""

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS, KINDS_FOR_ONE_ROLLOUT
from rlvr_jax.algo.averaging import AVERAGING_KINDS
from rlvr_jax.algo.policy_loss import KL_ESTIMATORS
from rlvr_jax.algo.selection import SELECTIONS
from rlvr_jax.train.config import KL_PLACES, OBJECTIVES, RATIOS, TRUNCATED, TrainConfig


def algo_problems(config: TrainConfig) -> list[str]:
    """One line per problem, with the value and the fix."""
    algo, choices = config.algo, {
        "advantage": ADVANTAGE_KINDS,
        "objective": OBJECTIVES,
        "ratio": RATIOS,
        "kl_estimator": KL_ESTIMATORS,
        "kl_in": KL_PLACES,
        "truncated": TRUNCATED,
        "averaging": AVERAGING_KINDS,
        "select": SELECTIONS,
    }  # fmt: skip
    problems = [
        f"algo.{name}={getattr(algo, name)!r} is not one of {known}"
        for name, known in choices.items()
        if getattr(algo, name) not in known
    ]
    if algo.clip_low > 1:
        problems.append(f"algo.clip_low={algo.clip_low} must be at most 1: ratios are never negative")
    if algo.std_ddof not in (0, 1):
        problems.append(f"algo.std_ddof={algo.std_ddof} must be 0 (divide by n) or 1 (divide by n - 1)")
    if 0 < algo.dual_clip <= 1:
        problems.append(f"algo.dual_clip={algo.dual_clip} must be above 1, such as 3, or 0 for none")
    if algo.dual_clip > 0 and algo.objective == "cispo":
        problems.append(
            f"algo.dual_clip={algo.dual_clip} does nothing with algo.objective='cispo'; set algo.dual_clip=0"
        )
    if algo.overlong_buffer_tokens > config.sampling.max_new_tokens:
        problems.append(
            f"algo.overlong_buffer_tokens={algo.overlong_buffer_tokens} is more than "
            f"sampling.max_new_tokens={config.sampling.max_new_tokens}; use that or less"
        )
    return problems + _baseline_problems(config) + _selection_problems(config)


def _baseline_problems(config: TrainConfig) -> list[str]:
    kind, problems = config.algo.advantage, []
    if kind not in ADVANTAGE_KINDS:
        return []
    needs_group = kind not in KINDS_FOR_ONE_ROLLOUT
    if config.batch.n_rollouts == 1 and needs_group:
        problems.append(
            f"batch.n_rollouts=1 leaves algo.advantage={kind!r} without a group to compare with; "
            f"use batch.n_rollouts=2 or more, or algo.advantage={' or '.join(KINDS_FOR_ONE_ROLLOUT)}"
        )
    if config.batch.n_rollouts * config.batch.n_prompts == 1:
        problems.append("batch.n_prompts=1 with batch.n_rollouts=1 leaves nothing to compare with; use more of either")
    if config.sampling.max_rounds > 1 and not (needs_group and config.batch.n_rollouts > 1):
        problems.append(
            f"sampling.max_rounds={config.sampling.max_rounds} replaces groups of equal rewards, which only a group "
            f"baseline ignores; with algo.advantage={kind!r} use sampling.max_rounds=1"
        )
    return problems


def _selection_problems(config: TrainConfig) -> list[str]:
    algo, problems = config.algo, []
    if algo.select == "best_of_n" and algo.select_n > config.batch.n_rollouts:
        problems.append(
            f"algo.select_n={algo.select_n} is more than batch.n_rollouts={config.batch.n_rollouts}; use that or less"
        )
    if algo.select != "all" and config.noise.every_updates > 0:
        problems.append(
            f"algo.select={algo.select!r} follows the gradient of selected rollouts, which is not the one whose noise "
            f"noise.every_updates={config.noise.every_updates} measures; set noise.every_updates=0 or algo.select='all'"
        )
    return problems


def algo_warnings(config: TrainConfig) -> list[str]:
    """What works but may surprise."""
    algo, warnings = config.algo, []
    if algo.kl_coef > 0 and algo.kl_in == "loss" and algo.kl_estimator == "k1":
        warnings.append(
            "algo.kl_estimator='k1' in the loss has zero expected gradient and only adds noise; "
            "use 'k3', or algo.kl_in='reward'"
        )
    if algo.kl_coef == 0 and (algo.kl_in, algo.kl_estimator) != ("loss", "k3"):
        warnings.append("algo.kl_in and algo.kl_estimator do nothing while algo.kl_coef=0")
    if config.updates_per_step == 1 and (algo.ratio, algo.objective, algo.dual_clip) != ("token", "clipped", 0.0):
        warnings.append(
            "with one update per step the ratio is exactly 1 and nothing is clipped; "
            "set batch.minibatch_prompts or batch.epochs_per_buffer for several"
        )
    return warnings

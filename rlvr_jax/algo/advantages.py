"""How much better a rollout did than it was expected to: reward minus a baseline, over a scale.

Rollouts that are not kept (cut short and masked, or impossible to grade) count as never drawn:
they enter no mean and no standard deviation, and their advantage is 0.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class _Kind(NamedTuple):
    baseline: str  # the mean of what: "group", "others" of the group, "batch", or "zero"
    scale: str  # the standard deviation of what: "group", "batch", or "one"


_KINDS = {
    "grpo": _Kind("group", "group"),
    "centred": _Kind("group", "one"),
    "rloo": _Kind("others", "one"),
    "batch_scaled": _Kind("group", "batch"),
    "batch_mean": _Kind("batch", "one"),
    "reinforce++": _Kind("batch", "batch"),
    "none": _Kind("zero", "one"),
}
ADVANTAGE_KINDS = tuple(_KINDS)
KINDS_FOR_ONE_ROLLOUT = tuple(name for name, kind in _KINDS.items() if kind.baseline in ("batch", "zero"))


def advantages(reward_PR: jax.Array, is_kept_PR: jax.Array, *, kind: str, ddof: int, eps: float) -> jax.Array:
    """A_pr = (r_pr - baseline) / scale, by the name the literature gives the choice.

        grpo          (r - group mean) / (group std + eps)      arXiv:2402.03300 sec. 4.1.2
        centred       r - group mean                            Dr. GRPO, arXiv:2503.20783 sec. 3.2
        rloo          r - mean of the group's others            arXiv:2402.14740 sec. 3
        batch_scaled  (r - group mean) / (batch std + eps)      Lite PPO, arXiv:2508.08221
        batch_mean    r - batch mean                            the baseline for one rollout per prompt
        reinforce++   (r - batch mean) / (batch std + eps)      arXiv:2501.03262
        none          r                                         REINFORCE

    The plain group mean contains r_pr itself, which shrinks the expected gradient by (1 - 1/R);
    rloo undoes that, so runs with different R share a step size. The papers leave ddof and eps
    open; implementations differ.

    Args:
        reward_PR: f32[P, R], any scale; anything where not kept. R >= 2 unless kind is one of
            KINDS_FOR_ONE_ROLLOUT.
        is_kept_PR: bool[P, R].
        kind: one of ADVANTAGE_KINDS.
        ddof: 0 divides squared deviations by their number n, 1 by n - 1.
        eps: added to a standard deviation, in reward units.

    Returns:
        f32[P, R]; exactly 0 where not kept, and where all rewards that a mean is taken of are equal.
    """
    chex.assert_rank([reward_PR, is_kept_PR], 2)
    chex.assert_equal_shape([reward_PR, is_kept_PR])
    chex.assert_type([reward_PR, is_kept_PR], [jnp.float32, bool])
    if kind not in _KINDS:
        raise ValueError(f"advantage kind {kind!r} is not one of {ADVANTAGE_KINDS}")
    if reward_PR.shape[1] < 2 and kind not in KINDS_FOR_ONE_ROLLOUT:
        raise ValueError(f"a group baseline needs at least 2 rollouts per prompt, got {reward_PR.shape[1]}")
    baseline, scale = _KINDS[kind]
    reward_PR = jnp.where(is_kept_PR, reward_PR, 0.0)  # what is not kept may be NaN
    advantage_PR = _centred(reward_PR, is_kept_PR, baseline)
    if scale != "one":
        std, is_constant = _std(reward_PR, is_kept_PR, axis=_AXIS[scale], ddof=ddof)
        # the inner where keeps 0/0 out when eps is 0
        advantage_PR = jnp.where(is_constant, 0.0, advantage_PR / jnp.where(is_constant, 1.0, std + eps))
    return jnp.where(is_kept_PR, advantage_PR, 0.0)


def leave_one_out_advantages(reward_PR: jax.Array, is_kept_PR: jax.Array) -> jax.Array:
    """Reward minus the mean of the other rollouts: of the same prompt, or of the batch if a prompt has only one.

    The baseline does not contain r_pr, so E[A s] is the policy gradient at every R; what the gradient
    noise is measured with. With R = 1 the batch mean couples the prompts weakly, by 1 / (P - 1).

    Args:
        reward_PR: f32[P, R]; is_kept_PR: bool[P, R].

    Returns:
        f32[P, R] in reward units.
    """
    if reward_PR.shape[1] > 1:
        return advantages(reward_PR, is_kept_PR, kind="rloo", ddof=0, eps=0.0)
    return advantages(reward_PR.T, is_kept_PR.T, kind="rloo", ddof=0, eps=0.0).T


_AXIS = {"group": 1, "others": 1, "batch": (0, 1)}


def _centred(reward_PR: jax.Array, is_kept_PR: jax.Array, baseline: str) -> jax.Array:
    if baseline == "zero":
        return reward_PR
    axis = _AXIS[baseline]
    n = is_kept_PR.sum(axis=axis, keepdims=True).astype(jnp.float32)
    centred_PR = reward_PR - reward_PR.sum(axis=axis, keepdims=True) / jnp.maximum(n, 1)
    if baseline == "others":
        centred_PR = centred_PR * (n / jnp.maximum(n - 1, 1))
    return jnp.where(_is_constant(reward_PR, is_kept_PR, axis), 0.0, centred_PR)


def _std(
    reward_PR: jax.Array, is_kept_PR: jax.Array, *, axis: int | tuple[int, int], ddof: int
) -> tuple[jax.Array, jax.Array]:
    """Standard deviation of the kept rewards along `axis`, and where it is 0 by comparison."""
    n = is_kept_PR.sum(axis=axis, keepdims=True).astype(jnp.float32)
    mean = reward_PR.sum(axis=axis, keepdims=True) / jnp.maximum(n, 1)
    squares = jnp.where(is_kept_PR, jnp.square(reward_PR - mean), 0.0).sum(axis=axis, keepdims=True)
    return jnp.sqrt(squares / jnp.maximum(n - ddof, 1)), _is_constant(reward_PR, is_kept_PR, axis)


def _is_constant(reward_PR: jax.Array, is_kept_PR: jax.Array, axis: int | tuple[int, int]) -> jax.Array:
    """True where all kept rewards are equal, or none is kept.

    By comparison: 0.1 * 8 / 8 != 0.1 in f32, so r - mean would not be exactly 0.
    """
    largest = jnp.where(is_kept_PR, reward_PR, -jnp.inf).max(axis=axis, keepdims=True)
    smallest = jnp.where(is_kept_PR, reward_PR, jnp.inf).min(axis=axis, keepdims=True)
    return largest <= smallest

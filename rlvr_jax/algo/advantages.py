"""How much better a rollout did than the others of its prompt."""

import chex
import jax
import jax.numpy as jnp


def group_advantages(reward_PR: jax.Array, *, leave_one_out: bool) -> jax.Array:
    """Rewards centred on their own prompt's mean.

        A_pr = (r_pr - mean_r r_pr) * (R / (R - 1) if leave_one_out else 1)

    The plain mean contains r_pr itself, which shrinks the expected gradient by (1 - 1/R);
    leave_one_out undoes that, so runs with different R share a step size.
    Plain: Dr. GRPO, arXiv:2503.20783 sec. 3.2. Leave-one-out: RLOO, arXiv:2402.14740 sec. 3.

    Args:
        reward_PR: f32[P, R], any scale; R >= 2.

    Returns:
        f32[P, R] in reward units; each row sums to 0, a constant row is exactly 0.
    """
    chex.assert_rank(reward_PR, 2)
    chex.assert_type(reward_PR, jnp.float32)
    n_rollouts = _group_size(reward_PR)
    scale = n_rollouts / (n_rollouts - 1) if leave_one_out else 1.0
    centred_PR = reward_PR - reward_PR.mean(axis=1, keepdims=True)
    return jnp.where(_is_constant_row(reward_PR), 0.0, scale * centred_PR)


def standardised_advantages(reward_PR: jax.Array, *, ddof: int, eps: float) -> jax.Array:
    """Group rewards with mean 0 and spread 1.

        A_pr = (r_pr - mean_r r_pr) / (std_r r_pr + eps)

    GRPO: arXiv:2402.03300 sec. 4.1.2. The paper leaves ddof and eps open; implementations differ.

    Args:
        reward_PR: f32[P, R], any scale; R >= 2.
        ddof: 0 divides the squared deviations by R, 1 by R - 1.
        eps: added to the standard deviation, in reward units.

    Returns:
        f32[P, R] without unit; a constant row is exactly 0.
    """
    chex.assert_rank(reward_PR, 2)
    chex.assert_type(reward_PR, jnp.float32)
    _group_size(reward_PR)
    std_P1 = jnp.std(reward_PR, axis=1, keepdims=True, ddof=ddof)
    centred_PR = reward_PR - reward_PR.mean(axis=1, keepdims=True)
    is_constant = _is_constant_row(reward_PR)
    # the inner where keeps 0/0 out when eps is 0
    return jnp.where(is_constant, 0.0, centred_PR / jnp.where(is_constant, 1.0, std_P1 + eps))


def advantages(reward_PR: jax.Array, *, kind: str, ddof: int, eps: float) -> jax.Array:
    """The advantages a config names: "grpo", "centred" (Dr. GRPO) or "rloo"; f32[P, R]."""
    if kind == "grpo":
        return standardised_advantages(reward_PR, ddof=ddof, eps=eps)
    if kind in ("centred", "rloo"):
        return group_advantages(reward_PR, leave_one_out=kind == "rloo")
    raise ValueError(f"advantage kind {kind!r} is not one of {ADVANTAGE_KINDS}")


ADVANTAGE_KINDS = ("grpo", "centred", "rloo")


def _is_constant_row(reward_PR: jax.Array) -> jax.Array:
    # by comparison: 0.1 * 8 / 8 != 0.1 in f32, so r - mean would not be exactly 0
    return reward_PR.max(axis=1, keepdims=True) == reward_PR.min(axis=1, keepdims=True)


def _group_size(reward_PR: jax.Array) -> int:
    n_rollouts = reward_PR.shape[1]
    if n_rollouts < 2:
        raise ValueError(f"a group baseline needs at least 2 rollouts per prompt, got {n_rollouts}")
    return n_rollouts

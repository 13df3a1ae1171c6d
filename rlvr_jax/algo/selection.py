"""Which rollouts the loss is taken of: all, those with a reward from a threshold on, or the best n of each prompt.

Selected are rollouts, never rewards: baselines and scales are those of all rollouts that are kept. Where the loss is
averaged only selected rollouts count, in the sum and in what divides it, so that an update's size does not depend on
how many pass; its noise does.
"""

import chex
import jax
import jax.numpy as jnp

SELECTIONS = ("all", "threshold", "best_of_n")


def selected_rollouts(reward_PR: jax.Array, is_kept_PR: jax.Array, *, kind: str, threshold: float, n: int) -> jax.Array:
    """True at the rollouts that are trained on.

        all         every rollout that is kept
        threshold   r >= threshold                       filtering as in ReST, arXiv:2308.08998 sec. 3
        best_of_n   the n largest r of each prompt       RAFT, arXiv:2304.06767 sec. 3, with n = 1

    Of equal rewards the rollouts drawn first are taken, which is chance, as rollouts of a prompt are alike.

    Args:
        reward_PR: f32[P, R], any scale; anything where not kept.
        is_kept_PR: bool[P, R].
        kind: one of SELECTIONS.
        threshold: in reward units; only "threshold" reads it.
        n: at least 1; only "best_of_n" reads it. A prompt with fewer rollouts that are kept has all of them.

    Returns:
        bool[P, R], false where not kept.
    """
    chex.assert_rank([reward_PR, is_kept_PR], 2)
    chex.assert_equal_shape([reward_PR, is_kept_PR])
    chex.assert_type([reward_PR, is_kept_PR], [jnp.float32, bool])
    if kind == "all":
        return is_kept_PR
    if kind == "threshold":
        return is_kept_PR & (reward_PR >= threshold)
    if kind != "best_of_n":
        raise ValueError(f"selection {kind!r} is not one of {SELECTIONS}")
    reward_PR = jnp.where(is_kept_PR, reward_PR, -jnp.inf)  # what is not kept may be NaN
    own_PR1, other_P1R = reward_PR[:, :, None], reward_PR[:, None, :]
    R = reward_PR.shape[1]
    is_earlier_RR = jnp.arange(R)[None, :] < jnp.arange(R)[:, None]
    is_ahead_PRR = (other_P1R > own_PR1) | ((other_P1R == own_PR1) & is_earlier_RR[None])
    return is_kept_PR & (is_ahead_PRR.sum(axis=2) < n)

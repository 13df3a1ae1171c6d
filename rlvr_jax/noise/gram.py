"""Group gradients as weighted sums of scores, whose inner products are all in the Gram matrix.

A rollout's score s_j is the gradient of its log-probability; K_jk = <s_j, s_k> within one prompt.
"""

import chex
import jax
import jax.numpy as jnp


def leave_one_out_weights(reward_PR: jax.Array, is_kept_PR: jax.Array) -> jax.Array:
    """The weights w of g_x = sum_j w_j s_j, a group's gradient with the leave-one-out baseline.

        w_j = (r_j - mean r) / (R_x - 1)        mean over the R_x kept rollouts of the prompt

    which is 1/R_x times (r_j - mean of the others), so that E[g_x | x] is the same at every R_x >= 2.
    arXiv:2402.14740 sec. 3. A prompt with one rollout only (R = 1) borrows the batch's: with n kept,
    w_j = (r_j - mean r) n/(n - 1); that couples the prompts weakly, by 1/(n - 1).

    Args:
        reward_PR: f32[P, R], any scale; anything where not kept, also NaN.
        is_kept_PR: bool[P, R].

    Returns:
        f32[P, R] in reward units; exactly 0 where not kept, in a group (at R = 1: a batch) with fewer
        than two kept, and where all its kept rewards are equal. A kept NaN makes its whole group NaN.
    """
    chex.assert_rank([reward_PR, is_kept_PR], 2)
    chex.assert_equal_shape([reward_PR, is_kept_PR])
    chex.assert_type([reward_PR, is_kept_PR], [jnp.float32, bool])
    has_group_baseline = reward_PR.shape[1] > 1
    axis = 1 if has_group_baseline else (0, 1)
    n = is_kept_PR.sum(axis=axis, keepdims=True).astype(jnp.float32)
    mean = jnp.where(is_kept_PR, reward_PR, 0.0).sum(axis=axis, keepdims=True) / jnp.maximum(n, 1.0)
    scale = (1.0 if has_group_baseline else n) / jnp.maximum(n - 1.0, 1.0)
    # by comparison: 0.1 * 8 / 8 != 0.1 in f32, and a NaN is not equal to itself; true where none is kept
    largest = jnp.where(is_kept_PR, reward_PR, -jnp.inf).max(axis=axis, keepdims=True)
    smallest = jnp.where(is_kept_PR, reward_PR, jnp.inf).min(axis=axis, keepdims=True)
    is_zero_PR = ~is_kept_PR | (largest <= smallest) | (n < 2.0)
    return jnp.where(is_zero_PR, 0.0, scale * (reward_PR - mean))


def weighted_sq_norms(gram_PRR: jax.Array, weight_PR: jax.Array, is_kept_PR: jax.Array) -> jax.Array:
    """|sum_j w_j s_j|^2 of every group, the squared norm of its gradient, from inner products.

        |g_x|^2 = sum_jk w_j w_k K_jk        over kept j and k

    Args:
        gram_PRR: f32[P, R, R], K_jk = <s_j, s_k>; anything in rows and columns not kept, also NaN.
        weight_PR: f32[P, R].
        is_kept_PR: bool[P, R].

    Returns:
        f32[P]; NaN where a kept rollout's score is, even if its weight is 0.
    """
    chex.assert_rank([gram_PRR, weight_PR, is_kept_PR], [3, 2, 2])
    chex.assert_shape([weight_PR, is_kept_PR, gram_PRR[:, 0], gram_PRR[:, :, 0]], weight_PR.shape)
    chex.assert_type([gram_PRR, weight_PR, is_kept_PR], [jnp.float32, jnp.float32, bool])
    gram_PRR = jnp.where(is_kept_PR[:, :, None] & is_kept_PR[:, None, :], gram_PRR, 0.0)
    weight_PR = jnp.where(is_kept_PR, weight_PR, 0.0)
    # products and a sum, not a matmul: accelerators round the inputs of an f32 matmul to 10 bits
    return (weight_PR[:, :, None] * weight_PR[:, None, :] * gram_PRR).sum(axis=(1, 2))

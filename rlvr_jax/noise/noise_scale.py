"""The gradient noise scale at the batch's own number of rollouts."""

import chex
import flax.struct
import jax
import jax.numpy as jnp

NORMAL_QUANTILE_975 = 1.959964


@flax.struct.dataclass
class NoiseScale:
    """Scalars, f32 or bool. Ratios mean nothing where `is_resolved` is false."""

    trace_cov: jax.Array  # S, trace of the covariance of one group's gradient
    grad_sq: jax.Array  # |G|^2, may be <= 0
    b_noise_prompts: jax.Array  # S / |G|^2
    low_prompts: jax.Array  # 95% interval of b_noise_prompts
    high_prompts: jax.Array
    is_resolved: jax.Array


def noise_scale(sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array) -> NoiseScale:
    """S, |G|^2 and their ratio from per-group statistics of one batch.

        S     = 1/(P-1) sum_x |g_x - mean g|^2      unbiased for tr Cov(g_x)
        |G|^2 = |mean g|^2 - S/P                    unbiased for |E g|^2, can be <= 0
        B_noise = S / |G|^2                         in prompts

    McCandlish et al., arXiv:1812.06162 sec. 2 and app. A, with the prompt group as the unit, since
    a group baseline couples the rollouts of a prompt. Interval: delete-one-prompt jackknife on
    log(S / |G|^2). Unresolved when |G|^2, of the whole batch or with any one prompt left out, is <= 0.

    Args:
        sq_norm_P: f32[P], |g_x|^2; P >= 3.
        sum_sq_norm: f32, |sum_x g_x|^2.
        dot_sum_P: f32[P], <g_x, sum_y g_y>; only the interval and the resolved flag read it.
    """
    chex.assert_rank([sq_norm_P, sum_sq_norm, dot_sum_P], [1, 0, 1])
    chex.assert_equal_shape([sq_norm_P, dot_sum_P])
    P = sq_norm_P.shape[0]
    if P < 3:
        raise ValueError(f"the noise scale with its jackknife needs at least 3 prompts, got {P}")
    trace_cov, grad_sq = _moments(sq_norm_P.sum(), sum_sq_norm, P)
    left_out_cov_P, left_out_sq_P = _moments(
        sq_norm_P.sum() - sq_norm_P, sum_sq_norm - 2 * dot_sum_P + sq_norm_P, P - 1
    )
    is_resolved = (grad_sq > 0) & (left_out_sq_P > 0).all() & (trace_cov > 0) & (left_out_cov_P > 0).all()

    def safe_log(x: jax.Array) -> jax.Array:
        return jnp.log(jnp.where(is_resolved, x, 1.0))

    log_ratio = safe_log(trace_cov) - safe_log(grad_sq)
    left_out_log_P = safe_log(left_out_cov_P) - safe_log(left_out_sq_P)
    standard_error = jnp.sqrt((P - 1) / P * jnp.sum(jnp.square(left_out_log_P - left_out_log_P.mean())))
    half_width = NORMAL_QUANTILE_975 * standard_error
    return NoiseScale(
        trace_cov=trace_cov,
        grad_sq=grad_sq,
        b_noise_prompts=jnp.exp(log_ratio),
        low_prompts=jnp.exp(log_ratio - half_width),
        high_prompts=jnp.exp(log_ratio + half_width),
        is_resolved=is_resolved,
    )


def naive_noise_scale(block_sq_norm_B: jax.Array, sum_sq_norm: jax.Array, *, rollouts_per_block: float) -> jax.Array:
    """The estimate training frameworks log, in rollouts.

        b / (K-1) * sum_k |g_k - mean g|^2 / |mean g|^2      over K mini-batches of b rollouts

    Biased: |mean g|^2 contains the noise of the mean, so it saturates near the batch size.
    Kept because published studies report it. 0/0 (all gradients zero) gives NaN.

    Args:
        block_sq_norm_B: f32[K], squared norm of the summed gradient of each mini-batch, all of one size.
        sum_sq_norm: f32, squared norm of the sum over all of them.
        rollouts_per_block: b.
    """
    chex.assert_rank([block_sq_norm_B, sum_sq_norm], [1, 0])
    K = block_sq_norm_B.shape[0]
    spread = block_sq_norm_B.sum() - sum_sq_norm / K  # K^2/P^2 of this is the spread of means; it cancels
    return rollouts_per_block / (K - 1) * spread * K**2 / sum_sq_norm


def _moments(sum_of_sq: jax.Array, sq_of_sum: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """(S, |G|^2) of n groups from sum |g|^2 and |sum g|^2."""
    trace_cov = (sum_of_sq - sq_of_sum / n) / (n - 1)
    grad_sq = (sq_of_sum - sum_of_sq) / (n * (n - 1))
    return trace_cov, grad_sq

"""The gradient noise scale at the batch's own number of rollouts."""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

# by degrees of freedom; NaN at 0; 1024 and more count as 1024, where it is 0.12% above the normal's 1.95996
STUDENT_QUANTILES_975 = scipy.special.stdtrit(np.arange(1025), 0.975).astype(np.float32)


ROUNDING = 1e-5  # relative, of f32 sums over many gradients: a smaller |G|^2 is 0


@flax.struct.dataclass
class NoiseScale:
    """Scalars, f32 or bool. NaN where the data do not say."""

    trace_cov: jax.Array  # S, trace of the covariance of one group's gradient
    grad_sq: jax.Array  # |G|^2, may be <= 0
    b_noise_prompts: jax.Array  # S / |G|^2; NaN unless resolved
    low_prompts: jax.Array  # 95% interval of b_noise_prompts; NaN unless resolved
    high_prompts: jax.Array
    is_resolved: jax.Array
    prompts_to_resolve: jax.Array  # about 2 S / |G|^2; a lower bound where |G|^2 <= 0


def noise_scale(
    sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array, is_counted_P: jax.Array
) -> NoiseScale:
    """S, |G|^2 and their ratio from per-group statistics of one batch.

        S     = 1/(n-1) sum_x |g_x - mean g|^2      unbiased for tr Cov(g_x)
        |G|^2 = |mean g|^2 - S/n                    unbiased for |E g|^2, can be <= 0
        B_noise = S / |G|^2                         in prompts

    over the n counted groups. McCandlish et al., arXiv:1812.06162 sec. 2 and app. A, with the prompt
    group as the unit, since a group baseline couples the rollouts of a prompt. Interval: delete-one-prompt
    jackknife on log(S / |G|^2) with Student's quantile. Unresolved when |G|^2 or S, of the whole batch or
    with any one prompt left out, is not positive, or n < 3; S and |G|^2 themselves need n >= 2.
    Measured (bench/noise_estimators.py): from 2 B_noise prompts on the interval covers 95 to 99 of 100 times, as a
    jackknife doubles that part of |G|^2's variance which falls as 1/n^2. With fewer, those that pass as resolved are
    the lucky ones, which show B_noise too small: 86 to 90 at a quarter of it.

    About twice B_noise prompts resolve it. Where |G|^2 <= 0, prompts_to_resolve puts the upper end of
    |G|^2's 95% interval (plain jackknife) in its place, which makes it a lower bound. Of an unresolved batch it
    is at least 2n: its own n were not enough.

    Args:
        sq_norm_P: f32[P], |g_x|^2; anything where not counted.
        sum_sq_norm: f32, |sum_x g_x|^2 over the counted.
        dot_sum_P: f32[P], <g_x, sum_y g_y>; only what comes from the jackknife reads it.
        is_counted_P: bool[P]; a group with fewer than two kept rollouts has no leave-one-out gradient
            and is not counted, one with equal rewards is.

    Returns:
        All NaN and unresolved if any number of a counted group is not finite.
    """
    chex.assert_rank([sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P], [1, 0, 1, 1])
    chex.assert_equal_shape([sq_norm_P, dot_sum_P, is_counted_P])
    chex.assert_type([sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P], [jnp.float32] * 3 + [bool])
    trace_cov, grad_sq = batch_moments(sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P)
    left_out_cov_P, left_out_sq_P = left_out_moments(sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P)
    # comparisons with NaN are false, as with n < 3; without a prompt that does not count, nothing changes
    is_left_out_positive = (left_out_cov_P > 0).all() & (left_out_sq_P > 0).all()
    is_resolved = (trace_cov > 0) & (grad_sq > 0) & is_left_out_positive

    def safe_log(x: jax.Array) -> jax.Array:
        return jnp.log(jnp.where(is_resolved, x, 1.0))

    log_ratio = safe_log(trace_cov) - safe_log(grad_sq)
    left_out_log_P = safe_log(left_out_cov_P) - safe_log(left_out_sq_P)
    degrees = is_counted_P.sum() - 1
    half_width = student_quantile(degrees) * jnp.sqrt(jackknife_covariance(left_out_log_P[:, None], is_counted_P)[0, 0])
    low, middle, high = (
        jnp.where(is_resolved, jnp.exp(log_ratio + shift), jnp.nan) for shift in (-half_width, 0.0, half_width)
    )
    grad_sq_error = jnp.sqrt(jackknife_covariance(left_out_sq_P[:, None], is_counted_P)[0, 0])
    likely_grad_sq = jnp.where(grad_sq > 0, grad_sq, grad_sq + student_quantile(degrees) * grad_sq_error)
    is_needed_known = (trace_cov > 0) & (likely_grad_sq > 0)
    needed = 2 * trace_cov / likely_grad_sq
    needed = jnp.where(is_resolved, needed, jnp.maximum(needed, 2 * is_counted_P.sum().astype(jnp.float32)))
    return NoiseScale(
        trace_cov=trace_cov,
        grad_sq=grad_sq,
        b_noise_prompts=middle,
        low_prompts=low,
        high_prompts=high,
        is_resolved=is_resolved,
        prompts_to_resolve=jnp.where(is_needed_known, needed, jnp.nan),
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


def batch_moments(
    sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array, is_counted_P: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(S, |G|^2) as in `noise_scale`, each f32; NaN if any counted number is not finite or n < 2."""
    sq_norm_P, sum_sq_norm, _ = _counted(sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P)
    return _moments(sq_norm_P.sum(), sum_sq_norm, is_counted_P.sum(), size=sq_norm_P.sum() + sum_sq_norm)


def left_out_moments(
    sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array, is_counted_P: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(S, |G|^2) of the batch without each prompt in turn, each f32[P]; NaN if n < 3."""
    sq_norm_P, sum_sq_norm, dot_sum_P = _counted(sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P)
    left_n_P = is_counted_P.sum() - is_counted_P.astype(jnp.int32)
    size = sq_norm_P.sum() + sum_sq_norm  # what is left of it can be a rounding error of it
    return _moments(sq_norm_P.sum() - sq_norm_P, sum_sq_norm - 2 * dot_sum_P + sq_norm_P, left_n_P, size=size)


def jackknife_covariance(left_out_PC: jax.Array, is_counted_P: jax.Array) -> jax.Array:
    """Covariance of C estimates from their values without each of the n counted prompts.

        (n-1)/n sum_x (theta_-x - mean theta_-x) (theta_-x - mean theta_-x)^T

    Efron and Stein, "The jackknife estimate of variance" (1981). A bootstrap of prompts would not do: its
    duplicates enter |G|^2 as cross pairs and raise it by about S/P.

    Args:
        left_out_PC: f32[P, C]; anything where not counted.
        is_counted_P: bool[P].

    Returns:
        f32[C, C]; NaN with fewer than two counted.
    """
    chex.assert_rank([left_out_PC, is_counted_P], [2, 1])
    chex.assert_equal_shape([left_out_PC[:, 0], is_counted_P])
    n = is_counted_P.sum().astype(jnp.float32)
    left_out_PC = jnp.where(is_counted_P[:, None], left_out_PC, 0.0)
    mean_1C = left_out_PC.sum(axis=0, keepdims=True) / jnp.maximum(n, 1.0)
    deviation_PC = jnp.where(is_counted_P[:, None], left_out_PC - mean_1C, 0.0)
    # not a matmul, which accelerators round
    covariance_CC = (n - 1) / jnp.maximum(n, 1.0) * (deviation_PC[:, :, None] * deviation_PC[:, None, :]).sum(axis=0)
    return jnp.where(n >= 2, covariance_CC, jnp.nan)


def student_quantile(degrees: jax.Array) -> jax.Array:
    """The 0.975 quantile of Student's t, from a table; NaN with less than 1 degree of freedom."""
    return jnp.asarray(STUDENT_QUANTILES_975)[jnp.clip(degrees, 0, len(STUDENT_QUANTILES_975) - 1)]


def _counted(
    sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array, is_counted_P: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same with zeros where not counted, and all NaN if anything counted is not finite."""
    sq_norm_P, dot_sum_P = (jnp.where(is_counted_P, x, 0.0) for x in (sq_norm_P, dot_sum_P))
    is_finite = jnp.isfinite(sq_norm_P).all() & jnp.isfinite(dot_sum_P).all() & jnp.isfinite(sum_sq_norm)
    return tuple(jnp.where(is_finite, x, jnp.nan) for x in (sq_norm_P, sum_sq_norm, dot_sum_P))


def _moments(
    sum_of_sq: jax.Array, sq_of_sum: jax.Array, n: jax.Array, *, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(S, |G|^2) of n groups from sum |g|^2 and |sum g|^2, which are good to ROUNDING * size; NaN where n < 2."""
    n = jnp.where(n >= 2, n.astype(jnp.float32), jnp.nan)
    trace_cov = (sum_of_sq - sq_of_sum / n) / (n - 1)
    difference = sq_of_sum - sum_of_sq
    is_rounding = jnp.abs(difference) <= ROUNDING * size  # as where one group alone has a gradient
    grad_sq = jnp.where(is_rounding, 0.0, difference) / (n * (n - 1))
    return trace_cov, grad_sq

"""Prompt noise and rollout noise from one batch, and with them the noise of every other split.

A group's gradient is a U-statistic of order 2 (arXiv:2603.01162) with kernel

    h_jk = 1/2 (r_j - r_k) (s_j - s_k)        g_x = mean of h_jk over pairs of rollouts

so its covariance given the prompt needs E|h_12|^2, E<h_12, h_13> and E<h_12, h_34> only, and these are
in the rewards and the Gram matrix of the scores. On-policy and without KL or entropy terms.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.noise.gram import leave_one_out_weights, weighted_sq_norms
from rlvr_jax.noise.noise_scale import batch_moments, jackknife_covariance, left_out_moments, student_quantile

MIN_ROLLOUTS = 4  # h_12 and h_34 share no rollout


@flax.struct.dataclass
class GroupMoments:
    """Of each prompt's kernel; unbiased given the prompt, 0 where not counted."""

    q0_P: jax.Array  # f32[P], E<h_12, h_34> = |grad J_x|^2, may be < 0
    q1_P: jax.Array  # f32[P], E<h_12, h_13>
    q2_P: jax.Array  # f32[P], E|h_12|^2
    is_counted_P: jax.Array  # bool[P], at least 4 rollouts kept


@flax.struct.dataclass
class Interval:
    """An estimate with the ends of its 95% interval, f32. All NaN where the data do not say."""

    value: jax.Array
    low: jax.Array
    high: jax.Array


@flax.struct.dataclass
class Decomposition:
    """Estimates are unbiased but for r_star, never clipped, and can be negative; so can interval ends."""

    grad_sq: Interval  # |G|^2
    v_prompt: Interval  # tr Cov(grad J_x) over prompts
    zeta1: Interval  # tr Cov(E[h_12 | rollout 1]), mean over prompts
    zeta2: Interval  # tr Cov(h_12), mean over prompts
    r_star: Interval  # rollouts per prompt of least noise at a fixed number of rollouts; NaN unless resolved
    is_r_star_resolved: jax.Array  # bool
    covariance_33: jax.Array  # f32[3, 3] of the estimates (v_prompt, zeta1, zeta2)
    n_counted: jax.Array  # i32, prompts with at least 4 rollouts kept


def group_moments(gram_PRR: jax.Array, reward_PR: jax.Array, is_kept_PR: jax.Array) -> GroupMoments:
    """q0, q1 and q2 of every prompt: means of <h, h> over pairs of pairs that share 0, 1 and 2 rollouts.

        C = R(R-1)/2,  a = r - mean r,  |g|^2 = a'Ka / (R-1)^2
        q2 = mean over pairs of 1/4 (r_j - r_k)^2 (K_jj + K_kk - 2 K_jk)
        q1 = (sum_j |sum_k h_jk|^2 - 2C q2) / (R(R-1)(R-2))
        q0 = (C^2 |g|^2 - C q2 - R(R-1)(R-2) q1) / (C (R-2)(R-3)/2)

    with R the kept rollouts of the prompt. With scores c_j = s_j - mean s, sum_k h_jk is
    1/2 (R a_j c_j + sum_k a_k c_k), so q1 needs only diag K and a'Ka of the centred K:
    sum_j |sum_k h_jk|^2 = 1/4 (R^2 sum_j a_j^2 K_jj + 3R a'Ka). O(R^2) time and memory.

    Args:
        gram_PRR: f32[P, R, R], K_jk = <s_j, s_k>; R >= 4. Anything in rows and columns not kept, also NaN.
        reward_PR: f32[P, R]; anything where not kept.
        is_kept_PR: bool[P, R].

    Returns:
        Prompts with fewer than 4 kept rollouts are not counted; those with equal rewards are, with exactly 0.
    """
    chex.assert_rank([gram_PRR, reward_PR, is_kept_PR], [3, 2, 2])
    chex.assert_shape([reward_PR, is_kept_PR, gram_PRR[:, 0], gram_PRR[:, :, 0]], reward_PR.shape)
    chex.assert_type([gram_PRR, reward_PR, is_kept_PR], [jnp.float32, jnp.float32, bool])
    if reward_PR.shape[1] < MIN_ROLLOUTS:
        raise ValueError(
            f"prompt noise and rollout noise cannot be separated with {reward_PR.shape[1]} rollouts per prompt: "
            f"that needs two pairs without a rollout in common; use at least {MIN_ROLLOUTS}, "
            "or noise_scale, which gives their sum at 2 or more"
        )
    is_counted_P = is_kept_PR.sum(axis=1) >= MIN_ROLLOUTS
    # the floor keeps 0/0 out of groups that are not counted
    R_P = jnp.maximum(is_kept_PR.sum(axis=1), MIN_ROLLOUTS).astype(jnp.float32)
    n_pairs_P = R_P * (R_P - 1) / 2
    n_triples_P = R_P * (R_P - 1) * (R_P - 2)
    weight_PR = leave_one_out_weights(reward_PR, is_kept_PR)
    centred_PR = weight_PR * (R_P - 1)[:, None]  # exactly 0 in a group of equal rewards
    gram_PRR = _centred_gram(gram_PRR, is_kept_PR, R_P)
    gram_diagonal_PR = jnp.diagonal(gram_PRR, axis1=1, axis2=2)

    is_pair_PRR = is_kept_PR[:, :, None] & is_kept_PR[:, None, :]
    gap_PRR = jnp.where(is_pair_PRR, centred_PR[:, :, None] - centred_PR[:, None, :], 0.0)
    distance_PRR = gram_diagonal_PR[:, :, None] + gram_diagonal_PR[:, None, :] - 2 * gram_PRR
    q2_P = (jnp.square(gap_PRR) * distance_PRR).sum(axis=(1, 2)) / 4 / (2 * n_pairs_P)
    sq_norm_P = weighted_sq_norms(gram_PRR, weight_PR, is_kept_PR)
    own_P = (jnp.square(centred_PR) * gram_diagonal_PR).sum(axis=1)
    row_sums_P = (jnp.square(R_P) * own_P + 3 * R_P * jnp.square(R_P - 1) * sq_norm_P) / 4
    q1_P = (row_sums_P - 2 * n_pairs_P * q2_P) / n_triples_P
    n_disjoint_P = n_pairs_P * (R_P - 2) * (R_P - 3) / 2
    q0_P = (jnp.square(n_pairs_P) * sq_norm_P - n_pairs_P * q2_P - n_triples_P * q1_P) / n_disjoint_P
    q0_P, q1_P, q2_P = (jnp.where(is_counted_P, q_P, 0.0) for q_P in (q0_P, q1_P, q2_P))
    return GroupMoments(q0_P=q0_P, q1_P=q1_P, q2_P=q2_P, is_counted_P=is_counted_P)


def decomposition(
    moments: GroupMoments, sq_norm_P: jax.Array, sum_sq_norm: jax.Array, dot_sum_P: jax.Array, is_counted_P: jax.Array
) -> Decomposition:
    """Prompt noise, rollout noise and the best split, with intervals.

        V_prompt = mean q0 - |G|^2        zeta1 = mean (q1 - q0)        zeta2 = mean (q2 - q0)
        R* = 1 + sqrt((2 zeta2 - 4 zeta1) / V_prompt)

    Means over the prompts with 4 rollouts or more, |G|^2 over all that are counted. Intervals: delete-one-prompt
    jackknife with Student's quantile, all estimates left out jointly; of R* on log(R* - 1). R* is unresolved
    unless V_prompt and 2 zeta2 - 4 zeta1, of the whole batch and with any one prompt left out, are positive, and
    V_prompt's interval is too: without prompt noise R* is infinite, and no finite interval would hold it.
    Measured (bench/noise_estimators.py): they cover 93 to 96 of 100 times with 128 prompts, 88 to 95 with 32; that of
    R* 93 to 96 where most batches resolve it, less where few do: they are those in which V_prompt came out large.
    With prompts drawn without replacement from N problems whose gradients have the variance v, V_prompt estimates
    v N/(N-1), and |G|^2 comes out v/(N-1) too small.

    Args:
        moments: of the same prompts.
        sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P: as for `noise_scale`.
    """
    chex.assert_rank([sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P], [1, 0, 1, 1])
    chex.assert_equal_shape([moments.q0_P, sq_norm_P, dot_sum_P, is_counted_P])
    chex.assert_type([sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P], [jnp.float32] * 3 + [bool])
    statistics = (sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P)
    (_, grad_sq), (_, left_out_grad_sq_P) = batch_moments(*statistics), left_out_moments(*statistics)
    is_split_P = moments.is_counted_P & is_counted_P
    (q0, left_out_q0_P), (q1, left_out_q1_P), (q2, left_out_q2_P) = (
        _mean_and_left_out(q_P, is_split_P) for q_P in (moments.q0_P, moments.q1_P, moments.q2_P)
    )
    point_4 = jnp.stack([grad_sq, q0 - grad_sq, q1 - q0, q2 - q0])
    left_out_P4 = jnp.stack(
        [left_out_grad_sq_P, left_out_q0_P - left_out_grad_sq_P, left_out_q1_P - left_out_q0_P,
         left_out_q2_P - left_out_q0_P], axis=1,
    )  # fmt: skip
    covariance_44 = jackknife_covariance(left_out_P4, is_counted_P)
    quantile = student_quantile(is_split_P.sum() - 1)
    quantile_4 = jnp.stack([student_quantile(is_counted_P.sum() - 1), quantile, quantile, quantile])
    half_width_4 = quantile_4 * jnp.sqrt(jnp.diagonal(covariance_44))
    grad_sq, v_prompt, zeta1, zeta2 = (
        Interval(value=value, low=value - half, high=value + half)
        for value, half in zip(point_4, half_width_4, strict=True)
    )
    r_star, is_resolved = _r_star_interval(point_4, left_out_P4, is_counted_P, quantile, v_prompt_low=v_prompt.low)
    return Decomposition(
        grad_sq=grad_sq,
        v_prompt=v_prompt,
        zeta1=zeta1,
        zeta2=zeta2,
        r_star=r_star,
        is_r_star_resolved=is_resolved,
        covariance_33=covariance_44[1:, 1:],
        n_counted=is_split_P.sum(),
    )


def rollout_variance(zeta1: jax.Array, zeta2: jax.Array, n_rollouts: np.ndarray | float) -> jax.Array:
    """The mean over prompts of tr Cov(g_x | x) with n_rollouts per prompt.

        V_rollout(R) = 4(R-2)/(R(R-1)) zeta1 + 2/(R(R-1)) zeta2

    The variance of a U-statistic of order 2: Hoeffding (1948).

    Args:
        n_rollouts: R >= 2, a number or a numpy array; not traced.
    """
    factor1, factor2 = (jnp.asarray(factor, jnp.float32) for factor in _rollout_factors(n_rollouts))
    return factor1 * zeta1 + factor2 * zeta2


def predicted_trace_cov(
    found: Decomposition, *, n_prompts: np.ndarray | int, n_rollouts: np.ndarray | int, n_problems: int | None
) -> Interval:
    """tr Cov of the batch gradient for any split, with a jackknife interval.

        tr Cov(P', R') = (f V_prompt + V_rollout(R')) / P'

    f = 1 where prompts are drawn with replacement or n_problems is None; else (N - P')/(N - 1), exact for V_prompt
    as the variance over the N problems. A V_prompt estimated from prompts drawn without replacement of the same N
    is N/(N-1) times that on average, and its exact factor is (N - P')/N. The two differ by 1/N.

    Args:
        n_prompts, n_rollouts: P' >= 1 and R' >= 2, numbers or numpy arrays that broadcast; not traced.
        n_problems: N, if each problem is drawn at most once.

    Returns:
        f32 of the broadcast shape; negative where the estimates are.
    """
    n_prompts, n_rollouts = np.broadcast_arrays(n_prompts, n_rollouts)
    if n_prompts.min() < 1 or (n_problems is not None and n_prompts.max() > n_problems):
        raise ValueError(
            f"n_prompts from {n_prompts.min()} to {n_prompts.max()} of n_problems={n_problems}: "
            "use at least 1 and at most n_problems, or n_problems=None to draw with replacement"
        )
    finite_factor = 1.0 if n_problems is None else (n_problems - n_prompts) / max(n_problems - 1, 1)
    factors = (finite_factor, *_rollout_factors(n_rollouts))
    factors = [jnp.asarray(factor / n_prompts, jnp.float32) for factor in factors]
    estimates = (found.v_prompt.value, found.zeta1.value, found.zeta2.value)
    value = sum(factor * estimate for factor, estimate in zip(factors, estimates, strict=True))
    variance = sum(factors[i] * factors[j] * found.covariance_33[i, j] for i in range(3) for j in range(3))
    # the floor: rounding can leave a variance of 0 just below it; maximum keeps NaN
    half_width = student_quantile(found.n_counted - 1) * jnp.sqrt(jnp.maximum(variance, 0.0))
    return Interval(value=value, low=value - half_width, high=value + half_width)


def best_rollouts(v_prompt: jax.Array, zeta1: jax.Array, zeta2: jax.Array) -> jax.Array:
    """Rollouts per prompt with the least noise at a fixed number of rollouts in all.

        R V_prompt + R V_rollout(R) is least at R* = 1 + sqrt((2 zeta2 - 4 zeta1) / V_prompt)

    Returns:
        f32 > 1, no integer and possibly less than 2, where 2 is best. NaN unless both parts are positive: the true
        2 zeta2 - 4 zeta1 never is negative, and with V_prompt = 0 the noise falls with R for ever.
    """
    surplus = 2 * zeta2 - 4 * zeta1
    is_defined = (v_prompt > 0) & (surplus > 0)
    return jnp.where(is_defined, 1 + jnp.sqrt(surplus / jnp.where(is_defined, v_prompt, 1.0)), jnp.nan)


def cost_aware_best_rollouts(
    found: Decomposition, *, cost_per_prompt: float, cost_per_rollout: float, max_rollouts: int
) -> jax.Array:
    """The R of 2..max_rollouts with the least noise at a fixed cost.

        argmin_R (c_p + c_r R) (V_prompt + V_rollout(R))

    which is the noise of one prompt times its cost, as the number of prompts is budget / cost.

    Args:
        cost_per_prompt: c_p >= 0, as for the prompt's prefill; cost_per_rollout: c_r > 0, in the same unit.

    Returns:
        f32 holding an integer. NaN if the estimated noise is not positive at each of these R: the product of a cost
        and a negative noise has no meaning.
    """
    if max_rollouts < 2 or cost_per_prompt < 0 or cost_per_rollout <= 0:
        raise ValueError(
            f"max_rollouts={max_rollouts}, cost_per_prompt={cost_per_prompt}, cost_per_rollout={cost_per_rollout}: "
            "use at least 2 rollouts, a prompt's cost of 0 or more and a rollout's above 0"
        )
    n_rollouts_X = np.arange(2, max_rollouts + 1, dtype=np.float32)
    noise_X = found.v_prompt.value + rollout_variance(found.zeta1.value, found.zeta2.value, n_rollouts_X)
    best = jnp.asarray(n_rollouts_X)[jnp.argmin((cost_per_prompt + cost_per_rollout * n_rollouts_X) * noise_X)]
    return jnp.where((noise_X > 0).all(), best, jnp.nan)


def critical_rollouts(v_prompt: jax.Array, zeta1: jax.Array, zeta2: jax.Array) -> jax.Array:
    """The number of rollouts per prompt above which prompt noise outweighs rollout noise.

        V_rollout(R) = V_prompt, or with m = R - 1:   V m^2 + (V - 4 zeta1) m - (2 zeta2 - 4 zeta1) = 0

    Returns:
        f32, the larger root, no integer; between 1 and 2 prompt noise outweighs already at 2. inf where V_prompt <= 0
        and rollout noise is positive at every R (zeta2 > 0, zeta1 >= 0). NaN where neither holds: no root above 1, or
        estimates of both signs.
    """
    is_above_zero = v_prompt > 0
    v_safe = jnp.where(is_above_zero, v_prompt, 1.0)
    linear, surplus = v_safe - 4 * zeta1, 2 * zeta2 - 4 * zeta1
    root = jnp.sqrt(jnp.square(linear) + 4 * v_safe * surplus)  # NaN: V_rollout is below V_prompt everywhere
    # two forms of the larger root, each free of cancellation on its side
    m = jnp.where(linear > 0, 2 * surplus / jnp.where(linear > 0, linear + root, 1.0), (root - linear) / (2 * v_safe))
    is_never_reached = (v_prompt <= 0) & (zeta2 > 0) & (zeta1 >= 0)  # false where NaN
    return jnp.where(is_above_zero & (m > 0), 1 + m, jnp.where(is_never_reached, jnp.inf, jnp.nan))


def _rollout_factors(n_rollouts: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """What zeta1 and zeta2 are multiplied by in V_rollout."""
    n_rollouts = np.asarray(n_rollouts, np.float64)
    if n_rollouts.min() < 2:
        raise ValueError(f"n_rollouts={n_rollouts.min():g}: a group baseline needs at least 2 rollouts per prompt")
    n_ordered_pairs = n_rollouts * (n_rollouts - 1)
    return 4 * (n_rollouts - 2) / n_ordered_pairs, 2 / n_ordered_pairs


def _centred_gram(gram_PRR: jax.Array, is_kept_PR: jax.Array, R_P: jax.Array) -> jax.Array:
    """<s_j - mean s, s_k - mean s> over the kept rollouts, 0 elsewhere."""
    is_pair_PRR = is_kept_PR[:, :, None] & is_kept_PR[:, None, :]
    gram_PRR = jnp.where(is_pair_PRR, gram_PRR, 0.0)
    mean_PR1 = gram_PRR.sum(axis=2, keepdims=True) / R_P[:, None, None]
    mean_P1R = gram_PRR.sum(axis=1, keepdims=True) / R_P[:, None, None]
    mean_P11 = mean_PR1.sum(axis=1, keepdims=True) / R_P[:, None, None]
    return jnp.where(is_pair_PRR, gram_PRR - mean_PR1 - mean_P1R + mean_P11, 0.0)


def _mean_and_left_out(x_P: jax.Array, is_counted_P: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of the counted, and the mean without each prompt; without one that does not count, the same."""
    x_P = jnp.where(is_counted_P, x_P, 0.0)
    n = is_counted_P.sum().astype(jnp.float32)
    return x_P.sum() / n, (x_P.sum() - x_P) / (n - is_counted_P.astype(jnp.float32))


def _r_star_interval(
    point_4: jax.Array,
    left_out_P4: jax.Array,
    is_counted_P: jax.Array,
    quantile: jax.Array,
    *,
    v_prompt_low: jax.Array,
) -> tuple[Interval, jax.Array]:
    """R* and its interval on the scale of log(R* - 1), which is far closer to normal; and whether it is resolved."""
    excess, left_out_excess_P = best_rollouts(*point_4[1:]) - 1, best_rollouts(*left_out_P4[:, 1:].T) - 1
    are_positive = (excess > 0) & (left_out_excess_P > 0).all()  # false where NaN
    is_resolved = are_positive & (v_prompt_low > 0)

    def safe_log(x: jax.Array) -> jax.Array:
        return jnp.log(jnp.where(is_resolved, x, 1.0))

    left_out_log_P1 = safe_log(left_out_excess_P)[:, None]
    half_width = quantile * jnp.sqrt(jackknife_covariance(left_out_log_P1, is_counted_P)[0, 0])
    low, value, high = (
        jnp.where(is_resolved, 1 + jnp.exp(safe_log(excess) + shift), jnp.nan) for shift in (-half_width, 0, half_width)
    )
    return Interval(value=value, low=low, high=high), is_resolved

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy_problems import SoftmaxBandit, gaussian_rewards, softmax_bandit

from rlvr_jax.noise import decompose
from rlvr_jax.noise import gram as gram_module
from rlvr_jax.noise import noise_scale as scale_module
from rlvr_jax.noise.decompose import (
    GroupMoments,
    best_rollouts,
    cost_aware_best_rollouts,
    critical_rollouts,
    predicted_trace_cov,
    rollout_variance,
)

NAN = float("nan")
SPLITS = (2, 4, 8, 16, 64)
NAMES = ("grad_sq", "v_prompt", "zeta1", "zeta2")
# several times faster than one operation after another
group_moments, decomposition = jax.jit(decompose.group_moments), jax.jit(decompose.decomposition)
leave_one_out_weights, weighted_sq_norms = map(
    jax.jit, (gram_module.leave_one_out_weights, gram_module.weighted_sq_norms)
)
noise_scale = jax.jit(scale_module.noise_scale)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


# One group by loops over rollouts that are all different


def slow_q(score_RD, reward_R):
    """(q0, q1, q2): means of <h, h> over pairs of pairs with 0, 1 and 2 rollouts in common."""
    score_RD, reward_R = np.asarray(score_RD, np.float64), np.asarray(reward_R, np.float64)
    R = len(reward_R)

    def h(j, k):
        return 0.5 * (reward_R[j] - reward_R[k]) * (score_RD[j] - score_RD[k])

    q2 = np.mean([h(j, k) @ h(j, k) for j, k in itertools.permutations(range(R), 2)])
    q1 = np.mean([h(j, k) @ h(j, m) for j, k, m in itertools.permutations(range(R), 3)])
    q0 = np.mean([h(j, k) @ h(m, n) for j, k, m, n in itertools.permutations(range(R), 4)])
    return q0, q1, q2


def random_groups(P, R, seed=0):
    rng = np.random.default_rng(seed)
    score_PRD = rng.normal(size=(P, R, 3)).astype(np.float32)
    return score_PRD, (rng.normal(size=(P, R)) + score_PRD[:, :, 0]).astype(np.float32)


def gram(score_PRD):
    return jnp.asarray(np.einsum("pjd,pkd->pjk", score_PRD, score_PRD))


def q_of(score_PRD, reward_PR, is_kept_PR=None):
    is_kept_PR = np.ones(reward_PR.shape, bool) if is_kept_PR is None else is_kept_PR
    got = group_moments(gram(score_PRD), jnp.asarray(reward_PR), jnp.asarray(is_kept_PR))
    return np.stack([got.q0_P, got.q1_P, got.q2_P], axis=1)


def test_one_group_by_hand():
    # s = r = (1, 0, 0, 0): h_1k = 1/2, the others 0; only q2 of 3 in 6 pairs, q1 of 3 * 2 in 24 triples are not 0
    reward_PR = np.array([[1, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(q_of(reward_PR[..., None], reward_PR), [[0, 1 / 16, 1 / 8]], atol=1e-7)


@pytest.mark.parametrize("R", [4, 5, 7])
def test_moments_are_means_over_different_rollouts(R):
    score_PRD, reward_PR = random_groups(3, R)
    expected = [slow_q(*group) for group in zip(score_PRD, reward_PR, strict=True)]
    np.testing.assert_allclose(q_of(score_PRD, reward_PR), expected, rtol=2e-5, atol=1e-5)


def test_groups_of_different_size_use_their_own_number_of_rollouts():
    score_PRD, reward_PR = random_groups(6, 7)
    n_kept_P = [7, 6, 5, 4, 3, 0]
    is_kept_PR = np.random.default_rng(1).permuted(np.arange(7) < np.array(n_kept_P)[:, None], axis=1)
    with_nan = np.where(is_kept_PR, reward_PR, NAN), np.where(is_kept_PR[..., None], score_PRD, NAN)
    moments = group_moments(gram(with_nan[1]), jnp.asarray(with_nan[0]), jnp.asarray(is_kept_PR))
    got = np.stack([moments.q0_P, moments.q1_P, moments.q2_P], axis=1)
    for x in range(4):
        kept = is_kept_PR[x]
        np.testing.assert_allclose(got[x], slow_q(score_PRD[x, kept], reward_PR[x, kept]), rtol=2e-5, atol=1e-5)
    np.testing.assert_array_equal(got[4:], 0)
    np.testing.assert_array_equal(moments.is_counted_P, [True] * 4 + [False] * 2)


def test_moments_of_64_rollouts_hold_in_float32():
    score_PRD, reward_PR = random_groups(4, 64)
    exact = [float64_q(score, reward) for score, reward in zip(score_PRD, reward_PR, strict=True)]
    np.testing.assert_allclose(q_of(score_PRD, reward_PR), exact, rtol=1e-4, atol=1e-4)


def float64_q(score_RD, reward_R):
    """With the matrix M of SCIENCE sec. 3, for groups too large to loop over."""
    K = np.asarray(score_RD, np.float64) @ np.asarray(score_RD, np.float64).T
    r, R = np.asarray(reward_R, np.float64), len(reward_R)
    C, diagonal = R * (R - 1) / 2, np.diag(K)
    off = ~np.eye(R, dtype=bool)
    q2 = (0.25 * (r[:, None] - r) ** 2 * (diagonal[:, None] + diagonal - 2 * K))[off].mean()
    M = 0.5 * (np.diag(R * r - r.sum()) - r[:, None] + r)
    q1 = (np.trace(M @ K @ M.T) - 2 * C * q2) / (R * (R - 1) * (R - 2))
    a = r - r.mean()
    sq_norm = a @ K @ a / (R - 1) ** 2
    return (C**2 * sq_norm - C * q2 - R * (R - 1) * (R - 2) * q1) / (C * (R - 2) * (R - 3) / 2), q1, q2


def test_moments_do_not_depend_on_the_order_or_a_shift_and_scale_as_squares():
    score_PRD, reward_PR = random_groups(3, 6)
    base, order = q_of(score_PRD, reward_PR), [3, 1, 5, 0, 2, 4]
    np.testing.assert_allclose(q_of(score_PRD[:, order], reward_PR[:, order]), base, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q_of(score_PRD, reward_PR + 3), base, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(q_of(score_PRD + 2, reward_PR), base, rtol=1e-3, atol=1e-3)  # a common part cancels
    np.testing.assert_allclose(q_of(2 * score_PRD, 3 * reward_PR), 36 * base, rtol=1e-4, atol=1e-3)


def test_equal_rewards_count_with_exactly_zero():
    score_PRD, _ = random_groups(2, 8)
    reward_PR, is_kept_PR = np.full((2, 8), 0.1, np.float32), np.arange(8) < np.array([[8], [5]])
    got = group_moments(gram(score_PRD), jnp.asarray(reward_PR), jnp.asarray(is_kept_PR))
    assert got.is_counted_P.all()
    np.testing.assert_array_equal(np.stack([got.q0_P, got.q1_P, got.q2_P]), 0)


def test_a_kept_nan_shows_in_its_group_only():
    score_PRD, reward_PR = random_groups(3, 5)
    for place in (score_PRD, reward_PR):
        spoilt = place.copy()
        spoilt[1, 2] = NAN
        got = q_of(spoilt, reward_PR) if place is score_PRD else q_of(score_PRD, spoilt)
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("R", [1, 2, 3])
def test_fewer_than_four_rollouts_are_refused(R):
    with pytest.raises(ValueError, match=f"with {R} rollouts per prompt: .*use at least 4, or noise_scale"):
        group_moments(jnp.ones((2, R, R)), jnp.ones((2, R)), jnp.ones((2, R), bool))


def test_other_shapes_and_types_are_refused():
    with pytest.raises(AssertionError):
        group_moments(jnp.ones((2, 4, 5)), jnp.ones((2, 4)), jnp.ones((2, 4), bool))
    with pytest.raises(AssertionError):
        group_moments(jnp.ones((2, 4, 4)), jnp.ones((2, 4)), jnp.ones((2, 4)))
    moments = GroupMoments(jnp.ones(3), jnp.ones(3), jnp.ones(3), jnp.ones(3, bool))
    with pytest.raises(AssertionError):
        decomposition(moments, jnp.ones(4), jnp.float32(1), jnp.ones(4), jnp.ones(4, bool))


# Expectations by enumeration of all outcomes, without sampling


BANDIT = SoftmaxBandit(
    feature_XAD=np.random.default_rng(3).normal(size=(4, 3, 4)),
    policy_XA=np.random.default_rng(4).dirichlet(np.ones(3), 4),
    reward_XA=np.array([[1, 0, 0], [0, 1, 1], [0.2, 1, -1], [1, 1, 1]]),
)


def all_outcomes(bandit, context, R):
    """Scores [A^R, R, D], rewards [A^R, R] and probabilities [A^R] of every result of R draws."""
    actions = np.array(list(itertools.product(range(bandit.policy_XA.shape[1]), repeat=R)))
    probability = bandit.policy_XA[context, actions].prod(axis=1)
    score = bandit.score_XAD[context, actions].astype(np.float32)
    return score, bandit.reward_XA[context, actions].astype(np.float32), probability


@pytest.mark.parametrize("R", [4, 5, 6])
def test_expected_moments_are_the_truth(R):
    expected = np.zeros(3)
    for context in range(4):
        score, reward, probability = all_outcomes(BANDIT, context, R)
        expected += probability @ q_of(score, reward) / 4
    np.testing.assert_allclose(expected, BANDIT.truth.q, rtol=1e-4)


@pytest.mark.parametrize("R", [2, 3, 4, 6])
def test_expected_rollout_variance_is_the_truth(R):
    variance = 0
    for context in range(4):
        score, reward, probability = all_outcomes(BANDIT, context, R)
        weight = np.asarray(leave_one_out_weights(jnp.asarray(reward), jnp.ones(reward.shape, bool)))
        g = np.einsum("or,ord->od", weight, score)
        variance += (probability @ (g**2).sum(axis=1) - ((probability @ g) ** 2).sum()) / 4
    truth = BANDIT.truth
    got = rollout_variance(jnp.float32(truth.zeta1), jnp.float32(truth.zeta2), R)
    assert float(got) == pytest.approx(variance, rel=1e-5)
    assert truth.v_rollout(R) == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("R", [2, 4, 5])
def test_scores_independent_of_bernoulli_rewards_have_variance_p_q_over_r_minus_1(R):
    # arXiv:2602.01601; scores +1 and -1, right with p: zeta1 = p(1-p)/4, zeta2 = p(1-p)
    p = 0.3
    bandit = SoftmaxBandit(
        feature_XAD=np.array([[[1.0], [1.0], [-1.0], [-1.0]]]),
        policy_XA=np.array([[p, 1 - p, p, 1 - p]]) / 2,
        reward_XA=np.array([[1, 0, 1, 0]]),
    )
    score, reward, probability = all_outcomes(bandit, 0, R)
    is_kept = jnp.ones(reward.shape, bool)
    weight = leave_one_out_weights(jnp.asarray(reward), is_kept)
    sq_norm = np.asarray(weighted_sq_norms(gram(score), weight, is_kept))
    assert probability @ sq_norm == pytest.approx(p * (1 - p) / (R - 1), rel=1e-5)
    got = rollout_variance(jnp.float32(p * (1 - p) / 4), jnp.float32(p * (1 - p)), R)
    assert float(got) == pytest.approx(p * (1 - p) / (R - 1), rel=1e-6)


def gradient_statistics(g_PD):
    g_PD = np.asarray(g_PD, np.float32)
    total = g_PD.sum(axis=0)
    return (
        jnp.asarray((g_PD**2).sum(axis=1)), jnp.asarray((total**2).sum()), jnp.asarray(g_PD @ total),
        jnp.ones(len(g_PD), bool),
    )  # fmt: skip


def exact_groups(g_PD):
    """Moments and statistics of prompts whose gradients are known: infinitely many rollouts."""
    sq_norm_P = jnp.asarray((np.asarray(g_PD, np.float32) ** 2).sum(axis=1))
    moments = GroupMoments(sq_norm_P, sq_norm_P + 1, sq_norm_P + 5, jnp.ones(len(g_PD), bool))
    return moments, *gradient_statistics(g_PD)


GRADIENT_ND = np.random.default_rng(5).normal(0.7, 1.0, (5, 2))
N = len(GRADIENT_ND)
POPULATION_VARIANCE = GRADIENT_ND.var(axis=0).sum()


def test_prompts_drawn_with_replacement_give_the_variance_of_the_population():
    draws = itertools.product(range(N), repeat=3)
    got = np.mean([float(decomposition(*exact_groups(GRADIENT_ND[list(i)])).v_prompt.value) for i in draws])
    assert got == pytest.approx(POPULATION_VARIANCE, rel=1e-4)


@pytest.mark.parametrize("n_prompts", [2, 3, 5])
def test_prompts_drawn_without_replacement_have_the_finite_population_factor(n_prompts):
    draws = [GRADIENT_ND[list(i)] for i in itertools.combinations(range(N), n_prompts)]
    variance = np.mean([((g.mean(axis=0) - GRADIENT_ND.mean(axis=0)) ** 2).sum() for g in draws])
    found = decomposition(*exact_groups(GRADIENT_ND))  # the whole population: N/(N-1) times its variance
    assert float(found.v_prompt.value) == pytest.approx(N / (N - 1) * POPULATION_VARIANCE, rel=1e-5)
    estimated = np.mean([float(decomposition(*exact_groups(g)).v_prompt.value) for g in draws])
    assert estimated == pytest.approx(float(found.v_prompt.value), rel=1e-4)  # so on average is any draw
    found = found.replace(
        v_prompt=found.v_prompt.replace(value=jnp.float32(POPULATION_VARIANCE)),
        zeta1=found.zeta1.replace(value=jnp.float32(0)),
        zeta2=found.zeta2.replace(value=jnp.float32(0)),
    )
    got = predicted_trace_cov(found, n_prompts=n_prompts, n_rollouts=4, n_problems=N)
    assert float(got.value) == pytest.approx(variance, rel=1e-4, abs=1e-7)


# The batch: estimates, intervals, and what they do when they mean little


def uneven_batch(P=14, R=8):
    """Groups of 8, 5, 4, 3 and 2 kept rollouts: (moments, statistics, arrays of each prompt)."""
    score_PRD, reward_PR = random_groups(P, R, seed=7)
    is_kept_PR = np.arange(R) < np.resize([8, 5, 4, 3, 8, 2, 8], P)[:, None]
    weight_PR = leave_one_out_weights(jnp.asarray(reward_PR), jnp.asarray(is_kept_PR))
    g_PD = np.einsum("pr,prd->pd", weight_PR, score_PRD)
    moments = group_moments(gram(score_PRD), jnp.asarray(reward_PR), jnp.asarray(is_kept_PR))
    return moments, gradient_statistics(g_PD), (g_PD.astype(np.float64), moments)


def slow_estimates(g_PD, moments, keep):
    """(|G|^2, V_prompt, zeta1, zeta2) of the prompts `keep`."""
    g_PD, is_split = g_PD[keep], np.asarray(moments.is_counted_P)[keep]
    n = len(g_PD)
    grad_sq = ((g_PD.sum(axis=0) ** 2).sum() - (g_PD**2).sum()) / (n * (n - 1))
    q0, q1, q2 = (np.asarray(q, np.float64)[keep][is_split].mean() for q in (moments.q0_P, moments.q1_P, moments.q2_P))
    return np.array([grad_sq, q0 - grad_sq, q1 - q0, q2 - q0])


def test_intervals_equal_leaving_each_prompt_out_of_everything():
    moments, statistics, arrays = uneven_batch()
    P = 14
    point = slow_estimates(*arrays, np.arange(P))
    left_out = np.array([slow_estimates(*arrays, np.delete(np.arange(P), x)) for x in range(P)])
    covariance = (P - 1) / P * (left_out - left_out.mean(axis=0)).T @ (left_out - left_out.mean(axis=0))
    n_split = int(np.asarray(moments.is_counted_P).sum())
    assert 4 < n_split < P
    got = decomposition(moments, *statistics)
    for i, name in enumerate(NAMES):
        half = stats.t.ppf(0.975, (P if name == "grad_sq" else n_split) - 1) * covariance[i, i] ** 0.5
        interval = getattr(got, name)
        expected = [point[i], point[i] - half, point[i] + half]
        np.testing.assert_allclose([interval.value, interval.low, interval.high], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got.covariance_33, covariance[1:, 1:], rtol=1e-3, atol=1e-4)
    assert int(got.n_counted) == n_split


def test_r_star_interval_equals_leaving_each_prompt_out():
    moments, statistics, arrays = uneven_batch()
    moments = moments.replace(q0_P=moments.q0_P + 5, q1_P=moments.q1_P + 5, q2_P=moments.q2_P + 15)
    arrays = arrays[0], moments
    P = 14

    def log_excess(keep):
        _, v_prompt, zeta1, zeta2 = slow_estimates(*arrays, keep)
        return 0.5 * np.log((2 * zeta2 - 4 * zeta1) / v_prompt)

    left_out = np.array([log_excess(np.delete(np.arange(P), x)) for x in range(P)])
    quantile = stats.t.ppf(0.975, int(np.asarray(moments.is_counted_P).sum()) - 1)
    half = quantile * np.sqrt((P - 1) / P * ((left_out - left_out.mean()) ** 2).sum())
    got = decomposition(moments, *statistics)
    assert bool(got.is_r_star_resolved)
    middle = log_excess(np.arange(P))
    expected = 1 + np.exp([middle, middle - half, middle + half])
    np.testing.assert_allclose([got.r_star.value, got.r_star.low, got.r_star.high], expected, rtol=1e-3)


def test_prompts_that_are_not_counted_do_not_matter():
    moments, statistics, _ = uneven_batch()
    alone = decomposition(moments, *statistics)
    moments = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), moments)
    moments = moments.replace(q0_P=moments.q0_P.at[-1].set(NAN))
    sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P = statistics
    sq_norm_P, dot_sum_P = (jnp.append(x, NAN) for x in (sq_norm_P, dot_sum_P))
    among = decomposition(moments, sq_norm_P, sum_sq_norm, dot_sum_P, jnp.append(is_counted_P, False))
    for got, expected in zip(jax.tree.leaves(among), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_negative_prompt_noise_is_reported_and_leaves_the_best_split_unresolved():
    # g = 1, 2, 3 and q0 = 1, 2, 3: |G|^2 = 11/3, V_prompt = 2 - 11/3
    q0_P = jnp.array([1.0, 2, 3])
    moments = GroupMoments(q0_P, q0_P + 1, q0_P + 5, jnp.ones(3, bool))
    got = decomposition(moments, *gradient_statistics([[1.0], [2.0], [3.0]]))
    assert float(got.v_prompt.value) == pytest.approx(2 - 11 / 3, rel=1e-5)
    assert float(got.v_prompt.low) < float(got.v_prompt.value) < float(got.v_prompt.high)
    assert (float(got.zeta1.value), float(got.zeta2.value)) == pytest.approx((1, 5))
    assert not bool(got.is_r_star_resolved)
    assert np.isnan([got.r_star.value, got.r_star.low, got.r_star.high]).all()
    # (-5/3 + 4 * 2/12 + 2/12 * 5)/10 < 0 is not clipped
    predicted = predicted_trace_cov(got, n_prompts=10, n_rollouts=4, n_problems=None)
    assert float(predicted.value) == pytest.approx((-5 / 3 + 2 / 3 + 5 / 6) / 10, rel=1e-4)
    assert np.isnan(float(cost_aware_best_rollouts(got, cost_per_prompt=0, cost_per_rollout=1, max_rollouts=8)))


def test_one_prompt_without_which_prompt_noise_is_negative_leaves_the_best_split_unresolved():
    q0_P = jnp.array([30.0, 2, 3])
    moments = GroupMoments(q0_P, q0_P + 1, q0_P + 5, jnp.ones(3, bool))
    got = decomposition(moments, *gradient_statistics([[1.0], [2.0], [3.0]]))
    assert float(got.v_prompt.value) > 0
    assert not bool(got.is_r_star_resolved)
    assert np.isnan(float(got.r_star.value))


def test_all_rewards_equal_mean_no_noise_and_no_best_split():
    moments = GroupMoments(jnp.zeros(5), jnp.zeros(5), jnp.zeros(5), jnp.ones(5, bool))
    got = decomposition(moments, *gradient_statistics(np.zeros((5, 2))))
    for name in NAMES:
        interval = getattr(got, name)
        assert (float(interval.value), float(interval.low), float(interval.high)) == (0, 0, 0)
    assert not bool(got.is_r_star_resolved)
    assert np.isnan(float(got.r_star.value))


def test_a_nan_in_one_counted_group_makes_all_that_reads_it_nan():
    moments, statistics, _ = uneven_batch()
    spoilt = decomposition(moments.replace(q0_P=moments.q0_P.at[1].set(NAN)), *statistics)
    for name in ("v_prompt", "zeta1", "zeta2", "r_star"):
        interval = getattr(spoilt, name)
        assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert not bool(spoilt.is_r_star_resolved)
    spoilt = decomposition(moments, statistics[0].at[1].set(NAN), *statistics[1:])
    assert np.isnan([spoilt.grad_sq.value, spoilt.v_prompt.value, spoilt.v_prompt.high]).all()


@pytest.mark.parametrize("P", [1, 2])
def test_one_or_two_prompts_have_no_interval_of_prompt_noise_and_do_not_fail(P):
    score_PRD, reward_PR = random_groups(P, 6)
    moments = group_moments(gram(score_PRD), jnp.asarray(reward_PR), jnp.ones((P, 6), bool))
    g_PD = np.einsum("pr,prd->pd", reward_PR - reward_PR.mean(axis=1, keepdims=True), score_PRD) / 5
    got = decomposition(moments, *gradient_statistics(g_PD))
    expected = np.mean([slow_q(*group) for group in zip(score_PRD, reward_PR, strict=True)], axis=0)
    assert float(got.zeta1.value) == pytest.approx(expected[1] - expected[0], rel=1e-3)
    assert np.isnan([got.v_prompt.low, got.v_prompt.high, got.r_star.value]).all()
    assert np.isfinite(float(got.v_prompt.value)) == (P == 2)
    assert not bool(got.is_r_star_resolved)


def test_no_group_with_four_rollouts_leaves_only_the_signal():
    moments, statistics, _ = uneven_batch()
    moments = moments.replace(is_counted_P=jnp.zeros(14, bool))
    got = decomposition(moments, *statistics)
    scale = noise_scale(*statistics)
    assert float(got.grad_sq.value) == pytest.approx(float(scale.grad_sq), rel=1e-5)
    assert np.isfinite([got.grad_sq.low, got.grad_sq.high]).all()
    assert np.isnan([got.v_prompt.value, got.zeta1.value, got.zeta2.high, got.r_star.value]).all()
    assert int(got.n_counted) == 0


# What follows from the estimates


def found_with(v_prompt, zeta1, zeta2):
    """A decomposition of three prompts with these estimates."""
    g_PD = [[1.0], [2.0], [3.0]]
    q0_P = jnp.full(3, 11 / 3 + v_prompt, jnp.float32)
    moments = GroupMoments(q0_P, q0_P + zeta1, q0_P + zeta2, jnp.ones(3, bool))
    return decomposition(moments, *gradient_statistics(g_PD))


def test_predictions_are_the_formula_with_the_variance_of_their_sum():
    moments, statistics, _ = uneven_batch()
    found = decomposition(moments, *statistics)
    n_prompts, n_rollouts = np.array([[1], [4], [9]]), np.array([[2, 3, 4, 8, 64]])
    got = predicted_trace_cov(found, n_prompts=n_prompts, n_rollouts=n_rollouts, n_problems=20)
    assert got.value.shape == got.low.shape == got.high.shape == (3, 5)
    quantile = stats.t.ppf(0.975, int(found.n_counted) - 1)
    for i, P in enumerate(n_prompts[:, 0]):
        for k, R in enumerate(n_rollouts[0]):
            factors = np.array([(20 - P) / 19, 4 * (R - 2) / (R * (R - 1)), 2 / (R * (R - 1))]) / P
            value = factors @ [float(found.v_prompt.value), float(found.zeta1.value), float(found.zeta2.value)]
            half = quantile * np.sqrt(factors @ np.asarray(found.covariance_33, np.float64) @ factors)
            expected = [value, value - half, value + half]
            np.testing.assert_allclose([got.value[i, k], got.low[i, k], got.high[i, k]], expected, rtol=1e-3)


def test_prediction_at_the_own_split_is_the_total_noise():
    # mean |g_x|^2 = q0 + V_rollout(R) exactly, so V_prompt + V_rollout(R) = mean |g|^2 - |G|^2 = S
    score_PRD, reward_PR = random_groups(9, 6)
    weight_PR = leave_one_out_weights(jnp.asarray(reward_PR), jnp.ones((9, 6), bool))
    statistics = gradient_statistics(np.einsum("pr,prd->pd", weight_PR, score_PRD))
    moments = group_moments(gram(score_PRD), jnp.asarray(reward_PR), jnp.ones((9, 6), bool))
    found = decomposition(moments, *statistics)
    predicted = predicted_trace_cov(found, n_prompts=1, n_rollouts=6, n_problems=None)
    assert float(predicted.value) == pytest.approx(float(noise_scale(*statistics).trace_cov), rel=1e-4)


def test_predictions_refuse_impossible_splits():
    found = found_with(1.0, 1.0, 5.0)
    with pytest.raises(ValueError, match=r"n_rollouts=1: .* at least 2"):
        predicted_trace_cov(found, n_prompts=4, n_rollouts=np.array([4, 1]), n_problems=None)
    with pytest.raises(ValueError, match=r"n_rollouts=1: .* at least 2"):
        rollout_variance(jnp.float32(1), jnp.float32(5), 1)
    with pytest.raises(ValueError, match="n_prompts from 4 to 9 of n_problems=8"):
        predicted_trace_cov(found, n_prompts=np.array([4, 9]), n_rollouts=4, n_problems=8)
    with pytest.raises(ValueError, match="n_prompts from 0"):
        predicted_trace_cov(found, n_prompts=0, n_rollouts=4, n_problems=None)


@pytest.mark.parametrize(("v_prompt", "zeta1", "zeta2"), [(1.0, 2.0, 22.0), (0.3, 1.0, 3.0), (2.0, 0.5, 40.0)])
def test_best_rollouts_have_the_least_noise_for_their_number(v_prompt, zeta1, zeta2):
    R = np.arange(1.01, 60, 0.01)
    noise = R * (v_prompt + (4 * (R - 2) * zeta1 + 2 * zeta2) / (R * (R - 1)))
    got = float(best_rollouts(jnp.float32(v_prompt), jnp.float32(zeta1), jnp.float32(zeta2)))
    assert got == pytest.approx(R[noise.argmin()], abs=0.01)
    free = cost_aware_best_rollouts(
        found_with(v_prompt, zeta1, zeta2), cost_per_prompt=0, cost_per_rollout=1, max_rollouts=40
    )
    assert float(free) in (np.floor(got), np.ceil(got))


def test_best_rollouts_are_nan_where_a_part_is_not_positive():
    got = best_rollouts(jnp.array([1.0, -1, 0, NAN]), jnp.array([2.0, 1, 1, 1]), jnp.array([4.0, 5, 5, 5]))
    assert np.isnan(got).all()


@pytest.mark.parametrize(("cost_per_prompt", "expected"), [(0, 7), (3, 11), (100, 30)])
def test_costly_prompts_want_more_rollouts(cost_per_prompt, expected):
    def cost(R):
        return (cost_per_prompt + R) * (1 + (4 * (R - 2) * 5 + 2 * 30) / (R * (R - 1)))

    found = found_with(1.0, 5.0, 30.0)
    got = cost_aware_best_rollouts(found, cost_per_prompt=cost_per_prompt, cost_per_rollout=1, max_rollouts=30)
    assert float(got) == min(range(2, 31), key=cost) == expected


def test_costs_without_meaning_are_refused():
    found = found_with(1.0, 1.0, 5.0)
    for costs in ((-1, 1, 8), (1, 0, 8), (1, 1, 1)):
        names = ("cost_per_prompt", "cost_per_rollout", "max_rollouts")
        with pytest.raises(ValueError, match="use at least 2 rollouts"):
            cost_aware_best_rollouts(found, **dict(zip(names, costs, strict=True)))


@pytest.mark.parametrize(("v_prompt", "zeta1", "zeta2"), [(1.0, 2.0, 22.0), (0.3, 1.0, 3.0), (9.0, 0.5, 40.0)])
def test_rollout_noise_equals_prompt_noise_at_critical_rollouts(v_prompt, zeta1, zeta2):
    got = float(critical_rollouts(jnp.float32(v_prompt), jnp.float32(zeta1), jnp.float32(zeta2)))
    assert got > 2
    assert float(rollout_variance(zeta1, zeta2, got)) == pytest.approx(v_prompt, rel=1e-5)
    assert float(rollout_variance(zeta1, zeta2, got + 1)) < v_prompt


def test_critical_rollouts_by_hand_and_where_there_are_none():
    cases = {
        (1.0, 1.0, 3.0): (5 + 17**0.5) / 2,  # 4 (R-2) + 6 = R: R^2 - 5R + 2 = 0
        (100.0, 1.0, 3.0): 1 + (-96 + (96**2 + 800) ** 0.5) / 200,  # 100 m^2 + 96 m - 2 = 0: between 1 and 2
        (0.0, 1.0, 5.0): np.inf,
        (-1.0, 0.0, 5.0): np.inf,
        (-1.0, -1.0, 5.0): NAN,  # rollout noise turns negative as R grows
        (0.0, 0.0, 0.0): NAN,
        (1.0, 0.0, -1.0): NAN,  # never above 0
        (1.0, 0.01, 0.01): NAN,  # both roots below 1
        (NAN, 1.0, 5.0): NAN,
    }
    got = critical_rollouts(*(jnp.array(column, jnp.float32) for column in zip(*cases, strict=True)))
    np.testing.assert_allclose(got, list(cases.values()), rtol=1e-5)


# Estimates of sampled batches against the known truth


def measured(score_PRD, reward_PR, is_kept_PR):
    weight_PR = leave_one_out_weights(reward_PR, is_kept_PR)
    gram_PRR = jnp.einsum("pjd,pkd->pjk", score_PRD, score_PRD)
    g_PD = jnp.einsum("pr,prd->pd", weight_PR, score_PRD)
    is_counted_P = is_kept_PR.sum(axis=1) >= 2
    sq_norm_P = weighted_sq_norms(gram_PRR, weight_PR, is_kept_PR)
    statistics = (sq_norm_P, jnp.square(g_PD.sum(axis=0)).sum(), g_PD @ g_PD.sum(axis=0), is_counted_P)
    moments = group_moments(gram_PRR, reward_PR, is_kept_PR)
    found = decomposition(moments, *statistics)
    predicted = predicted_trace_cov(found, n_prompts=1, n_rollouts=np.array(SPLITS), n_problems=None)
    return moments, found, predicted, noise_scale(*statistics)


@pytest.fixture(scope="module", params=["gaussian", "bandit", "gaussian with a fifth left out"])
def repeats(request):
    """(truth, moments, found, predicted, scale) of a few thousand batches of 32 x 8; the last with 8 and fewer kept."""
    K, P, R = 6_000, 32, 8
    if request.param == "bandit":
        problem = softmax_bandit(n_contexts=100, n_actions=4, n_params=8, n_rollouts=R, b_noise=4, seed=1)
    else:
        problem = gaussian_rewards(n_params=6, n_rollouts=R, b_noise=4)
    rng = np.random.default_rng(11)
    is_kept_KPR = rng.random((K, P, R)) < (0.8 if "left out" in request.param else 1)
    score_KPRD, reward_KPR = problem.draw(rng, K, P, R)
    reward_KPR = np.where(is_kept_KPR, reward_KPR, np.float32(NAN))
    return problem.truth, *jax.jit(jax.vmap(measured))(score_KPRD, reward_KPR, is_kept_KPR)


def test_moments_of_sampled_groups_average_to_the_truth(repeats):
    truth, moments, *_ = repeats
    is_counted = np.asarray(moments.is_counted_P)
    for q, expected in zip((moments.q0_P, moments.q1_P, moments.q2_P), truth.q, strict=True):
        assert np.asarray(q)[is_counted].mean() == pytest.approx(expected, rel=0.02)


def test_parts_and_predictions_are_unbiased(repeats):
    truth, _, found, predicted, scale = repeats
    for name in NAMES:
        assert float(getattr(found, name).value.mean()) == pytest.approx(getattr(truth, name), rel=0.02), name
    expected = [truth.trace_cov(R) for R in SPLITS]
    np.testing.assert_allclose(predicted.value.mean(axis=0), expected, rtol=0.02)
    assert float(scale.grad_sq.mean()) == pytest.approx(truth.grad_sq, rel=0.02)


def test_intervals_cover_about_95_of_100(repeats):
    truth, _, found, predicted, _ = repeats
    # at 32 prompts plain intervals of these skewed estimates fall a little short; bench/noise_estimators.py has more
    for name in NAMES:
        interval, expected = getattr(found, name), getattr(truth, name)
        assert 0.88 < float(((interval.low <= expected) & (expected <= interval.high)).mean()) < 0.98, name
    expected = np.array([truth.trace_cov(R) for R in SPLITS])
    is_covered = (np.asarray(predicted.low) <= expected) & (expected <= np.asarray(predicted.high))
    assert (is_covered.mean(axis=0) > 0.88).all()
    assert (is_covered.mean(axis=0) < 0.98).all()


def test_r_star_is_resolved_with_its_prompt_noise_and_its_interval_covers_the_truth(repeats):
    truth, _, found, _, _ = repeats
    is_resolved = np.asarray(found.is_r_star_resolved)
    assert is_resolved.mean() > 0.2  # of 32 prompts
    assert (np.asarray(found.v_prompt.low)[is_resolved] > 0).all()
    is_covered = (np.asarray(found.r_star.low) <= truth.r_star) & (truth.r_star <= np.asarray(found.r_star.high))
    # where only a third of the batches resolve it, they are those in which V_prompt came out large
    assert 0.86 < is_covered[is_resolved].mean() < 0.99

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy_problems import gaussian_rewards, softmax_bandit

from rlvr_jax.noise import noise_scale as module
from rlvr_jax.noise.noise_scale import jackknife_covariance, naive_noise_scale, student_quantile

noise_scale = jax.jit(module.noise_scale)  # several times faster than one operation after another
PURE_NOISE_PD = np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]], np.float32)  # mean exactly 0


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def statistics(g_PD):
    """Of every group, all counted."""
    g_PD = np.asarray(g_PD, np.float32)
    total = g_PD.sum(axis=0)
    return (
        jnp.asarray((g_PD**2).sum(axis=1)), jnp.asarray((total**2).sum()), jnp.asarray(g_PD @ total),
        jnp.ones(len(g_PD), bool),
    )  # fmt: skip


def slow_moments(g_PD):
    n, mean = len(g_PD), g_PD.mean(axis=0)
    s = ((g_PD - mean) ** 2).sum() / (n - 1)
    return s, (mean**2).sum() - s / n


def numbers(scale):
    return {name: float(value) for name, value in dataclasses.asdict(scale).items()}


def assert_unresolved(scale):
    got = numbers(scale)
    assert not got["is_resolved"]
    assert np.isnan([got["b_noise_prompts"], got["low_prompts"], got["high_prompts"]]).all()


def test_three_groups_by_hand():
    # g = 1, 2, 3: mean 2, S = 1, |G|^2 = 4 - 1/3 = 11/3, B = 3/11 prompts
    got = noise_scale(*statistics([[1.0], [2.0], [3.0]]))
    assert float(got.trace_cov) == pytest.approx(1.0)
    assert float(got.grad_sq) == pytest.approx(11 / 3, rel=1e-6)
    assert float(got.b_noise_prompts) == pytest.approx(3 / 11, rel=1e-6)
    assert float(got.prompts_to_resolve) == pytest.approx(6 / 11, rel=1e-6)


def test_jackknife_interval_equals_leaving_each_prompt_out():
    g_PD = np.random.default_rng(0).normal(1.0, 1.0, (12, 5)).astype(np.float32)

    def log_ratio(g):
        s, grad_sq = slow_moments(g)
        return np.log(s / grad_sq)

    left_out = np.array([log_ratio(np.delete(g_PD, x, axis=0)) for x in range(12)])
    half = stats.t.ppf(0.975, 11) * np.sqrt(11 / 12 * ((left_out - left_out.mean()) ** 2).sum())
    got = noise_scale(*statistics(g_PD))
    assert bool(got.is_resolved)
    assert float(got.low_prompts) == pytest.approx(np.exp(log_ratio(g_PD) - half), rel=1e-3)
    assert float(got.high_prompts) == pytest.approx(np.exp(log_ratio(g_PD) + half), rel=1e-3)


@pytest.mark.parametrize("n_left", [2, 3, 9])
def test_groups_that_are_not_counted_do_not_matter(n_left):
    g_PD = np.random.default_rng(0).normal(3.0, 1.0, (n_left, 5)).astype(np.float32)
    alone = numbers(noise_scale(*statistics(g_PD)))
    sq_norm_P, sum_sq_norm, dot_sum_P, is_counted_P = statistics(g_PD)

    def padded(x_P, fill):
        return jnp.concatenate([jnp.full(1, fill), x_P, jnp.full(2, fill)])

    among_others = noise_scale(
        padded(sq_norm_P, jnp.nan), sum_sq_norm, padded(dot_sum_P, jnp.nan), padded(is_counted_P, False)
    )
    np.testing.assert_allclose(list(numbers(among_others).values()), list(alone.values()), rtol=1e-5)
    assert alone["is_resolved"] == (n_left > 2)


def test_estimates_are_unbiased_on_a_gaussian():
    # g ~ N(mu, I) in 20 dimensions with |mu|^2 = 5: S = 20, |G|^2 = 5
    mu = np.sqrt(5 / 20)
    g_KPD = np.random.default_rng(1).normal(mu, 1.0, (4_000, 8, 20)).astype(np.float32)
    got = repeated(g_KPD)
    assert float(got.trace_cov.mean()) == pytest.approx(20, rel=0.01)
    assert float(got.grad_sq.mean()) == pytest.approx(5, rel=0.02)


def repeated(g_KPD):
    sum_KD = g_KPD.sum(axis=1)
    arrays = ((g_KPD**2).sum(axis=2), (sum_KD**2).sum(axis=1), np.einsum("kpd,kd->kp", g_KPD, sum_KD))
    is_counted_P = jnp.ones(g_KPD.shape[1], bool)
    return jax.jit(jax.vmap(lambda *of_one: noise_scale(*of_one, is_counted_P)))(*map(jnp.asarray, arrays))


@pytest.mark.parametrize("n_rollouts", [2, 3, 8])
@pytest.mark.parametrize("name", ["gaussian", "bandit"])
def test_estimates_are_unbiased_and_intervals_cover_at_four_times_the_noise_scale(name, n_rollouts):
    P, K = 64, 8_000
    if name == "gaussian":
        problem = gaussian_rewards(n_params=4, n_rollouts=n_rollouts, b_noise=P / 4)
    else:
        problem = softmax_bandit(
            n_contexts=100, n_actions=4, n_params=8, n_rollouts=n_rollouts, b_noise=P / 4, seed=1
        )  # fmt: skip
    score_KPRD, reward_KPR = problem.draw(np.random.default_rng(2), K, P, n_rollouts)
    weight_KPR = (reward_KPR - reward_KPR.mean(axis=2, keepdims=True)) / (n_rollouts - 1)
    got = repeated(np.einsum("kpr,kprd->kpd", weight_KPR, score_KPRD))
    truth = problem.truth
    assert float(got.trace_cov.mean()) == pytest.approx(truth.trace_cov(n_rollouts), rel=0.02)
    assert float(got.grad_sq.mean()) == pytest.approx(truth.grad_sq, rel=0.02)
    is_covered = (got.low_prompts <= P / 4) & (got.high_prompts >= P / 4)
    assert float(got.is_resolved.mean()) > 0.98
    assert 0.92 < float(is_covered[got.is_resolved].mean()) < 0.98


def test_pure_noise_is_unresolved_with_nan_for_the_ratio():
    got = noise_scale(*statistics(PURE_NOISE_PD))
    assert_unresolved(got)
    assert float(got.grad_sq) == pytest.approx(-1 / 3)  # S = 4/3, mean 0
    assert float(got.trace_cov) == pytest.approx(4 / 3)


def test_prompts_to_resolve_uses_the_upper_end_where_the_signal_is_negative():
    g_PD = PURE_NOISE_PD + np.array([[0.5, 0], [0, 0], [0, 0], [0, 0]], np.float32)
    s, grad_sq = slow_moments(g_PD)
    left_out = np.array([slow_moments(np.delete(g_PD, x, axis=0))[1] for x in range(4)])
    upper = grad_sq + stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum())
    assert grad_sq < 0 < upper
    got = noise_scale(*statistics(g_PD))
    assert_unresolved(got)
    assert float(got.prompts_to_resolve) == pytest.approx(2 * s / upper, rel=1e-4)


def test_prompts_to_resolve_is_nan_where_even_the_upper_end_is_negative():
    # symmetric: every leave-one-out |G|^2 is the same, so the jackknife spread is 0
    got = noise_scale(*statistics(PURE_NOISE_PD))
    assert np.isnan(float(got.prompts_to_resolve))


def test_one_prompt_that_carries_the_signal_leaves_it_unresolved():
    g_PD = np.array([[9.0, 0, 0], [0.1, 1.0, 0], [0.1, -1.0, 0], [0.1, 0, 0.1]], np.float32)
    without_first = noise_scale(*statistics(g_PD[1:]))
    assert float(without_first.grad_sq) < 0
    got = noise_scale(*statistics(g_PD))
    assert_unresolved(got)
    assert float(got.grad_sq) > 0
    assert float(got.prompts_to_resolve) == pytest.approx(2 * float(got.trace_cov / got.grad_sq), rel=1e-5)


def test_all_gradients_zero_are_unresolved():
    got = noise_scale(jnp.zeros(4), jnp.float32(0), jnp.zeros(4), jnp.ones(4, bool))
    assert_unresolved(got)
    assert float(got.trace_cov) == 0.0
    assert float(got.grad_sq) == 0.0
    assert np.isnan(float(got.prompts_to_resolve))


def test_equal_gradients_have_no_noise_to_resolve():
    got = noise_scale(*statistics(np.ones((4, 1))))
    assert_unresolved(got)
    assert (float(got.trace_cov), float(got.grad_sq)) == (0, 1)
    assert np.isnan(float(got.prompts_to_resolve))


def test_two_prompts_give_moments_but_resolve_nothing():
    # g = 1, 3: mean 2, S = 2, |G|^2 = 4 - 1
    got = noise_scale(*statistics([[1.0], [3.0]]))
    assert_unresolved(got)
    assert float(got.trace_cov) == pytest.approx(2)
    assert float(got.grad_sq) == pytest.approx(3)
    assert float(got.prompts_to_resolve) == 4  # 2 S / |G|^2 = 4/3, but these two did not do: twice as many


def test_a_signal_that_is_only_rounding_is_zero():
    # one group alone has a gradient: |sum g|^2 = sum |g|^2, here off by a rounding error of f32
    sq_norm_P = jnp.array([3.0, 0.0, 0.0])
    got = noise_scale(sq_norm_P, jnp.float32(3.0 + 4e-7), sq_norm_P, jnp.ones(3, bool))
    assert_unresolved(got)
    assert float(got.grad_sq) == 0
    assert not float(got.prompts_to_resolve) > 1e4


@pytest.mark.parametrize("g_PD", [[[1.0, 2.0]], [[0.0, 0.0]]])
def test_one_prompt_says_nothing_and_does_not_fail(g_PD):
    got = noise_scale(*statistics(g_PD))
    assert_unresolved(got)
    assert np.isnan([float(got.trace_cov), float(got.grad_sq), float(got.prompts_to_resolve)]).all()


def test_no_counted_group_says_nothing():
    got = noise_scale(jnp.ones(4), jnp.float32(4), jnp.ones(4), jnp.zeros(4, bool))
    assert_unresolved(got)
    assert np.isnan(float(got.trace_cov))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["sq_norm_P", "sum_sq_norm", "dot_sum_P"])
def test_what_is_not_finite_in_one_counted_group_makes_all_nan(place, bad):
    named = dict(zip(("sq_norm_P", "sum_sq_norm", "dot_sum_P", "is_counted_P"), statistics(np.eye(5) + 1), strict=True))
    assert bool(noise_scale(**named).is_resolved)
    named[place] = jnp.float32(bad) if place == "sum_sq_norm" else named[place].at[2].set(bad)
    got = numbers(noise_scale(**named))
    assert not got.pop("is_resolved")
    assert np.isnan(list(got.values())).all()


def test_jackknife_covariance_by_hand():
    # left out 1, 2, 6 of one, 0, 3, 3 of another: deviations -2 -1 3 and -2 1 1; times 2/3
    left_out_PC = jnp.array([[1.0, 0], [2, 3], [np.nan, np.nan], [6, 3]])
    got = jackknife_covariance(left_out_PC, jnp.array([True, True, False, True]))
    np.testing.assert_allclose(got, 2 / 3 * np.array([[14, 6], [6, 6]]), rtol=1e-6)
    assert np.isnan(jackknife_covariance(left_out_PC, jnp.arange(4) == 0)).all()  # no spread of one


def test_student_quantile_is_that_of_scipy():
    got = student_quantile(jnp.array([-1, 0, 1, 2, 30, 1024, 10**6]))
    np.testing.assert_allclose(got[2:6], stats.t.ppf(0.975, [1, 2, 30, 1024]), rtol=1e-6)
    assert np.isnan(got[:2]).all()
    assert float(got[-1]) == pytest.approx(1.959964, rel=2e-3)


def test_other_shapes_and_types_are_refused():
    with pytest.raises(AssertionError):
        noise_scale(jnp.ones(3), jnp.float32(1), jnp.ones(2), jnp.ones(3, bool))
    with pytest.raises(AssertionError):
        noise_scale(jnp.ones(3), jnp.float32(1), jnp.ones(3), jnp.ones(3))


def test_naive_estimate_equals_its_definition():
    # three mini-batches of 10 rollouts with mean gradients 1, 2, 6: mean 3, squared deviations 4 + 1 + 9
    means = np.array([1.0, 2.0, 6.0])
    expected = 10 / 2 * 14 / 9
    block_sums = means * 5  # any group count per block cancels
    got = naive_noise_scale(
        jnp.asarray(block_sums**2, jnp.float32), jnp.float32(block_sums.sum() ** 2), rollouts_per_block=10
    )
    assert float(got) == pytest.approx(expected, rel=1e-6)

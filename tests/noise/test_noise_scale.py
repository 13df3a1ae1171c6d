import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.noise.noise_scale import naive_noise_scale, noise_scale


def statistics(g_PD):
    total = g_PD.sum(axis=0)
    return jnp.asarray((g_PD**2).sum(axis=1)), jnp.asarray((total**2).sum()), jnp.asarray(g_PD @ total)


def test_three_groups_by_hand():
    # g = 1, 2, 3: mean 2, S = 1, |G|^2 = 4 - 1/3 = 11/3, B = 3/11 prompts
    got = noise_scale(*statistics(np.array([[1.0], [2.0], [3.0]], np.float32)))
    assert float(got.trace_cov) == pytest.approx(1.0)
    assert float(got.grad_sq) == pytest.approx(11 / 3, rel=1e-6)
    assert float(got.b_noise_prompts) == pytest.approx(3 / 11, rel=1e-6)


def test_jackknife_interval_equals_leaving_each_prompt_out():
    g_PD = np.random.default_rng(0).normal(1.0, 1.0, (12, 5)).astype(np.float32)

    def log_ratio(g):
        n = len(g)
        s = ((g - g.mean(axis=0)) ** 2).sum() / (n - 1)
        return np.log(s / ((g.mean(axis=0) ** 2).sum() - s / n))

    left_out = np.array([log_ratio(np.delete(g_PD, x, axis=0)) for x in range(12)])
    half = 1.959964 * np.sqrt(11 / 12 * ((left_out - left_out.mean()) ** 2).sum())
    got = noise_scale(*statistics(g_PD))
    assert bool(got.is_resolved)
    assert float(got.low_prompts) == pytest.approx(np.exp(log_ratio(g_PD) - half), rel=1e-3)
    assert float(got.high_prompts) == pytest.approx(np.exp(log_ratio(g_PD) + half), rel=1e-3)


def test_estimates_are_unbiased_on_a_gaussian():
    # g ~ N(mu, I) in 20 dimensions with |mu|^2 = 5: S = 20, |G|^2 = 5
    mu = np.sqrt(5 / 20)
    g_KPD = np.random.default_rng(1).normal(mu, 1.0, (4_000, 8, 20)).astype(np.float32)
    got = jax.vmap(lambda sq, total, dots: noise_scale(sq, total, dots))(
        jnp.asarray((g_KPD**2).sum(-1)),
        jnp.asarray((g_KPD.sum(1) ** 2).sum(-1)),
        jnp.asarray(np.einsum("kpd,kd->kp", g_KPD, g_KPD.sum(1))),
    )
    assert float(got.trace_cov.mean()) == pytest.approx(20, rel=0.01)
    assert float(got.grad_sq.mean()) == pytest.approx(5, rel=0.02)


def test_pure_noise_is_unresolved_and_not_nan():
    g_PD = np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]], np.float32)  # mean exactly 0
    got = noise_scale(*statistics(g_PD))
    assert not bool(got.is_resolved)
    assert float(got.grad_sq) < 0
    assert np.isfinite([float(got.b_noise_prompts), float(got.low_prompts), float(got.high_prompts)]).all()


def test_one_prompt_that_carries_the_signal_leaves_it_unresolved():
    g_PD = np.array([[9.0, 0, 0], [0.1, 1.0, 0], [0.1, -1.0, 0], [0.1, 0, 0.1]], np.float32)
    without_first = noise_scale(*statistics(g_PD[1:]))
    assert float(without_first.grad_sq) < 0
    assert not bool(noise_scale(*statistics(g_PD)).is_resolved)


def test_all_gradients_zero_are_unresolved():
    got = noise_scale(jnp.zeros(4), jnp.float32(0), jnp.zeros(4))
    assert not bool(got.is_resolved)
    assert float(got.trace_cov) == 0.0


def test_two_prompts_are_too_few():
    with pytest.raises(ValueError, match="at least 3 prompts, got 2"):
        noise_scale(jnp.ones(2), jnp.float32(1), jnp.ones(2))


def test_naive_estimate_equals_its_definition():
    # three mini-batches of 10 rollouts with mean gradients 1, 2, 6: mean 3, squared deviations 4 + 1 + 9
    means = np.array([1.0, 2.0, 6.0])
    expected = 10 / 2 * 14 / 9
    block_sums = means * 5  # any group count per block cancels
    got = naive_noise_scale(
        jnp.asarray(block_sums**2, jnp.float32), jnp.float32(block_sums.sum() ** 2), rollouts_per_block=10
    )
    assert float(got) == pytest.approx(expected, rel=1e-6)

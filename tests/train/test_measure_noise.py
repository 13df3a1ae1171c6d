"""The noise of a collection against gradients taken one prompt at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.advantages import group_advantages
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.train.measure_noise import build_group_loss, build_noise_measurement, noise_chunk_prompts
from rlvr_jax.train.placement import build_mesh
from rlvr_jax.train.state import NoiseAverages
from rlvr_jax.train.step import Batch, build_rollout_logprobs

SPEC = ModelSpec(
    vocab_size=9, width=8, n_layers=1, n_heads=2, n_kv_heads=1, head_width=4, mlp_width=12,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False,
)  # fmt: skip
P, R, T = 8, 4, 3
PARAMS = initial_params(SPEC, jax.random.key(2))
LOGPROBS = build_rollout_logprobs(SPEC, temperature=1.0, compute_dtype=jnp.float32, use_remat=False)
ZERO = NoiseAverages(jnp.zeros(()), jnp.zeros(()))


def batch(reward_PR):
    rng = np.random.default_rng(0)
    return Batch(
        prompt_PS=rng.integers(3, 9, (P, 4)).astype(np.int32),
        prompt_length_P=np.full(P, 4, np.int32),
        completion_PRT=rng.integers(2, 9, (P, R, T)).astype(np.int32),
        completion_length_PR=rng.integers(1, T + 1, (P, R)).astype(np.int32),
        advantage_PR=np.zeros((P, R), np.float32),  # the noise must not read the update's own weights
        loo_advantage_PR=np.asarray(group_advantages(jnp.asarray(reward_PR), leave_one_out=True)),
        behavior_logprob_PRT=np.zeros((P, R, T), np.float32),
        old_logprob_PRT=None,
        reference_logprob_PRT=None,
    )


REWARD_PR = (np.random.default_rng(1).random((P, R)) < 0.5).astype(np.float32)


def measurement(data=1, chunk_prompts=0):
    return build_noise_measurement(
        build_group_loss(LOGPROBS, kl_coef=0.0), build_mesh(data=data), n_prompts=P, n_rollouts=R,
        naive_minibatches=4, sketch_width=4096, smoothing=0.9, chunk_prompts=chunk_prompts,
    )  # fmt: skip


def slow_group_gradients(rows: Batch) -> np.ndarray:
    """1/(R-1) sum_j (r_j - mean r) grad sum_t log pi, one rollout at a time: [P, n parameters]."""

    def score(p, r):
        one = jax.tree.map(lambda leaf: leaf[p : p + 1], rows)
        n = int(rows.completion_length_PR[p, r])
        grads = jax.grad(lambda params: LOGPROBS(params, one)[0][0, r, :n].sum())(PARAMS)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)

    centred = REWARD_PR - REWARD_PR.mean(axis=1, keepdims=True)
    return np.stack([sum(centred[p, r] * score(p, r) for r in range(R)) / (R - 1) for p in range(P)])


def test_trace_and_signal_equal_those_of_slow_gradients():
    _, metrics = measurement()(PARAMS, ZERO, batch(REWARD_PR))
    g = slow_group_gradients(batch(REWARD_PR))
    S = ((g - g.mean(axis=0)) ** 2).sum() / (P - 1)
    G2 = (g.mean(axis=0) ** 2).sum() - S / P
    assert float(metrics["gns/trace_cov"]) == pytest.approx(S, rel=1e-4)
    assert float(metrics["gns/grad_sq"]) == pytest.approx(G2, rel=1e-3)
    blocks = g.reshape(4, 2, -1).mean(axis=1)
    naive = 2 * R / 3 * ((blocks - g.mean(axis=0)) ** 2).sum() / (g.mean(axis=0) ** 2).sum()
    assert float(metrics["gns/naive"]) == pytest.approx(naive, rel=1e-3)


def test_a_ratio_counts_in_prompts_and_rollouts():
    # strong signal: every group pulls the same way
    one = batch(np.tile(np.array([[1, 0, 0, 0]], np.float32), (P, 1)))
    same = jax.tree.map(lambda leaf: np.repeat(leaf[:1], P, axis=0), one)
    rows = same.replace(loo_advantage_PR=same.loo_advantage_PR * np.linspace(1, 2, P, dtype=np.float32)[:, None])
    _, metrics = measurement()(PARAMS, ZERO, rows)
    assert bool(metrics["gns/resolved"])
    b_noise = float(metrics["gns/trace_cov"] / metrics["gns/grad_sq"])
    assert float(metrics["gns/b_noise_prompts"]) == pytest.approx(b_noise, rel=1e-4)
    assert float(metrics["gns/b_noise_rollouts"]) == pytest.approx(b_noise * R, rel=1e-4)
    assert float(metrics["gns/noise_to_signal"]) == pytest.approx(b_noise / P, rel=1e-4)


def test_the_group_loss_adds_a_kl_penalty():
    rows = batch(np.ones((P, R), np.float32))  # no advantage: the penalty alone
    group = jax.tree.map(lambda leaf: leaf[0], rows)
    logprob_RT = np.asarray(LOGPROBS(PARAMS, jax.tree.map(lambda leaf: leaf[:1], rows))[0])[0]
    group = group.replace(reference_logprob_PRT=logprob_RT - 0.5)  # d = -0.5 at every token
    n_tokens = int(rows.completion_length_PR[0].sum())
    expected = 0.3 * n_tokens * (np.exp(-0.5) + 0.5 - 1) / R
    assert float(build_group_loss(LOGPROBS, kl_coef=0.3)(PARAMS, group)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("data", "chunk_prompts"), [(1, 1), (2, 0)])
def test_chunks_and_devices_change_nothing(data, chunk_prompts):
    _, one = measurement()(PARAMS, ZERO, batch(REWARD_PR))
    _, other = measurement(data, chunk_prompts)(PARAMS, ZERO, batch(REWARD_PR))
    for name in ("gns/trace_cov", "gns/grad_sq", "gns/naive"):
        assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4)


def test_equal_rewards_everywhere_are_unresolved_and_not_a_number():
    _, metrics = measurement()(PARAMS, ZERO, batch(np.ones((P, R), np.float32)))
    assert float(metrics["gns/trace_cov"]) == 0.0
    assert not bool(metrics["gns/resolved"])
    assert np.isnan(float(metrics["gns/b_noise_prompts"]))
    assert np.isnan(float(metrics["gns/running_b_noise_prompts"]))


def test_running_values_are_a_ratio_of_averages():
    measure = measurement()
    averages, first = measure(PARAMS, ZERO, batch(REWARD_PR))
    other = 1.0 - REWARD_PR * np.arange(P)[:, None] / P
    averages, second = measure(PARAMS, averages, batch(other.astype(np.float32)))
    S = 0.09 * first["gns/trace_cov"] + 0.1 * second["gns/trace_cov"]
    G2 = 0.09 * first["gns/grad_sq"] + 0.1 * second["gns/grad_sq"]
    expected = float(S / G2) if G2 > 0 else np.nan
    np.testing.assert_allclose(second["gns/running_b_noise_prompts"], expected, rtol=1e-4)
    assert float(averages.trace_cov) == pytest.approx(float(S), rel=1e-5)


@pytest.mark.parametrize(
    ("block", "wish", "devices", "expected"),
    [(32, 0, 1, 8), (2, 0, 1, 2), (6, 4, 1, 3), (32, 0, 8, 8), (4, 0, 8, 4), (12, 3, 4, 4)],
)
def test_a_chunk_divides_its_block_and_prefers_whole_devices(block, wish, devices, expected):
    assert noise_chunk_prompts(block_prompts=block, chunk_prompts=wish, n_devices=devices) == expected

"""The noise of a collection against gradients taken one prompt at a time."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_advantages import slow_advantages

from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.train.config import AlgoConfig
from rlvr_jax.train.loss import Batch, build_rollout_logprobs
from rlvr_jax.train.measure_noise import build_group_loss, build_noise_measurement, noise_chunk_prompts
from rlvr_jax.train.placement import build_mesh, replicated
from rlvr_jax.train.state import NoiseAverages

SPEC = ModelSpec(
    vocab_size=9, width=8, n_layers=1, n_heads=2, n_kv_heads=1, head_width=4, mlp_width=12,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
P, R, T = 8, 4, 3
PARAMS = initial_params(SPEC, jax.random.key(2))
LOGPROBS = build_rollout_logprobs(SPEC, temperature=1.0, compute_dtype=jnp.float32, use_remat=False)
UNPLACED_ZERO = NoiseAverages(jnp.zeros(()), jnp.zeros(()))
ZERO = jax.device_put(UNPLACED_ZERO, replicated(build_mesh(data=1)))  # as a run's state is, else it compiles twice


REWARD_PR = (np.random.default_rng(1).random((P, R)) < 0.5).astype(np.float32)
ALL_PR = np.ones((P, R), bool)
SOME_PR = ALL_PR.copy()
SOME_PR[0, 0] = SOME_PR[1, 1:] = SOME_PR[2] = SOME_PR[5, ::2] = False  # one left of prompt 1, none of prompt 2


def batch(reward_PR, is_kept_PR=ALL_PR):
    rng = np.random.default_rng(0)
    return Batch(
        prompt_PS=rng.integers(3, 9, (P, 4)).astype(np.int32),
        prompt_length_P=np.full(P, 4, np.int32),
        completion_PRT=rng.integers(2, 9, (P, R, T)).astype(np.int32),
        completion_length_PR=rng.integers(1, T + 1, (P, R)).astype(np.int32),
        is_kept_PR=is_kept_PR,
        advantage_PR=np.full((P, R), np.nan, np.float32),  # the noise must not read the update's own weights
        loo_advantage_PR=slow_advantages(reward_PR, is_kept_PR, kind="rloo", ddof=0, eps=0.0).astype(np.float32),
        behavior_logprob_PRT=np.full((P, R, T), np.nan, np.float32),  # nor who drew the tokens
        old_logprob_PRT=None,
        reference_logprob_PRT=None,
    )


def measurement(data=1, chunk_prompts=0):
    return build_noise_measurement(
        build_group_loss(LOGPROBS, AlgoConfig()), build_mesh(data=data), n_prompts=P, n_rollouts=R,
        naive_minibatches=4, sketch_width=4096, smoothing=0.9, chunk_prompts=chunk_prompts,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measure():
    """On one device, compiled once."""
    return measurement()


@pytest.fixture(scope="module")
def score_PRN():
    """d sum_t log pi / d parameters of every rollout, one rollout at a time, in float64."""
    rows = batch(REWARD_PR)

    @jax.jit
    def gradient(one, length_R, r):
        def logprob(params):
            return jnp.where(jnp.arange(T) < length_R[r], LOGPROBS(params, one)[0][0, r], 0.0).sum()

        return jax.grad(logprob)(PARAMS)

    def score(p, r):
        one = jax.tree.map(lambda leaf: leaf[p : p + 1], rows)
        grads = gradient(one, rows.completion_length_PR[p], r)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)

    return np.stack([np.stack([score(p, r) for r in range(R)]) for p in range(P)])


def slow_group_gradients(score_PRN, is_kept_PR) -> np.ndarray:
    """-mean over the kept rollouts of (r_j - mean of the others' r) grad sum_t log pi: [P, n parameters]."""
    out = np.zeros((P, score_PRN.shape[-1]))
    for p in range(P):
        kept = [r for r in range(R) if is_kept_PR[p, r]]
        for r in kept:
            others = [float(REWARD_PR[p, j]) for j in kept if j != r]
            advantage = float(REWARD_PR[p, r]) - sum(others) / len(others) if others else 0.0
            out[p] -= advantage * score_PRN[p, r] / len(kept)
    return out


@pytest.mark.parametrize("is_kept_PR", [ALL_PR, SOME_PR], ids=["all kept", "some kept"])
def test_trace_and_signal_equal_those_of_slow_gradients(measure, score_PRN, is_kept_PR):
    _, metrics = measure(PARAMS, ZERO, batch(REWARD_PR, is_kept_PR))
    g = slow_group_gradients(score_PRN, is_kept_PR)
    S = ((g - g.mean(axis=0)) ** 2).sum() / (P - 1)
    G2 = (g.mean(axis=0) ** 2).sum() - S / P
    assert float(metrics["gns/trace_cov"]) == pytest.approx(S, rel=1e-4)
    assert float(metrics["gns/grad_sq"]) == pytest.approx(G2, rel=1e-3)
    blocks = g.reshape(4, 2, -1).mean(axis=1)
    naive = 2 * R / 3 * ((blocks - g.mean(axis=0)) ** 2).sum() / (g.mean(axis=0) ** 2).sum()
    assert float(metrics["gns/naive"]) == pytest.approx(naive, rel=1e-3)


@pytest.mark.parametrize("is_kept_PR", [ALL_PR, SOME_PR], ids=["all kept", "some kept"])
def test_the_gradient_of_the_group_loss_is_that_of_the_slow_group(score_PRN, is_kept_PR):
    rows = batch(REWARD_PR, is_kept_PR)
    gradient = jax.jit(jax.grad(build_group_loss(LOGPROBS, AlgoConfig())))
    for p, expected in enumerate(slow_group_gradients(score_PRN, is_kept_PR)):
        grads = gradient(PARAMS, jax.tree.map(lambda leaf, p=p: leaf[p], rows))
        got = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_a_ratio_counts_in_prompts_and_rollouts(measure):
    # strong signal: every group pulls the same way
    one = batch(np.tile(np.array([[1, 0, 0, 0]], np.float32), (P, 1)))
    same = jax.tree.map(lambda leaf: np.repeat(leaf[:1], P, axis=0), one)
    rows = same.replace(loo_advantage_PR=same.loo_advantage_PR * np.linspace(1, 2, P, dtype=np.float32)[:, None])
    _, metrics = measure(PARAMS, ZERO, rows)
    assert bool(metrics["gns/resolved"])
    b_noise = float(metrics["gns/trace_cov"] / metrics["gns/grad_sq"])
    assert float(metrics["gns/b_noise_prompts"]) == pytest.approx(b_noise, rel=1e-4)
    assert float(metrics["gns/b_noise_rollouts"]) == pytest.approx(b_noise * R, rel=1e-4)
    assert float(metrics["gns/noise_to_signal"]) == pytest.approx(b_noise / P, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "d", "per_token"),  # d = reference - policy log-probability, the same at every token
    [
        ({"kl_coef": 0.3, "kl_estimator": "k1"}, -0.5, 0.3 * 0.5),
        ({"kl_coef": 0.3, "kl_estimator": "k2"}, -0.5, 0.3 * 0.125),
        ({"kl_coef": 0.3, "kl_estimator": "k3"}, -0.5, 0.3 * (np.exp(-0.5) + 0.5 - 1)),
        ({"kl_coef": 0.3, "kl_in": "reward"}, None, 0.0),  # in the advantages already
    ],
)
@pytest.mark.parametrize("n_kept", [4, 3, 0])
def test_the_group_loss_adds_a_kl_penalty(options, d, per_token, n_kept):
    kept_PR = np.arange(R)[None] < np.full((P, 1), n_kept)
    rows = batch(np.ones((P, R), np.float32), kept_PR)  # no advantage: the penalty alone
    group = jax.tree.map(lambda leaf: leaf[0], rows)
    if d is not None:
        logprob_RT = np.asarray(LOGPROBS(PARAMS, jax.tree.map(lambda leaf: leaf[:1], rows))[0])[0]
        is_trained_RT = (np.arange(T) < rows.completion_length_PR[0][:, None]) & kept_PR[0][:, None]
        group = group.replace(reference_logprob_PRT=np.where(is_trained_RT, logprob_RT + np.float32(d), np.nan))
    n_tokens = int(rows.completion_length_PR[0, :n_kept].sum())
    expected = per_token * n_tokens / max(n_kept, 1)
    got = build_group_loss(LOGPROBS, AlgoConfig(**options))(PARAMS, group)
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_group_loss_subtracts_an_entropy_bonus():
    kept_PR = np.arange(R)[None] < np.full((P, 1), 3)
    rows = batch(np.ones((P, R), np.float32), kept_PR)
    entropy_RT = np.asarray(LOGPROBS(PARAMS, jax.tree.map(lambda leaf: leaf[:1], rows))[1])[0]
    total = sum(float(entropy_RT[r, t]) for r in range(3) for t in range(int(rows.completion_length_PR[0, r])))
    group = jax.tree.map(lambda leaf: leaf[0], rows)
    got = build_group_loss(LOGPROBS, AlgoConfig(entropy_coef=0.2))(PARAMS, group)
    assert float(got) == pytest.approx(-0.2 * total / 3, rel=1e-4)


@pytest.mark.parametrize(("data", "chunk_prompts"), [(1, 1), (2, 0)])
def test_chunks_and_devices_change_nothing(measure, data, chunk_prompts):
    _, one = measure(PARAMS, ZERO, batch(REWARD_PR))
    _, other = measurement(data, chunk_prompts)(PARAMS, UNPLACED_ZERO, batch(REWARD_PR))
    for name in ("gns/trace_cov", "gns/grad_sq", "gns/naive"):
        assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4)


def test_equal_rewards_everywhere_are_unresolved_and_not_a_number(measure):
    _, metrics = measure(PARAMS, ZERO, batch(np.ones((P, R), np.float32)))
    assert float(metrics["gns/trace_cov"]) == 0.0
    assert not bool(metrics["gns/resolved"])
    assert np.isnan(float(metrics["gns/b_noise_prompts"]))
    assert np.isnan(float(metrics["gns/running_b_noise_prompts"]))


def test_running_values_are_a_ratio_of_averages(measure):
    averages, first = measure(PARAMS, ZERO, batch(REWARD_PR))
    other = 1.0 - REWARD_PR * np.arange(P)[:, None] / P
    averages, second = measure(PARAMS, averages, batch(other.astype(np.float32)))
    S = 0.09 * first["gns/trace_cov"] + 0.1 * second["gns/trace_cov"]
    G2 = 0.09 * first["gns/grad_sq"] + 0.1 * second["gns/grad_sq"]
    expected = float(S / G2) if G2 > 0 else np.nan
    np.testing.assert_allclose(second["gns/running_b_noise_prompts"], expected, rtol=1e-4)
    assert float(averages.trace_cov) == pytest.approx(float(S), rel=1e-5)


def test_a_measurement_that_is_not_finite_stays_out_of_the_averages(measure):
    averages, _ = measure(PARAMS, ZERO, batch(REWARD_PR))
    bad = batch(REWARD_PR)
    bad.loo_advantage_PR[3, 1] = np.nan
    after, metrics = measure(PARAMS, averages, bad)
    assert np.isnan(float(metrics["gns/trace_cov"]))
    assert (float(after.trace_cov), float(after.grad_sq)) == (float(averages.trace_cov), float(averages.grad_sq))


@pytest.mark.parametrize(
    ("block", "wish", "devices", "expected"),
    [(32, 0, 1, 8), (2, 0, 1, 2), (6, 4, 1, 3), (32, 0, 8, 8), (4, 0, 8, 4), (12, 3, 4, 4)],
)
def test_a_chunk_divides_its_block_and_prefers_whole_devices(block, wish, devices, expected):
    assert noise_chunk_prompts(block_prompts=block, chunk_prompts=wish, n_devices=devices) == expected

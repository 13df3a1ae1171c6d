"""Taps on the factors of adapters, against gradients of one rollout at a time in merged weights by the chain rule."""

import functools
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from exact_sketch import ExactSketch
from slow_lora import factor_gradients, merged, random_factors
from slow_loss import random_tokens
from slow_scores import flat_scores, gram, rollout_scores

from rlvr_jax.models.chunked_head import ALL_AT_ONCE, HeadPlan
from rlvr_jax.models.lora import LORA_TARGETS, LoraSpec, policy_params
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.models.tapped_ops import Tap, TapPlan
from rlvr_jax.models.taps import build_tapped_pass
from rlvr_jax.train.config import PlacementConfig
from rlvr_jax.train.loss import build_rollout_logprobs, is_trained_token
from rlvr_jax.train.placement import build_mesh, place_batch

P, R, S, T, SEED = 8, 3, 2, 3, 5
SPEC = ModelSpec(
    vocab_size=21, width=12, n_layers=2, n_heads=6, n_kv_heads=2, head_width=2, mlp_width=20,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=True, has_attention_bias=True,
)  # fmt: skip
LORA = LoraSpec(rank=3, alpha=4.0, targets=LORA_TARGETS)
FROZEN = jax.tree.map(
    lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
    initial_params(SPEC, jax.random.key(3)),
)
WEIGHTS = np.random.default_rng(8).normal(size=(2, P, R)).astype(np.float32)  # of the loss and of the noise
WEIGHTS[:, 1, 0] = WEIGHTS[:, 4] = 0.0
BATCH = random_tokens(np.random.default_rng(0), P=P, R=R, S=S, T=T, vocab_size=SPEC.vocab_size)
PLAN = {"chunk_bytes": 2**20, "keeps_unit_sketches": False, "sketch": ExactSketch(80)}  # the largest factor has 60

IN_CHUNKS = HeadPlan(chunk_bytes=4 * P * R * T * 8, n_token_shards=1, n_vocab_shards=1)  # 8 columns of 21 at a time
CASES = {  # at the start?, (devices, is there a metric, remat), the plan
    "some updates in": (False, (1, False, "none"), {}),
    "some updates in, remat, in turns that divide nothing, every rollout's sketch": (
        False, (1, False, "full"), {"chunk_bytes": 4 * R * 12 * 2, "keeps_unit_sketches": True},
    ),
    "some updates in, in a metric, on 8 devices": (False, (8, True, "none"), {}),
    "some updates in, remat of what is no product, logits in chunks": (False, (1, False, "dots"), {}),
    "at the start, where one factor of each pair is 0": (True, (1, True, "none"), {}),
}  # fmt: skip


def factors_of(case):
    return random_factors(SPEC, LORA, at_start=CASES[case][0])


def metric_of(case):
    def positive(leaf):
        return np.exp(np.random.default_rng(leaf.size).normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(positive, factors_of(case)) if CASES[case][1][1] else None


@functools.lru_cache
def scores(at_start):
    """{path: f64[P, R, ...]} of the factors."""
    factors = random_factors(SPEC, LORA, at_start=at_start)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), merged(FROZEN, factors, LORA))
    return factor_gradients(rollout_scores(weights, SPEC, BATCH, temperature=1.0), factors, LORA)


@functools.lru_cache
def found(case):
    """(gradient, taps) of a tapped pass over scores, by path."""
    _, (data, _, remat), plan = CASES[case]
    plan = TapPlan(n_units=R, rows_per_unit=1, n_shards=data, **(PLAN | plan))
    head_plan = IN_CHUNKS if "logits in chunks" in case else ALL_AT_ONCE
    logprobs = build_rollout_logprobs(
        SPEC, temperature=1.0, compute_dtype=jnp.float32, remat=remat, head_plan=head_plan
    )

    def objective(factors, batch):
        logprob_PRT, _ = logprobs(policy_params(factors, FROZEN, LORA), batch)
        return jnp.where(is_trained_token(batch), logprob_PRT, 0.0).sum(), None

    batch, *weights = place_batch((BATCH, *WEIGHTS), build_mesh(PlacementConfig(data=data)), axis=0)
    tapped_pass = jax.jit(build_tapped_pass(objective, plan))
    gradient, taps, _ = tapped_pass(factors_of(case), batch, *weights, metric_of(case), jnp.uint32(SEED))
    flat = flax.traverse_util.flatten_dict(taps, is_leaf=lambda _, leaf: isinstance(leaf, Tap))
    return jax.device_get((flax.traverse_util.flatten_dict(gradient), flat))


def relative_error(got_PRR, expected_PRR):
    """Largest error of an inner product, in lengths of the two."""
    length_PR = np.sqrt(np.einsum("prr->pr", expected_PRR))
    return (np.abs(got_PRR - expected_PRR) / (length_PR[:, :, None] * length_PR[:, None, :])).max()


@pytest.mark.parametrize("case", CASES)
def test_one_backward_pass_gives_the_inner_products_of_all_factors_scores(case):
    _, taps = found(case)
    expected = scores(CASES[case][0])
    assert set(taps) == set(expected)  # of nothing that is frozen
    total_PRR = sum(np.asarray(tap.gram_PRR, np.float64).sum(axis=0) for tap in taps.values())
    expected_PRR = gram(flat_scores(expected))
    assert np.linalg.eigvalsh(expected_PRR[0])[0] > 1e-4  # not one direction for all
    assert relative_error(total_PRR, expected_PRR) < 1e-5
    for path, tap in taps.items():
        of_factor = gram(expected[path].reshape(P, R, -1))
        assert np.abs(tap.gram_PRR.sum(axis=0) - of_factor).max() < 1e-5 * expected_PRR.max(), path
        is_still = CASES[case][0] and path[-1] == "lora_down"
        assert (not of_factor.any()) == (not tap.gram_PRR.any()) == is_still, path


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][1][1]])
def test_inner_products_in_a_metric_are_those_of_scaled_gradients(case):
    _, taps = found(case)
    metric = flax.traverse_util.flatten_dict(metric_of(case))
    scaled = {path: leaf * metric[path] for path, leaf in scores(CASES[case][0]).items()}
    total_PRR = sum(np.asarray(tap.metric_gram_PRR, np.float64).sum(axis=0) for tap in taps.values())
    assert relative_error(total_PRR, gram(flat_scores(scaled))) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_same_pass_gives_weighted_gradients(case):
    gradient, taps = found(case)
    for weight_PR, got in zip(WEIGHTS, (gradient, {path: tap.gradient_sum for path, tap in taps.items()}), strict=True):
        expected = {path: np.einsum("pr,pr...->...", weight_PR, leaf) for path, leaf in scores(CASES[case][0]).items()}
        largest = max(np.abs(leaf).max() for leaf in expected.values())
        for path, leaf in expected.items():
            np.testing.assert_allclose(got[path], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=str(path))


@pytest.mark.parametrize("case", CASES)
def test_sketches_are_of_each_prompts_weighted_gradient(case):
    _, taps = found(case)
    for path, tap in taps.items():
        of_rollouts = scores(CASES[case][0])[path]
        weighted_P1 = np.einsum("pr,pr...->p...", WEIGHTS[1], of_rollouts)[:, None]
        assert_sketched(tap.sketch_PW[:, :, None], weighted_P1)
        assert (tap.unit_sketch_PRW is not None) == CASES[case][2].get("keeps_unit_sketches", False)
        if tap.unit_sketch_PRW is not None:
            assert_sketched(tap.unit_sketch_PRW, of_rollouts)


def assert_sketched(sketch_LPUW, gradient_PU):
    """Of gradients [P, U, L, ...]: a sketch by ExactSketch is some order of the numbers times a layer's seed, so that
    inner products of sketches are those of gradients."""
    for layer in range(SPEC.n_layers):
        sketch = np.asarray(sketch_LPUW[layer], np.float64).reshape(-1, sketch_LPUW.shape[-1])
        gradient = gradient_PU[:, :, layer].reshape(len(sketch), -1)
        expected, got = gradient @ gradient.T, sketch @ sketch.T
        factor = np.trace(got) / max(np.trace(expected), 1e-30)
        np.testing.assert_allclose(got, factor * expected, atol=1e-5 * np.abs(got).max())

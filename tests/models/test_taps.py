"""The tapped backward pass of the whole decoder against the gradient of one rollout at a time."""

import dataclasses
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
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from exact_sketch import ExactSketch
from meshes import mesh_of
from slow_loss import random_tokens, slow_logprobs
from slow_scores import flat_scores, gram, rollout_scores

from rlvr_jax.models import tapped_ops
from rlvr_jax.models.chunked_head import ALL_AT_ONCE, HeadPlan
from rlvr_jax.models.spec import ModelSpec, initial_params, parameter_table
from rlvr_jax.models.tapped_ops import Tap, TapPlan
from rlvr_jax.models.taps import build_tapped_pass
from rlvr_jax.train.config import PlacementConfig
from rlvr_jax.train.loss import build_rollout_logprobs, is_trained_token
from rlvr_jax.train.placement import build_mesh, param_shardings, place_batch

P, R, TEMPERATURE, SEED = 8, 3, 0.8, 5
TIED_BIASED = ModelSpec(
    vocab_size=21, width=12, n_layers=2, n_heads=6, n_kv_heads=2, head_width=2, mlp_width=20,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=True, has_attention_bias=True,
)  # fmt: skip
UNTIED = dataclasses.replace(TIED_BIASED, vocab_size=6, has_tied_head=False, has_attention_bias=False)
SPECS = {"tied": TIED_BIASED, "untied": UNTIED}
# (prompt, completion) widths: 3 R = 9 tokens of 21 in use; 2 R = 6 of 6, and few tokens per weight
WIDTHS = {"tied": (2, 3), "untied": (1, 2)}
WEIGHTS = np.random.default_rng(8).normal(size=(2, P, R)).astype(np.float32)  # of the loss and of the noise
WEIGHTS[:, 1, 0] = WEIGHTS[:, 4] = 0.0


@functools.lru_cache
def policy(name):
    """Parameters none of which is 0 or 1 throughout."""
    params = initial_params(SPECS[name], jax.random.key(3))
    return jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


@functools.lru_cache
def rollouts(name):
    S, T = WIDTHS[name]
    batch = random_tokens(np.random.default_rng(0), P=P, R=R, S=S, T=T, vocab_size=SPECS[name].vocab_size)
    is_kept_PR = np.ones((P, R), bool)
    is_kept_PR[3, 1] = False  # what is masked has gradient 0
    return batch.replace(is_kept_PR=is_kept_PR)


@functools.lru_cache
def scores(name):
    """{path: f64[P, R, ...]}, 0 for the rollout that is masked."""
    of_all = rollout_scores(policy(name), SPECS[name], rollouts(name), temperature=TEMPERATURE)
    return {path: np.einsum("pr,pr...->pr...", rollouts(name).is_kept_PR, leaf) for path, leaf in of_all.items()}


def logprobs_of(name, **options):
    return build_rollout_logprobs(SPECS[name], temperature=TEMPERATURE, compute_dtype=jnp.float32, **options)


def score_objective(rollout_logprobs):
    def objective(params, batch):
        logprob_PRT, _ = rollout_logprobs(params, batch)
        return jnp.where(is_trained_token(batch), logprob_PRT, 0.0).sum(), logprob_PRT

    return objective


PLAN = TapPlan(
    n_units=R, rows_per_unit=1, n_shards=1, chunk_bytes=2**20, sketch=ExactSketch(260), keeps_unit_sketches=False
)


@functools.lru_cache
def found(name, *, data=1, has_metric=False, remat="none", head_plan=ALL_AT_ONCE, **plan):
    """(gradient, taps, log-probabilities) of a tapped pass over scores; taps by path."""
    logprobs = logprobs_of(name, remat=remat, head_plan=head_plan)
    plan = dataclasses.replace(PLAN, **({"n_shards": data} | plan))
    tapped_pass = jax.jit(build_tapped_pass(score_objective(logprobs), plan))
    batch, *weights = place_batch((rollouts(name), *WEIGHTS), mesh_of(data), axis=0)
    metric = metric_of(name) if has_metric else None
    gradient, taps, aux = tapped_pass(policy(name), batch, *weights, metric, jnp.uint32(SEED))
    flat = flax.traverse_util.flatten_dict(taps, is_leaf=lambda _, leaf: isinstance(leaf, Tap))
    return jax.device_get((flax.traverse_util.flatten_dict(gradient), flat, aux))


def metric_of(name):
    def positive(leaf):
        return np.exp(np.random.default_rng(leaf.size).normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(positive, policy(name))


def over_layers(path, leaf):
    return leaf.sum(axis=0) if path[0] == "layers" else leaf


def total_gram(taps, kind="gram_PRR"):
    return sum(over_layers(path, np.asarray(getattr(tap, kind), np.float64)) for path, tap in taps.items())


def relative_error(got_PRR, expected_PRR):
    """Largest error of an inner product, in lengths of the two."""
    length_PR = np.sqrt(np.einsum("prr->pr", expected_PRR))
    scale_PRR = np.maximum(length_PR[:, :, None] * length_PR[:, None, :], 1e-12)
    return (np.abs(got_PRR - expected_PRR) / scale_PRR).max()


def test_the_scores_that_taps_are_compared_with_are_those_of_a_numpy_decoder():
    # slopes of log pi along directions, by finite differences in float64
    rng, h, batch = np.random.default_rng(0), 1e-5, rollouts("tied")
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), policy("tied"))
        ahead, behind = (
            slow_logprobs(
                jax.tree.map(lambda leaf, v, h=h: np.asarray(leaf, np.float64) + h * v, policy("tied"), direction),
                TIED_BIASED, batch, temperature=TEMPERATURE,
            )[0].sum(axis=2)
            for h in (h, -h)
        )  # fmt: skip
        slope_PR = (ahead - behind) / (2 * h) * batch.is_kept_PR
        flat = flax.traverse_util.flatten_dict(direction)
        got_PR = sum((leaf * flat[path]).reshape(P, R, -1).sum(axis=2) for path, leaf in scores("tied").items())
        np.testing.assert_allclose(got_PR, slope_PR, atol=1e-5 * np.abs(slope_PR).max())


CASES = {
    "tied, biases, remat, chunks that divide nothing": (
        "tied", {"remat": "full", "chunk_bytes": 4 * R * 12 * 5, "keeps_unit_sketches": True},
    ),
    "untied, pairs of tokens": ("untied", {}),
    "untied, in a metric, on 2 devices": ("untied", {"data": 2, "has_metric": True}),
    "tied, biases, in a metric, on 8 devices": ("tied", {"data": 8, "has_metric": True}),
    "tied, chunks of 5 of 21 columns, in a metric": (  # P R T = 72 tokens
        "tied", {"has_metric": True, "keeps_unit_sketches": True, "head_plan": HeadPlan(4 * 72 * 5, 1, 1)},
    ),
    "tied, chunks of 3 of each of 3 runs, remat": (
        "tied",
        {"remat": "dots", "has_metric": True, "chunk_bytes": 4 * R * 12 * 2, "head_plan": HeadPlan(4 * 72 * 3, 1, 3)},
    ),
    "untied, chunks of 3 of 6 columns, on 2 devices": (  # P R T / 2 = 24 tokens
        "untied", {"data": 2, "has_metric": True, "head_plan": HeadPlan(4 * 24 * 4, 2, 1)},
    ),
    "untied, chunks of 2 of each of 2 runs of 3": ("untied", {"head_plan": HeadPlan(4 * 48 * 2, 1, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_backward_pass_gives_the_inner_products_of_all_scores(case):
    name, options = CASES[case]
    _, taps, _ = found(name, **options)
    assert set(taps) == set(scores(name))
    expected_PRR = gram(flat_scores(scores(name)))
    assert np.linalg.eigvalsh(expected_PRR[0])[0] > 1e-3  # not one direction for all
    assert relative_error(total_gram(taps), expected_PRR) < 1e-5
    for path, tap in taps.items():  # each parameter for itself, to where the whole still is exact
        of_parameter = gram(scores(name)[path].reshape(P, R, -1))
        assert np.abs(over_layers(path, tap.gram_PRR) - of_parameter).max() < 1e-5 * expected_PRR.max(), path


@pytest.mark.parametrize("case", [case for case, (_, options) in CASES.items() if "has_metric" in options])
def test_inner_products_in_a_metric_are_those_of_scaled_gradients(case):
    name, options = CASES[case]
    _, taps, _ = found(name, **options)
    metric = flax.traverse_util.flatten_dict(metric_of(name))
    scaled = {path: leaf * metric[path] for path, leaf in scores(name).items()}
    assert relative_error(total_gram(taps, "metric_gram_PRR"), gram(flat_scores(scaled))) < 1e-5
    for path, tap in taps.items():
        expected_PRR = gram(scaled[path].reshape(P, R, -1))
        got_PRR = over_layers(path, tap.metric_gram_PRR)
        assert np.abs(got_PRR - expected_PRR).max() < 1e-5 * gram(flat_scores(scaled)).max(), path
        weighted_P = np.einsum("pr,pr...->p...", WEIGHTS[1], scaled[path])
        assert_sketched(path, tap.metric_sketch_PW[..., None, :], weighted_P[:, None])


@pytest.mark.parametrize("case", CASES)
def test_the_same_pass_gives_weighted_gradients_as_a_pass_of_their_own_would(case):
    name, options = CASES[case]
    gradient, taps, logprob_PRT = found(name, **options)
    for weight_PR, got in zip(WEIGHTS, (gradient, {path: tap.gradient_sum for path, tap in taps.items()}), strict=True):
        expected = {path: np.einsum("pr,pr...->...", weight_PR, leaf) for path, leaf in scores(name).items()}
        largest = max(np.abs(leaf).max() for leaf in expected.values())
        for path, leaf in expected.items():
            np.testing.assert_allclose(got[path], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=str(path))
    batch = rollouts(name)
    is_trained_PRT = np.asarray(is_trained_token(batch))
    expected_PRT, _ = slow_logprobs(policy(name), SPECS[name], batch, temperature=TEMPERATURE)
    np.testing.assert_allclose(logprob_PRT[is_trained_PRT], expected_PRT[is_trained_PRT], rtol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_sketches_are_of_each_prompts_weighted_gradient(case):
    name, options = CASES[case]
    _, taps, _ = found(name, **options)
    seeds = []
    for path, tap in taps.items():
        weighted_P = np.einsum("pr,pr...->p...", WEIGHTS[1], scores(name)[path])
        seeds += assert_sketched(path, tap.sketch_PW[..., None, :], weighted_P[:, None])
        assert (tap.unit_sketch_PRW is not None) == options.get("keeps_unit_sketches", False)
        if tap.unit_sketch_PRW is not None:
            assert_sketched(path, tap.unit_sketch_PRW, scores(name)[path])
    # every parameter of every layer has a seed of its own, else their collisions would line up
    assert np.diff(np.sort(seeds)).min() > 1e3


def assert_sketched(path, sketch, gradient_PU):
    """Sketches [(L,) P, U, W] by ExactSketch of gradients [P, U, (L,) ...]; returns the seed of each layer."""
    if path[0] != "layers":
        sketch, gradient_PU = sketch[None], gradient_PU[:, :, None]
    seeds = []
    for layer in range(len(sketch)):
        expected = in_order(path, gradient_PU[:, :, layer])
        got = np.asarray(sketch[layer], np.float64)
        seed = (got[..., : expected.shape[2]] * expected).sum() / (expected**2).sum()
        atol = 1e-4 * np.abs(expected).max() * seed
        np.testing.assert_allclose(got[..., : expected.shape[2]], seed * expected, rtol=1e-4, atol=atol)
        seeds.append(seed)
    return seeds


def in_order(path, gradient_PU):
    """[P, U, n]: a matrix goes output by output, a table row by row."""
    P, U = gradient_PU.shape[:2]
    if path[-1] in ("query", "key", "value", "gate", "up", "down", "head"):
        n_in = gradient_PU.shape[2]
    elif path[-1] == "out":
        n_in = gradient_PU.shape[2] * gradient_PU.shape[3]
    else:
        return gradient_PU.reshape(P, U, -1)
    return np.swapaxes(gradient_PU.reshape(P, U, n_in, -1), 2, 3).reshape(P, U, -1)


@pytest.mark.parametrize("name", ["untied", "tied"])
def test_devices_that_share_the_vocabulary_find_the_same_inner_products(name):
    spec = dataclasses.replace(SPECS[name], vocab_size=22 if name == "tied" else 6)  # halves
    mesh = build_mesh(PlacementConfig(data=2, fsdp=2, tensor=2))
    params = initial_params(spec, jax.random.key(3))
    rollout_logprobs = build_rollout_logprobs(
        spec, temperature=TEMPERATURE, compute_dtype=jnp.float32, remat="none", head_plan=HeadPlan(4 * 18 * 2, 4, 2)
    )
    tapped_pass = jax.jit(
        build_tapped_pass(score_objective(rollout_logprobs), dataclasses.replace(PLAN, n_shards=4, sketch=None))
    )
    batch, *weights = place_batch((rollouts(name), *WEIGHTS), mesh, axis=0)
    on_mesh = jax.device_put(params, param_shardings(parameter_table(spec), mesh))
    gradient, taps, _ = jax.device_get(tapped_pass(on_mesh, batch, *weights, None, jnp.uint32(SEED)))
    expected = rollout_scores(params, spec, rollouts(name), temperature=TEMPERATURE)
    kept = {path: np.einsum("pr,pr...->pr...", rollouts(name).is_kept_PR, leaf) for path, leaf in expected.items()}
    flat = flax.traverse_util.flatten_dict(taps, is_leaf=lambda _, leaf: isinstance(leaf, Tap))
    assert relative_error(total_gram(flat), gram(flat_scores(kept))) < 1e-5
    for path, leaf in flax.traverse_util.flatten_dict(gradient).items():
        wanted = np.einsum("pr,pr...->...", WEIGHTS[0], kept[path])
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max(), err_msg=str(path))


def test_the_cases_take_both_ways_to_a_gram_matrix(monkeypatch):
    ways, gram_of_tokens = set(), tapped_ops._gram_of_tokens
    monkeypatch.setattr(tapped_ops, "_gram_of_tokens", lambda *a: ways.add("pairs") or gram_of_tokens(*a))
    reads, read = set(), tapped_ops._read
    monkeypatch.setattr(tapped_ops, "_read", lambda *a, **kw: reads.add("formed") or read(*a, **kw))
    name, batch = "untied", rollouts("untied")
    tapped_pass = build_tapped_pass(score_objective(logprobs_of(name, remat="none", head_plan=ALL_AT_ONCE)), PLAN)
    jax.eval_shape(tapped_pass, policy(name), batch, *map(jnp.asarray, WEIGHTS), None, jnp.uint32(0))
    assert (ways, reads) == ({"pairs"}, {"formed"})

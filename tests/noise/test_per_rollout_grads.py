"""The reference pass against gradients written by hand."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from exact_sketch import ExactSketch

from rlvr_jax.noise.per_rollout_grads import build_per_rollout_pass

P, U, SEED = 6, 3, 3


def numbers(number, *shape):
    return np.random.default_rng(number).normal(size=shape).astype(np.float32)


PARAMS = {"matrix": numbers(0, 3, 4), "offset": numbers(1, 4)}
UNITS = {"x": numbers(2, P, U, 3), "y": numbers(3, P, U, 4)}
METRIC = {"matrix": np.abs(numbers(4, 3, 4)), "offset": np.abs(numbers(5, 4))}
LOSS_WEIGHT_PU, NOISE_WEIGHT_PU = numbers(6, P, U), numbers(7, P, U)


def objective(params, unit):
    """1/2 |x M + b|^2 . y, so that G_b = (x M + b) y and G_M = x G_b^T."""
    out = unit["x"] @ params["matrix"] + params["offset"]
    return 0.5 * (jnp.square(out) * unit["y"]).sum(), {"out": out}


OUT_PU4 = UNITS["x"].astype(np.float64) @ PARAMS["matrix"] + PARAMS["offset"]
GRADIENTS = {  # f64[P, U, n]
    "matrix": np.einsum("pui,puo->puio", UNITS["x"], OUT_PU4 * UNITS["y"]).reshape(P, U, 12),
    "offset": OUT_PU4 * UNITS["y"],
}


def run(*, budget_bytes=2**30, sketch=None, keeps_unit_sketches=False, metric=None):
    per_rollout_pass = build_per_rollout_pass(
        objective, sketch=sketch, keeps_unit_sketches=keeps_unit_sketches, budget_bytes=budget_bytes
    )
    return jax.jit(per_rollout_pass)(PARAMS, UNITS, LOSS_WEIGHT_PU, NOISE_WEIGHT_PU, metric, jnp.uint32(SEED))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


# a prompt's gradients take 4 * 3 * 16 = 192 bytes
@pytest.mark.parametrize("budget_bytes", [0, 192 * 2, 192 * 5, 2**30], ids=["1", "2", "3 of 5", "all 6 at once"])
def test_sums_and_inner_products_do_not_depend_on_how_many_prompts_go_at_once(budget_bytes):
    loss_sum, noise_sum, readings, aux = run(budget_bytes=budget_bytes)
    for (name, gradient_PUn), reading in zip(GRADIENTS.items(), readings, strict=True):
        close(loss_sum[name].reshape(-1), np.einsum("pu,pun->n", LOSS_WEIGHT_PU, gradient_PUn))
        close(noise_sum[name].reshape(-1), np.einsum("pu,pun->n", NOISE_WEIGHT_PU, gradient_PUn))
        close(reading.gram_PUU, np.einsum("pun,pvn->puv", gradient_PUn, gradient_PUn))
        assert reading[1:] == (None, None, None, None)  # nothing that was not asked for
    close(aux["out"], OUT_PU4)


def test_a_metric_scales_gradients_before_their_inner_products():
    _, noise_sum, readings, _ = run(metric=METRIC, sketch=ExactSketch(12))
    for (name, gradient_PUn), reading in zip(GRADIENTS.items(), readings, strict=True):
        n, scaled_PUn = gradient_PUn.shape[2], gradient_PUn * METRIC[name].reshape(-1)
        close(reading.metric_gram_PUU, np.einsum("pun,pvn->puv", scaled_PUn, scaled_PUn))
        close(reading.gram_PUU, np.einsum("pun,pvn->puv", gradient_PUn, gradient_PUn))
        # the sum is not scaled: who wants it in the metric multiplies
        close(noise_sum[name].reshape(-1), np.einsum("pu,pun->n", NOISE_WEIGHT_PU, gradient_PUn))
        ratio = np.asarray(reading.metric_sketch_PW)[:, :n] / np.asarray(reading.sketch_PW)[:, :n]
        close(ratio, np.tile(METRIC[name].reshape(-1), (P, 1)))


def test_sketches_are_of_weighted_sums_and_of_every_unit_with_a_seed_per_parameter():
    _, _, readings, _ = run(sketch=ExactSketch(12), keeps_unit_sketches=True)
    seeds = []
    for gradient_PUn, reading in zip(GRADIENTS.values(), readings, strict=True):
        n = gradient_PUn.shape[2]
        group_Pn = np.einsum("pu,pun->pn", NOISE_WEIGHT_PU, gradient_PUn)
        seeds.append((np.asarray(reading.sketch_PW)[:, :n] * group_Pn).sum() / (group_Pn**2).sum())
        close(np.asarray(reading.sketch_PW)[:, :n], seeds[-1] * group_Pn)
        close(np.asarray(reading.unit_sketch_PUW)[..., :n], seeds[-1] * gradient_PUn)
    assert abs(seeds[0] / seeds[1] - 1) > 1e-3


@pytest.mark.parametrize("keeps_unit_sketches", [False, True])
def test_units_are_sketched_only_if_they_are_kept(keeps_unit_sketches):
    readings = run(sketch=ExactSketch(12), keeps_unit_sketches=keeps_unit_sketches)[2]
    assert all((reading.unit_sketch_PUW is not None) == keeps_unit_sketches for reading in readings)
    assert all(reading.sketch_PW.shape == (P, 12) for reading in readings)


def test_gradients_of_half_precision_are_summed_in_single():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)

    def bf16(params, unit):
        return objective(params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unit))

    per_rollout_pass = build_per_rollout_pass(bf16, sketch=None, keeps_unit_sketches=False, budget_bytes=0)
    loss_sum, _, readings, _ = jax.jit(per_rollout_pass)(
        params, UNITS, LOSS_WEIGHT_PU, NOISE_WEIGHT_PU, None, jnp.uint32(SEED)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((loss_sum, readings))} == {jnp.dtype("float32")}
    gradient_PUn = GRADIENTS["offset"]
    exact = np.einsum("pun,pvn->puv", gradient_PUn, gradient_PUn)
    np.testing.assert_allclose(readings[1].gram_PUU, exact, rtol=0.1, atol=0.05 * exact.max())

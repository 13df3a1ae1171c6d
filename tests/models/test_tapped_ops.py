"""Each tapped operation by itself: forward the plain one, backward every rollout's gradient formed in numpy float64."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from exact_sketch import ExactSketch

from rlvr_jax.models import tapped_ops
from rlvr_jax.models.tapped_ops import Reader, Tap, TapPlan

P, R, SEED = 8, 3, 2


def numbers(number, *shape):
    return np.random.default_rng(number).normal(size=shape).astype(np.float32)


LOSS_WEIGHT_PR, NOISE_WEIGHT_PR = numbers(1, P, R), numbers(2, P, R)
LOSS_WEIGHT_PR[0, 1] = NOISE_WEIGHT_PR[2] = 0.0  # a Gram matrix holds rollouts of weight 0 like any other


def tap_plan(width, *, chunk_bytes=2**20, n_shards=1, keeps_unit_sketches=True, has_sketch=True):
    return TapPlan(
        n_units=R, rows_per_unit=1, n_shards=n_shards, chunk_bytes=chunk_bytes,
        sketch=ExactSketch(width) if has_sketch else None, keeps_unit_sketches=keeps_unit_sketches and has_sketch,
    )  # fmt: skip


def reader(plan, shape, metric=None):
    """With a tap of zeros for a parameter of this shape."""
    W = plan.sketch.width if plan.sketch is not None else 0
    tap = Tap(
        gram_PRR=jnp.zeros((P, R, R)),
        gradient_sum=jnp.zeros(shape),
        sketch_PW=jnp.zeros((P, W)) if plan.sketch is not None else None,
        unit_sketch_PRW=jnp.zeros((P, R, W)) if plan.keeps_unit_sketches else None,
        metric_gram_PRR=jnp.zeros((P, R, R)) if metric is not None else None,
        metric_sketch_PW=jnp.zeros((P, W)) if metric is not None else None,
    )
    return Reader(tap, jnp.asarray(LOSS_WEIGHT_PR), jnp.asarray(NOISE_WEIGHT_PR), metric, jnp.uint32(SEED))


def pulled_back(operation, primals, cotangent):
    """(value, cotangents of the primals) of an operation, compiled."""

    @jax.jit
    def run(primals, cotangent):
        value, pull = jax.vjp(operation, *primals)
        return value, pull(cotangent)

    return run(jax.tree.map(jnp.asarray, primals), cotangent)


def assert_reads(tap, dweight, gradient_PRn, metric_n=None, *, rtol=1e-5):
    """What came out against gradients of all rollouts, f64[P, R, n] in the order of the sketch."""
    n = gradient_PRn.shape[2]

    def close(got, expected):
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())

    group_Pn = np.einsum("pr,prn->pn", NOISE_WEIGHT_PR, gradient_PRn)
    close(dweight, np.einsum("pr,prn->n", LOSS_WEIGHT_PR, gradient_PRn))
    close(tap.gram_PRR, np.einsum("prn,psn->prs", gradient_PRn, gradient_PRn))
    if tap.sketch_PW is not None:
        close(tap.sketch_PW[:, :n], SEED * group_Pn)
        assert not np.asarray(tap.sketch_PW[:, n:]).any()
    if tap.unit_sketch_PRW is not None:
        close(tap.unit_sketch_PRW[..., :n], SEED * gradient_PRn)
    assert (tap.metric_gram_PRR is None) == (metric_n is None)
    if metric_n is not None:
        scaled_PRn = gradient_PRn * metric_n
        close(tap.metric_gram_PRR, np.einsum("prn,psn->prs", scaled_PRn, scaled_PRn))
        close(tap.metric_sketch_PW[:, :n], SEED * group_Pn * metric_n)
    return group_Pn.sum(axis=0)


PRODUCTS = {  # (inputs, outputs, tokens), options, whether gradients are formed
    # 4^2 (5 + 7) = 192 >= 5 * 7; the gradients of a prompt take 4 R 5 7 bytes
    "formed, all prompts at once": ((5, 7, 4), {}, True),
    "formed, two prompts at once of eight": ((5, 7, 4), {"chunk_bytes": 4 * R * 5 * 7 * 3}, True),
    "formed on two devices, two of their four prompts at once": (
        (5, 7, 4), {"chunk_bytes": 4 * R * 5 * 7 * 2, "n_shards": 2}, True,
    ),
    "formed, three outputs at a time of seven": ((5, 7, 4), {"chunk_bytes": 4 * R * 5 * 3 + 1}, True),
    "formed, one output at a time": ((5, 7, 4), {"chunk_bytes": 1}, True),
    "formed on four devices, two outputs at a time": ((5, 7, 4), {"chunk_bytes": 4 * R * 5 * 2, "n_shards": 4}, True),
    # 2^2 (12 + 9) = 84 < 12 * 9
    "pairs of tokens": ((12, 9, 2), {"keeps_unit_sketches": False}, False),
    "pairs, five outputs at a time of nine": (
        (12, 9, 2), {"keeps_unit_sketches": False, "chunk_bytes": 4 * R * 12 * 5}, False,
    ),
    "pairs on two devices, two of their four prompts at once": (
        (12, 9, 2), {"keeps_unit_sketches": False, "n_shards": 2, "chunk_bytes": 4 * R * 12 * 9 * 2}, False,
    ),
    "formed, no sketch": ((5, 7, 4), {"has_sketch": False}, True),
    "pairs, no sketch": ((12, 9, 2), {"has_sketch": False}, False),
    "formed for the sketches": ((12, 9, 2), {}, True),
    "formed for the metric": ((12, 9, 2), {"keeps_unit_sketches": False, "metric": True, "chunk_bytes": 1}, True),
    "formed with a metric and sketches": ((5, 7, 4), {"metric": True, "chunk_bytes": 4 * R * 5 * 2}, True),
    "pairs of one token each": ((6, 3, 1), {"keeps_unit_sketches": False}, False),  # 9 < 18
    "not fewer pairs than entries": ((2, 2, 1), {"keeps_unit_sketches": False}, True),  # 4 >= 4
}  # fmt: skip


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product_reads_the_gradients_of_its_matrix(case, monkeypatch):
    (I, O, T), options, is_formed = PRODUCTS[case]  # noqa: E741
    options = dict(options)
    metric_IO = np.abs(numbers(6, I, O)) if options.pop("metric", False) else None
    plan = tap_plan(I * O + 2, **options)
    x_PRTI, weight_IO, dy_PRTO = numbers(3, P, R, T, I), numbers(4, I, O), numbers(5, P, R, T, O)
    n_token_grams, gram_of_tokens = [], tapped_ops._gram_of_tokens
    monkeypatch.setattr(tapped_ops, "_gram_of_tokens", lambda *a: n_token_grams.append(1) or gram_of_tokens(*a))

    def operation(x_PRTI, weight_IO, reader):
        return tapped_ops.product(plan, jnp.dtype("float32"), x_PRTI, weight_IO, reader)

    y, (dx, dweight, found) = pulled_back(operation, (x_PRTI, weight_IO, reader(plan, (I, O), metric_IO)), dy_PRTO)
    np.testing.assert_allclose(y, x_PRTI @ weight_IO, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, dy_PRTO @ weight_IO.T, rtol=1e-5, atol=1e-5)
    gradient_PROI = np.einsum("prti,prto->proi", np.float64(x_PRTI), dy_PRTO)  # an output's inputs lie together
    total_n = assert_reads(
        found.tap, dweight.T.reshape(-1), gradient_PROI.reshape(P, R, -1),
        metric_IO.T.reshape(-1) if metric_IO is not None else None,
    )  # fmt: skip
    np.testing.assert_allclose(found.tap.gradient_sum.T.reshape(-1), total_n, rtol=1e-4, atol=1e-4)
    assert bool(n_token_grams) != is_formed
    assert (found.tap.sketch_PW is None) == (not options.get("has_sketch", True))
    assert not np.asarray(found.loss_weight_PR).any()  # data, not parameters
    assert not np.asarray(found.noise_weight_PR).any()


@pytest.mark.parametrize("keeps_unit_sketches", [True, False], ids=["formed", "pairs of tokens"])
def test_statistics_of_half_precision_operands_are_single_precision(keeps_unit_sketches):
    I, O, T = 12, 9, 2  # noqa: E741
    plan = tap_plan(I * O, keeps_unit_sketches=keeps_unit_sketches)
    x, weight, dy = (jnp.asarray(numbers(i, *shape), jnp.bfloat16) for i, shape in
                     ((3, (P, R, T, I)), (4, (I, O)), (5, (P, R, T, O))))  # fmt: skip

    def operation(x_PRTI, weight_IO, reader):
        return tapped_ops.product(plan, jnp.dtype("bfloat16"), x_PRTI, weight_IO, reader)

    y, (dx, dweight, found) = pulled_back(operation, (x, weight, reader(plan, (I, O))), dy)
    assert y.dtype == dx.dtype == dweight.dtype == jnp.bfloat16  # as without taps
    assert {leaf.dtype for leaf in jax.tree.leaves(found.tap)} == {jnp.dtype("float32")}
    gradient_PROI = np.einsum("prti,prto->proi", *(np.asarray(a, np.float64) for a in (x, dy)))
    total_n = assert_reads(found.tap, np.einsum("pr,proi->oi", LOSS_WEIGHT_PR, gradient_PROI).reshape(-1),
                           gradient_PROI.reshape(P, R, -1))  # fmt: skip
    np.testing.assert_allclose(found.tap.gradient_sum.T.reshape(-1), total_n, rtol=1e-5, atol=1e-5)
    expected = np.einsum("pr,proi->io", LOSS_WEIGHT_PR, gradient_PROI)
    np.testing.assert_allclose(np.asarray(dweight, np.float64), expected, rtol=2**-8, atol=1e-6)  # rounded once


@pytest.mark.parametrize("has_metric", [False, True])
@pytest.mark.parametrize("operation", ["scaled", "biased"])
def test_a_scale_and_a_bias_read_the_gradients_of_their_vector(operation, has_metric):
    D, T = 5, 4
    plan = tap_plan(D + 1)
    x_PRTD, vector_D, dy_PRTD = numbers(3, P, R, T, D), numbers(4, D), numbers(5, P, R, T, D)
    metric_D = np.abs(numbers(6, D)) if has_metric else None
    y, (dx, dvector, found) = pulled_back(
        lambda x, vector, reader: getattr(tapped_ops, operation)(plan, x, vector, reader),
        (x_PRTD, vector_D, reader(plan, (D,), metric_D)), dy_PRTD,
    )  # fmt: skip
    x64, dy64 = np.float64(x_PRTD), np.float64(dy_PRTD)
    if operation == "scaled":
        expected_y, expected_dx, gradient_PRD = x64 * vector_D, dy64 * vector_D, (dy64 * x64).sum(axis=2)
    else:
        expected_y, expected_dx, gradient_PRD = x64 + vector_D, dy64, dy64.sum(axis=2)
    np.testing.assert_allclose(y, expected_y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    total_n = assert_reads(found.tap, dvector, gradient_PRD, metric_D)
    np.testing.assert_allclose(found.tap.gradient_sum, total_n, rtol=1e-5, atol=1e-5)


T, D = 3, 6
TOKENS = {  # (rows of the table, tokens [P, R, T]); R T = 9
    "a small table": (7, np.random.default_rng(0).integers(0, 7, (P, R, T))),
    "a large table": (50, np.random.default_rng(0).choice([3, 17, 18, 49], (P, R, T))),
    "a large table with row 0 in use": (50, np.random.default_rng(1).choice([0, 17, 49], (P, R, T))),
    "a large table, all rows different": (12, np.argsort(numbers(0, P, 12))[:, :9].reshape(P, R, T)),
}


@pytest.mark.parametrize("is_head", [False, True], ids=["lookup alone", "also the head"])
@pytest.mark.parametrize("case", TOKENS)
def test_a_table_reads_the_gradients_of_its_lookup_and_of_the_head(case, is_head):
    V, token_PRT = TOKENS[case]
    metric_VD = np.abs(numbers(6, V, D)) if "row 0" in case else None
    if case == "a small table":  # two of each device's four prompts at once
        plan = tap_plan(V * D, chunk_bytes=4 * R * V * D * 2, n_shards=2)
    else:  # two columns of the lookup at a time, where U = 9, and three rows of the head
        plan = tap_plan(V * D, chunk_bytes=4 * R * 9 * 2)
    table_VD, hidden_PRTD = numbers(4, V, D), numbers(7, P, R, T, D)
    dx_PRTD, dlogits_PRTV = numbers(5, P, R, T, D), numbers(8, P, R, T, V)

    def operation(table_VD, hidden_PRTD, reader):
        row_PU, place_PRT = tapped_ops.rows_in_use(jnp.asarray(token_PRT, jnp.int32), n_rows=V)
        carrier = jnp.zeros((P, R, row_PU.shape[1] if is_head else 0, D))
        x, carrier = tapped_ops.looked_up(plan, jnp.asarray(token_PRT), row_PU, place_PRT, carrier, table_VD, reader)
        if not is_head:
            return x, jnp.zeros(dlogits_PRTV.shape)
        of_head = reader._replace(tap=reader.tap._replace(gradient_sum=reader.tap.gradient_sum.T))
        if reader.metric is not None:
            of_head = of_head._replace(metric=reader.metric.T)
        logits = tapped_ops.product(plan, jnp.dtype("float32"), hidden_PRTD, table_VD.T, of_head)
        return x, tapped_ops.through_carrier(plan, logits, hidden_PRTD, row_PU, carrier)

    (x, logits), (dtable, dhidden, found) = pulled_back(
        operation, (table_VD, hidden_PRTD, reader(plan, (V, D), metric_VD)), (dx_PRTD, dlogits_PRTV)
    )
    np.testing.assert_array_equal(x, table_VD[token_PRT])
    gradient_PRVD = np.zeros((P, R, V, D))
    for p, r, t in np.ndindex(P, R, T):
        gradient_PRVD[p, r, token_PRT[p, r, t]] += dx_PRTD[p, r, t]
    if is_head:
        np.testing.assert_allclose(logits, hidden_PRTD @ table_VD.T, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dhidden, dlogits_PRTV @ table_VD, rtol=1e-5, atol=1e-5)
        gradient_PRVD += np.einsum("prtv,prtd->prvd", np.float64(dlogits_PRTV), hidden_PRTD)
    total_n = assert_reads(
        found.tap, dtable.reshape(-1), gradient_PRVD.reshape(P, R, -1),
        metric_VD.reshape(-1) if metric_VD is not None else None,
    )  # fmt: skip
    np.testing.assert_allclose(found.tap.gradient_sum.reshape(-1), total_n, rtol=1e-4, atol=1e-4)


def test_rows_in_use_are_those_that_occur_filled_up_with_row_zero():
    # prompt 0 uses 4, 7, 9; prompt 1 uses 0 and 7; R T = 4 places each
    token_PRT = jnp.array([[[7, 4], [7, 9]], [[0, 0], [7, 0]]], jnp.int32)
    row_PU, place_PRT = tapped_ops.rows_in_use(token_PRT, n_rows=10)
    np.testing.assert_array_equal(row_PU, [[4, 7, 9, 0], [0, 7, 0, 0]])
    np.testing.assert_array_equal(place_PRT, [[[1, 0], [1, 2]], [[0, 0], [1, 0]]])


def test_all_rows_of_a_small_table_are_in_use():
    token_PRT = jnp.array([[[3, 1], [0, 3]]], jnp.int32)  # R T = 4 places for 4 rows
    row_PU, place_PRT = tapped_ops.rows_in_use(token_PRT, n_rows=4)
    np.testing.assert_array_equal(row_PU, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(place_PRT, token_PRT)


@pytest.mark.parametrize(("n", "most", "expected"), [(12, 5, 4), (12, 12, 12), (12, 100, 12), (7, 6, 1), (7, 0, 1)])
def test_columns_are_cut_into_equal_parts(n, most, expected):
    assert tapped_ops._divisor_up_to(n, most) == expected

import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.averaging import AVERAGING_KINDS, loss_sum_and_weight

LOSS_NT = jnp.array([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
KEPT_NT = jnp.array([[True, True, False], [True, False, False], [False, False, False]])


@pytest.mark.parametrize(
    ("kind", "total", "weight"),
    [
        ("sequence", 1.5 + 4.0, 2.0),  # mean of 1 and 2, and 4; two sequences have a token
        ("token", 7.0, 3.0),  # 1 + 2 + 4 over three tokens
        ("constant_length", 7.0, 10.0),  # the same over 2 sequences of 5
    ],
)
def test_sums_and_weights_by_hand(kind, total, weight):
    got = loss_sum_and_weight(LOSS_NT, KEPT_NT, kind=kind, max_length=5)
    np.testing.assert_allclose(got, (total, weight))


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 6])
def test_sums_and_weights_of_micro_batches_add_up(kind, n_rows):
    rng = np.random.default_rng(0)
    loss_NT = rng.normal(size=(6, 4)).astype(np.float32)
    is_trained_NT = np.arange(4) < np.array([4, 1, 0, 0, 3, 2])[:, None]  # rows 2 and 3: a micro-batch with nothing
    parts = [
        np.array(loss_sum_and_weight(loss_NT[i : i + n_rows], is_trained_NT[i : i + n_rows], kind=kind, max_length=5))
        for i in range(0, 6, n_rows)
    ]
    rows = [loss_NT[i][is_trained_NT[i]].astype(np.float64) for i in (0, 1, 4, 5)]
    total = sum(row.mean() if kind == "sequence" else row.sum() for row in rows)
    weight = {"sequence": 4, "token": 4 + 1 + 3 + 2, "constant_length": 4 * 5}[kind]
    np.testing.assert_allclose(sum(parts), (total, weight), rtol=1e-5)


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
def test_places_left_out_count_for_nothing_even_nan(kind):
    poisoned = jnp.where(KEPT_NT, LOSS_NT, jnp.nan)
    np.testing.assert_array_equal(
        loss_sum_and_weight(poisoned, KEPT_NT, kind=kind, max_length=5),
        loss_sum_and_weight(LOSS_NT, KEPT_NT, kind=kind, max_length=5),
    )


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
def test_rows_without_a_trained_token_add_neither_loss_nor_weight(kind):
    got = loss_sum_and_weight(LOSS_NT, jnp.zeros((3, 3), bool), kind=kind, max_length=5)
    np.testing.assert_array_equal(got, (0.0, 0.0))


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'mean' is not one of"):
        loss_sum_and_weight(LOSS_NT, KEPT_NT, kind="mean", max_length=5)


@pytest.mark.parametrize(
    ("loss_NT", "is_trained_NT"),
    [(LOSS_NT, LOSS_NT), (LOSS_NT, KEPT_NT[:2]), (LOSS_NT[0], KEPT_NT[0]), (LOSS_NT.astype(jnp.bfloat16), KEPT_NT)],
    ids=["no mask", "shapes", "rank", "half precision"],
)
def test_arrays_of_another_kind_are_refused(loss_NT, is_trained_NT):
    with pytest.raises(AssertionError):
        loss_sum_and_weight(loss_NT, is_trained_NT, kind="token", max_length=5)

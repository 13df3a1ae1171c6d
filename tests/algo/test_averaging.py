import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.averaging import AVERAGING_KINDS, loss_sum_and_weight

LOSS_NT = jnp.array([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
KEPT_NT = jnp.array([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("kind", "total", "weight"),
    [
        ("sequence", 1.5 + 4.0, 2.0),  # mean of 1 and 2, and 4; two sequences
        ("token", 7.0, 3.0),  # 1 + 2 + 4 over three tokens
        ("constant_length", 7.0, 10.0),  # the same over 2 sequences of 5
    ],
)
def test_sums_and_weights_by_hand(kind, total, weight):
    got = loss_sum_and_weight(LOSS_NT, KEPT_NT, kind=kind, max_length=5)
    np.testing.assert_allclose(got, (total, weight))


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
def test_micro_batches_add_up(kind):
    whole = np.array(loss_sum_and_weight(LOSS_NT, KEPT_NT, kind=kind, max_length=5))
    parts = sum(
        np.array(loss_sum_and_weight(LOSS_NT[i : i + 1], KEPT_NT[i : i + 1], kind=kind, max_length=5)) for i in range(2)
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-6)


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
def test_places_left_out_count_for_nothing_even_nan(kind):
    poisoned = jnp.where(KEPT_NT, LOSS_NT, jnp.nan)
    np.testing.assert_array_equal(
        loss_sum_and_weight(poisoned, KEPT_NT, kind=kind, max_length=5),
        loss_sum_and_weight(LOSS_NT, KEPT_NT, kind=kind, max_length=5),
    )


@pytest.mark.parametrize("kind", AVERAGING_KINDS)
def test_a_row_without_tokens_adds_no_loss(kind):
    total, _ = loss_sum_and_weight(LOSS_NT[:1], jnp.zeros((1, 3), bool), kind=kind, max_length=5)
    assert float(total) == 0.0


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'mean' is not one of"):
        loss_sum_and_weight(LOSS_NT, KEPT_NT, kind="mean", max_length=5)

import math

import numpy as np
import pytest

from rlvr_jax.analysis.law_shapes import Ratio, law_columns, law_terms, prompt_cbs_ratio, rollout_cbs_ratio


@pytest.mark.parametrize(
    ("shape", "row"),
    [  # P = 10, R = 5
        ("total", [1, 1 / 50]),
        ("prompts", [1, 1 / 10]),
        ("rollouts_loo", [1, 1 / 4]),
        ("rollouts_mean", [1, 1 / 5]),
        ("loo", [1, 1 / 10, 1 / 40]),
        ("mean", [1, 1 / 10, 1 / 50]),
        ("zeta", [1, 1 / 10, 1 / 50, 1 / 200]),
    ],
)
def test_columns_by_hand(shape, row):
    assert law_columns(shape, [10, 10], 5)[1] == pytest.approx(row)


@pytest.mark.parametrize("n_rollouts", [2, 3, 8, 64])
def test_the_zeta_columns_are_the_variance_of_a_u_statistic(n_rollouts):
    """With coefficients 4 z1 and 2 z2 - 4 z1: V(R) = (4 (R-2) z1 + 2 z2) / (R (R-1)), here z1 = 3 and z2 = 10."""
    r = n_rollouts
    got = law_columns("zeta", 7, r)[0] @ [0, 0, 4 * 3, 2 * 10 - 4 * 3]
    assert got == pytest.approx((4 * (r - 2) * 3 + 2 * 10) / (r * (r - 1)) / 7)


def test_the_zeta_law_names_its_two_parts():
    coefficients = np.array([2.0, 2 * 60, 2 * 12, 2 * 8])  # S_min 2, alpha 60, z1 3, z2 10
    terms = {name: float(t.top @ coefficients / (t.bottom @ coefficients)) for name, t in law_terms("zeta").items()}
    assert terms == pytest.approx({"alpha": 60, "z1": 3, "z2": 10})


def test_a_ratio_of_steps_lies_between_those_of_its_parts():
    assert Ratio(np.array([1, 0.5]), np.array([1, 0.1])).range() == (1, 5)
    assert Ratio(np.array([0, 1.0]), np.array([1.0, 0])).range() == (0, math.inf)


def test_shapes_without_prompts_or_rollouts_have_no_such_size():
    assert prompt_cbs_ratio("rollouts_loo", 8) is None
    assert rollout_cbs_ratio("prompts", 64) is None
    assert rollout_cbs_ratio("zeta", 64) is None


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="shape='cubic' is not one of total, prompts"):
        law_columns("cubic", 1, 2)

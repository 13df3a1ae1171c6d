"""What several seeds allow one to say: ratios with intervals, orders beyond seed spread."""

import math

import numpy as np
import pytest

from rlvr_jax.analysis.seeds import Ratio, ratio_of_averages, resolved_orders


def test_a_ratio_of_averages_worked_by_hand():
    # mean 2 over mean 1. Leaving one out: 2.5, 2, 1.5; their logs .9163 .6931 .4055, mean .6716;
    # squared deviations .0599 .0005 .0709, sum .1312; standard error sqrt(2/3 * .1312) = .2957;
    # t(97.5%, 2 degrees) = 4.3027, half width 1.2724: 2 exp(-1.2724) = .5603, 2 exp(1.2724) = 7.139
    ratio = ratio_of_averages([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    np.testing.assert_allclose([ratio.value, ratio.low, ratio.high], [2.0, 0.5603, 7.139], rtol=1e-3)


def test_a_ratio_without_spread_has_an_interval_without_width():
    ratio = ratio_of_averages([6.0, 6.0, 6.0], [2.0, 2.0, 2.0])
    np.testing.assert_allclose([ratio.value, ratio.low, ratio.high], [3.0, 3.0, 3.0])


def test_a_single_negative_denominator_is_averaged_and_not_divided_by():
    # mean 1 over mean 1.3; the mean of the single ratios would be (1/2 - 10 + 1/2) / 3 = -3
    ratio = ratio_of_averages([1.0, 1.0, 1.0], [2.0, -0.1, 2.0])
    assert math.isclose(ratio.value, 1 / 1.3)


@pytest.mark.parametrize(
    ("numerators", "denominators"),
    [
        ([], []),
        ([1.0, 1.0], [1.0, 1.0]),  # two say nothing of their spread
        ([1.0, 1.0, 1.0], [1.0, -1.0, -1.0]),  # a negative average
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [3.0, -1.0, -1.0]),  # a positive one that hangs on a single measurement
        ([3.0, -1.0, -1.0], [1.0, 1.0, 1.0]),
    ],
)
def test_what_the_data_do_not_resolve_has_no_value(numerators, denominators):
    assert ratio_of_averages(numerators, denominators) == Ratio(None, None, None)


def test_numerators_without_their_denominators_are_refused():
    with pytest.raises(ValueError, match="broadcast"):
        ratio_of_averages([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("scale", [0.1, 7.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ratio_scales_with_its_numerators_and_ignores_their_order(scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.lognormal(size=(2, 8))
    order = rng.permutation(8)
    plain, changed = ratio_of_averages(list(a), list(b)), ratio_of_averages(list(scale * a[order]), list(b[order]))
    assert plain.low < plain.value < plain.high
    np.testing.assert_allclose(
        [changed.value, changed.low, changed.high], scale * np.array([plain.value, plain.low, plain.high])
    )


def test_the_interval_holds_the_truth_about_95_times_in_100():
    rng, n_held, n_trials = np.random.default_rng(0), 0, 600
    for _ in range(n_trials):
        a, b = 6.0 + rng.normal(size=20), 2.0 + 0.5 * rng.normal(size=20)  # true ratio 3
        ratio = ratio_of_averages(list(a), list(b))
        n_held += ratio.low <= 3.0 <= ratio.high
    assert 0.92 < n_held / n_trials < 0.98  # three standard deviations of 600 draws are 0.027


def test_two_points_far_apart_are_ordered():
    # with two groups Tukey's test is Student's: pooled variance (.02 + .02) / 2 = .02, standard error of the
    # difference sqrt(.02 (1/2 + 1/2)) = .14142, t(97.5%, 2 degrees) = 4.3027: 1 -+ .6085
    (order,), sentence = resolved_orders({"low": [0.0, 0.2], "high": [1.0, 1.2]})
    assert (order.better, order.worse) == ("high", "low")
    np.testing.assert_allclose([order.difference, order.low, order.high], [1.0, 0.3915, 1.6085], rtol=1e-3)
    assert sentence.startswith("1 of 1 pairs differ beyond seed spread")


@pytest.mark.parametrize(("difference", "is_claimed"), [(0.61, True), (0.60, False), (0.0, False)])
def test_an_order_is_claimed_only_beyond_seed_spread(difference, is_claimed):  # .6085, see above
    orders, sentence = resolved_orders({"a": [difference, difference + 0.2], "b": [0.0, 0.2]})
    assert len(orders) == is_claimed
    assert sentence.startswith(f"{int(is_claimed)} of 1 pairs")


def test_orders_are_listed_by_falling_difference():
    orders, sentence = resolved_orders({"mid": [0.50, 0.51], "low": [0.10, 0.11], "high": [0.80, 0.81]})
    assert [(order.better, order.worse) for order in orders] == [("high", "low"), ("mid", "low"), ("high", "mid")]
    assert sentence.startswith("3 of 3 pairs")


@pytest.mark.parametrize(("difference", "n_claimed"), [(0.60, 1), (0.58, 0)])
def test_the_more_pairs_are_compared_the_more_an_order_needs(difference, n_claimed):
    # three groups: studentised range q(95%, 3 groups, 3 degrees) = 5.910 in the tables, half width
    # 5.910 / sqrt 2 * .14142 = .591; asked of one pair alone it would be t(97.5%, 3 degrees) * .14142 = .450
    points = {"a": [0.0, 0.2], "b": [difference / 2, difference / 2 + 0.2], "c": [difference, difference + 0.2]}
    orders, sentence = resolved_orders(points)
    assert [(order.better, order.worse) for order in orders] == [("c", "a")] * n_claimed
    assert sentence.startswith(f"{n_claimed} of 3 pairs")


@pytest.mark.parametrize(
    "values_by_point", [{}, {"a": [1.0, 2.0]}, {"a": [0.1], "b": [0.9]}, {"a": [0.1, 0.2], "b": [0.9]}]
)
def test_no_order_is_claimed_without_two_points_of_two_seeds(values_by_point):
    orders, sentence = resolved_orders(values_by_point)
    assert orders == []
    assert sentence == "fewer than two points with two seeds: no order is claimed"


def test_a_point_with_one_seed_is_left_out_by_name():
    orders, sentence = resolved_orders({"a": [0.0, 0.2], "b": [1.0, 1.2], "lonely": [99.0]})
    assert [(order.better, order.worse) for order in orders] == [("b", "a")]
    assert sentence.endswith("left out for want of a second seed: lonely")


def test_seeds_that_agree_exactly_say_nothing_of_their_spread():
    orders, sentence = resolved_orders({"a": [0.1, 0.1], "b": [0.9, 0.9]})
    assert orders == []
    assert "seed spread is unknown" in sentence

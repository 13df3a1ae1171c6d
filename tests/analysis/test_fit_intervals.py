import math

import numpy as np
import pytest
import scipy.stats
from simulated_studies import BATCHES, simulated

from rlvr_jax.analysis.fit_intervals import Estimate, FittedCurve
from rlvr_jax.analysis.fit_likelihood import Runs, maximum
from rlvr_jax.analysis.fits import fit_law
from rlvr_jax.analysis.law_shapes import Ratio

X = 1 / np.array([125.0, 250, 500, 1000, 2000, 4000, 8000])
STEPS = np.array([930.0, 480, 320, 190, 160, 118, 121])
S_MIN, SLOPE = np.eye(2)


def absolute_curve(confidence=0.9):
    runs = Runs(STEPS, STEPS, np.zeros(7, int), is_relative=False)
    columns = np.stack([np.ones(7), X], axis=1)
    return FittedCurve(runs, columns, maximum(runs, columns, columns.mean(axis=0)), 7, confidence)


def test_of_a_linear_law_and_normal_noise_it_is_the_interval_of_regression():
    """s_min +- t s sqrt((A'A)^-1_00) with t of 5 degrees of freedom, and the same for the line at B = 300."""
    a = np.stack([np.ones(7), X], axis=1)
    c, rest, *_ = np.linalg.lstsq(a, STEPS, rcond=None)
    cov = rest[0] / 5 * np.linalg.inv(a.T @ a)
    t = scipy.stats.t.ppf(0.95, 5)
    for row in (S_MIN, np.array([1, 1 / 300])):
        estimate, half = absolute_curve().level(row), t * math.sqrt(row @ cov @ row)
        assert estimate.value == pytest.approx(row @ c, rel=1e-5)
        assert (estimate.low, estimate.high) == pytest.approx((row @ c - half, row @ c + half), rel=2e-3)


def test_of_a_ratio_it_is_fiellers_interval():
    """q with (slope - q s_min)^2 = t^2 Var(slope - q s_min), a quadratic in q."""
    a = np.stack([np.ones(7), X], axis=1)
    c, rest, *_ = np.linalg.lstsq(a, STEPS, rcond=None)
    cov = rest[0] / 5 * np.linalg.inv(a.T @ a) * scipy.stats.t.ppf(0.95, 5) ** 2
    ends = np.roots([c[0] ** 2 - cov[0, 0], 2 * cov[0, 1] - 2 * c[0] * c[1], c[1] ** 2 - cov[1, 1]])
    estimate = absolute_curve().ratio(Ratio(SLOPE, S_MIN))
    assert estimate.value == pytest.approx(c[1] / c[0], rel=1e-5)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(sorted(ends)), rel=2e-3)


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (absolute_curve(c).ratio(Ratio(SLOPE, S_MIN)) for c in (0.8, 0.95))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def constant_and_inverse(law, noise=0.02):
    rng = np.random.default_rng(0)
    return fit_law(simulated(rng, law, [(b, 1) for b in BATCHES], noise=noise, every=1, n_steps=10**6))


def test_no_trace_of_the_batch_leaves_the_lower_end_at_0():
    fit = constant_and_inverse(lambda p, r: 300.0)
    assert fit.b_noise.low == 0
    assert 0 <= fit.b_noise.value < fit.b_noise.high < 125
    assert fit.s_min.low < 300 < fit.s_min.high


def test_no_trace_of_a_floor_leaves_the_upper_end_infinite_and_s_min_at_0():
    fit = constant_and_inverse(lambda p, r: 4e6 / (p * r))
    assert fit.b_noise.high == math.inf
    assert fit.b_noise.low > 8000
    assert fit.s_min.low == 0
    assert 0 < fit.s_min.high < 500  # S(8000) = 500


def test_as_many_numbers_as_runs_leave_everything_open():
    runs = Runs(STEPS[:2], STEPS[:2], np.zeros(2, int), is_relative=False)
    columns = np.stack([np.ones(2), X[:2]], axis=1)
    curve = FittedCurve(runs, columns, maximum(runs, columns, columns.mean(axis=0)), 2, 0.9)
    assert curve.ratio(Ratio(SLOPE, S_MIN)) == Estimate(pytest.approx(450 / 0.004 / 30, rel=1e-4), 0.0, math.inf)
    assert curve.level(S_MIN) == Estimate(pytest.approx(30, rel=1e-4), 0.0, math.inf)  # 930 - 2 (930 - 480)


def test_the_ends_lie_where_the_likelihood_has_fallen_by_the_threshold():
    """Against a slow scan: for each B_noise the best of a fine grid of S_min and sigma, of exact logarithms."""
    rng = np.random.default_rng(5)
    steps = 100 * (1 + 1000 * X) * np.exp(0.15 * rng.standard_normal(7))
    runs = Runs(np.log(steps), np.log(steps), np.zeros(7, int), is_relative=True)
    columns = np.stack([np.ones(7), X], axis=1)
    curve = FittedCurve(runs, columns, maximum(runs, columns, columns.mean(axis=0)), 7, 0.9)
    estimate = curve.ratio(Ratio(SLOPE, S_MIN))
    b_noise = np.geomspace(100, 10_000, 40_001)
    rest = np.log(steps) - np.log1p(b_noise[:, None] * X)
    spread = rest.std(axis=1)  # the likeliest sigma, at the likeliest level, which is the mean
    fall = 2 * 7 * np.log(spread / spread.min())
    t = scipy.stats.t.ppf(0.95, 5)
    inside = b_noise[fall <= 7 * math.log(1 + t * t / 5)]
    assert estimate.value == pytest.approx(b_noise[fall.argmin()], rel=1e-3)
    assert (estimate.low, estimate.high) == pytest.approx((inside[0], inside[-1]), rel=3e-3)

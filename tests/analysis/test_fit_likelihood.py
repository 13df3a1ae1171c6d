import math

import numpy as np
import pytest
import scipy.integrate

from rlvr_jax.analysis.fit_likelihood import Runs, log_likelihood, maximum


def runs_of(*ends, is_relative=True):
    with np.errstate(divide="ignore"):
        lower, upper = (
            np.log(np.array(e, float)) if is_relative else np.array(e, float) for e in zip(*ends, strict=True)
        )
    return Runs(lower, upper, np.zeros(len(ends), int), is_relative)


def normal_density(x, mean, sigma):
    return math.exp(-(((x - mean) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("ends", [(100, 150), (0, 150), (150, math.inf), (280, 300)])
def test_what_lies_between_evaluations_counts_with_the_integral_of_the_density(ends):
    mu, sigma = math.log(120.0), 0.4
    low, high = (
        max(math.log(ends[0]), mu - 40 * sigma) if ends[0] else mu - 40 * sigma,
        min(math.log(ends[1]), mu + 40 * sigma),
    )
    slow, _ = scipy.integrate.quad(
        lambda x: normal_density(x, mu, sigma), low, high, points=[mu] if low < mu < high else None
    )
    value, _, _ = log_likelihood(runs_of(ends), np.array([120.0]), sigma)
    assert value == pytest.approx(math.log(slow), rel=1e-8)


def test_a_moment_known_exactly_counts_with_the_density_of_its_logarithm():
    value, _, _ = log_likelihood(runs_of((150, 150)), np.array([120.0]), 0.4)
    assert value == pytest.approx(math.log(normal_density(math.log(150), math.log(120), 0.4)))


def test_absolute_residuals_count_with_the_density_of_the_steps():
    value, _, _ = log_likelihood(runs_of((150, 150), is_relative=False), np.array([120.0]), 20.0)
    assert value == pytest.approx(math.log(normal_density(150, 120, 20)))


def test_far_tails_are_finite_on_both_sides():
    """ln P(z > 40) = -804.608442.., from tables of the complementary error function; (40, 41] is nearly all of it."""
    for ends in ((math.exp(40), math.exp(41)), (math.exp(-41), math.exp(-40)), (math.exp(40), math.inf)):
        value, by_mu, by_log_sigma = log_likelihood(runs_of(ends), np.array([1.0]), 1.0)
        assert value == pytest.approx(-804.608442, abs=1e-5)
        assert np.isfinite(by_mu).all()
        assert math.isfinite(by_log_sigma)


@pytest.mark.parametrize("is_relative", [True, False])
def test_derivatives_agree_with_differences(is_relative):
    if is_relative:
        runs = runs_of((100, 150), (0, 25), (400, math.inf), (80, 80), (975, 1000))
    else:
        runs = runs_of((100, 100), (25, 25), (400, 400), is_relative=False)
    n = len(runs.lower_n)
    mu, sigma, h = np.full(n, 5.0), 0.3 if is_relative else 50.0, 1e-6

    def value(mu_n, s):
        return log_likelihood(runs, np.exp(mu_n) if is_relative else mu_n, s)[0]

    _, by_mu, by_log_sigma = log_likelihood(runs, np.exp(mu) if is_relative else mu, sigma)
    for i in range(n):
        step = h * np.eye(n)[i]
        assert by_mu[i] == pytest.approx(
            (value(mu + step, sigma) - value(mu - step, sigma)) / (2 * h), rel=1e-4, abs=1e-7
        )
    slope = (value(mu, sigma * math.exp(h)) - value(mu, sigma * math.exp(-h))) / (2 * h)
    assert by_log_sigma == pytest.approx(slope, rel=1e-5)


def test_the_maximum_of_a_constant_curve_is_mean_and_spread():
    """ln S = 4, 5, 6: level e^5, sigma^2 = 2/3 (the likelihood's, divided by n)."""
    runs = runs_of(*[(math.exp(k),) * 2 for k in (4, 5, 6)])
    found = maximum(runs, np.ones((3, 1)), np.ones(1))
    assert found.is_certain
    assert found.coefficients == pytest.approx(math.exp(5), rel=1e-6)
    assert found.sigma == pytest.approx(math.sqrt(2 / 3), rel=1e-5)


def test_no_start_finds_a_better_maximum():
    rng = np.random.default_rng(0)
    batches = np.repeat(125.0 * 2.0 ** np.arange(6), 2)
    steps = 50 * (1 + 900 / batches) * np.exp(0.3 * rng.standard_normal(12))
    after = np.floor(steps / 25) * 25
    runs = runs_of(*zip(after, np.where(steps > 300, np.inf, after + 25), strict=True))
    columns = np.stack([np.ones(12), 1 / batches], axis=1)
    best = maximum(runs, columns, columns.mean(axis=0)).log_likelihood
    for s_min in (10, 40, 50, 60, 200):
        for b_noise in (100, 600, 900, 1200, 5000):
            for sigma in (0.15, 0.25, 0.3, 0.5):
                assert log_likelihood(runs, s_min * (1 + b_noise / batches), sigma)[0] <= best + 1e-9


def test_evaluations_far_apart_hide_the_spread():
    """Intervals (50, 100]: ln 2 / sqrt(12) = 0.2001; a curve through all of them may claim no less noise than that."""
    runs = runs_of((50, 100), (50, 100), (50, 100))
    assert runs.sigma_floor == pytest.approx(0.2001, abs=1e-4)
    assert maximum(runs, np.ones((3, 1)), np.ones(1)).sigma == pytest.approx(0.2001, abs=1e-4)

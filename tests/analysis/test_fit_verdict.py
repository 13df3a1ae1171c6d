"""Why a law may not be quoted, each from a study that shows just that."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from simulated_studies import BATCHES, exact, loo_law, simulated, total_law

from rlvr_jax.analysis.fits import fit_law
from rlvr_jax.analysis.observations import Observation

LAW = total_law(100.0, 1000.0)


def noisy(law, sizes, seed=0, **settings):
    return fit_law(simulated(np.random.default_rng(seed), law, sizes, **{"every": 1, "n_steps": 10**6} | settings))


def test_a_measured_knee_is_resolved_without_a_reason():
    fit = noisy(LAW, [(b, 1) for b in BATCHES])
    assert (fit.resolved, fit.reason) == (True, "")


def test_two_batch_sizes_cannot_contradict_a_law_of_two_numbers():
    fit = noisy(LAW, [(125, 1), (8000, 1)])
    assert not fit.resolved
    assert fit.reason == "only 2 sizes reached the target (125, 8000 rollouts); the law needs at least 3"


def test_all_batches_above_the_knee():
    fit = noisy(total_law(100.0, 10.0), [(b, 1) for b in BATCHES])
    assert fit.reason.startswith("S hardly depends on size from 125 to 8000 rollouts: only B_noise < ")
    assert fit.reason.endswith("measure smaller sizes")


def test_all_batches_below_the_knee():
    fit = noisy(total_law(100.0, 1e6), [(b, 1) for b in BATCHES])
    assert fit.reason.startswith("S still falls with size at the largest of 125 to 8000 rollouts: only B_noise > ")
    assert fit.reason.endswith("measure larger sizes")


def test_too_much_scatter_is_open_on_both_sides():
    fit = noisy(LAW, [(b, 1) for b in (700, 1000, 1400)], n_seeds=1, noise=0.5)
    assert fit.reason == "the runs scatter too much to place B_noise within 700 to 1400 rollouts; add seeds"


def test_runs_that_never_arrived_are_counted_in_the_reason():
    fit = noisy(LAW, [(125, 1), (250, 1), (8000, 1)], noise=0.01, n_steps=300)
    assert fit.reason == (
        "only 1 size reached the target (8000 rollouts); the law needs at least 3 (6 of 9 never reached the target)"
    )


def test_targets_met_by_the_first_evaluation_tell_nothing():
    fit = fit_law([Observation(f"b{b}", b, 1, 0.5, 25, 0, 25) for b in BATCHES])
    assert fit.reason == "every run reached it in the same evaluation interval, (0, 25]; evaluate more often"


def test_too_few_sizes_took_longer_than_a_first_evaluation():
    """Beyond 250 rollouts 25 steps were enough: how much less than 25 nobody saw."""
    fit = fit_law(
        [Observation(f"b{b}", b, 1, 0.5, at, at - 25, at) for b, at in zip(BATCHES, (75, 50, *[25] * 5), strict=True)]
    )
    assert fit.reason == (
        "only 2 sizes took longer than to a first evaluation (125, 250 rollouts); evaluate more often"
    )


def test_seeds_that_agree_refuse_another_curve():
    """S = 20 (1 + (1000/B)^2), bent twice as sharply, with 3% noise."""
    fit = noisy(lambda p, r: 20 * (1 + (1000 / p) ** 2), [(b, 1) for b in BATCHES], noise=0.03)
    assert fit.lack_of_fit_p < 1e-6
    assert not fit.resolved
    assert "S follows another curve" in fit.reason


def test_lack_of_fit_is_the_f_test_of_regression():
    """Between 4 batches, 2 degrees of freedom left by the law; within, 4 x 2; steps read one by one."""
    study = simulated(np.random.default_rng(20), LAW, [(b, 1) for b in BATCHES[::2]], every=1, n_steps=10**6)
    log_steps = np.log([o.at for o in study])
    batch = np.array([o.batch for o in study])
    within = np.sum((log_steps.reshape(4, 3) - log_steps.reshape(4, 3).mean(axis=1, keepdims=True)) ** 2)
    law = scipy.optimize.least_squares(lambda c: log_steps - c[0] - np.log1p(np.exp(c[1]) / batch), [4.0, 7.0])
    p = scipy.stats.f.sf((2 * law.cost - within) / 2 / (within / 8), 2, 8)
    assert 0.01 < p < 0.1
    assert fit_law(study).lack_of_fit_p == pytest.approx(p, rel=0.02)


def test_one_seed_each_cannot_test_the_law():
    assert noisy(LAW, [(b, 1) for b in BATCHES], n_seeds=1).lack_of_fit_p is None


@pytest.mark.parametrize(
    ("sizes", "fixed"),
    [([(64, r) for r in (2, 4, 8, 16)], "n_prompts is 64"), ([(p, 8) for p in (16, 32, 64, 128)], "n_rollouts is 8")],
)
def test_a_law_in_both_needs_both_to_vary(sizes, fixed):
    fit = fit_law(exact(loo_law(50.0, 60.0, 300.0), sizes), shape="loo")
    assert not fit.resolved
    assert fit.reason == f"{fixed} in all runs, so the law's terms cannot be told apart; vary it"


def test_a_wide_interval_says_how_many_runs_would_narrow_it():
    fit = noisy(total_law(100.0, 3000.0), [(b, 1) for b in (250, 1000, 4000, 64_000)], n_seeds=1, noise=0.5, seed=11)
    assert fit.b_noise.low > 125
    assert 10 * fit.b_noise.low < fit.b_noise.high < 128_000
    more = (math.log(fit.b_noise.high / fit.b_noise.low) / math.log(10)) ** 2
    assert f"about {math.ceil(10 * more) / 10:g} times as many runs" in fit.reason

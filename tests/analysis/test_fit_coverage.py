"""What a fit claims about studies of a known law. bench/fit_coverage.py does the same with many more repeats."""

import numpy as np
import pytest
from simulated_studies import BATCHES, simulated, total_law, write_table

from rlvr_jax.analysis.fits import fit_law
from rlvr_jax.analysis.law_table import read_table, table_observations

# Binomial error of 60 repeats at .9 is .04; the bounds are the claim's, and the seeds are fixed.
N_REPEATS = 60


def repeats(law, batches, seed, n_repeats, through=lambda study: study, **settings):
    rng = np.random.default_rng(seed)
    return [fit_law(through(simulated(rng, law, [(b, 1) for b in batches], **settings))) for _ in range(n_repeats)]


@pytest.fixture(
    scope="module",
    params=[(200.0, True, False), (400.0, False, False), (300.0, True, True)],
    ids=["log-normal", "normal, more censored", "from a table without max_steps"],
)
def nominal(request, tmp_path_factory):
    s_min, is_log_normal, is_table = request.param
    path = tmp_path_factory.mktemp("table") / "study.csv"

    def from_table(study):
        write_table(study, path)
        return table_observations(read_table(path), "step")

    through = {"through": from_table} if is_table else {}
    fits = repeats(total_law(s_min, 1000.0), BATCHES, 1, N_REPEATS, is_log_normal=is_log_normal, **through)
    return s_min, fits


def test_some_runs_of_the_simulated_studies_never_reach_the_target(nominal):
    _, fits = nominal
    assert 1 <= np.mean([fit.n_runs - fit.n_reached for fit in fits]) <= 8


def test_estimates_are_unbiased_within_5_percent(nominal):
    s_min, fits = nominal
    for average in (np.mean, np.median):
        assert average([fit.b_noise.value for fit in fits]) == pytest.approx(1000, rel=0.05)
        assert average([fit.s_min.value for fit in fits]) == pytest.approx(s_min, rel=0.05)


def test_90_percent_intervals_cover_85_to_95_percent(nominal):
    s_min, fits = nominal
    assert 0.85 <= np.mean([fit.b_noise.low <= 1000 <= fit.b_noise.high for fit in fits]) <= 0.95
    assert 0.85 <= np.mean([fit.s_min.low <= s_min <= fit.s_min.high for fit in fits]) <= 0.95


def test_90_percent_of_such_studies_are_resolved(nominal):
    _, fits = nominal
    assert np.mean([fit.resolved for fit in fits]) >= 0.9


@pytest.mark.parametrize(
    ("s_min", "batches", "side"),
    [(200.0, [10_000 * 2**k for k in range(7)], "B_noise <"), (3.0, [2, 3, 6, 12, 25, 50, 100], "B_noise >")],
    ids=["all batches beyond 10 B_noise", "all below B_noise / 10"],
)
def test_studies_that_miss_the_knee_are_unresolved_and_give_the_bound_they_can(s_min, batches, side):
    fits = repeats(total_law(s_min, 1000.0), batches, 2, 20, n_steps=3000)
    assert np.mean([fit.resolved for fit in fits]) <= 0.1
    assert np.mean([side in fit.reason for fit in fits]) >= 0.9
    bounds = [fit.b_noise.high >= 1000 if side.endswith("<") else fit.b_noise.low <= 1000 for fit in fits]
    assert np.mean(bounds) >= 0.85  # one-sided, nominal 95%


def test_few_coarse_runs_do_not_claim_more_than_they_know():
    """One seed, most targets met by the first or second evaluation: noise cannot be seen, and is not taken for 0."""
    batches = [256 * 2**k for k in range(6)] + [65536]
    fits = repeats(total_law(20.0, 4000.0), batches, 3, 24, n_seeds=1, noise=0.2, n_steps=4000)
    assert np.mean([fit.b_noise.low <= 4000 <= fit.b_noise.high for fit in fits]) >= 0.8

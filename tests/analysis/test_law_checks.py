"""Whether runs follow the law that was fitted to them."""

import dataclasses
import math

from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.law_checks import law_checks_text
from rlvr_jax.analysis.observations import Observation

FACTORS = (0.98, 1.0, 1.02)  # of three seeds


def runs(times):
    """Three seeds of every batch size, 4 rollouts per prompt, known exactly."""
    return [
        Observation(f"{batch}_{seed}", batch // 4, 4, 0.5, factor * at, factor * at, factor * at, seed=seed)
        for batch, at in times.items()
        for seed, factor in enumerate(FACTORS)
    ]


def table_of(text):
    lines = [line.strip("| ").split("|") for line in text.split("far more:")[1].strip().splitlines()[2:]]
    return {cells[0].strip(): cells[1].strip() for cells in lines}


def test_runs_on_the_law_are_not_refused_and_lie_on_its_hyperbola():
    law = {batch: 20 * (1 + 100 / batch) for batch in (32, 64, 128, 256)}
    text = law_checks_text(fit_targets(runs(law)), unit="update")
    assert "Below 0.01, seeds would refuse the law, and do so nowhere." in text
    for product in table_of(text).values():
        assert math.isclose(float(product), 1.0, abs_tol=0.05)


def test_runs_off_the_law_are_refused_by_name():
    bent = {32: 90.0, 64: 40.0, 128: 44.0, 256: 25.0}  # no hyperbola goes down, up and down
    text = law_checks_text(fit_targets(runs(bent)), unit="update")
    assert "Below 0.01, seeds refuse the law at 0.5." in text


def test_the_text_calls_refused_what_the_verdict_calls_refused():
    slightly = {32: 83.5, 64: 49.4, 128: 36.1, 256: 27.5}
    (fit,) = fit_targets(runs(slightly))
    assert 0.01 < fit.fit.lack_of_fit_p < 0.05
    assert fit.fit.resolved
    assert "do so nowhere" in law_checks_text([fit], unit="update")


def test_one_seed_cannot_refuse_the_law():
    single = [run for run in runs({32: 82.5, 64: 51.25, 128: 35.6, 256: 27.8}) if run.seed == 0]
    text = law_checks_text(fit_targets(single), unit="update")
    assert "Lack of fit is not tested at 0.5: it takes several seeds of some batch size, and more sizes" in text


def test_evaluations_that_hide_the_spread_of_seeds_are_named_as_the_reason():
    law = {batch: 20 * (1 + 100 / batch) for batch in (32, 64, 128, 256)}
    coarse = [dataclasses.replace(run, after=10 * (run.at // 10), by=10 * (run.at // 10) + 10) for run in runs(law)]
    text = law_checks_text(fit_targets(coarse), unit="update")
    assert "Lack of fit is not tested at 0.5: the evaluations lie too far apart" in text


def test_the_joint_fit_has_no_p_of_its_own():
    law = {batch: 20 * (1 + 100 / batch) for batch in (32, 64, 128, 256)}
    later = [dataclasses.replace(r, target=0.6, at=2 * r.at, after=2 * r.at, by=2 * r.at) for r in runs(law)]
    text = law_checks_text(fit_targets([*runs(law), *later]), unit="update")
    assert " at all" not in text

import dataclasses
import math

import numpy as np
import pytest
from simulated_studies import BATCHES, exact, loo_law, simulated, total_law

from rlvr_jax.analysis.fits import fit_law
from rlvr_jax.analysis.observations import Observation

GRID = [(p, r) for p in (16, 64, 256) for r in (2, 8, 32)]


def one(batch, at, *, seed=None):
    return Observation(f"b{batch}", batch, 1, 0.5, at, at, at, seed)


def test_steps_that_follow_the_law_exactly_give_its_numbers():
    """S = 100 (1 + 1000/B): 900 at 125 and 112.5 at 8000."""
    fit = fit_law(exact(total_law(100.0, 1000.0), [(b, 1) for b in BATCHES]))
    assert fit.points[0].observation.at == 900
    assert fit.s_min.value == pytest.approx(100, rel=1e-6)
    assert fit.b_noise.value == pytest.approx(1000, rel=1e-6)
    assert fit.resolved
    assert fit.steps(125, 1) == pytest.approx(900, rel=1e-6)
    assert max(abs(p.residual) for p in fit.points) < 1e-6


def test_a_run_later_than_the_law_has_a_positive_residual():
    """The second of two runs at 1000 takes 10% longer, so their residuals lie ln 1.1 apart, and 20 steps."""
    study = [*exact(total_law(100.0, 1000.0), [(b, 1) for b in BATCHES]), one(1000, 220.0, seed=1)]
    for residuals, apart in (("relative", math.log(1.1)), ("absolute", 20)):
        points = fit_law(study, residuals=residuals).points
        assert points[3].residual < 0 < points[7].residual
        assert points[7].residual - points[3].residual == pytest.approx(apart)


@pytest.mark.parametrize("residuals", ["relative", "absolute"])
@pytest.mark.parametrize(
    ("shape", "law", "terms"),
    [
        ("prompts", lambda p, r: 50 * (1 + 60 / p), {"alpha": 60}),
        ("loo", loo_law(50.0, 60.0, 300.0), {"alpha": 60, "beta": 300}),
        ("mean", lambda p, r: 50 * (1 + 60 / p + 300 / (p * r)), {"alpha": 60, "beta": 300}),
        (  # z1 = 100, z2 = 300: V(R) = (4 100 + 2 300) / (R ), at least 2 z1 as it must be
            "zeta",
            lambda p, r: 50 * (1 + 60 / p + (400 * (r - 2) + 600) / (p * r * (r - 1))),
            {"alpha": 60, "z1": 100, "z2": 300},
        ),
    ],
)
def test_each_shape_recovers_its_own_law(shape, law, terms, residuals):
    fit = fit_law(exact(law, GRID), shape=shape, residuals=residuals)
    assert fit.s_min.value == pytest.approx(50, rel=1e-5)
    assert {name: e.value for name, e in fit.terms.items()} == pytest.approx(terms, rel=1e-5)
    assert fit.b_noise is None
    assert fit.resolved


@pytest.mark.parametrize(
    ("shape", "phi"), [("rollouts_loo", lambda r: 1 / (r - 1)), ("rollouts_mean", lambda r: 1 / r)]
)
def test_rollouts_alone_where_prompts_never_vary(shape, phi):
    fit = fit_law(exact(lambda p, r: 50 * (1 + 6 * phi(r)), [(64, r) for r in (2, 4, 8, 32)]), shape=shape)
    assert fit.terms["beta"].value == pytest.approx(6, rel=1e-5)
    assert fit.rollout_cbs(64).value == pytest.approx(7 if shape == "rollouts_loo" else 6, rel=1e-5)  # 1 + beta


def test_critical_sizes_of_the_leave_one_out_law():
    """alpha 60, beta 300: at R = 4 the prompt CBS is 60 + 300/3 = 160; at P = 40 the rollout CBS is 1 + 300/100 = 4."""
    fit = fit_law(exact(loo_law(50.0, 60.0, 300.0), GRID), shape="loo")
    for estimate, truth in ((fit.prompt_cbs(4), 160), (fit.rollout_cbs(40), 4)):
        assert estimate.value == pytest.approx(truth, rel=1e-5)
        assert estimate.low < truth < estimate.high
    assert fit.steps(160, 4) == pytest.approx(100, rel=1e-5)  # twice S_min
    assert fit_law(exact(total_law(100.0, 1000.0), GRID)).prompt_cbs(4).value == pytest.approx(250, rel=1e-5)


def test_absolute_residuals_are_unweighted_least_squares_of_the_steps():
    rng = np.random.default_rng(0)
    study = simulated(rng, total_law(100.0, 1000.0), [(b, 1) for b in BATCHES])
    fit = fit_law(study, residuals="absolute")
    reached = [o for o in study if o.is_reached]
    by_one_and_inverse = np.stack([np.ones(len(reached)), [1 / o.batch for o in reached]], axis=1)
    steps = np.array([o.at for o in reached])
    (s_min, slope), rest, *_ = np.linalg.lstsq(by_one_and_inverse, steps, rcond=None)
    assert fit.s_min.value == pytest.approx(s_min, rel=1e-6)
    assert fit.b_noise.value == pytest.approx(slope / s_min, rel=1e-6)
    assert fit.sigma == pytest.approx(math.sqrt(rest[0] / len(reached)), rel=1e-5)
    assert fit.points[0].residual == pytest.approx(study[0].at - s_min - slope / 125, abs=1e-4)


def test_steps_that_rise_with_the_batch_give_no_negative_noise():
    fit = fit_law([one(b, at) for b, at in ((100, 50), (200, 60), (400, 70), (800, 90))])
    assert fit.b_noise.value == 0
    assert fit.b_noise.low == 0
    assert not fit.resolved
    assert "hardly depends" in fit.reason


def test_dropping_runs_that_never_arrive_would_bias_the_law():
    """S(125) = 1800: in 1500 steps only the lucky third arrives, and counting those alone makes B_noise small."""
    rng = np.random.default_rng(4)
    kept, dropped = [], []
    for _ in range(12):
        study = simulated(rng, total_law(200.0, 1000.0), [(b, 1) for b in BATCHES[:5]], n_seeds=4, noise=0.3)
        kept.append(fit_law(study).b_noise.value)
        dropped.append(fit_law([o for o in study if o.is_reached]).b_noise.value)
    assert np.median(kept) == pytest.approx(1000, rel=0.1)
    assert np.median(dropped) < 0.9 * np.median(kept)


def test_a_run_that_never_arrives_moves_the_law_upwards_even_with_nothing_beside_it():
    arrived = [one(b, 100 * (1 + 1000 / b), seed=s) for b in (500, 1000, 2000, 4000) for s in (0, 1)]
    late = Observation("b125", 125, 1, 0.5, None, 2000, math.inf)  # the law says 900
    alone, together = fit_law(arrived), fit_law([*arrived, late])
    assert together.steps(125, 1) > 1.2 * alone.steps(125, 1)
    assert together.n_runs == 9
    assert together.n_reached == 8
    assert together.points[-1].residual is None


def test_the_order_of_runs_does_not_matter_and_the_unit_of_steps_only_scales_s_min():
    study = simulated(np.random.default_rng(1), total_law(100.0, 1000.0), [(b, 1) for b in BATCHES])
    there, back = fit_law(study), fit_law(study[::-1])
    in_updates = [dataclasses.replace(o, at=o.at and 4 * o.at, after=4 * o.after, by=4 * o.by) for o in study]
    scaled = fit_law(in_updates)
    for name in ("value", "low", "high"):
        assert getattr(back.b_noise, name) == pytest.approx(getattr(there.b_noise, name), rel=1e-3)
        assert getattr(scaled.b_noise, name) == pytest.approx(getattr(there.b_noise, name), rel=1e-3)
        assert getattr(scaled.s_min, name) == pytest.approx(4 * getattr(there.s_min, name), rel=1e-3)
    assert scaled.sigma == pytest.approx(there.sigma, rel=1e-3)


def test_the_band_encloses_the_curve_and_ends_at_s_min():
    study = simulated(np.random.default_rng(2), total_law(100.0, 1000.0), [(b, 1) for b in BATCHES], n_seeds=2)
    fit = fit_law(study)
    batches = np.geomspace(125, 1e7, 30)
    low, high = fit.band(batches, 1)
    assert (low < fit.steps(batches, 1)).all()
    assert (fit.steps(batches, 1) < high).all()
    assert low[-1] == pytest.approx(fit.s_min.low, rel=5e-3)
    assert high[-1] == pytest.approx(fit.s_min.high, rel=5e-3)
    one_low, one_high = fit.band(batches[12], 1)  # not interpolated
    assert (one_low, one_high) == (pytest.approx(low[12], rel=5e-3), pytest.approx(high[12], rel=5e-3))


def test_two_runs_of_a_table_with_one_name_are_two_runs():
    study = [dataclasses.replace(o, run="table") for o in exact(total_law(100.0, 1000.0), [(b, 1) for b in BATCHES])]
    assert fit_law(study).n_runs == 7


def test_one_rollout_per_prompt_is_left_out_where_the_law_needs_a_group():
    study = exact(lambda p, r: 50 * (1 + 60 / p + 300 / (p * max(r - 1, 0.5))), [*GRID, (64, 1)])
    assert (fit_law(study, shape="loo").n_runs, fit_law(study, shape="loo").n_left_out) == (9, 1)
    assert fit_law(study, shape="mean").n_left_out == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "cubic"}, "shape='cubic' is not one of total"),
        ({"residuals": "squared"}, "residuals='squared' is not one of relative"),
        ({"confidence": 90}, "confidence=90 is not between 0 and 1"),
        ({"shape": "rollouts_loo"}, "needs 2 rollouts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit_law([one(100, 50), one(200, 40), one(400, 30)], **change)


def test_runs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no observations"):
        fit_law([])
    with pytest.raises(ValueError, match="run 'b100'"):
        fit_law([Observation("b100", 100, 1, 0.5, 50, 60, 50)])
    with pytest.raises(ValueError, match=r"targets 0.5 and 0.6 in one fit"):
        fit_law([one(100, 50), dataclasses.replace(one(100, 50), target=0.6)])
    with pytest.raises(ValueError, match="groups '' and 'b' in one fit"):
        fit_law([one(100, 50), dataclasses.replace(one(100, 50), group="b")])
    with pytest.raises(ValueError, match="is for one n_prompts"):
        fit_law(exact(loo_law(50.0, 60.0, 300.0), GRID), shape="rollouts_loo")


def test_a_run_of_which_nothing_is_known_changes_no_fit_and_is_counted():
    study = simulated(np.random.default_rng(3), total_law(100.0, 1000.0), [(b, 1) for b in BATCHES])
    unknown = Observation("lost", 125, 1, 0.5, None, 0, math.inf)
    without, with_it = fit_law(study), fit_law([*study, unknown])
    assert with_it.b_noise == without.b_noise
    assert (with_it.n_runs, with_it.n_reached, with_it.n_left_out) == (without.n_runs + 1, without.n_reached, 1)
    assert with_it.points[-1].residual is None


def test_absolute_fits_of_a_cut_study_have_no_test_of_the_law():
    study = simulated(np.random.default_rng(3), total_law(100.0, 1000.0), [(b, 1) for b in BATCHES], every=1)
    late = Observation("late", 125, 1, 0.5, None, 1500, math.inf)
    assert fit_law(study, residuals="absolute").lack_of_fit_p is not None
    cut = fit_law([*study, late], residuals="absolute")
    assert (cut.lack_of_fit_p, cut.n_left_out) == (None, 1)
    assert fit_law([*study, late]).lack_of_fit_p is not None


def test_runs_of_other_minibatches_are_no_seeds_of_each_other():
    """Twice the steps at one size: as seeds they scatter, as runs of other updates per step nothing repeats."""
    runs = [Observation(f"b{b}", b, 1, 0.5, s, s, s) for b in BATCHES for s in [100 + 1e5 / b]]
    twin = dataclasses.replace(runs[-1], run="twin", at=220.0, after=220.0, by=220.0)
    assert fit_law([*runs, twin]).lack_of_fit_p is not None
    assert fit_law([*runs, dataclasses.replace(twin, updates_per_step=4)]).lack_of_fit_p is None

import dataclasses
import math

import numpy as np
import pytest
from simulated_studies import BATCHES, simulated, total_law

from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.observations import Observation

SIZES = [(b, 1) for b in BATCHES]


def study(seed=0, *, s_min=100.0, b_noise=1000.0, target=0.5, **settings):
    return simulated(np.random.default_rng(seed), total_law(s_min, b_noise), SIZES, target=target, **settings)


def later(observations, target, factor):
    """The same runs at a target that each of them takes `factor` times as long to."""
    return [
        dataclasses.replace(o, target=target, at=o.at and factor * o.at, after=factor * o.after, by=factor * o.by)
        for o in observations
    ]


def test_one_fit_per_target_ascending_then_one_of_all_of_them_group_by_group():
    first = [dataclasses.replace(o, group="b") for o in [*later(study(), 0.7, 2), *study()]]
    fits = fit_targets([*first, *study(1)])
    assert [(f.group, f.target) for f in fits] == [("b", 0.5), ("b", 0.7), ("b", None), ("", 0.5)]


def test_a_second_target_of_the_same_runs_adds_no_certainty():
    """Exactly twice the steps everywhere is nothing new: the same B_noise, the same interval, S_min twice as large."""
    single, _, joint = fit_targets([*study(), *later(study(), 0.7, 2)])
    for name in ("value", "low", "high"):
        assert getattr(joint.fit.b_noise, name) == pytest.approx(getattr(single.fit.b_noise, name), rel=5e-3)
        at_half, at_most = (getattr(joint.s_min_by_target[t], name) for t in (0.5, 0.7))
        assert at_half == pytest.approx(getattr(single.fit.s_min, name), rel=0.03)  # the ends a little wider
        assert at_most == pytest.approx(2 * at_half, rel=5e-3)
    assert joint.fit.s_min is None
    assert (joint.fit.n_runs, joint.fit.n_reached) == (21, 42)
    assert joint.fit.lack_of_fit_p == pytest.approx(1, abs=1e-3)
    assert joint.fit.resolved


def test_the_joint_curve_is_in_units_of_each_targets_own_s_min():
    joint = fit_targets([*study(), *later(study(), 0.7, 2)])[-1].fit
    assert joint.steps(joint.b_noise.value, 1) == pytest.approx(2)
    low, high = joint.band([125, 1000], 1)
    assert (low < joint.steps([125, 1000], 1)).all()
    assert (joint.steps([125, 1000], 1) < high).all()


def test_targets_that_share_no_run_have_a_level_each():
    """8 runs at one target and 8 others at a second: 16 - 1 (B_noise) - 2 levels; of shared runs 8 - 2."""
    sizes = [(b, 1) for b in BATCHES[:4] for _ in range(2)]
    first = [Observation(f"a{k}", b, 1, 0.5, s, s, s) for k, (b, _) in enumerate(sizes) for s in [100 + 1e5 / b + k]]
    others = [dataclasses.replace(o, run=f"b{k}", target=0.7) for k, o in enumerate(first)]
    assert fit_targets([*first, *others])[-1].fit.curve.n_free == 13
    assert fit_targets([*first, *later(first, 0.7, 2)])[-1].fit.curve.n_free == 6
    assert fit_targets([*first, *others, *later(first, 0.7, 2)])[-1].fit.curve.n_free == 14  # all are linked


def test_a_run_alone_at_a_target_of_its_own_adds_no_certainty():
    alone = Observation("alone", 500, 1, 0.7, 900, 875, 900)
    single, _, joint = fit_targets([*study(), alone])
    for name in ("value", "low", "high"):
        assert getattr(joint.fit.b_noise, name) == pytest.approx(getattr(single.fit.b_noise, name), rel=0.02)


def test_targets_of_other_critical_batches_refuse_a_joint_law():
    joint = fit_targets([*study(b_noise=300.0), *study(1, b_noise=3000.0, target=0.7)])[-1].fit
    assert joint.lack_of_fit_p < 0.01
    assert not joint.resolved
    assert "prefer different" in joint.reason


def test_a_target_that_no_run_reached_is_said_to_be_so_and_left_out_of_the_joint_law():
    never = [Observation(o.run, o.n_prompts, 1, 0.9, None, 1500, math.inf, o.seed) for o in study()]
    single, none, joint = fit_targets([*study(), *never])
    assert none.fit.reason.startswith("none of 21 runs reached the target")
    assert math.isnan(none.fit.b_noise.value)
    assert np.isnan(none.fit.steps([1, 2], 1)).all()
    assert joint.fit.b_noise.value == pytest.approx(single.fit.b_noise.value, rel=1e-4)
    assert math.isnan(joint.s_min_by_target[0.9].value)


def test_targets_that_no_run_reached_have_neither_a_law_nor_a_joint_one():
    never = [Observation(f"b{b}", b, 1, t, None, 1500, math.inf) for b in BATCHES for t in (0.8, 0.9)]
    *single, joint = fit_targets(never)
    assert [f.fit.s_min.high for f in single] == [math.inf, math.inf]
    assert joint.fit.s_min is None
    assert math.isnan(joint.s_min_by_target[0.8].value)
    assert not joint.fit.resolved


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="no observations to fit"):
        fit_targets([])


def test_targets_with_intervals_apart_have_no_one_b_noise():
    """The joint test counts runs and may miss it: the same luck at every target, and B_noise doubles on the way."""
    growing = [o for t, b in enumerate((600.0, 800.0, 1000.0, 1300.0)) for o in study(b_noise=b, target=0.5 + 0.1 * t)]
    *fits, joint = fit_targets(growing)
    assert all(f.fit.resolved for f in fits)
    assert fits[0].fit.b_noise.high < fits[-1].fit.b_noise.low
    assert joint.fit.lack_of_fit_p > 0.01
    assert not joint.fit.resolved
    assert "no one B_noise" in joint.fit.reason
    assert joint.fit.is_refused


def test_a_target_whose_law_the_seeds_refuse_refuses_the_joint_one():
    sizes = [(b, 1) for b in BATCHES for _ in range(3)]
    straight = [  # S ~ B^(-1/2) with hardly any spread: no hyperbola
        Observation(f"{b} {i}", b, 1, 0.7, s, s, s, seed=i)
        for i, (b, _) in enumerate(sizes)
        for s in [20_000 / b**0.5 * (1 + 0.002 * (i % 3))]
    ]
    _, refused, joint = fit_targets([*study(), *straight])
    assert refused.fit.lack_of_fit_p < 0.01
    assert not joint.fit.resolved
    assert "0.7" in joint.fit.reason or "prefer different" in joint.fit.reason

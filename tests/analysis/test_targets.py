"""When a run reached an accuracy."""

import math

import numpy as np
import pytest

from rlvr_jax.analysis.targets import Crossing, first_crossing


def test_a_target_between_two_evaluations_is_interpolated():
    # 0.6 lies half way from 0.4 at 10 to 0.8 at 20
    crossing = first_crossing([0, 10, 20], [0.2, 0.4, 0.8], 0.6)
    assert (crossing.target, crossing.after, crossing.by) == (0.6, 10, 20)
    assert math.isclose(crossing.updates, 15.0)


def test_a_target_met_exactly_is_met_at_that_evaluation():
    assert first_crossing([0, 10, 20], [0.25, 0.5, 0.75], 0.5) == Crossing(0.5, 10.0, 0, 10)


def test_a_target_met_at_the_start_counts_as_the_start():
    assert first_crossing([0, 10], [0.5, 0.75], 0.25) == Crossing(0.25, 0, None, 0)


def test_a_target_never_met_is_after_the_last_evaluation():
    assert first_crossing([0, 10, 20], [0.25, 0.5, 0.5], 0.75) == Crossing(0.75, None, 20, None)


def test_of_several_crossings_the_first_one_counts():  # up through 0.5 at 5, down, and up again
    assert first_crossing([0, 10, 20, 30], [0.25, 0.75, 0.25, 1.0], 0.5) == Crossing(0.5, 5.0, 0, 10)


def test_a_run_without_evaluations_has_no_crossing():
    assert first_crossing([], [], 0.5) is None


def test_updates_without_their_accuracies_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        first_crossing([0, 10], [0.25], 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_the_crossing_is_where_the_drawn_line_first_meets_the_target(seed):
    rng = np.random.default_rng(seed)
    updates = np.cumsum(rng.integers(1, 10, size=12)).tolist()
    accuracies, target = rng.random(12).tolist(), 0.8
    crossing = first_crossing(updates, accuracies, target)

    first = None  # slowly: walk along the line in steps of 1/1000 update
    for i in range((updates[-1] - updates[0]) * 1_000 + 1):
        x = updates[0] + i / 1_000
        if np.interp(x, updates, accuracies) >= target:
            first = x
            break
    if first is None:
        assert crossing.updates is None
        return
    assert abs(crossing.updates - first) <= 0.001
    assert (updates[0] if crossing.after is None else crossing.after) <= crossing.updates <= crossing.by
    n_seen = updates.index(crossing.by) + 1  # a run that was cut after it has the same crossing
    assert first_crossing(updates[:n_seen], accuracies[:n_seen], target) == crossing

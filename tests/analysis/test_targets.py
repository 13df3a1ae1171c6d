"""When a run reached an accuracy."""

import math

import numpy as np
import pytest
from written_runs import write_rows, write_run

from rlvr_jax.analysis.read_runs import find_runs
from rlvr_jax.analysis.targets import Crossing, evaluations, first_crossing, trailing_mean


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


def test_a_trailing_mean_worked_by_hand():  # .2; (.2 + .4) / 2; (.2 + .4 + .9) / 3; (.4 + .9 + .2) / 3
    np.testing.assert_allclose(trailing_mean([0.2, 0.4, 0.9, 0.2], 3), [0.2, 0.3, 0.5, 0.5])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_trailing_mean_looks_ahead_at_nothing(n):
    values = np.random.default_rng(0).random(12).tolist()
    whole = trailing_mean(values, n)
    assert all(trailing_mean(values[: i + 1], n)[i] == whole[i] for i in range(12))
    if n == 1:
        assert whole == values


def test_smoothing_takes_a_lucky_evaluation_for_less(tmp_path):
    # 0.9 at 4 is luck: means of two are .2 .3 .65 .6 .5, so 0.6 lies 6/7 of the way from 2 to 4
    write_run(tmp_path, point="p", accuracies=(0.2, 0.4, 0.9, 0.3, 0.7))
    (record,) = find_runs([tmp_path])
    assert math.isclose(evaluations(record).crossing(0.6).updates, 2.8)
    smoothed = evaluations(record, smooth=2).crossing(0.6)
    assert (smoothed.after, smoothed.by) == (2, 4)
    assert math.isclose(smoothed.updates, 2 + 2 * 6 / 7)


def test_steps_and_rollouts_are_those_of_the_rows(tmp_path):
    # not as planned: 2 steps and 100 rollouts by update 2, 5 and 180 by update 4; 0.6 is half way
    folder = write_run(tmp_path, point="p")
    rows = [
        {"update": u, "step": s, "rollouts": r, "eval/digits/pass@1": a}
        for u, s, r, a in ((0, 0, 0, 0.2), (2, 2, 100, 0.4), (4, 5, 180, 0.8))
    ]
    write_rows(folder / "evals.jsonl", rows)
    (record,) = find_runs([tmp_path])
    found = evaluations(record)
    updates = found.crossing(0.6).updates
    np.testing.assert_allclose([found.steps_at(updates), found.rollouts_at(updates)], [3.5, 140.0])


def test_steps_and_rollouts_that_rows_lack_are_those_of_the_plan(tmp_path):
    folder = write_run(tmp_path, point="p")  # 2 updates per step of 8 x 4
    write_rows(folder / "evals.jsonl", [{"update": u, "eval/digits/pass@1": a} for u, a in ((0, 0.2), (4, 0.8))])
    (record,) = find_runs([tmp_path])
    found = evaluations(record)
    assert (found.steps, found.rollouts) == ([0.0, 2.0], [0.0, 64.0])


@pytest.mark.parametrize("row", [{}, {"eval/digits/pass@1": None}, {"eval/digits/pass@1": "high"}])
def test_an_evaluation_without_its_number_is_skipped_and_counted(tmp_path, row):
    folder = write_run(tmp_path, point="p")
    good = [{"update": u, "eval/digits/pass@1": a} for u, a in ((0, 0.2), (6, 0.8))]
    write_rows(folder / "evals.jsonl", [good[0], {"update": 3} | row, good[1]])
    found = evaluations(find_runs([tmp_path])[0])
    assert (found.updates, found.n_skipped) == ([0.0, 6.0], 1)
    assert found.crossing(0.6).after == 0  # so the interval is as wide as what was seen


def test_rows_out_of_order_are_skipped_and_counted(tmp_path):
    folder = write_run(tmp_path, point="p")
    write_rows(folder / "evals.jsonl", [{"update": u, "eval/digits/pass@1": 0.5} for u in (0, 4, 2, 4, 6)])
    found = evaluations(find_runs([tmp_path])[0])
    assert (found.updates, found.n_skipped) == ([0.0, 4.0, 6.0], 2)

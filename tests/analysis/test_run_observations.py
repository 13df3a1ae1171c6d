"""From run directories to what the law is fitted to."""

import math

import pytest
from written_runs import write_run

from rlvr_jax.analysis.read_runs import find_runs
from rlvr_jax.analysis.run_observations import run_names, run_observations


def observed(tmp_path, *, unit="update", smooth=1):
    notes = []
    return run_observations(find_runs([tmp_path]), unit=unit, smooth=smooth, notes=notes), notes


def test_one_run_worked_by_hand_in_updates(tmp_path):
    # 2 updates per step of 8 x 4: a minibatch has 4 prompts; 0.4 at 2, 0.8 at 4: 0.6 at 3
    write_run(tmp_path, point="p", seed=5)
    (seen,), notes = observed(tmp_path)
    assert (seen.run, seen.n_prompts, seen.n_rollouts, seen.batch) == ("p", 4, 4, 16)
    assert seen.updates_per_step == 2
    assert (seen.target, seen.after, seen.by, seen.seed, seen.group) == (0.6, 2.0, 4.0, 5, "")
    assert math.isclose(seen.at, 3.0)
    assert notes == []


def test_one_run_worked_by_hand_in_steps(tmp_path):
    write_run(tmp_path, point="p")
    (seen,), _ = observed(tmp_path, unit="step")
    assert (seen.n_prompts, seen.batch, seen.after, seen.by) == (8, 32, 1.0, 2.0)
    assert math.isclose(seen.at, 1.5)


@pytest.mark.parametrize("status", ["finished", "stopped", "running"])
def test_a_run_that_did_not_get_there_was_later_than_its_last_evaluation(tmp_path, status):
    write_run(tmp_path, point="p", accuracies=(0.2, 0.4, 0.5), status=status)
    (seen,), _ = observed(tmp_path)
    assert (seen.at, seen.after, seen.by, seen.is_reached) == (None, 4.0, math.inf, False)


def test_an_unfinished_run_counts_where_it_got_there(tmp_path):
    write_run(tmp_path, point="p", status="running", **{"eval.targets": [0.6, 0.9]})
    low, high = observed(tmp_path)[0]
    assert (low.target, low.is_reached, high.target, high.is_reached) == (0.6, True, 0.9, False)


def test_a_target_met_before_training_says_nothing(tmp_path):
    write_run(tmp_path, point="p", accuracies=(0.6, 0.7, 0.8))
    seen, notes = observed(tmp_path)
    assert seen == []
    assert notes[0].startswith("1 run(s) were at 0.6 before training")


def test_a_target_met_at_the_first_evaluation_of_a_run_without_a_start_is_known_as_early(tmp_path):
    folder = write_run(tmp_path, point="p", accuracies=(0.2, 0.7, 0.8))
    lines = (folder / "evals.jsonl").read_text().splitlines(keepends=True)
    (folder / "evals.jsonl").write_text("".join(lines[1:]))
    (seen,), _ = observed(tmp_path)
    assert (seen.after, seen.by, seen.at) == (0.0, 2.0, 2.0)


def test_a_run_that_was_never_evaluated_after_its_start_is_no_observation(tmp_path):
    write_run(tmp_path, point="p", accuracies=(0.2,))
    assert observed(tmp_path)[0] == []


def test_observations_are_sorted_by_target_and_run(tmp_path):
    for point, split in (("b", (8, 4)), ("a", (4, 8))):
        write_run(tmp_path, point=point, split=split, **{"eval.targets": [0.7, 0.6]})
    assert [(seen.target, seen.run) for seen in observed(tmp_path)[0]] == [
        (0.6, "a"),
        (0.6, "b"),
        (0.7, "a"),
        (0.7, "b"),
    ]


def write_grid(root, *, finals):
    """8 x 4 at two rates, a seed per final accuracy: straight from 0.2 at 0 to it at 2."""
    for rate, of_rate in finals.items():
        for seed, final in enumerate(of_rate):
            more = {"optimizer.lr_rule": "grid", "optimizer.lr_grid": [1, 2], "optimizer.peak_lr": rate}
            write_run(root, point=f"p_{rate}_{seed}", seed=seed, accuracies=(0.2, final, final), **more)


def test_of_a_grid_the_rate_that_gets_there_first_counts(tmp_path):
    # 0.6 after .8 updates and after 1.33, mean 1.07, against 1 and 1
    write_grid(tmp_path, finals={0.1: [1.2, 0.8], 0.2: [1.0, 1.0]})
    seen, notes = observed(tmp_path)
    assert [one.run for one in seen] == ["p_0.2_0", "p_0.2_1"]
    assert notes[0].startswith("Learning rate that reached 0.6 first, on average over its runs: 8 x 4: 0.2 of 2.")


def test_a_rate_at_which_all_get_there_comes_before_one_that_is_sooner_for_some(tmp_path):
    write_grid(tmp_path, finals={0.1: [1.4, 0.5], 0.2: [0.7, 0.7]})
    assert [one.run for one in observed(tmp_path)[0]] == ["p_0.2_0", "p_0.2_1"]


def test_one_rate_for_all_is_no_grid(tmp_path):
    write_run(tmp_path, point="a", **{"optimizer.peak_lr": 1e-4})
    write_run(tmp_path, point="b", **{"optimizer.peak_lr": 1e-3})
    assert [one.group for one in observed(tmp_path)[0]] == ["optimizer.peak_lr=0.0001", "optimizer.peak_lr=0.001"]


@pytest.mark.parametrize(("unit", "smooth"), [("epoch", 1), ("update", 0)])
def test_what_cannot_be_counted_is_refused(tmp_path, unit, smooth):
    write_run(tmp_path, point="p")
    with pytest.raises(ValueError, match=unit if unit == "epoch" else "smooth=0"):
        observed(tmp_path, unit=unit, smooth=smooth)


def test_runs_of_one_name_are_told_apart(tmp_path):
    for root, study in (("x", "s"), ("y", "s"), ("z", "t")):
        write_run(tmp_path / root, point="p", study=study)
    write_run(tmp_path / "z", point="q", study="t")
    names = run_names(find_runs([tmp_path]))
    assert list(names.values()) == [str(tmp_path / "x" / "p"), str(tmp_path / "y" / "p"), "t/p", "q"]

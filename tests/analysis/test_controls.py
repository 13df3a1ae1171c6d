"""Which runs may share a table and a law."""

import pytest
from written_runs import write_run

from rlvr_jax.analysis.controls import controls, learning_rate_text
from rlvr_jax.analysis.read_runs import find_runs

SQRT = {"optimizer.lr_rule": "sqrt", "optimizer.lr_reference_rollouts": 32}
GRID = {"optimizer.lr_rule": "grid", "optimizer.lr_grid": [0.5, 1.0]}


def two(tmp_path, first=None, second=None, **both):
    """Runs a, 8 x 4, and b, 4 x 8."""
    write_run(tmp_path, point="a", **both | (first or {}))
    write_run(tmp_path, point="b", **{"split": (4, 8)} | both | (second or {}))
    return find_runs([tmp_path])


def labels(records):
    return list(controls(records).group_of.values())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"n_updates": 4}, {"n_updates": 8}),
        ({"noise.every_updates": 0}, {"noise.every_updates": 10}),
        ({"checkpoint.keep_newest": 1}, {"checkpoint.keep_newest": 2}),
        ({"batch.microbatch_prompts": 1}, {"batch.microbatch_prompts": 2}),
        ({"eval.every_updates": 2}, {"eval.every_updates": 4}),
        ({"study": "p1"}, {"study": "p2b"}),
        ({"seed": 0}, {"seed": 1}),
    ],
)
def test_what_does_not_change_a_run_does_not_part_it_from_others(tmp_path, first, second):
    found = controls(two(tmp_path, first, second))
    assert list(found.group_of.values()) == ["", ""]
    assert found.notes == []


def test_rates_of_an_extended_grid_are_one_grid(tmp_path):
    records = two(tmp_path, GRID, {"optimizer.lr_rule": "grid", "optimizer.lr_grid": [0.5, 1.0, 2.0]})
    assert labels(records) == ["", ""]
    assert learning_rate_text(records).startswith("grid of 3 rates")


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("optimizer.peak_lr", 1e-4, 1e-3),
        ("algo.kl_coef", 0.0, 0.1),
        ("algo.advantage", "rloo", "grpo"),
        ("batch.epochs_per_buffer", 1, 2),
        ("warmstart.seed", 0, 1),
        ("optimizer.lr_rule", "constant", "linear"),
    ],
)
def test_other_controls_are_groups_of_their_own_and_said(tmp_path, field, first, second):
    found = controls(two(tmp_path, {field: first}, {field: second}))
    assert list(found.group_of.values()) == [f"{field}={first}", f"{field}={second}"]
    assert found.notes[0].startswith(f"The runs differ in {field}: groups that are fitted apart")


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("task.operand_max", 10, 99),
        ("model.width", 8, 96),
        ("eval.n_samples", 1, 8),
        ("eval.temperature", 0.7, 1.0),
        ("eval.target_metric", "greedy", "pass@1"),
    ],
)
def test_accuracies_of_another_kind_cannot_share_a_table(tmp_path, field, first, second):
    with pytest.raises(ValueError, match=rf"the runs differ in {field} \({first}, {second}\) .*report them apart"):
        controls(two(tmp_path, {field: first}, {field: second}))


def test_one_rollout_has_the_batchs_mean_because_it_must(tmp_path):
    assert labels(two(tmp_path, {"algo.advantage": "rloo"}, {"algo.advantage": "batch_mean", "split": (32, 1)})) == [
        "",
        "",
    ]


def test_several_rollouts_with_the_batchs_mean_chose_it(tmp_path):
    found = labels(two(tmp_path, {"algo.advantage": "rloo"}, {"algo.advantage": "batch_mean"}))
    assert found == ["algo.advantage=rloo", "algo.advantage=batch_mean"]


def test_rates_of_a_grid_are_one_group(tmp_path):
    records = two(tmp_path, {"optimizer.peak_lr": 5e-4}, {"optimizer.peak_lr": 1e-3}, **GRID)
    assert labels(records) == ["", ""]
    assert learning_rate_text(records) == "grid of 2 rates at every batch size, the best of them at each target"


def test_a_schedule_that_ends_with_the_run_makes_its_length_matter(tmp_path):
    found = labels(two(tmp_path, {"n_updates": 4}, {"n_updates": 8}, **{"optimizer.schedule": "linear"}))
    assert found == ["optimizer.decay_updates=4", "optimizer.decay_updates=8"]


def test_a_field_that_an_older_version_did_not_write_is_said_and_parts_nothing(tmp_path):
    records = two(tmp_path, {"algo.kl_coef": 0.0})
    found = controls(records)
    assert list(found.group_of.values()) == ["", ""]
    assert found.notes == [
        "run.json of 1 run(s) (b) is of an older version without algo.kl_coef: taken to be as in the others, or as "
        "that version did it."
    ]


def test_other_starting_parameters_are_said(tmp_path):
    records = two(tmp_path, {"more": {"starting_params": "aa"}}, {"more": {"starting_params": "bb"}})
    assert "do not all have the same starting parameters (aa (1 run(s)), bb (1 run(s)))" in controls(records).notes[0]


def test_the_learning_rate_is_said_as_its_rule(tmp_path):
    assert learning_rate_text(two(tmp_path)) == "constant, 0.001 at every batch size"
    more = {"optimizer.lr_rule": None, "optimizer.peak_lr": None}  # an older version
    assert learning_rate_text(two(tmp_path / "old", **more)) == "constant, not recorded"
    assert learning_rate_text(two(tmp_path / "sqrt", **SQRT)) == (
        "sqrt, 0.001 at 32 rollouts per update and proportional to the square root of the batch"
    )

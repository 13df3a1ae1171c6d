"""Who may write into a run directory, and what it remembers of its start."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest

from rlvr_jax.train.batch_plan import batch_plan
from rlvr_jax.train.config import ConfigError, PlacementConfig, flat_fields, set_field
from rlvr_jax.train.run_directory import (
    FINISHED,
    JUDGE_FIELDS,
    MEMORY_FIELDS,
    RUNNING,
    STUDY_FIELDS,
    RunDirectoryError,
    check_same_config,
    is_placement_changed,
    locked,
    read_run,
    write_run,
)


def plan_of(config):
    data = {"n_train": 400, "n_heldout": 40, "longest_prompt_tokens": 7, "longest_completion_tokens": 4}
    data |= {"n_left_out": (0, 0), "n_long_prompts": 0, "max_positions": None}
    return batch_plan(config, **data, n_devices=1, n_parameters=1_000, n_trained_parameters=1_000)


def started_with(config, folder):
    """run.json as a run of `config` leaves it."""
    write_run(folder, config, plan_of(config), status=RUNNING, starting_params_hash="abc", task_data="")
    return read_run(folder)


def differences(config, run, folder=Path("runs/tiny/x")):
    try:
        check_same_config(config, run, folder)
    except ConfigError as error:
        return error.problems
    return []


def hold_for_a_moment(folder):
    with locked(folder):
        assert folder.is_dir()


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path):
    folder = tmp_path / "study" / "point"
    with locked(folder):
        for _ in range(2):  # the refused one does not free it
            with pytest.raises(RunDirectoryError, match=r"another process is running .*study/point; wait for it"):
                hold_for_a_moment(folder)
        hold_for_a_moment(tmp_path / "study" / "other")  # a neighbour is free
    hold_for_a_moment(folder)


def test_a_holder_that_fails_lets_go(tmp_path):
    with pytest.raises(FloatingPointError), locked(tmp_path):
        raise FloatingPointError
    hold_for_a_moment(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_with_the_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write .*choose another place with --runs=DIR"):
        hold_for_a_moment(tmp_path / "file" / "point")


def test_a_run_that_never_started_has_no_record(tmp_path):
    assert read_run(tmp_path) is None
    assert read_run(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", [b"", b'{"status": "run', b"\xff\xfe"])
def test_an_unreadable_record_is_refused_by_name(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"run\.json cannot be read .*delete .* to start over"):
        read_run(tmp_path)


def test_the_record_says_what_the_run_is_and_how_it_stands(tmp_path, tiny_config):
    plan = plan_of(tiny_config)
    write_run(
        tmp_path, tiny_config, plan, status=FINISHED, starting_params_hash="abc", task_data="", final={"greedy": 0.5}
    )
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["status"], run["study"], run["point"]) == ("finished", "tiny", "tiny_np8_nr4_s0")
    assert (run["starting_params"], run["final"]) == ("abc", {"greedy": 0.5})
    assert run["plan"] == json.loads(json.dumps(dataclasses.asdict(plan)))  # tuples are lists
    assert run["config"].keys() == flat_fields(tiny_config).keys()
    assert (run["config"]["batch.n_prompts"], run["config"]["eval.k"]) == (8, [1, 4])
    assert run["versions"]["jax"] == jax.__version__
    assert {"python", "numpy", "optax", "flax"} <= run["versions"].keys()
    assert (run["devices"]["platform"], run["devices"]["n"]) == ("cpu", jax.device_count())
    assert run["git_revision"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", run["git_revision"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]  # nothing half-written beside it


def test_the_record_is_replaced_when_the_run_goes_on(tmp_path, tiny_config):
    started_with(tiny_config, tmp_path)
    write_run(tmp_path, tiny_config, plan_of(tiny_config), status=FINISHED, starting_params_hash="abc", task_data="")
    assert read_run(tmp_path)["status"] == "finished"


def test_the_same_config_is_taken_up_again(tmp_path, tiny_config):
    assert differences(tiny_config, started_with(tiny_config, tmp_path)) == []  # though tuples came back as lists


def test_devices_may_be_arranged_in_another_way(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    assert not is_placement_changed(tiny_config, run)
    tiny_config.placement = PlacementConfig(data=2, fsdp=2, tensor=2)
    assert differences(tiny_config, run) == []
    assert is_placement_changed(tiny_config, run)


def test_a_grid_of_rates_may_be_extended_and_a_runs_own_rate_not_change(tmp_path, tiny_config):
    tiny_config.optimizer.lr_rule, tiny_config.optimizer.lr_grid = "grid", (0.5, 1.0)
    run = started_with(tiny_config, tmp_path)
    tiny_config.optimizer.lr_grid = (0.5, 1.0, 2.0)
    assert differences(tiny_config, run) == []
    tiny_config.optimizer.peak_lr *= 2
    assert len(differences(tiny_config, run)) == 1


def test_every_changed_field_is_named_with_both_values(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    for path, old in flat_fields(tiny_config).items():
        if (
            path == "n_updates"
            or path.startswith("placement.")
            or path in (*STUDY_FIELDS, *MEMORY_FIELDS, *JUDGE_FIELDS)
        ):
            continue
        new = (*old, 9) if isinstance(old, tuple) else "changed"
        old_json, new_json = (list(v) if isinstance(v, tuple) else v for v in (old, new))
        set_field(tiny_config, path, new)
        (problem,) = differences(tiny_config, run)
        assert problem.startswith(f"{path} was {old_json!r} when runs/tiny/x was started and is {new_json!r} now")
        set_field(tiny_config, path, old)


def test_a_judge_may_be_reached_in_another_way_but_not_asked_another_question(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    judge = tiny_config.task.judge
    judge.budget_requests, judge.concurrency, judge.base_url = 10_000, 2, "http://elsewhere/v1"
    assert differences(tiny_config, run) == []
    judge.question += " Be strict."
    assert [problem.split(" ")[0] for problem in differences(tiny_config, run)] == ["task.judge.question"]


def test_all_changes_are_named_at_once(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    tiny_config.n_updates, tiny_config.seed, tiny_config.batch.n_prompts = 2, 5, 16
    assert [problem.split(" ")[0] for problem in differences(tiny_config, run)] == [
        "batch.n_prompts",
        "seed",
        "n_updates=2",
    ]


def test_a_field_that_no_longer_exists_is_named(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    run["config"]["algo.forgotten"] = 0.5
    (forgotten,) = differences(tiny_config, run)
    assert forgotten.startswith("algo.forgotten was 0.5 ")
    assert " is None now" in forgotten


def test_a_run_of_an_earlier_version_is_told_from_changed_settings(tmp_path, tiny_config):
    run = started_with(tiny_config, tmp_path)
    del run["config"]["algo.kl_coef"]
    (message,) = differences(tiny_config, run)
    assert "an earlier version, which had no algo.kl_coef" in message


def test_updates_may_grow_and_not_shrink(tmp_path, tiny_config):  # started with 4
    run = started_with(tiny_config, tmp_path)
    tiny_config.n_updates = 8
    assert differences(tiny_config, run) == []
    tiny_config.n_updates = 3
    (problem,) = differences(tiny_config, run)
    assert problem.startswith("n_updates=3 is less than the 4 ")


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("decay_updates", "n_updates", "is_refused"), [(0, 8, True), (0, 4, False), (4, 8, False)])
def test_updates_may_not_grow_under_a_schedule_that_ends_with_them(
    tmp_path, tiny_config, schedule, decay_updates, n_updates, is_refused
):
    tiny_config.optimizer.schedule, tiny_config.optimizer.decay_updates = schedule, decay_updates
    run = started_with(tiny_config, tmp_path)
    tiny_config.n_updates = n_updates
    problems = differences(tiny_config, run)
    assert len(problems) == is_refused
    if is_refused:
        assert "n_updates grows from 4 to 8" in problems[0]
        assert "optimizer.decay_updates" in problems[0]

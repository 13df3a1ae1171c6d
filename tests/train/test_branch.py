"""A run that starts from another run's checkpoint."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from rows_of_run import exact_rows

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.branch import branch_problems, branch_state, recorded_trunks
from rlvr_jax.train.config import ConfigError, LoraConfig, set_field
from rlvr_jax.train.optimizer import adamw
from rlvr_jax.train.run_directory import RunDirectoryError
from rlvr_jax.train.saved_policy import saved_checkpoint, saved_state
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.stop import StopRequest
from rlvr_jax.train.study import run_study
from rlvr_jax.train.validate import validate

COUNTERS = ("update", "step", "prompts", "rollouts", "tokens")


@pytest.fixture(scope="module")
def plain(module_config):
    """Without measurements, which a branch begins at its own first update: they change rounding."""
    config = copy.deepcopy(module_config)
    config.noise.every_updates = 0
    return config


@pytest.fixture(scope="module")
def trunk(plain, start, tmp_path_factory):
    """4 updates of 8 prompts each, with the state after the second kept."""
    folder = tmp_path_factory.mktemp("trunk") / "point"
    start(plain, folder)
    return folder


@pytest.fixture
def branch_config(plain, trunk):
    """The trunk's own settings, from its second update on."""
    config = copy.deepcopy(plain)
    config.n_updates, config.start.checkpoint = 2, str(trunk / "checkpoints" / "2")
    return config


def without_counters(rows):
    return [{name: value for name, value in row.items() if name not in COUNTERS} for row in rows]


def test_a_branch_with_its_trunks_settings_is_the_trunk_going_on(trunk, branch_config, start, tmp_path):
    start(branch_config, tmp_path)
    rows, of_trunk = exact_rows(tmp_path), exact_rows(trunk)
    assert without_counters(rows) == without_counters(of_trunk[2:])  # prompts 16 to 31, their rollouts, no warm-up
    assert [row["prompts"] for row in rows] == [8, 16]  # its own, which is what it costs
    parts = assemble(branch_config)
    (branched, _), (gone_on, _) = (saved_state(branch_config, parts, folder) for folder in (tmp_path, trunk))
    for of_branch, wanted in ((branched.params, gone_on.params), (branched.opt_state, gone_on.opt_state)):
        jax.tree.map(np.testing.assert_array_equal, of_branch, wanted)
    kept = json.loads((tmp_path / "run.json").read_text())["trunk"]
    assert (kept["update"], kept["prompts"], kept["checkpoint"]) == (2, 16, branch_config.start.checkpoint)

    a_branch_of_it = copy.deepcopy(branch_config)
    a_branch_of_it.start.checkpoint = str(tmp_path)
    _, record = branch_state(a_branch_of_it, parts, "", tiny_optimizer(parts, branch_config))
    assert record["prompts"] == 32  # 16 of the trunk and 16 of the branch


def tiny_optimizer(parts, config):
    opt = config.optimizer
    return adamw(
        parts.layout.trained, lambda count: 1e-3, b1=opt.b1, b2=opt.b2, eps=opt.eps, momentum_dtype="float32",
        weight_decay=0.0, clip_norm=opt.clip_norm,
    )  # fmt: skip


def test_a_branch_with_several_updates_per_step_takes_its_prompts_in_its_trunks_order(plain, start, tmp_path):
    config = copy.deepcopy(plain)
    config.batch.minibatch_prompts, config.eval.every_updates = 4, 0  # 2 steps of 2 updates
    start(config, tmp_path / "trunk")
    config.n_updates, config.start.checkpoint = 2, str(tmp_path / "trunk" / "checkpoints" / "2")
    start(config, tmp_path / "branch")
    of_trunk = exact_rows(tmp_path / "trunk")
    assert without_counters(exact_rows(tmp_path / "branch")) == without_counters(of_trunk[2:])
    kept = json.loads((tmp_path / "branch" / "run.json").read_text())["trunk"]
    assert (kept["steps"], kept["prompts"]) == (1, 8)

    config.start.checkpoint = str(tmp_path / "branch")
    parts = assemble(config)
    _, record = branch_state(config, parts, "", tiny_optimizer(parts, config))
    assert record["steps"] == 2  # one of the trunk and one of the branch


def test_a_branch_goes_on_after_a_stop_even_when_its_trunk_is_gone(trunk, branch_config, start, tmp_path):
    copied = tmp_path / "trunk"
    shutil.copytree(trunk, copied)
    branch_config.start.checkpoint, branch_config.n_updates = str(copied / "checkpoints" / "2"), 1
    start(branch_config, tmp_path / "branch")
    shutil.rmtree(copied)
    branch_config.n_updates = 2
    start(branch_config, tmp_path / "branch")
    assert without_counters(exact_rows(tmp_path / "branch")) == without_counters(exact_rows(trunk)[2:])

    (tmp_path / "branch" / "run.json").unlink()  # then nobody knows which prompts come next
    branch_config.n_updates = 3
    with pytest.raises(RunDirectoryError, match=r"its run\.json does not say where it started"):
        start(branch_config, tmp_path / "branch")


def test_without_the_trunks_optimizer_the_warm_up_is_repeated_from_the_same_policy(
    trunk, branch_config, start, tmp_path
):
    branch_config.start.keeps_optimizer = False
    start(branch_config, tmp_path)
    rows, of_trunk = exact_rows(tmp_path), exact_rows(trunk)
    assert [row["optim/lr"] for row in rows] == pytest.approx([5e-4, 1e-3])
    for name in ("reward/mean", "policy/entropy", "optim/grad_norm"):  # of the same prompts, drawn with the same keys
        assert rows[0][name] == of_trunk[2][name]
    assert rows[0]["optim/update_norm"] != of_trunk[2]["optim/update_norm"]


def test_a_run_directory_stands_for_its_newest_checkpoint(trunk, branch_config):
    branch_config.start.checkpoint = str(trunk)
    parts = assemble(branch_config)
    state, record = branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config))
    assert (record["update"], record["prompts"], int(state.n_updates)) == (4, 32, 4)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.rope_theta", 50.0, "model.rope_theta was 100.0 and is 50.0 now"),
        ("warmstart.n_updates", 151, "warmstart.n_updates was 150 and is 151 now"),
        ("lora", LoraConfig(enabled=True, rank=2), "lora.enabled was False and is True now"),
        ("optimizer.clip_norm", 0.0, "optimizer.clip_norm was 1.0 and is 0.0 now"),
        ("optimizer.momentum_dtype", "bfloat16", "optimizer.momentum_dtype was 'float32' and is 'bfloat16' now"),
        ("task.name", "arithmetic", "task.name was 'digits' and is 'arithmetic' now"),
        ("task.operators", "+-", None),  # as after a stage of a curriculum
        ("batch.n_prompts", 4, None),
        ("optimizer.peak_lr", 1.0, None),
        ("optimizer.clip_norm", 2.0, None),
        ("lora.rank", 2, None),  # of no adapter
        (
            "start.checkpoint",
            "nowhere",
            "start.checkpoint=nowhere is neither a run directory nor a folder of its checkpoints/; train",
        ),
    ],
)
def test_a_trunk_of_another_model_start_or_optimizer_is_refused(branch_config, field, value, words):
    if field == "lora":
        branch_config.lora = value
    else:
        set_field(branch_config, field, value)
    problems = branch_problems(branch_config, assemble(branch_config))
    assert problems == [] if words is None else words in problems[0]


def test_a_folder_without_a_checkpoint_or_a_run_is_refused(trunk, branch_config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    branch_config.start.checkpoint = str(tmp_path)
    assert (
        "has no run.json, which would say what was trained"
        in branch_problems(branch_config, assemble(branch_config))[0]
    )
    shutil.copy(trunk / "run.json", tmp_path)
    assert "has no checkpoint yet" in branch_problems(branch_config, assemble(branch_config))[0]


def changed_copy(trunk, folder, **changes):
    """The trunk with another record and checkpoints of the same names."""
    shutil.copytree(trunk, folder)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | changes))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer": {"name": "char"}}, "was trained with another tokenizer ({'name': 'char'} -> "),
        ({"task_data": "of others"}, "was trained with another data than those of task 'digits' now (of others -> "),
        ({"status": "running"}, "is running, and its newest checkpoint may soon be another; let it finish, or name"),
        ({"status": "stopped"}, "is stopped, and its newest"),
        (
            {"config": None, "point": 3},
            "run.json is not of a run of this program, or of an older one: it has no point, c",
        ),
    ],
)
def test_a_trunk_that_is_not_finished_or_reads_other_text_is_refused(trunk, branch_config, tmp_path, changes, words):
    branch_config.start.checkpoint = changed_copy(trunk, tmp_path / "other", **changes)
    assert words in branch_problems(branch_config, assemble(branch_config))[0]


def test_a_checkpoint_of_a_trunk_that_is_not_finished_may_be_named(trunk, branch_config, tmp_path):
    named = Path(changed_copy(trunk, tmp_path / "other", status="running")) / "checkpoints"
    branch_config.start.checkpoint = str(named / "2")
    assert branch_problems(branch_config, assemble(branch_config)) == []
    for missing in (3, 9):
        branch_config.start.checkpoint = str(named / str(missing))
        (named / "9").mkdir(exist_ok=True)  # not complete
        (problem,) = branch_problems(branch_config, assemble(branch_config))
        assert f"has no complete checkpoint of update {missing}; it has [2, 4]" in problem


@pytest.mark.parametrize("text", ["{}", "[]", '{"config": {"optimizer.clip_norm": null}}', '{"a'])
def test_a_damaged_record_of_a_trunk_is_one_message_that_does_not_delete_it(trunk, branch_config, tmp_path, text):
    branch_config.start.checkpoint = changed_copy(trunk, tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text(text)
    (problem,) = branch_problems(branch_config, assemble(branch_config))
    assert "run.json" in problem
    assert "delete" not in problem


def test_all_branches_of_a_study_start_from_the_checkpoint_that_the_first_did(trunk, branch_config, tmp_path):
    branch_config.start.checkpoint = str(trunk)  # whose newest is of update 4
    parts = assemble(branch_config)
    state, record = branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config))
    (tmp_path / "study" / "first").mkdir(parents=True)
    first = {"trunk": record | {"update": 2}}
    (tmp_path / "study" / "first" / "run.json").write_text(json.dumps(first))
    others = recorded_trunks(branch_config, tmp_path / "study")
    assert [trunk["update"] for trunk in others] == [2]
    with pytest.raises(ConfigError, match=r"checkpoints/2 holds other weights .* than when other branches of study"):
        branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config), others=others)
    gone = [others[0] | {"update": 3}]
    (problem,) = branch_problems(branch_config, parts, gone)
    assert "has no complete checkpoint of update 3, where the other branches of this study started" in problem

    branch_config.start.checkpoint = str(trunk / "checkpoints" / "2")
    assert recorded_trunks(branch_config, tmp_path / "study") == []  # those are of another
    _, at_2 = branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config))
    branch_config.start.checkpoint = str(trunk)
    state, record = branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config), others=[at_2])
    assert (record["update"], record["params"], int(state.n_updates)) == (2, at_2["params"], 2)


def test_the_noise_averages_of_a_trunk_are_left_behind(trunk, branch_config, monkeypatch):
    parts = assemble(branch_config)
    saved, progress = saved_checkpoint(branch_config, parts, trunk, option="")
    averaged = saved.replace(noise=jax.tree.map(lambda leaf: leaf + 3, saved.noise))
    monkeypatch.setattr("rlvr_jax.train.branch.saved_checkpoint", lambda *_, **__: (averaged, progress))
    state, _ = branch_state(branch_config, parts, "", tiny_optimizer(parts, branch_config))
    fresh = initial_state(state.params, tiny_optimizer(parts, branch_config))
    assert jax.tree.leaves(state.noise)
    jax.tree.map(np.testing.assert_array_equal, state.noise, fresh.noise)


def test_an_adapter_needs_the_weights_that_its_trunk_lay_beside(branch_config):
    parts = dataclasses.replace(assemble(branch_config), lora=object())  # looked at before anything is read
    with pytest.raises(ConfigError, match="was started from other weights"):
        branch_state(branch_config, parts, "of others", None)


def test_a_point_that_has_started_is_not_asked_for_its_trunk(branch_config, tmp_path, monkeypatch):
    branch_config.start.checkpoint = "gone"
    folder = tmp_path / branch_config.study / branch_config.point_name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    monkeypatch.setattr("rlvr_jax.train.study.starting_weights", lambda *_: None)
    monkeypatch.setattr("rlvr_jax.train.study.run_point", lambda *_, **__: "finished")
    assert run_study([branch_config], tmp_path, stop=StopRequest(), say=lambda _: None) == [folder]


def test_a_penalty_to_the_initial_policy_needs_the_trunks(branch_config):
    branch_config.algo.kl_coef = 0.1
    parts = assemble(branch_config)
    with pytest.raises(ConfigError, match=r"was started from other weights \(.*\) than this config .*\(of others\)"):
        branch_state(branch_config, parts, "of others", tiny_optimizer(parts, branch_config))


def test_all_points_are_refused_before_the_first_starts(branch_config, tmp_path):
    other = copy.deepcopy(branch_config)
    other.seed, other.start.checkpoint = 1, str(tmp_path / "none")
    with pytest.raises(ConfigError, match="is neither a run directory"):
        run_study([branch_config, other], tmp_path / "runs", stop=StopRequest(), say=print)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer.schedule", "cosine", "goes on where the trunk's was; set optimizer.decay_updates"),
        ("task.stages", ("operand_max=3",), "start.checkpoint with task.stages"),
    ],
)
def test_what_would_count_from_the_branchs_own_start_is_refused(branch_config, field, value, words):
    set_field(branch_config, field, value)
    with pytest.raises(ConfigError) as refused:
        validate(branch_config)
    assert any(words in problem for problem in refused.value.problems)

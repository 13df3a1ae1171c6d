"""A run that starts from another run's checkpoint."""

import copy
import json
import shutil

import jax
import numpy as np
import pytest
from rows_of_run import exact_rows

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.branch import branch_problems, branch_state
from rlvr_jax.train.config import ConfigError, set_field
from rlvr_jax.train.optimizer import adamw
from rlvr_jax.train.run_directory import RunDirectoryError
from rlvr_jax.train.saved_policy import saved_state
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
        ("lora.enabled", True, "lora.enabled was False and is True now"),
        ("optimizer.clip_norm", 0.0, "optimizer.clip_norm was 1.0 and is 0.0 now"),
        ("optimizer.momentum_dtype", "bfloat16", "optimizer.momentum_dtype was 'float32' and is 'bfloat16' now"),
        ("batch.n_prompts", 4, None),
        ("optimizer.peak_lr", 1.0, None),
        ("optimizer.clip_norm", 2.0, None),
        ("lora.rank", 2, None),  # of no adapter
        ("start.checkpoint", "nowhere", "start.checkpoint=nowhere is neither a run directory nor a folder"),
    ],
)
def test_a_trunk_of_another_model_start_or_optimizer_is_refused(branch_config, field, value, words):
    set_field(branch_config, field, value)
    problems = branch_problems(branch_config)
    assert problems == [] if words is None else words in problems[0]


def test_a_folder_without_a_checkpoint_or_a_run_is_refused(branch_config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    branch_config.start.checkpoint = str(tmp_path)
    assert "has no run.json, which would say what was trained" in branch_problems(branch_config)[0]
    (tmp_path / "run.json").write_text('{"config": {}}')
    assert "has no checkpoint yet" in branch_problems(branch_config)[0]


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

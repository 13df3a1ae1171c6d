"""The files in configs/: their grids, their names, and that every point of theirs could run."""

import pytest
from absl import flags

from rlvr_jax.train import config as c
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.config_file import CONFIG_FOLDER, load_points
from rlvr_jax.train.slurm import slurm_script
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_noise import can_decompose

ROLLOUTS_PER_UPDATE = 2048
GRIDS = {  # of OLMo-2-1B: (n_prompts, n_rollouts)
    "p1": [(32, 8), (64, 8), (128, 8), (256, 8), (512, 8), (1024, 8)],
    "p2a": [(32, 16), (64, 16), (128, 16), (256, 16), (512, 16)],
    "p2b": [(128, 1), (128, 2), (128, 4), (128, 8), (128, 16), (128, 32), (128, 64)],
    "p2c": [(2048, 1), (1024, 2), (512, 4), (256, 8), (128, 16), (64, 32)],
}


def points_of(config, *overrides):
    return load_points(["bin/train", f"--config={config}", *overrides], flags.FlagValues())


def test_every_config_is_known_here():
    assert {path.stem for path in CONFIG_FOLDER.glob("[!_]*.py")} == {
        "smoke", "arithmetic", "gsm8k", "math", "wordle", "cbs_p4", "cbs_branch", *(f"cbs_{phase}" for phase in GRIDS),
    }  # fmt: skip


@pytest.mark.parametrize("phase", GRIDS)
def test_a_phase_runs_its_grid_under_the_published_controls(phase):
    points = points_of(f"cbs_{phase}.py")
    assert [(point.batch.n_prompts, point.batch.n_rollouts) for point in points] == GRIDS[phase]
    for point in points:
        validate(point)
        n_prompts, n_rollouts = point.batch.n_prompts, point.batch.n_rollouts
        assert point.point_name == f"cbs_{phase}_olmo1b_omi_np{n_prompts}_nr{n_rollouts}"
        assert point.minibatch_prompts * n_rollouts == min(ROLLOUTS_PER_UPDATE, n_prompts * n_rollouts)
        assert (point.optimizer.peak_lr, point.algo.kl_coef, point.batch.epochs_per_buffer) == (1e-6, 0.001, 1)
        assert (point.sampling.temperature, point.sampling.max_prompt_tokens) == (1.0, 1024)
        assert (point.sampling.max_new_tokens, point.seed, point.model.name) == (2048, 0, "olmo2-1b")
        assert point.algo.advantage == ("batch_mean" if n_rollouts == 1 else "grpo")


@pytest.mark.parametrize("phase", [*GRIDS, "p4"])
def test_every_tiny_point_is_valid_and_has_a_name_of_its_own(phase):
    points = points_of(f"cbs_{phase}.py:tiny")
    for point in points:
        validate(point)
    names = [point.point_name for point in points]
    assert len(set(names)) == len(names)
    assert {point.seed for point in points} == {0, 1, 2}
    assert all(name.startswith(f"cbs_{phase}_tiny_np") for name in names)


def test_the_last_phase_sweeps_learning_rates_with_reinforce_plus_plus():
    points = points_of("cbs_p4.py")
    for point in points:
        validate(point)
    assert [point.peak_lr for point in points] == [5e-7, 1e-6, 5e-6]
    assert {point.algo.advantage for point in points} == {"reinforce++"}
    assert points[0].point_name == "cbs_p4_olmo1b_math_np256_nr8_lr5e-07"
    tiny = points_of("cbs_p4.py:tiny", "--config.seed=2")
    assert [(point.point_name, point.peak_lr) for point in tiny] == [
        ("cbs_p4_tiny_np64_nr4_lr0.0001_s2", 1e-4),
        ("cbs_p4_tiny_np64_nr4_lr0.0002_s2", 2e-4),
        ("cbs_p4_tiny_np64_nr4_lr0.001_s2", 1e-3),
    ]


def test_the_small_iso_batch_study_trains_what_its_published_numbers_were_measured_with():
    for point in points_of("cbs_p2c.py:tiny"):
        assert (point.n_updates, point.peak_lr, point.optimizer.warmup_updates) == (120, 2e-4, 10)
        assert (point.noise, point.eval) == (c.NoiseConfig(every_updates=10), c.EvalConfig())


@pytest.mark.parametrize("phase", ["p1", "p2a", "p2b"])
def test_a_small_study_for_a_law_has_a_resolved_target_early_and_noise_where_it_can_be_measured(phase):
    for point in points_of(f"cbs_{phase}.py:tiny"):
        assert point.eval.every_updates <= 5
        assert len(point.eval.targets) >= 3
        assert point.noise.every_updates > 0
        assert can_decompose(point) == (point.batch.n_rollouts >= 4)


@pytest.mark.parametrize(("size", "n_seeds"), [("", 2), (":tiny", 5)])
def test_branches_draw_equally_many_rollouts_from_one_checkpoint_and_are_evaluated_at_the_same(size, n_seeds):
    points = points_of(f"cbs_branch.py{size}")
    for point in points:
        validate(point)
        assert point.n_updates % point.eval.every_updates == 0
    (trunk,) = points_of(f"cbs_branch.py:{'tiny_' if size else ''}trunk")
    validate(trunk)
    assert {point.start.checkpoint for point in points} == {f"runs/{trunk.study}/{trunk.point_name}"}
    assert len({point.n_updates * point.rollouts_per_update for point in points}) == 1
    assert {point.n_updates // point.eval.every_updates for point in points} == {4}
    batches = [point.rollouts_per_update for point in points]
    assert all(batches.count(batch) == n_seeds for batch in batches)
    # the trunk's own rate at the trunk's own batch, and the root of the ratio elsewhere
    rates = {point.rollouts_per_update: point.peak_lr for point in points}
    assert rates[trunk.rollouts_per_update] == pytest.approx(trunk.peak_lr)
    assert rates[4 * trunk.rollouts_per_update] == pytest.approx(2 * trunk.peak_lr)


@pytest.mark.parametrize("phase", [*GRIDS, "p4", "branch"])
def test_each_phase_has_a_slurm_script_with_a_task_per_point(phase, tmp_path):
    points = points_of(f"cbs_{phase}.py")
    script = slurm_script(points, ["bin/train"], folder=tmp_path, hours=24.0, gpus=1, nodes=1)
    assert f"#SBATCH --array=0-{len(points) - 1}\n" in script
    assert all(f"#   {number} {point.point_name}\n" in script for number, point in enumerate(points))


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_data_sets_config_runs_at_both_sizes_and_no_other(name):
    for argument, model in (("", "olmo2-1b"), (":tiny", "builtin")):
        [point] = points_of(f"{name}.py{argument}")
        validate(point)
        assert (point.task.name, point.model.name) == (name, model)
        assert point.task.path == ("builtin:small" if argument else "")
    with pytest.raises(ConfigError, match=rf"{name}.py:big is unknown; use {name}.py:tiny"):
        points_of(f"{name}.py:big")


def test_a_shorter_run_keeps_every_point_of_the_grid():
    points = points_of("cbs_p1.py", "--config.n_updates=40")
    assert [point.n_updates for point in points] == [40] * 6


def test_another_size_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"cbs_p2b.py:small is unknown; use cbs_p2b.py:tiny"):
        points_of("cbs_p2b.py:small")

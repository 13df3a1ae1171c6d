"""What a study will cost, from a few steps of each of its points."""

import copy
import dataclasses

import jax
import pytest

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.log import EVALS_FILE, METRICS_FILE, NOISE_FOLDER, ROLLOUTS_FILE
from rlvr_jax.train.pilot import (
    N_STEPS,
    _bytes_of_point,
    _steps_between_saves,
    measured_times,
    pilot_config,
    pilot_study,
    refuse_several_processes,
)
from rlvr_jax.train.pilot_cost import PointCost, duration, save_cost, study_text
from rlvr_jax.train.stop import StopRequest

# steps of 2 s, but for what two programs take the first time, and 5 s more where the noise is measured
STEP_S = [60.0, 30.0, 2.0, 1.9, 7.0, 2.1, 2.0]
COST = PointCost(
    step_s=2.0, noise_s=5.0, evaluation_s=10.0, save_s=3.0, start_s=100.0, compile_s=600.0, step_tokens=1e6,
    n_steps=1000, n_measurements=20, n_evaluations=11, n_saves=30, n_bytes=2**29,
)  # fmt: skip


def rows(is_measured):
    noise = [{"perf/noise_s": 5.0} if is_measured and i in (0, 4) else {} for i in range(N_STEPS)]
    return [{"perf/step_s": s, "tokens": 700 * (i + 1)} | noise[i] for i, s in enumerate(STEP_S)]


def test_steps_are_timed_once_they_are_compiled_and_the_rest_of_a_run_is_its_start():
    times = measured_times(rows(is_measured=True), 150.0, 10.0)
    # 150 s less 7 steps of 2 s, 2 measurements of 5 s more, and 2 evaluations of 10 s
    assert times == {"step_s": 2.0, "noise_s": 5.0, "evaluation_s": 10.0, "start_s": 106.0, "step_tokens": 700.0}
    plain = measured_times(rows(is_measured=False), 150.0, 10.0)
    assert (plain["noise_s"], plain["start_s"]) == (0.0, 116.0)


def test_a_point_takes_its_start_and_each_thing_as_often_as_it_does_it():
    assert COST.run_s == 100 + 1000 * 2 + 20 * 5 + 11 * 10 + 30 * 3


def test_a_study_is_its_points_one_after_the_other():
    text = study_text([COST] * 3, compile_s=600.0, n_devices=4)
    # 3 * 2400 s + 600 s = 7800 s, on 4 devices 8.67 h; 3 * 1000 steps of 1e6 tokens; 3 halves of a GiB
    for words in ("3 run(s)", "2.2 h on 4 device(s)", "8.67 device-hours", "10 min of it", "3e+09 tokens", "1.5 GiB"):
        assert words in text


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_a_time_has_the_unit_that_a_person_would_choose(seconds, text):
    assert duration(seconds) == text


def test_a_pilot_sends_nothing_anywhere_and_measures_noise_twice_where_the_run_measures_it(tiny_config):
    tiny_config.log.wandb, tiny_config.eval.milestones = "online", (2,)
    tiny_config.optimizer.schedule = "linear"
    tiny_config.batch.minibatch_prompts = 4  # two updates per step
    piloted = pilot_config(tiny_config)
    assert (piloted.log.wandb, piloted.n_updates, piloted.noise.every_updates) == ("off", 14, 8)
    assert piloted.optimizer.decay_updates == tiny_config.n_updates  # the run's schedule, not one of 14 updates
    assert assemble(piloted).plan.n_noise_measurements == 2
    assert assemble(piloted).plan.n_evaluations == 2
    assert tiny_config.n_updates == 4


def test_a_pilot_says_what_each_point_and_all_will_take(tiny_config, tiny_params, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "rlvr_jax.train.pilot.starting_weights", lambda config, parts, stop: jax.tree.map(jax.numpy.copy, tiny_params)
    )
    # 100 steps of two updates; one in 25 is measured, in a pass of its own before its first update
    tiny_config.noise.every_updates, tiny_config.n_updates, tiny_config.eval.every_updates = 50, 200, 4
    tiny_config.batch.minibatch_prompts, tiny_config.checkpoint.every_updates = 4, 4
    second = copy.deepcopy(tiny_config)
    second.seed = 1
    said = []
    runs = tmp_path / "runs"
    folder = runs / second.study / second.point_name
    folder.mkdir(parents=True)
    finished = '{"status": "finished", "config": {"n_updates": 200}}'
    (folder / "run.json").write_text(finished)
    first_cost, second_cost = pilot_study(
        [tiny_config, second], runs, task_hours=1e-6, stop=StopRequest(), say=said.append
    )
    assert first_cost == second_cost  # seeds are timed once
    assert first_cost.compile_s > 0
    assert dataclasses.replace(first_cost, n_steps=0).run_s < first_cost.run_s
    # 100 steps, evaluated every second one and before the first, where it may be saved as the best; and the last
    assert (first_cost.n_steps, first_cost.n_evaluations, first_cost.n_saves) == (100, 51, 49)
    assert (first_cost.n_measurements, first_cost.noise_s > 0) == (4, True)
    assert 0 < first_cost.step_tokens <= 8 * 7 + 32 * 4
    assert (list(tmp_path.iterdir()), list(runs.iterdir())) == ([runs], [runs / "tiny"])
    heading, table, study, left, *tasks = said
    assert heading == f"pilot of {tiny_config.point_name}: 7 steps"
    assert [line.split()[:2] for line in table.splitlines()] == [["point", "runs"], [tiny_config.point_name, "2"]]
    assert study.startswith("the study, 2 run(s)")
    assert left.startswith(f"1 of them are finished in {runs}; the others take ")
    assert len(tasks) == 2
    assert "more than --slurm_hours=1e-06: it goes on in" in tasks[1]


def test_points_of_other_batches_or_rates_are_timed_apart_and_added_up(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("rlvr_jax.train.pilot.starting_weights", lambda config, parts, stop: None)
    monkeypatch.setattr(
        "rlvr_jax.train.pilot._point_cost",
        lambda config, *_: dataclasses.replace(COST, n_steps=config.batch.n_prompts, compile_s=3600.0),
    )
    points = [copy.deepcopy(tiny_config) for _ in range(4)]
    points[1].batch.n_prompts, points[2].optimizer.peak_lr, points[3].seed = 16, 1e-4, 1
    points[2].point = "another_rate"
    said = []
    costs = pilot_study(points, tmp_path / "runs", task_hours=24.0, stop=StopRequest(), say=said.append)
    assert [cost.n_steps for cost in costs] == [8, 16, 8, 8]
    assert len([text for text in said if text.startswith("pilot of")]) == 3  # seeds are one kind
    assert "3.0 h of it is compiling" in said[-1]  # an hour each


@pytest.mark.parametrize(("between_s", "cost"), [(100.0, 2.0), (5.0, 4.0), (0.0, 9.0)])
def test_a_save_also_costs_what_is_left_of_it_when_the_next_begins(between_s, cost):
    assert save_cost(2.0, 9.0, between_s=between_s) == cost  # 9 s on disk less those between


def test_a_save_of_every_fourth_update_comes_every_second_step_of_two(tiny_config):
    tiny_config.batch.minibatch_prompts, tiny_config.checkpoint.every_updates = 4, 4
    assert _steps_between_saves(tiny_config) == 2


def test_a_run_takes_the_room_of_its_checkpoints_rows_evaluations_sketches_and_samples(tiny_config, tmp_path):
    sizes = {"checkpoints/a": 1000, METRICS_FILE: 70, EVALS_FILE: 20, f"{NOISE_FOLDER}/b": 10, ROLLOUTS_FILE: 5}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    # of 4 updates 2 checkpoints, 4 rows of 70 / 7, 3 evaluations of 20 / 2, 2 measurements of 10 / 2, samples twice
    assert _bytes_of_point(tiny_config, assemble(tiny_config).plan, tmp_path) == 2000 + 40 + 30 + 10 + 10


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_a_task_of_no_time_is_refused_before_anything_is_timed(tiny_config, tmp_path, hours):
    with pytest.raises(ConfigError, match=r"--slurm_hours=.* must be a number of hours above 0"):
        pilot_study([tiny_config], tmp_path, task_hours=hours, stop=StopRequest(), say=print)


def test_a_branch_without_its_trunk_is_refused_before_anything_is_timed(tiny_config, tmp_path):
    tiny_config.start.checkpoint, said = "nowhere", []
    with pytest.raises(ConfigError, match=r"start\.checkpoint=nowhere is neither"):
        pilot_study([tiny_config], tmp_path, task_hours=24.0, stop=StopRequest(), say=said.append)
    assert said == []


def test_several_processes_are_refused():
    refuse_several_processes(1)
    with pytest.raises(ConfigError, match="--pilot runs in one process and this is one of 2"):
        refuse_several_processes(2)

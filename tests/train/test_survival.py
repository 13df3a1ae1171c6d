"""What happens to runs: stops, faults, damage, a full disk. A run that goes on is what it would have been."""

import copy
import dataclasses
import errno
import json
import signal

import jax
import numpy as np
import pytest
from rows_of_run import exact_rows

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.train import learner as learner_module
from rlvr_jax.train import log as log_module
from rlvr_jax.train import run as run_module
from rlvr_jax.train import sinks as sinks_module
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.learner import RewardError
from rlvr_jax.train.stop import Stopped, StopRequest


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, finished, module_config, start):
    stop = StopRequest()
    stop.ask(128 + signal.SIGTERM)  # as soon as the first step ends
    with pytest.raises(Stopped, match="after update 1") as caught:
        start(module_config, tmp_path, stop=stop)
    assert caught.value.exit_code == 143
    assert len(exact_rows(tmp_path)) == 1
    assert start(module_config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_rows_after_the_restored_update_are_cut(tmp_path, finished, module_config, start):
    shorter = copy.deepcopy(module_config)
    shorter.n_updates = 2
    start(shorter, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # what a killed process left past its checkpoint
        file.write('{"update": 3, "reward/mean": 99}\n{"update": 4, "rew')
    start(module_config, tmp_path)
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, finished, module_config, caplog, start):
    shorter = copy.deepcopy(module_config)
    shorter.n_updates = 3
    start(shorter, tmp_path)
    for file in (tmp_path / "checkpoints" / "3").rglob("*"):
        if file.is_file() and "ocdbt" in str(file):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert start(module_config, tmp_path) == "finished"
    assert "checkpoint of update 3 is damaged" in caplog.text
    assert (tmp_path / "checkpoints" / "damaged_3").is_dir()
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_a_loss_that_is_not_finite_stops_after_saving(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.optimizer.peak_lr, config.optimizer.warmup_updates = 1e30, 0
    with pytest.raises(FloatingPointError, match=r"update 2 was not finite .*after update 1 is saved.*peak_lr=1e\+30$"):
        start(config, tmp_path)
    assert [row["update"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]
    assert (tmp_path / "checkpoints" / "1").is_dir()
    assert json.loads((tmp_path / "run.json").read_text())["nonfinite_at_update"] == 2


def test_after_a_passing_fault_the_run_goes_on_as_if_it_had_not_been(
    tmp_path, finished, module_config, start, monkeypatch
):
    with_advantages, n_calls = learner_module.with_advantages, []

    def poisoned_at_update_3(*arguments):
        n_calls.append(1)
        batch = with_advantages(*arguments)
        return batch.replace(advantage_PR=batch.advantage_PR * np.float32("nan")) if len(n_calls) == 3 else batch

    config = copy.deepcopy(module_config)
    config.checkpoint.every_updates, config.checkpoint.keep_best = 0, 0  # the stop saves, nothing else has
    monkeypatch.setattr(learner_module, "with_advantages", poisoned_at_update_3)
    with pytest.raises(FloatingPointError, match="update 3 was not finite"):  # noise is measured there, too
        start(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["2"]
    monkeypatch.undo()
    assert start(config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_a_device_without_memory_stops_the_run_with_the_plan_and_what_was_saved(
    tmp_path, finished, module_config, start, monkeypatch
):
    update, n_calls = learner_module.Learner.update, []

    def exhausted_at_update_4(self, *arguments, **order):
        n_calls.append(1)
        if len(n_calls) == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return update(self, *arguments, **order)

    monkeypatch.setattr(learner_module.Learner, "update", exhausted_at_update_4)
    with pytest.raises(ConfigError, match=r"up to update 2 saved, ran out of .*RESOURCE_EXHAUSTED") as caught:
        start(module_config, tmp_path)
    assert "use batch.microbatch_prompts below 8" in str(caught.value)
    assert "backward pass" in str(caught.value)  # the plan's table
    assert json.loads((tmp_path / "run.json").read_text())["out_of_memory_after_update"] == 3
    monkeypatch.undo()
    config = copy.deepcopy(module_config)
    config.batch.microbatch_prompts, config.model.logprob_chunk_mib = 4, 1  # what the message asks for may change
    config.noise.chunk_mib = 1
    assert start(config, tmp_path) == "finished"
    rows, expected = exact_rows(tmp_path), exact_rows(finished)
    assert [row["update"] for row in rows] == [row["update"] for row in expected]
    assert rows[:2] == expected[:2]


def test_without_a_schedule_of_checkpoints_the_last_update_is_still_saved(tmp_path, finished, module_config, start):
    config = copy.deepcopy(module_config)
    config.checkpoint.every_updates, config.checkpoint.keep_best, config.n_updates = 0, 0, 2
    start(config, tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()
    config.n_updates = 4
    start(config, tmp_path)
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_a_kill_before_the_last_line_of_run_json_loses_no_result(tmp_path, finished, module_config, start, monkeypatch):
    monkeypatch.setattr(run_module._Run, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start(module_config, tmp_path)
    monkeypatch.undo()
    start(module_config, tmp_path)
    ended, whole = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path, finished))
    assert ended["final"] == whole["final"]
    assert ended["final"]["eval/digits/pass@4"] >= 0


def test_the_best_evaluated_policy_is_kept_beside_the_newest(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.checkpoint.every_updates, config.checkpoint.keep_newest, config.eval.every_updates = 3, 1, 1
    config.n_updates, config.optimizer.peak_lr = 8, 3e-2
    start(config, tmp_path)
    evals = {row["update"]: row["eval/digits/pass@1"] for row in read_rows(tmp_path / "evals.jsonl") if row["update"]}
    best = max(evals.values())
    kept = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    start_accuracy = next(read_rows(tmp_path / "evals.jsonl"))["eval/digits/pass@1"]
    assert 8 in kept
    assert best <= start_accuracy or any(evals[update] == best for update in kept)


def test_a_full_disk_loses_nothing_that_was_written(tmp_path, finished, module_config, monkeypatch, start):
    append = log_module._append

    def full_from_update_4(file, row):
        if row["update"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(file, row)

    monkeypatch.setattr(log_module, "_append", full_from_update_4)
    with pytest.raises(OSError, match="No space left"):
        start(module_config, tmp_path)
    assert exact_rows(tmp_path) == exact_rows(finished)[:3]
    monkeypatch.undo()
    assert start(module_config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_a_failing_view_is_counted_and_the_run_goes_on(tmp_path, finished, module_config, monkeypatch, start):
    def broken(*_args, **_kwargs):
        raise RuntimeError("no histograms today")

    monkeypatch.setattr(sinks_module.TensorBoardSink, "histogram", broken)
    assert start(module_config, tmp_path) == "finished"
    rows = exact_rows(tmp_path)
    assert [row["health/sink_errors"] for row in rows] == [0, 0, 2, 2]  # two histograms at update 2
    assert [row["reward/mean"] for row in rows] == [row["reward/mean"] for row in exact_rows(finished)]


@pytest.fixture
def poison(monkeypatch):
    """Makes the advantages of the updates it is called with NaN; counts on through a resume of the process."""
    with_advantages, n_calls = learner_module.with_advantages, []

    def poisoned(*updates: int):
        def advantages(*arguments):
            n_calls.append(1)
            batch = with_advantages(*arguments)
            is_bad = len(n_calls) in updates
            return batch.replace(advantage_PR=batch.advantage_PR * np.float32("nan")) if is_bad else batch

        monkeypatch.setattr(learner_module, "with_advantages", advantages)

    return poisoned


def test_a_skipped_update_changes_nothing_and_is_counted(tmp_path, module_config, start, poison):
    config = copy.deepcopy(module_config)
    config.optimizer.nonfinite, config.n_updates = "skip", 6
    poison(3)
    assert start(config, tmp_path) == "finished"
    rows = exact_rows(tmp_path)
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["health/n_nonfinite"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert [row["loss/total"] is None for row in rows] == [False, False, True, False, False, False]
    rates = [row["optim/lr"] for row in rows]  # warm-up of 2; the schedule counts what was applied
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    assert all(row["gns/trace_cov"] >= 0 for row in rows if "gns/trace_cov" in row)


def test_the_count_of_skipped_updates_survives_a_stop(tmp_path, module_config, start, poison):
    config = copy.deepcopy(module_config)
    config.optimizer.nonfinite, config.n_updates = "skip", 4
    poison(1)
    stop = StopRequest()
    stop.ask(143)
    with pytest.raises(Stopped):
        start(config, tmp_path, stop=stop)
    assert start(config, tmp_path) == "finished"
    assert [row["health/n_nonfinite"] for row in exact_rows(tmp_path)] == [1, 1, 1, 1]


def test_too_many_skipped_in_a_row_stop_the_run(tmp_path, module_config, start, poison):
    config = copy.deepcopy(module_config)
    config.optimizer.nonfinite, config.optimizer.max_skipped_in_a_row, config.n_updates = "skip", 1, 8
    poison(1, 3, 4, 5, 6, 7, 8)  # one in a row, then two
    with pytest.raises(FloatingPointError, match=r"2 updates in a row, up to 4.*max_skipped_in_a_row=1; .*is saved in"):
        start(config, tmp_path)
    assert [row["update"] for row in exact_rows(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "checkpoints" / "4").is_dir()


def test_a_time_limit_saves_and_says_so_with_its_own_exit_code(tmp_path, finished, module_config, start):
    stop = StopRequest()
    stop.limit(1.0)  # less than the margin for saving
    with pytest.raises(Stopped, match="after update 1") as caught:
        start(module_config, tmp_path, stop=stop)
    assert caught.value.exit_code == 75
    assert start(module_config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)


@pytest.fixture
def ungraded(monkeypatch):
    """Makes some prompts of some steps impossible to grade: {call of grade in training: prompts}."""

    def failing(prompts_of_call: dict[int, list[int]]):
        collected, n_calls = learner_module.collected, []

        def with_failures(*arguments, **settings):
            n_calls.append(1)
            task, bad = arguments[0], prompts_of_call.get(len(n_calls), [])

            class Failing:
                def grade(self, problems, texts):
                    grades = task.grade(problems, texts)
                    reward_PR = grades.reward_PR.copy()
                    reward_PR[bad] = np.nan
                    return dataclasses.replace(
                        grades, reward_PR=reward_PR, failures=tuple(f"prompt {p} broke it" for p in bad)
                    )

            return collected(Failing(), *arguments[1:], **settings)

        monkeypatch.setattr(learner_module, "collected", with_failures)

    return failing


def test_prompts_that_cannot_be_graded_are_left_out_and_counted(tmp_path, module_config, start, ungraded, caplog):
    ungraded({2: [5], 3: [0, 1]})
    assert start(module_config, tmp_path) == "finished"
    rows = exact_rows(tmp_path)
    assert [row["health/ungraded_prompts"] for row in rows] == [0, 1, 2, 0]
    assert [row["batch/n_kept_rollouts"] for row in rows] == [32, 28, 24, 32]
    assert all(0 <= row["reward/mean"] <= 1 and row["loss/total"] is not None for row in rows)
    assert "1 of 8 prompts could not be graded and are left out: prompt 5 broke it" in caplog.text
    assert rows[1]["batch/tokens"] < rows[1]["completions/mean_length"] * 32


def test_a_step_without_any_grade_stops_after_saving(tmp_path, finished, module_config, start, ungraded, monkeypatch):
    config = copy.deepcopy(module_config)
    config.checkpoint.every_updates, config.checkpoint.keep_best = 0, 0
    ungraded({4: list(range(8))})
    with pytest.raises(RewardError, match="not one of the 8 prompts of a step could be graded: prompt 0 broke it"):
        start(config, tmp_path)
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert json.loads((tmp_path / "run.json").read_text())["ungraded_after_update"] == 3
    monkeypatch.undo()
    assert start(config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)

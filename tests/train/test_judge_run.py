"""A run whose reward is partly a judge's, at a real server on this machine that fails for a while."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from judge_server import Reply, judge_server
from rows_of_run import exact_rows

from rlvr_jax.train import learner as learner_module
from rlvr_jax.train.config import TaskConfig
from rlvr_jax.train.config_file import load_points
from rlvr_jax.train.validate_task import task_problems

KEY = "sk-very-secret-1234"


@pytest.fixture
def config(module_config, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_TEST_KEY", KEY)
    config = copy.deepcopy(module_config)
    config.task.rewards, config.task.reward_weights = ("correct", "judge"), (1.0, 0.5)
    judge = config.task.judge
    judge.model, judge.api_key_env, judge.cache_folder = "wise-1", "JUDGE_TEST_KEY", str(tmp_path / "judge")
    judge.n_retries, judge.backoff_s = 0, 0.01
    return config


@pytest.fixture
def before_step(monkeypatch):
    """Calls a function with the number of each training step before it is graded, from 1."""

    def install(prepare):
        collected, n_steps = learner_module.collected, []

        def prepared(*arguments, **settings):
            n_steps.append(1)
            prepare(len(n_steps))
            return collected(*arguments, **settings)

        monkeypatch.setattr(learner_module, "collected", prepared)

    return install


def test_a_judge_that_is_down_for_a_step_costs_that_step_and_nothing_else(tmp_path, config, start, before_step, caplog):
    now = {"step": 0}

    def prepare(step):  # with nothing known from before
        now["step"] = step
        shutil.rmtree(config.task.judge.cache_folder, ignore_errors=True)
        Path(config.task.judge.cache_folder).mkdir()

    def reply(request, n):
        if now["step"] == 2:
            return Reply(status=500, body=f"down, and by the way your key is {KEY}")
        if now["step"] == 3:  # of the completions of a step, those that hold a 1
            completion = request["messages"][1]["content"].split("BEGIN ")[1].split("\n")[1]
            return Reply("I cannot say." if "1" in completion else "Score: 10")
        return Reply("Score: 10")

    before_step(prepare)
    with judge_server(reply) as server:
        config.task.judge.base_url = server.url
        assert start(config, tmp_path / "run") == "finished"
    rows = exact_rows(tmp_path / "run")
    failures = [row["health/judge_failures"] for row in rows]
    assert (failures[0], failures[1], failures[3]) == (0, 32, 0)
    assert 0 < failures[2] < 32
    assert [row["health/ungraded_rollouts"] for row in rows] == failures
    assert [row["batch/n_kept_rollouts"] for row in rows] == [32 - n for n in failures]
    assert rows[1]["batch/tokens"] == rows[1]["loss/total"] == 0
    assert [row["rewards/judge/mean"] for row in rows] == [1.0, None, 1.0, 1.0]
    assert rows[3]["reward/mean"] == pytest.approx(rows[3]["rewards/correct/mean"] + 0.5)
    assert "rollouts of 8 of 8 prompts could not be graded and are left out: judge wise-1: 4 of 4" in caplog.text
    assert "HTTP 500" in caplog.text
    evals = [json.loads(line) for line in (tmp_path / "run" / "evals.jsonl").read_text().splitlines()]
    assert evals[1]["update"] == 2
    assert evals[1]["eval/digits/ungraded_frac"] == 1.0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in caplog.text


def test_the_command_line_reaches_the_judges_settings(tmp_path):
    (tmp_path / "own.py").write_text(
        "from rlvr_jax.train.config import TrainConfig\nget_config = lambda arg: TrainConfig()\n"
    )
    argv = [
        "bin/train",
        f"--config={tmp_path / 'own.py'}",
        "--config.task.judge.model=wise",
        "--config.task.judge.timeout_s=5",
    ]
    (point,) = load_points(argv, flags.FlagValues())
    assert (point.task.judge.model, point.task.judge.timeout_s) == ("wise", 5.0)


def test_a_judge_that_no_reward_names_and_a_judge_that_cannot_be_asked_are_refused():
    task = TaskConfig(name="digits")
    task.judge.model = "wise"
    (problem,) = task_problems(task)
    assert problem == "task.judge.model is set, but task.rewards=() has no 'judge'; add it or leave that out"
    task.rewards, task.judge.model = ("judge",), ""
    assert task_problems(task) == ["task.judge.model='' must name the model that judges"]

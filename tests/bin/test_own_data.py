"""The README's example of one's own data and reward, word for word, and rewards that fail."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_command import ROOT, environment_of

BLOCK = re.compile(r"<!-- example: (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
EXAMPLE = dict(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The example's files, and the data its first command makes."""
    folder = tmp_path_factory.mktemp("own_data")
    for name, text in EXAMPLE.items():
        if name.endswith(".py"):
            (folder / name).write_text(text)
    subprocess.run([sys.executable, "make_words.py"], cwd=folder, check=True)
    return folder


def run(folder: Path, line: str) -> subprocess.CompletedProcess:
    program, *arguments = line.replace("RLVR_JAX", str(ROOT)).split()
    assert program == "python"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment_of(folder),
        text=True,
        capture_output=True,
        timeout=300,
    )


def rows(folder: Path, runs: str, name: str = "metrics.jsonl") -> list[dict]:
    [file] = (folder / runs / "reverse").glob(f"*/{name}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_example_of_the_readme_learns_and_reports(folder):
    assert set(EXAMPLE) == {"make_words.py", "my_rewards.py", "reverse.py", "commands"}
    for line in EXAMPLE["commands"].splitlines():
        done = run(folder, line)
        assert done.returncode == 0, done.stderr
    evals = rows(folder, "runs", "evals.jsonl")
    assert evals[-1]["eval/jsonl/pass@1"] > evals[0]["eval/jsonl/pass@1"] + 0.2
    assert rows(folder, "runs")[0]["rewards/letters_in_place/mean"] > 0
    assert (folder / "runs" / "reverse" / "report" / "comprehensive_summary.md").is_file()


BAD_REWARDS = """
import time

def right(completions, answer):
    return [float(text == answer) for text in completions]

def raises(prompt, completions, answer):
    if prompt[0] in "ab":
        raise RuntimeError("no such letter")
    return right(completions, answer)

def nan(prompt, completions, answer):
    scores = right(completions, answer)
    return [float("nan"), *scores[1:]] if prompt[0] in "ab" else scores

def wrong_length(prompt, completions, answer):
    return right(completions, answer)[prompt[0] in "ab":]

def hangs(prompt, completions, answer):
    if prompt[:2] == "aa":
        time.sleep(1000)
    return right(completions, answer)

def always_raises(completions):
    raise KeyError("typo")
"""
SHORT = (
    "--config=reverse.py --config.n_updates=3 --config.warmstart.enabled=False --config.eval.every_updates=0 "
    "--config.task.reward_limit_s=1 --config.eval.n_problems=8"
)


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        ("raises", "raised RuntimeError: no such letter (line 9 of bad_rewards.py)"),
        ("nan", "returned nan at index 0"),
        ("wrong_length", "returned 3 numbers for 4 completions"),
        ("hangs", "took longer than task.reward_limit_s=1 s"),
    ],
)
def test_a_reward_that_fails_is_named_and_its_prompts_are_left_out(folder, function, cause):
    (folder / "bad_rewards.py").write_text(BAD_REWARDS)
    done = run(
        folder, f"python RLVR_JAX/bin/train {SHORT} --runs={function} --config.task.rewards=('bad_rewards:{function}',)"
    )
    assert done.returncode == 0, done.stderr
    assert f"reward bad_rewards:{function} on prompt" in done.stderr
    assert cause in done.stderr
    assert "are left out" in done.stderr
    written = rows(folder, function)
    assert [row["update"] for row in written] == [1, 2, 3]
    assert sum(row["health/ungraded_prompts"] for row in written) > 0
    for row in written:
        assert row["batch/n_kept_rollouts"] == 4 * (32 - row["health/ungraded_prompts"])
        assert row["loss/total"] is not None


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("bad_rewards:always_raises", "not one of the 32 prompts of a step could be graded"),
        ("bad_rewards:rigth", "did you mean bad_rewards:right?"),
        ("bad_reward:right", "did you mean bad_rewards?"),
    ],
)
def test_a_reward_that_cannot_be_used_ends_the_run_with_its_name(folder, reward, message):
    (folder / "bad_rewards.py").write_text(BAD_REWARDS)
    done = run(folder, f"python RLVR_JAX/bin/train {SHORT} --runs=unusable --config.task.rewards=('{reward}',)")
    assert done.returncode == 1
    assert message in done.stderr
    assert reward.split(":")[1] in done.stderr or reward.split(":")[0] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.task.path=word.jsonl", "word.jsonl"),
        ("--config.task.template={wrod}>", "did you mean"),
        ("--config.task.answer_field=reverse", "did you mean"),
        ("--config.task.reward_weights=(1.0,2.0)", "task.reward_weights=(1.0, 2.0)"),
    ],
)
def test_data_that_cannot_be_used_is_one_message_with_the_fix(folder, override, message):
    done = run(folder, f"python RLVR_JAX/bin/train {SHORT} --runs=unusable {override}")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr

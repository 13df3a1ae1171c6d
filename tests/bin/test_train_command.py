"""bin/train as a person runs it: killed, terminated, misused."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from run_command import exact_rows, finish, run, start

CONFIG = """
from rlvr_jax.train import config as c

def get_config(arg=None):
    return c.TrainConfig(
        study="tiny", point="only", n_updates=int(arg or 40),
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=150, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        noise=c.NoiseConfig(every_updates=4, sketch_width=64),
        eval=c.EvalConfig(every_updates=20, n_problems=3, n_samples=4, k=(1, 4)),
        checkpoint=c.CheckpointConfig(every_updates=7),
    )
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a config, and caches of its own shared by this file's processes."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(study):
    code, said = run(study, "train", "--config=tiny.py", "--runs=whole")
    assert code == 0, said
    return study / "whole" / "tiny" / "only"


def wait_for_rows(path: Path, n: int) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_bytes().count(b"\n") < n:
        assert time.monotonic() < deadline, f"{path} never had {n} rows"
        time.sleep(0.002)


def test_the_plan_comes_before_anything_runs(study, uninterrupted):
    _, said = run(study, "train", "--config=tiny.py", "--runs=whole")
    assert "rollouts per step" in said
    assert "8 prompts x 4 rollouts" in said
    assert "already finished, skipped" in said


@pytest.mark.parametrize("n_rows", [1, pytest.param(12, marks=pytest.mark.slow), 30])
def test_killed_and_run_again_writes_the_same_metrics(study, uninterrupted, n_rows):
    runs = f"killed{n_rows}"
    process = start(study, "train", "--config=tiny.py", f"--runs={runs}")
    folder = study / runs / "tiny" / "only"
    wait_for_rows(folder / "metrics.jsonl", n_rows)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert len(exact_rows(uninterrupted)) == 40
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    code, said = run(study, "train", "--config=tiny.py", f"--runs={runs}")
    assert code == 0, said
    assert exact_rows(folder) == exact_rows(uninterrupted)


def test_sigterm_saves_and_exits_143(study, uninterrupted):
    process = start(study, "train", "--config=tiny.py", "--runs=terminated")
    folder = study / "terminated" / "tiny" / "only"
    wait_for_rows(folder / "metrics.jsonl", 9)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # schedulers send it more than once
    code, said = finish(process)
    assert code == 143
    assert "run the same command to go on" in said
    n_done = json.loads((folder / "run.json").read_text())["stopped_after_update"]
    assert (folder / "checkpoints" / str(n_done)).is_dir()
    assert len(exact_rows(folder)) == n_done
    assert run(study, "train", "--config=tiny.py", "--runs=terminated")[0] == 0
    assert exact_rows(folder) == exact_rows(uninterrupted)


def test_a_time_limit_saves_and_exits_75(study, uninterrupted):
    code, said = run(study, "train", "--config=tiny.py", "--runs=limited", "--max_hours=0.001")
    assert code == 75
    assert "after update 1; run the same command to go on" in said
    assert run(study, "train", "--config=tiny.py", "--runs=limited", "--max_hours=1")[0] == 0
    assert exact_rows(study / "limited" / "tiny" / "only") == exact_rows(uninterrupted)


@pytest.mark.parametrize(
    ("largest_file", "what"),
    [(20_000, "the checkpoint of update 7 could not be saved"), (1_000, "could not be saved|writing .* failed")],
)
def test_a_full_disk_ends_in_one_message_and_is_made_good_later(study, uninterrupted, largest_file, what):
    runs = f"full{largest_file}"
    code, said = run(study, "train", "--config=tiny.py", f"--runs={runs}", largest_file=largest_file)
    assert code == 1
    assert re.search(what, said), said
    assert "Traceback" not in said
    folder = study / runs / "tiny" / "only"
    n_rows = len(exact_rows(folder))
    assert exact_rows(folder) == exact_rows(uninterrupted)[:n_rows]
    assert run(study, "train", "--config=tiny.py", f"--runs={runs}")[0] == 0
    assert exact_rows(folder) == exact_rows(uninterrupted)


def test_a_second_process_on_the_same_point_is_refused(study):
    first = start(study, "train", "--config=tiny.py:400", "--runs=twice")
    wait_for_rows(study / "twice" / "tiny" / "only" / "metrics.jsonl", 1)
    code, said = run(study, "train", "--config=tiny.py:400", "--runs=twice")
    first.kill()
    first.communicate()
    assert code == 1
    assert "another process is running" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=tiny.py", "--config.batch.n_promts=4"], "did you mean config.batch.n_prompts?"),
        (["--config=tiny.py", "--config.batch.n_prompts=four"], "config.batch.n_prompts=four"),
        (["--config=tiny.py", "--config.batch.minibatch_prompts=3"], "use batch.n_prompts=6 or 9"),
        (["--config=tiny.py", "--config.batch.n_rollouts=1"], "use batch.n_rollouts=2 or more"),
        (["--config=tiny.py", "--config.sampling.max_new_tokens=0"], "sampling.max_new_tokens=0 must be at least 1"),
        (["--config=tiny.py", "--config.batch.n_prompts=64"], "is more than the 22 training problems"),
        (["--config=tiny.py", "--runs=whole", "--config.optimizer.peak_lr=0.5"], "optimizer.peak_lr was 0.0001"),
        (["--config=tiny.py", "--max_hours=-1"], "--max_hours=-1.0 must be a number of hours above 0"),
        (["--config=tiny.py", "--runs=/proc/nowhere"], "cannot write the run directory"),
        (["--config=tiny.py", "--runs=bad", "--config.optimizer.peak_lr=1e38"], "was not finite"),
        (["--config=tiny.py", "--config.model.name=olmo2-1bb"], "did you mean 'olmo2-1b'?"),
        (["--config=tiny.py", "--poin=only"], "poin"),
        (["--config=tiny.py", "--point=onl"], "did you mean only?"),
        ([], "--config=FILE is missing"),
    ],
)
def test_bad_input_is_one_clear_message_and_a_failing_exit(study, uninterrupted, arguments, message):
    before = exact_rows(uninterrupted)
    code, said = run(study, "train", *arguments)
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert exact_rows(uninterrupted) == before


def test_checkpoints_that_cannot_be_read_are_named(study, uninterrupted):
    run(study, "train", "--config=tiny.py", "--runs=damaged")
    folder = study / "damaged" / "tiny" / "only"
    for file in (folder / "checkpoints").rglob("*"):
        if file.is_file() and "ocdbt" in str(file):
            file.write_bytes(b"")
    code, said = run(study, "train", "--config=tiny.py:60", "--runs=damaged")
    assert code == 1
    assert "none of the checkpoints in" in said
    assert "Traceback" not in said
    assert exact_rows(folder) == exact_rows(uninterrupted)  # nothing written was touched


def test_evaluate_reads_a_checkpoint(study, uninterrupted):
    arguments = ["--config", "tiny.py", "--json=e.json", "--checkpoint", str(uninterrupted), "--k", "1,4"]
    code, said = run(study, "evaluate", *arguments)
    assert code == 0, said
    got = json.loads((study / "e.json").read_text())
    last = [json.loads(line) for line in (uninterrupted / "evals.jsonl").read_text().splitlines()][-1]
    assert {k: v for k, v in got.items() if k.startswith("eval/")} == {
        k: v for k, v in last.items() if k.startswith("eval/")
    }
    assert "update 40: 3 held-out problems, 4 samples each\nproblems " in said
    (added,) = (uninterrupted / "evaluations" / "evals.jsonl").read_text().splitlines()
    assert json.loads(added) == {"update": 40, **got}
    assert list((uninterrupted / "evaluations").glob("events.out.tfevents.*"))

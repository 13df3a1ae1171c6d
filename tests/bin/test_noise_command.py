"""bin/noise as a person runs it: measured, killed, terminated, misused."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from run_command import finish, run, start

CONFIG = """
from rlvr_jax.train import config as c

def get_config(arg=None):
    return c.TrainConfig(
        study="tiny",
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=150, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        eval=c.EvalConfig(n_problems=3, n_samples=4, k=(1, 4)),
        noise=c.NoiseConfig(sketch_width=64),
    )
"""
SIZE = ("--config=tiny.py", "--n_prompts=20", "--n_rollouts=4", "--prompts_per_chunk=1")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a config and a cached warm start, shared by this file's processes."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.py").write_text(CONFIG)
    return folder


def measured(folder: Path) -> tuple[dict, dict]:
    """noise.json, and every array of every .npz file."""
    result = json.loads((folder / "noise.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    result.pop("folder")
    arrays = {
        path.name: {name: leaf.tobytes() for name, leaf in np.load(path).items()} for path in folder.glob("*.npz")
    }
    return result, arrays


@pytest.fixture(scope="module")
def uninterrupted(study):
    code, said = run(study, "noise", *SIZE, "--json=copy.json", "--cost_per_prompt=2", "--cost_per_rollout=1")
    assert code == 0, said
    return study / "runs" / "tiny" / "noise" / "start_np20_nr4_s0", said


def wait_for_chunk(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 200
    while not (folder / f"chunk_{number:05d}.npz").exists():
        assert time.monotonic() < deadline, f"{folder} never had chunk {number}"
        time.sleep(0.002)


def test_the_table_is_printed_and_everything_written(study, uninterrupted):
    folder, said = uninterrupted
    assert "20 prompts x 4 rollouts of the starting policy of tiny, 1 prompt(s) at a time" in said
    assert "Where S comes from, at 4 rollouts per prompt" in said
    assert "least noise at a fixed cost, 2 per prompt and 1 per rollout" in said
    assert f"result, figure and all that was measured: {folder.relative_to(study)}" in said
    assert (folder / "noise.png").read_bytes().startswith(b"\x89PNG")
    copy = json.loads((study / "copy.json").read_text())
    assert copy == json.loads((folder / "noise.json").read_text())
    assert copy["total"]["trace_cov_group"] > 0
    assert len(list(folder.glob("chunk_*.npz"))) == 20


def test_killed_and_run_again_it_measures_the_same(study, uninterrupted):
    process = start(study, "noise", *SIZE, "--out=killed", "--cost_per_prompt=2", "--cost_per_rollout=1")
    wait_for_chunk(study / "killed", 7)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not (study / "killed" / "noise.json").exists()
    code, said = run(study, "noise", *SIZE, "--out=killed", "--cost_per_prompt=2", "--cost_per_rollout=1")
    assert code == 0, said
    assert "going on after chunk" in said
    assert measured(study / "killed") == measured(uninterrupted[0])


def test_sigterm_stops_after_the_chunk_with_143(study, uninterrupted):
    process = start(study, "noise", *SIZE, "--out=terminated")
    wait_for_chunk(study / "terminated", 2)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # schedulers send it more than once
    code, said = finish(process)
    assert code == 143
    assert "chunks are saved in terminated; run the same command to go on" in said
    assert "Traceback" not in said


def test_a_full_disk_ends_in_one_message(study, uninterrupted):
    code, said = run(study, "noise", *SIZE, "--out=full", largest_file=5_000)
    assert code == 1
    assert "bin/noise: writing full failed" in said
    assert "run the same command to go on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=tiny.py", "--n_prompts=64", "--n_rollouts=1"],
            "--n_prompts=64 is more than the 22 training problems",
        ),
        ([*SIZE, "--checkpoint=nowhere"], "--checkpoint=nowhere is neither a run directory"),
        ([*SIZE, "--seed=1", "--out=runs/tiny/noise/start_np20_nr4_s0"], "seed was 0 when"),
    ],
)
def test_bad_input_is_one_clear_message_and_a_failing_exit(study, uninterrupted, arguments, message):
    code, said = run(study, "noise", *arguments)
    assert code == 1
    assert message in said
    assert "Traceback" not in said

#!/usr/bin/env python3
"""Kills a run at random moments and runs it again, each time in another process, until it ends.

    bench/kill_and_resume.py                    20 kills, seed 0
    bench/kill_and_resume.py --n=5 --seed=7

The run has several updates per step, noise measurements, evaluations and a checkpoint every few updates, so that
kills fall into all of them: the moment is drawn from the time between the first row and the end of an undisturbed
run. A trial is one fresh run killed once, and resumed; its metrics.jsonl and evals.jsonl must equal
those of the undisturbed run, times aside, and its samples too. Prints one line per trial and exits with 1 at the
first difference.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
from rlvr_jax.train import config as c

def get_config(arg=None):
    return c.TrainConfig(
        study="kill", point="only", n_updates=600,
        task=c.TaskConfig(name="digits", operators="+", operand_max=9),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=150, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=16, n_rollouts=4, minibatch_prompts=8),
        noise=c.NoiseConfig(every_updates=6, sketch_width=64),
        eval=c.EvalConfig(every_updates=16, n_problems=8, n_samples=4, k=(1, 4)),
        checkpoint=c.CheckpointConfig(every_updates=10),
        log=c.LogConfig(rollouts_every_updates=12),
    )
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; trial i uses seed + i")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "kill.py").write_text(CONFIG)
        run(work, "warm")  # fills the caches, so that the undisturbed time is that of the trials
        process = command(work, "whole")
        wait_for_first_row(work / "whole")
        started = time.monotonic()
        finish(process)
        training_s = time.monotonic() - started
        wanted = outcome(work / "whole")
        print(f"undisturbed: {len(wanted['metrics.jsonl'])} rows in {training_s:.1f} s")
        for trial in range(args.n):
            seed = args.seed + trial
            kill_s = random.Random(seed).uniform(0.0, training_s)
            n_rows, newest = run_and_kill(work, "killed", kill_s)
            run(work, "killed")
            got = outcome(work / "killed")
            different = [name for name in wanted if got[name] != wanted[name]]
            print(
                f"seed {seed}: killed {kill_s:.2f} s after the first row at {n_rows} rows, newest checkpoint {newest}; "
                f"resumed: {'DIFFERENT ' + str(different) if different else 'identical'}",
                flush=True,
            )
            if different:
                return 1
            shutil.rmtree(work / "killed")
    return 0


def command(work: Path, runs: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    return subprocess.Popen(
        [sys.executable, ROOT / "bin" / "train", "--config=kill.py", f"--runs={runs}"],
        cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(work: Path, runs: str) -> None:
    finish(command(work, runs))


def wait_for_first_row(runs: Path) -> None:
    metrics = runs / "kill" / "only" / "metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size == 0:
        time.sleep(0.005)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"bin/train ended with {process.returncode}:\n{said}")


def run_and_kill(work: Path, runs: str, after_s: float) -> tuple[int, str]:
    """Rows written and the newest checkpoint when SIGKILL came."""
    process = command(work, runs)
    wait_for_first_row(work / runs)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder = work / runs / "kill" / "only"
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    n_rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    updates = [int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()] if checkpoints.exists() else []
    return n_rows, str(max(updates, default="none"))


def outcome(runs: Path) -> dict[str, list[dict]]:
    """The rows of a run without its times."""
    folder, rows = runs / "kill" / "only", {}
    for name in ("metrics.jsonl", "evals.jsonl", "rollouts.jsonl.gz"):
        text = (gzip.open if name.endswith(".gz") else open)(folder / name, "rt").read()
        rows[name] = [
            {k: v for k, v in json.loads(line).items() if k != "seconds" and not k.startswith("perf/")}
            for line in text.splitlines()
        ]
    return rows


if __name__ == "__main__":
    sys.exit(main())

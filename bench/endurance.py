#!/usr/bin/env python3
"""2,000 updates of a tiny run: memory, compilations and open files must not grow.

    bench/endurance.py
    bench/endurance.py --n_updates=500

Runs in this process and samples it as each tenth of the run ends. Exits with 1 if, after the first tenth, a program
was compiled, the number of open files or of threads grew, or memory grew by more than 2%.
"""

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlvr_jax.train import config as c
from rlvr_jax.train import study
from rlvr_jax.train.perf import compile_count
from rlvr_jax.train.run import RunLog
from rlvr_jax.train.stop import StopRequest

MEMORY_FRAC = 1.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_updates", type=int, default=2_000)
    args = parser.parse_args()
    config = c.TrainConfig(
        study="endurance",
        n_updates=args.n_updates,
        task=c.TaskConfig(name="digits", operators="+", operand_max=9),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=150, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=16, n_rollouts=4),
        noise=c.NoiseConfig(every_updates=10, sketch_width=64),
        eval=c.EvalConfig(every_updates=50, n_problems=8, n_samples=4, k=(1, 4)),
    )
    samples = []
    write = RunLog.metrics

    def sampled(self: RunLog, row: dict) -> None:
        write(self, row)
        # past a checkpoint and an evaluation, whose threads then are done or not at the same places each time
        if row["update"] % (args.n_updates // 10) == args.n_updates // 20:
            samples.append(sample(row["update"]))
            print("  ".join(f"{name} {value}" for name, value in samples[-1].items()), flush=True)

    RunLog.metrics = sampled
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch + "/cache"
        study.run_study([config], Path(scratch) / "runs", stop=StopRequest(), say=lambda text: None)
    first, last = samples[1], samples[-1]
    grown = [name for name in ("compilations", "files", "threads") if last[name] > first[name]]
    grown += ["MiB"] * (last["MiB"] > MEMORY_FRAC * first["MiB"])
    print(f"from update {first['update']} to {last['update']}: {'grew: ' + ', '.join(grown) if grown else 'all flat'}")
    return 1 if grown else 0


def sample(update: int) -> dict[str, int]:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "update": update,
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "compilations": compile_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


if __name__ == "__main__":
    sys.exit(main())

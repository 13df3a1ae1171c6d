#!/usr/bin/env python3
"""Real updates of a randomly weighted model: step time, tokens per second, memory.

    bench/train_step.py --preset=olmo2-1b      OLMo-2-1B's shapes, bf16, 16 x 8 rollouts of 256 + 512 tokens: a GPU
    bench/train_step.py                        the same command on a small model, for a machine without one
    bench/train_step.py --json=results.json    and the rows as JSON

Everything a run does: sampling, grading, the update, rows and the checkpoint at the end. Completions of random weights
rarely end before the limit, so that token counts are those of full batches. Fails if an update is not finite.
"""

import argparse
import json
import random
import string
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.train import config as c
from rlvr_jax.train.log import METRICS_FILE
from rlvr_jax.train.stop import StopRequest
from rlvr_jax.train.study import run_study

SHOWN = (
    "perf/step_s", "perf/sample_s", "perf/train_s", "perf/sample_tok_s", "perf/train_tok_s", "perf/mfu",
    "perf/peak_gib",
)  # fmt: skip
SMALL = {"width": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_width": 256}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="a name of models/presets.py; default: a small built-in model")
    parser.add_argument("--n_prompts", type=int, default=16)
    parser.add_argument("--n_rollouts", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=256)
    parser.add_argument("--completion_tokens", type=int, help="default: 512 of a preset, else 32")
    parser.add_argument("--microbatch_prompts", type=int, default=0, help="0: automatic")
    parser.add_argument("--dtype", help="default: bfloat16 of a preset, else float32")
    parser.add_argument("--remat", default="full", choices=c.REMATS)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--measure_noise", action="store_true", help="in every update")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in random_rows(args)))
        config = bench_config(args, str(path))
        (run,) = run_study([config], Path(folder) / "runs", stop=StopRequest(), say=print)
        rows = list(read_rows(run / METRICS_FILE))
    print("update  " + "  ".join(f"{name.removeprefix('perf/'):>12}" for name in SHOWN))
    for row in rows:
        print(f"{row['update']:6d}  " + "  ".join(shown(row.get(name)) for name in SHOWN))
    if args.json:
        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"device": device, "jax": jax.__version__, **settings, "rows": rows}, indent=1))
    return 0


def shown(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:12.3f}"


def random_rows(args: argparse.Namespace) -> list[dict[str, str]]:
    """Prompts of exactly so many characters; the character tokenizer puts one more token before them."""
    rng = random.Random(0)
    n_rows = 4 * args.n_prompts + 50  # one in ten is held out
    return [
        {"prompt": "".join(rng.choices(string.ascii_letters, k=args.prompt_tokens - 1)), "answer": "a"}
        for _ in range(n_rows)
    ]


def bench_config(args: argparse.Namespace, path: str) -> c.TrainConfig:
    sizes = {"name": args.preset, "has_random_weights": True, "tokenizer": c.CHAR_TOKENIZER} if args.preset else SMALL
    completion_tokens = args.completion_tokens or (512 if args.preset else 32)
    return c.TrainConfig(
        study="train_step",
        n_updates=args.updates,
        task=c.TaskConfig(name="jsonl", path=path),
        model=c.ModelConfig(
            **sizes, compute_dtype=args.dtype or ("bfloat16" if args.preset else "float32"), remat=args.remat
        ),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(
            n_prompts=args.n_prompts, n_rollouts=args.n_rollouts, microbatch_prompts=args.microbatch_prompts
        ),
        sampling=c.SamplingConfig(max_new_tokens=completion_tokens),
        optimizer=c.OptimizerConfig(peak_lr=1e-6),
        noise=c.NoiseConfig(every_updates=1 if args.measure_noise else 0),
        eval=c.EvalConfig(every_updates=0, n_problems=1, n_samples=1, k=(1,)),
        checkpoint=c.CheckpointConfig(every_updates=0),
        log=c.LogConfig(rollouts_every_updates=0),
    )


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What measuring the noise costs: an update without it, with total noise (section 2), with the split (section 3).

    bench/noise_cost.py                        the CPU shape: 8 x 8 rollouts, 64 + 64 tokens, width 256, 4 layers
    bench/noise_cost.py --preset=olmo2-1b      a random model of that shape, bf16, 8 x 16 rollouts of 1024 tokens: a GPU
    bench/noise_cost.py --json=results.json    and the table as JSON

"shared" takes the update's gradient from the measuring pass; "apart" runs the plain update and a pass of its own.
Modes are timed in turn, and each row's time is its best, so that a busy moment hits no mode alone. Memory is what XLA
reserves for arguments, outputs and temporaries. Amortised: one update in `--every` is measured. Fails if, without a KL
term, "split, taps, shared" takes more than the preset's limit.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlvr_jax.models.spec import ModelSpec, initial_params, parameter_table
from rlvr_jax.train.completion_logprobs import build_head_plan
from rlvr_jax.train.config import AlgoConfig, NoiseConfig, OptimizerConfig, PlacementConfig
from rlvr_jax.train.loss import Batch, build_loss, build_loss_of_logprobs, build_rollout_logprobs
from rlvr_jax.train.measure_noise import build_measuring, build_noise_measurement
from rlvr_jax.train.noise_pass import build_noise_pass, can_share_backward
from rlvr_jax.train.optimizer import adamw
from rlvr_jax.train.placement import build_mesh, parameter_layout
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.step import build_train_step

PRESETS = {
    "cpu": {
        "n_prompts": 8, "n_rollouts": 8, "prompt_tokens": 64, "completion_tokens": 64, "microbatch_prompts": 1,
        "vocab_size": 4096, "width": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "mlp_width": 683,
        "dtype": "float32", "remat": "none", "limit": 1.25,
    },
    "olmo2-1b": {
        "n_prompts": 8, "n_rollouts": 16, "prompt_tokens": 256, "completion_tokens": 768, "microbatch_prompts": 1,
        "vocab_size": 100_352, "width": 2048, "n_layers": 16, "n_heads": 16, "n_kv_heads": 16, "mlp_width": 8192,
        "dtype": "bfloat16", "remat": "full", "limit": 1.15,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way to do an update."""

    name: str
    noise: NoiseConfig | None  # None: nothing is measured


MODES = [
    Mode("off", None),
    Mode("total, taps, shared", NoiseConfig(decompose=False)),
    Mode("split, taps, shared", NoiseConfig()),
    Mode("split, taps, apart", NoiseConfig(shares_backward=False)),
    Mode("split, vmap, shared", NoiseConfig(method="vmap")),
    Mode("split, taps, shared, rollout sketches", NoiseConfig(keep_sketches=True)),
    Mode("split, taps, shared, Adam's metric", NoiseConfig(optimizer_metric=True)),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--microbatch_prompts", type=int)
    parser.add_argument("--modes", nargs="*", help="only those whose name contains one of these; 'off' always runs")
    parser.add_argument("--kl_coef", type=float, nargs="*", default=[0.0, 0.1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = PRESETS[args.preset] | ({"microbatch_prompts": args.microbatch_prompts} if args.microbatch_prompts else {})
    modes = [
        mode for mode in MODES if mode.noise is None or not args.modes or any(part in mode.name for part in args.modes)
    ]
    rows = [row for kl_coef in args.kl_coef for row in measured(sizes, kl_coef, modes, args)]
    if args.json:
        device = jax.devices()[0].device_kind
        content = {"device": device, "jax": jax.__version__, "every": args.every, "sizes": sizes, "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(is_too_slow(row, sizes["limit"]) for row in rows))


def is_too_slow(row: dict, limit: float) -> bool:
    return row["mode"] == "split, taps, shared" and row["kl_coef"] == 0 and row["ratio"] > limit


def measured(sizes: dict, kl_coef: float, modes: list[Mode], args: argparse.Namespace) -> list[dict]:
    """A row per mode, printed as a table."""
    algo = AlgoConfig(kl_coef=kl_coef)
    updates = {}
    for mode in modes:
        started = time.perf_counter()
        updates[mode.name], mib = build_update(sizes, algo, mode)
        updates[mode.name]()
        print(f"  compiled {mode.name} in {time.perf_counter() - started:.0f} s, {mib:.0f} MiB", file=sys.stderr)
        updates[mode.name] = (updates[mode.name], mib)
    seconds = {name: [] for name in updates}
    for _ in range(args.repeats):
        for name, (update, _) in updates.items():
            started = time.perf_counter()
            update()
            seconds[name].append(time.perf_counter() - started)
    plain_s = min(seconds["off"])
    print(f"beta = {kl_coef:g}\n{'mode':<40}{'s':>8}{'ratio':>8}{'amortised':>11}{'MiB':>9}")
    rows = []
    for name, (_, mib) in updates.items():
        ratio = min(seconds[name]) / plain_s
        amortised = 1 + (ratio - 1) / args.every
        rows.append({"kl_coef": kl_coef, "mode": name, "s": min(seconds[name]), "ratio": ratio, "amortised": amortised,
                     "mib": mib, "median_s": float(np.median(seconds[name]))})  # fmt: skip
        print(f"{name:<40}{min(seconds[name]):>8.3f}{ratio:>8.2f}{amortised:>11.3f}{mib:>9.0f}", flush=True)
    return rows


def build_update(sizes: dict, algo: AlgoConfig, mode: Mode):
    """(a function that does one update and waits for it, MiB that its programs reserve)."""
    P, R, n = sizes["n_prompts"], sizes["n_rollouts"], sizes["microbatch_prompts"]
    spec = ModelSpec(
        vocab_size=sizes["vocab_size"], width=sizes["width"], n_layers=sizes["n_layers"], n_heads=sizes["n_heads"],
        n_kv_heads=sizes["n_kv_heads"], head_width=sizes["width"] // sizes["n_heads"], mlp_width=sizes["mlp_width"],
        rope_theta=10_000.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
    )  # fmt: skip
    T, optimizer_config = sizes["completion_tokens"], OptimizerConfig()
    layout = parameter_layout(build_mesh(PlacementConfig(data=1)), spec, None)
    logprobs = build_rollout_logprobs(
        spec, temperature=1.0, compute_dtype=jnp.dtype(sizes["dtype"]), remat=sizes["remat"],
        head_plan=build_head_plan(0, layout.mesh),
    )  # fmt: skip
    schedule = optax.constant_schedule(1e-6)
    optimizer = adamw(
        parameter_table(spec), schedule,
        b1=0.9, b2=0.99, eps=1e-8, momentum_dtype="float32", weight_decay=0.0, clip_norm=1.0,
    )  # fmt: skip
    measuring, is_shared = None, False
    if mode.noise is not None:
        is_shared = mode.noise.shares_backward and can_share_backward(
            algo, updates_per_step=1, decomposes=mode.noise.decompose
        )
        noise_pass = build_noise_pass(
            logprobs, build_loss_of_logprobs(algo, max_new_tokens=T), algo, mode.noise,
            n_rollouts=R, n_shards=1, lora=None, decomposes=mode.noise.decompose, shares_backward=is_shared,
        )  # fmt: skip
        measuring = build_measuring(noise_pass, mode.noise, optimizer_config, n_prompts=P, n_rollouts=R)
    step = build_train_step(
        build_loss(logprobs, algo, max_new_tokens=T), optimizer, schedule, layout,
        clip_norm=1.0, freezes=True, lora=None, measuring=measuring if is_shared else None,
    )  # fmt: skip
    measure = build_noise_measurement(measuring, layout) if measuring and not is_shared else None
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(P // n, n, *leaf.shape[1:]), random_batch(sizes, algo))
    state = [jax.jit(lambda key: initial_state(initial_params(spec, key), optimizer))(jax.random.key(0))]
    programs = [step.lower(state[0], None, batch)] + ([measure.lower(state[0], None, batch)] if measure else [])

    def update() -> None:
        if measure:
            jax.block_until_ready(measure(state[0], None, batch)[:2])
        state[0], metrics, _ = step(state[0], None, batch)
        jax.block_until_ready((state[0], metrics))

    return update, max(map(reserved_mib, programs))


def random_batch(sizes: dict, algo: AlgoConfig) -> Batch:
    """Full-length prompts and completions of random tokens, half of them right."""
    rng = np.random.default_rng(0)
    P, R, T = sizes["n_prompts"], sizes["n_rollouts"], sizes["completion_tokens"]
    reward_PR = (rng.random((P, R)) < 0.5).astype(np.float32)
    loo_PR = (reward_PR - reward_PR.mean(axis=1, keepdims=True)) * R / (R - 1)
    return Batch(
        prompt_PS=rng.integers(3, sizes["vocab_size"], (P, sizes["prompt_tokens"])).astype(np.int32),
        prompt_length_P=np.full(P, sizes["prompt_tokens"], np.int32),
        completion_PRT=rng.integers(3, sizes["vocab_size"], (P, R, T)).astype(np.int32),
        completion_length_PR=np.full((P, R), T, np.int32),
        is_kept_PR=np.ones((P, R), bool),
        advantage_PR=loo_PR,
        loo_advantage_PR=loo_PR,
        behavior_logprob_PRT=np.full((P, R, T), -5.0, np.float32),
        old_logprob_PRT=None,
        reference_logprob_PRT=np.full((P, R, T), -5.0, np.float32) if algo.kl_coef > 0 else None,
    )


def reserved_mib(lowered: jax.stages.Lowered) -> float:
    """Arguments, outputs and temporaries of a program."""
    memory = lowered.compile().memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return (sum(parts) - memory.alias_size_in_bytes) / 2**20


if __name__ == "__main__":
    sys.exit(main())

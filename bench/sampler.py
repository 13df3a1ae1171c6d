#!/usr/bin/env python3
"""The shared-prefix sampler against the plain one, in time and memory.

    bench/sampler.py                       prompt:completion 4:1, 1:1, 1:4 on the default device
    bench/sampler.py --json=results.json   and the table as JSON

Both draw the same rollouts. Nothing ends early: EOS is an id that is never drawn. Time is the best of a few
calls after compilation; memory is what XLA reserves for the program's arguments, outputs and temporaries.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sampling"))

import jax
import jax.numpy as jnp
import numpy as np
from simple_decode import build_simple_sampler

from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.sampling.decode import build_decoder
from rlvr_jax.sampling.padding import bucket_widths
from rlvr_jax.sampling.rollout import build_sampler

RATIOS = {"4:1": (4, 1), "1:1": (1, 1), "1:4": (1, 4)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_prompts", type=int, default=8)
    parser.add_argument("--n_rollouts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=320, help="prompt and completion together")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--n_layers", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=512)
    parser.add_argument("--bucket_tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    spec = ModelSpec(
        vocab_size=args.vocab_size, width=args.width, n_layers=args.n_layers, n_heads=args.width // 32,
        n_kv_heads=max(1, args.width // 64), head_width=32, mlp_width=args.width * 8 // 3,
        rope_theta=10_000.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
    )  # fmt: skip
    params = initial_params(spec, jax.random.key(0))
    rows = []
    for name, (prompt_share, completion_share) in RATIOS.items():
        S = args.tokens * prompt_share // (prompt_share + completion_share)
        rows.append({"prompt:completion": name, **measure(args, spec, params, S, args.tokens - S)})
        print_row(rows[-1], is_first=len(rows) == 1)
    if args.json:
        device = jax.devices()[0].device_kind
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"device": device, "jax": jax.__version__, **settings, "rows": rows}, indent=1))
    return 0


def measure(args: argparse.Namespace, spec: ModelSpec, params: dict, S: int, T: int) -> dict:
    """Seconds and MiB of both samplers on one shape, and how far their rollouts differ."""
    P = args.n_prompts
    prompt_PS = jax.random.randint(jax.random.key(1), (P, S), 3, spec.vocab_size)
    batch = (params, prompt_PS, jnp.full(P, S), jnp.arange(P), jax.random.key(2))
    decoding = {
        "n_rollouts": args.n_rollouts, "temperature": 1.0, "eos_ids": (), "pad_id": 0,
        "compute_dtype": jnp.dtype(args.dtype),
    }  # fmt: skip
    samplers = {
        "shared": build_sampler(spec, max_new_tokens=T, bucket_tokens=args.bucket_tokens, **decoding),
        "simple": build_simple_sampler(spec, max_new_tokens=T, **decoding),
    }
    row, drawn = {"prompt_tokens": S, "completion_tokens": T}, {}
    for name, sample in samplers.items():
        drawn[name] = jax.block_until_ready(sample(*batch))
    times = {name: [] for name in samplers}
    for _ in range(args.repeats):  # in turn, so that a busy moment hits both
        for name, sample in samplers.items():
            started = time.perf_counter()
            jax.block_until_ready(sample(*batch))
            times[name].append(time.perf_counter() - started)
    row |= {f"{name}_s": min(values) for name, values in times.items()}
    decoder = build_decoder(spec, widths=bucket_widths(T, first=args.bucket_tokens), **decoding)
    context, state = jax.eval_shape(decoder.start, *batch)
    programs = [decoder.start.lower(*batch)]
    for width in bucket_widths(T, first=args.bucket_tokens)[1:]:
        programs.append(jax.jit(lambda *args: decoder.go_on(*args)[1]).lower(context, state))
        context, state = jax.eval_shape(decoder.go_on, context, state)
        assert state.completion_PRC.shape[2] == width
    row["shared_mib"] = max(map(reserved_mib, programs))
    row["simple_mib"] = reserved_mib(samplers["simple"].lower(*batch))
    same = np.asarray(drawn["shared"].completion_PRT) == np.asarray(drawn["simple"].completion_PRT)
    row["identical_rollouts"] = float(same.all(axis=2).mean())
    return row


def reserved_mib(lowered: jax.stages.Lowered) -> float:
    """Arguments, outputs and temporaries of a program."""
    memory = lowered.compile().memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return (sum(parts) - memory.alias_size_in_bytes) / 2**20


def print_row(row: dict, *, is_first: bool) -> None:
    shown = [(k, f"{v:.3f}" if isinstance(v, float) else str(v)) for k, v in row.items()]
    shown.append(("time ratio", f"{row['simple_s'] / row['shared_s']:.2f}"))
    shown.append(("memory ratio", f"{row['simple_mib'] / row['shared_mib']:.2f}"))
    widths = [max(len(name), 8) for name, _ in shown]
    if is_first:
        print("  ".join(f"{name:>{w}}" for (name, _), w in zip(shown, widths, strict=True)))
    print("  ".join(f"{value:>{w}}" for (_, value), w in zip(shown, widths, strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(main())

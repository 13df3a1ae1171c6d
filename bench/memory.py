#!/usr/bin/env python3
"""The memory of an update as it is planned and as it is compiled, for a published shape: nothing is allocated.

    bench/memory.py                              OLMo-2-1B, 16 x 8 rollouts of 256 + 512 tokens, bf16; 1 and 8 devices
    bench/memory.py --preset=qwen2.5-1.5b --microbatch_prompts 1 2 4 --remat full dots
    bench/memory.py --json=results.json          and the table as JSON

Arguments are what an update takes in: weights, moments and a batch, on one device; they must be the formula's to the
byte, else this fails. Temporaries are XLA's of this backend, beside the plan's estimate. Without a GPU the devices are
virtual ones of the CPU, whose bf16 products take as much as fp32 ones; a GPU is compiled for alone.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# before jax is imported: only the CPU's devices are multiplied
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax

from rlvr_jax.models.hf_config import hf_model
from rlvr_jax.models.presets import PRESETS
from rlvr_jax.train import config as c
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.lowered_step import lowered_step
from rlvr_jax.train.memory_plan import PlannedModel, step_argument_bytes, within_memory

MESHES = {"1 device": {"data": 1}, "2 x 2 x 2": {"data": 2, "fsdp": 2, "tensor": 2}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="olmo2-1b")
    parser.add_argument("--n_prompts", type=int, default=16)
    parser.add_argument("--n_rollouts", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=256)
    parser.add_argument("--completion_tokens", type=int, default=512)
    parser.add_argument("--microbatch_prompts", type=int, nargs="+", default=[4])
    parser.add_argument("--remat", choices=c.REMATS, nargs="+", default=["full"])
    parser.add_argument("--compute_dtype", choices=c.DTYPES, default="bfloat16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"{args.preset} on {jax.devices()[0].device_kind}, GiB of a device")
    print(f"{'':<38}{'arguments':>20}{'temporaries':>22}")
    names = ("devices", "micro-batch", "remat", "", "compiled", "formula", "compiled", "estimate")
    print("{:<12}{:>12}{:>8}{:>6}{:>10}{:>10}{:>12}{:>10}".format(*names))
    rows = []
    for mesh, microbatch_prompts, remat in itertools.product(MESHES, args.microbatch_prompts, args.remat):
        if len(jax.devices()) < 8 and mesh != "1 device":
            continue
        rows.append(compiled(args, mesh, microbatch_prompts, remat))
        print(row_text(rows[-1]), flush=True)
    if args.json:
        content = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": rows}
        args.json.write_text(
            json.dumps(content | {"sizes": {k: v for k, v in vars(args).items() if k != "json"}}, indent=1) + "\n"
        )
    return int(any(row["argument_bytes"] != row["formula_bytes"] for row in rows))


def compiled(args: argparse.Namespace, mesh: str, microbatch_prompts: int, remat: str) -> dict:
    """One row: bytes of one device."""
    config = c.TrainConfig(
        task=c.TaskConfig(name="digits", operators="+", operand_max=99),
        model=c.ModelConfig(compute_dtype=args.compute_dtype, remat=remat),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(
            n_prompts=args.n_prompts, n_rollouts=args.n_rollouts, microbatch_prompts=microbatch_prompts
        ),
        sampling=c.SamplingConfig(max_new_tokens=args.completion_tokens, max_prompt_tokens=args.prompt_tokens),
        eval=c.EvalConfig(n_problems=args.n_prompts),
        placement=c.PlacementConfig(**MESHES[mesh]),
    )
    parts = assemble(config)  # of the built-in model, whose place the published shape then takes
    parts = dataclasses.replace(parts, spec=hf_model(PRESETS[args.preset].config).spec)
    model = PlannedModel(parts.spec, parts.lora, parts.mesh, parts.compute_dtype)
    plan, memory = within_memory(config, parts.plan, model)
    analysis = lowered_step(config, dataclasses.replace(parts, plan=plan, memory=memory)).compile().memory_analysis()
    sizes = {"prompt_tokens": plan.max_prompt_tokens, "microbatch_prompts": plan.microbatch_prompts}
    return {
        "mesh": mesh,
        "microbatch_prompts": microbatch_prompts,
        "remat": remat,
        "argument_bytes": analysis.argument_size_in_bytes,
        "formula_bytes": step_argument_bytes(config, model, **sizes),
        "donated_bytes": analysis.alias_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
        "estimate_bytes": memory.backward,
        "caches_bytes": memory.caches,
        "total_bytes": memory.total,
    }


def row_text(row: dict) -> str:
    gib = {name: size / 2**30 for name, size in row.items() if name.endswith("bytes")}
    match = "=" if row["argument_bytes"] == row["formula_bytes"] else "!="
    return (
        f"{row['mesh']:<12}{row['microbatch_prompts']:>12}{row['remat']:>8}{'':>6}{gib['argument_bytes']:>10.4f}"
        f"{match:>3}{gib['formula_bytes']:>7.4f}{gib['temporary_bytes']:>12.2f}{gib['estimate_bytes']:>10.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How far estimates from sketches are from exact ones: S and |G|^2 of one real batch over many sketch seeds.

    bench/noise_sketches.py                                   64 x 16 rollouts of the built-in model, 4096 numbers
    bench/noise_sketches.py --width=1024 --json=results.json

Rollouts are those of the first step of configs/cbs_p2c.py:tiny from its starting policy. The exact numbers come from
every group's whole gradient; "random" is the textbook CountSketch, with buckets drawn instead of taken modulo a prime.
Fails if the mean of S is off by more than 1% or its spread is above 2%.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "configs"))

import cbs_p2c
import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.noise.sketch import CountSketch, count_sketch
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.completion_logprobs import build_head_plan
from rlvr_jax.train.learner import Learner
from rlvr_jax.train.loss import Batch, build_rollout_logprobs
from rlvr_jax.train.noise_pass import noise_loss
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.starting_policy import starting_params
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.study import cache_folder, enable_compilation_cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_prompts", type=int, default=64)
    parser.add_argument("--n_rollouts", type=int, default=16)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    enable_compilation_cache()

    gradient_Pn = group_gradients(args)
    exact = moments(gradient_Pn)
    sketch = count_sketch(args.width)
    estimates = {
        "modulo a prime": jax.jit(lambda seed: moments(sketch.dense(gradient_Pn, 0, seed))),
        "random": jax.jit(lambda seed: moments(random_sketch(gradient_Pn, seed, sketch))),
    }
    shape = f"{args.n_prompts} x {args.n_rollouts} rollouts, {gradient_Pn.shape[1]} parameters"
    print(f"{shape}, {sketch.width} numbers, {args.seeds} seeds; exact S {exact[0]:.5g}, |G|^2 {exact[1]:.5g}")
    print(f"{'buckets':<16}{'mean S / exact':>16}{'spread of S':>13}{'mean |G|^2 / exact':>20}{'spread of |G|^2':>17}")
    rows = []
    for name, estimate in estimates.items():
        found = np.array([estimate(jnp.uint32(17 + 7919 * seed)) for seed in range(args.seeds)]) / np.array(exact)
        (mean_s, mean_g), (spread_s, spread_g) = found.mean(axis=0).tolist(), found.std(axis=0, ddof=1).tolist()
        rows.append({"buckets": name, "mean_s": mean_s, "spread_s": spread_s, "mean_g": mean_g, "spread_g": spread_g})
        print(f"{name:<16}{mean_s:>16.4f}{spread_s:>13.2%}{mean_g:>20.4f}{spread_g:>17.2%}", flush=True)
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps(settings | {"device": jax.devices()[0].device_kind, "rows": rows}, indent=1))
    return int(abs(rows[0]["mean_s"] - 1) > 0.01 or rows[0]["spread_s"] > 0.02)


def group_gradients(args: argparse.Namespace) -> jax.Array:
    """f32[P, n], the whole gradient of every group of a real batch."""
    config = cbs_p2c.get_config("tiny")
    config.batch.n_prompts, config.batch.n_rollouts = args.n_prompts, args.n_rollouts
    parts = assemble(config)
    params = starting_params(config, parts, cache_folder() / "warmstart", progress=Progress("warm start").update)
    programs = build_programs(config, parts)
    learner = Learner(config, parts, programs, initial_state(params, programs.optimizer), params)
    batch = learner.batch(learner.collect(learner.draw(0), 0))[1]
    logprobs = build_rollout_logprobs(
        parts.spec,
        temperature=config.sampling.temperature,
        compute_dtype=parts.compute_dtype,
        remat="none",
        head_plan=build_head_plan(config.model.logprob_chunk_mib, parts.mesh),
    )
    loss = noise_loss(logprobs, config.algo)

    def of_group(group: Batch) -> jax.Array:
        grads, _ = jax.grad(loss, has_aux=True)(params, jax.tree.map(lambda leaf: leaf[None], group))
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(grads)])

    return jax.jit(lambda batch: jax.lax.map(of_group, batch))(jax.tree.map(jnp.asarray, batch))


def moments(vector_PW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(S, |G|^2) of groups' gradients, or of their sketches."""
    P = vector_PW.shape[0]
    sum_of_sq, sq_of_sum = jnp.sum(jnp.square(vector_PW)), jnp.sum(jnp.square(vector_PW.sum(axis=0)))
    return (sum_of_sq - sq_of_sum / P) / (P - 1), (sq_of_sum - sum_of_sq) / (P * (P - 1))


def random_sketch(vector_Pn: jax.Array, seed: jax.Array, like: CountSketch) -> jax.Array:
    """The textbook sketch: a bucket and a sign drawn for every parameter."""
    bucket_key, sign_key = jax.random.split(jax.random.key(seed))
    n = vector_Pn.shape[1]
    bucket_n = jax.random.randint(bucket_key, (n,), 0, like.width)
    sign_n = jax.random.rademacher(sign_key, (n,), jnp.float32)
    return jnp.zeros((vector_Pn.shape[0], like.width)).at[:, bucket_n].add(vector_Pn * sign_n[None])


if __name__ == "__main__":
    sys.exit(main())

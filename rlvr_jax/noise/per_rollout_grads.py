"""The gradient of every rollout by vmap: the reference that taps are checked against.

Exact and simple, and in need of memory for R whole gradients. It yields the batch's gradient as well.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Sketch(Protocol):
    """See noise/sketch.py."""

    width: int

    def dense(self, values: jax.Array, offset: jax.Array | int, seed: jax.Array) -> jax.Array: ...


class LeafReading(NamedTuple):
    """What is read of one parameter. f32; the `metric_` ones are of gradients times a metric, None without one."""

    gram_PUU: jax.Array
    sketch_PW: jax.Array | None  # of each prompt's sum over units of noise_weight * G
    unit_sketch_PUW: jax.Array | None
    metric_gram_PUU: jax.Array | None
    metric_sketch_PW: jax.Array | None


def build_per_rollout_pass(
    objective: Callable[[Any, Any], tuple[jax.Array, Any]],
    *,
    sketch: Sketch | None,
    keeps_unit_sketches: bool,
    budget_bytes: int,
) -> Callable[..., tuple[Any, Any, list[LeafReading], Any]]:
    """Returns `f(params, units, loss_weight_PU, noise_weight_PU, metric, seed)`.

    U units of each of P prompts: its rollouts, or the one group they make. With G the gradient of the
    objective over one unit, it returns sum loss_weight * G and sum noise_weight * G as trees like
    `params`, a LeafReading per leaf of `params`, in the order of jax.tree.leaves, and aux, [P, U, ...].

    As many prompts at a time as their formed gradients fit the budget, at least one.

    Args:
        objective: (params, one unit) -> (scalar, aux), a sum over the unit's tokens.
        units: pytree with leaves [P, U, ...].
        metric: a tree like `params` that gradients are multiplied with, or None.
    """
    gradient = jax.grad(objective, has_aux=True)

    def per_rollout_pass(
        params: Any,
        units: Any,
        loss_weight_PU: jax.Array,
        noise_weight_PU: jax.Array,
        metric: Any | None,
        seed: jax.Array,
    ) -> tuple[Any, Any, list[LeafReading], Any]:
        P, U = loss_weight_PU.shape
        n_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        most = max(1, budget_bytes // (4 * U * n_params))
        at_once = max(c for c in range(1, P + 1) if P % c == 0 and c <= most)

        def add_prompts(totals: tuple[Any, Any], inputs: tuple) -> tuple[tuple[Any, Any], tuple]:
            units_CU, loss_weight_CU, noise_weight_CU = inputs
            grads, aux = jax.vmap(jax.vmap(gradient, (None, 0)), (None, 0))(params, units_CU)
            grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            weighted = (_weighted(weight_CU, grads) for weight_CU in (loss_weight_CU, noise_weight_CU))
            readings = _readings(grads, noise_weight_CU, metric, sketch, seed, keeps_unit_sketches=keeps_unit_sketches)
            return jax.tree.map(jnp.add, totals, tuple(weighted)), (readings, aux)

        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        inputs = (units, loss_weight_PU, noise_weight_PU)
        in_chunks = jax.tree.map(lambda leaf: leaf.reshape(P // at_once, at_once, *leaf.shape[1:]), inputs)
        (loss_sum, noise_sum), of_prompts = jax.lax.scan(add_prompts, (zero, zero), in_chunks)
        readings, aux = jax.tree.map(lambda leaf: leaf.reshape(P, *leaf.shape[2:]), of_prompts)
        return loss_sum, noise_sum, readings, aux

    return per_rollout_pass


def _weighted(weight_CU: jax.Array, grads: Any) -> Any:
    return jax.tree.map(lambda g: jnp.einsum("cu,cu...->...", weight_CU, g, precision="highest"), grads)


def _readings(
    grads: Any,
    noise_weight_CU: jax.Array,
    metric: Any | None,
    sketch: Sketch | None,
    seed: jax.Array,
    *,
    keeps_unit_sketches: bool,
) -> list[LeafReading]:
    leaves = jax.tree.leaves(grads)
    metrics = jax.tree.leaves(metric) if metric is not None else [None] * len(leaves)
    readings = []
    for number, (leaf, leaf_metric) in enumerate(zip(leaves, metrics, strict=True)):
        leaf_seed = seed + jnp.uint32(number + 1) * jnp.uint32(0x9E3779B9)
        g_CUn = leaf.reshape(*leaf.shape[:2], -1)
        group_Cn = jnp.einsum("cu,cun->cn", noise_weight_CU, g_CUn, precision="highest")
        metric_gram = metric_sketch = None
        if leaf_metric is not None:
            metric_gram = _gram(g_CUn * leaf_metric.reshape(1, 1, -1))
            if sketch is not None:
                metric_sketch = sketch.dense(group_Cn * leaf_metric.reshape(1, -1), 0, leaf_seed)
        readings.append(
            LeafReading(
                gram_PUU=_gram(g_CUn),
                sketch_PW=sketch.dense(group_Cn, 0, leaf_seed) if sketch is not None else None,
                unit_sketch_PUW=sketch.dense(g_CUn, 0, leaf_seed) if sketch and keeps_unit_sketches else None,
                metric_gram_PUU=metric_gram,
                metric_sketch_PW=metric_sketch,
            )
        )
    return readings


def _gram(g_CUn: jax.Array) -> jax.Array:
    return jnp.einsum("cun,cvn->cuv", g_CUn, g_CUn, precision="highest")

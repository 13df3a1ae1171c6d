"""Gradient taps: one backward pass that gives the batch's gradient and how the rollouts' gradients lie to each other.

A parameter wrapped as `Tapped` is used like any other; its backward pass forms the gradient G_j of each
rollout j at that one place, weighs them into the gradient of the batch, and leaves their inner products
<G_j, G_k> as the cotangent of a tap that went in as zeros. Autodiff adds taps up over layers, and so over all
parameters. Seeded with the unweighted scores (each trained token's log-probability with cotangent 1), the pass
yields sum_j A_j s_j for weights A that went in as data, and the Gram matrix of the scores s_j, which says how
noisy the gradient is under any other weights too. Dividing a loss's Gram by A_j A_k instead would be 0/0 where
an advantage is 0.

Per-example norms in the same way: arXiv:2411.00999. The rollouts of a prompt are P consecutive rows of
N = P * R; nothing here mixes positions of two rollouts, so packed or prefix-shared passes cannot be tapped.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.models import tapped_ops
from rlvr_jax.models.chunked_head import HeadChunks, chunked_logprobs
from rlvr_jax.models.tapped_ops import Reader, Tap, TapPlan


class Lookup(NamedTuple):
    """What the head needs of a table's lookup when the table is also the head: their cross terms.

    The carrier is zeros; its cotangent is the head's per-rollout gradient at the rows that were looked up.
    """

    row_PU: jax.Array  # int32, the rows of the table that a prompt's rollouts looked up
    carrier_PRUD: jax.Array


@flax.struct.dataclass
class Tapped:
    """A parameter with its tap, or a stack of them with a leading axis of layers throughout."""

    weight: jax.Array
    tap: Tap
    loss_weight_PR: jax.Array  # the gradient that comes out for `weight` is sum_j loss_weight_j G_j
    noise_weight_PR: jax.Array
    metric: jax.Array | None
    seed: jax.Array  # uint32, of the sketch
    lookup: Lookup | None
    plan: TapPlan = flax.struct.field(pytree_node=False)

    def astype(self, dtype: jnp.dtype) -> "Tapped":
        """Only the weight is cast: statistics stay fp32."""
        return self.replace(weight=self.weight.astype(dtype))


def zero_taps(params: Any, plan: TapPlan, *, n_prompts: int, has_metric: bool) -> Any:
    """A Tap per parameter, all zeros; a parameter below "layers" has one per layer.

    Zeros that only carry a shape: a compiled program never reads them.
    """
    P, R = n_prompts, plan.n_units
    W = plan.sketch.width if plan.sketch is not None else 0

    def tap(path: tuple[str, ...], weight: jax.Array) -> Tap:
        layers = weight.shape[:1] if path[0] == "layers" else ()

        def zeros(*shape: int) -> jax.Array:
            return jnp.zeros((*layers, *shape), jnp.float32)

        has_sketch = plan.sketch is not None
        return Tap(
            gram_PRR=zeros(P, R, R),
            gradient_sum=jnp.zeros(weight.shape, jnp.float32),
            sketch_PW=zeros(P, W) if has_sketch else None,
            unit_sketch_PRW=zeros(P, R, W) if has_sketch and plan.keeps_unit_sketches else None,
            metric_gram_PRR=zeros(P, R, R) if has_metric else None,
            metric_sketch_PW=zeros(P, W) if has_metric and has_sketch else None,
        )

    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({path: tap(path, weight) for path, weight in flat.items()})


def tapped_params(
    params: Any,
    taps: Any,
    plan: TapPlan,
    *,
    loss_weight_PR: jax.Array,
    noise_weight_PR: jax.Array,
    metric: Any | None,
    sketch_seed: jax.Array,
) -> Any:
    """The parameters, each with its tap. `metric` is a tree like `params`, or None; the seed is a uint32."""
    flat_taps = flax.traverse_util.flatten_dict(taps)
    flat_metric = flax.traverse_util.flatten_dict(metric) if metric is not None else {}

    def tapped(number: int, path: tuple[str, ...], weight: jax.Array) -> Tapped:
        seed = sketch_seed + jnp.uint32(number + 1) * jnp.uint32(0x9E3779B9)  # one of its own for each parameter
        loss_weight, noise_weight = loss_weight_PR, noise_weight_PR
        if path[0] == "layers":
            n_layers = weight.shape[0]
            seed = seed + jnp.arange(n_layers, dtype=jnp.uint32) * jnp.uint32(0x85EBCA6B)
            loss_weight, noise_weight = (
                jnp.broadcast_to(x, (n_layers, *x.shape)) for x in (loss_weight_PR, noise_weight_PR)
            )
        return Tapped(weight, flat_taps[path], loss_weight, noise_weight, flat_metric.get(path), seed, None, plan)

    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict(
        {path: tapped(number, path, flat[path]) for number, path in enumerate(sorted(flat))}
    )


def build_tapped_pass(
    objective: Callable[[Any, Any], tuple[jax.Array, Any]], plan: TapPlan
) -> Callable[..., tuple[Any, Any, Any]]:
    """Returns `f(params, batch, loss_weight_PR, noise_weight_PR, metric, seed) -> (gradient, taps, aux)`.

    One backward pass of the objective over a whole batch. With G_j the gradient of unit j's part of it, the
    gradient is sum_j loss_weight_j G_j, in the dtypes of `params`; `taps` is a tree of Tap.

    Args:
        objective: (params, batch) -> (scalar, aux), a sum over tokens; the policy's pass within it must be
            one over rows [N, T] with the units of a prompt next to each other.
        metric: a tree like `params` that gradients are multiplied with for the `metric_` taps, or None.
    """

    def tapped_pass(
        params: Any,
        batch: Any,
        loss_weight_PR: jax.Array,
        noise_weight_PR: jax.Array,
        metric: Any | None,
        seed: jax.Array,
    ) -> tuple[Any, Any, Any]:
        taps = zero_taps(params, plan, n_prompts=loss_weight_PR.shape[0], has_metric=metric is not None)

        def of_tapped(weights: Any, taps: Any) -> tuple[jax.Array, Any]:
            tapped = tapped_params(
                weights,
                taps,
                plan,
                loss_weight_PR=loss_weight_PR,
                noise_weight_PR=noise_weight_PR,
                metric=metric,
                sketch_seed=seed,
            )
            return objective(tapped, batch)

        (gradient, taps), aux = jax.grad(of_tapped, argnums=(0, 1), has_aux=True)(params, taps)
        return gradient, taps, aux

    return tapped_pass


def tapped_linear(x: jax.Array, tapped: Tapped, *, n_in_axes: int) -> jax.Array:
    """`layers.linear` with a tapped weight."""
    weight, plan = tapped.weight, tapped.plan
    n_in = math.prod(weight.shape[:n_in_axes])
    lead = x.shape[: x.ndim - n_in_axes]

    def as_matrix(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(n_in, -1)

    product_PRTO = tapped_ops.product(
        plan, x.dtype, _by_unit(plan, x.reshape(*lead, n_in)), *_operands(tapped, as_matrix)
    )
    return product_PRTO.reshape(*lead, *weight.shape[n_in_axes:])


def tapped_scale(x: jax.Array, tapped: Tapped) -> jax.Array:
    """x * scale over the last axis, with a tapped scale."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return tapped_ops.scaled(tapped.plan, _by_unit(tapped.plan, flat), *_operands(tapped, _as_it_is)).reshape(x.shape)


def tapped_bias(x: jax.Array, tapped: Tapped) -> jax.Array:
    """x + bias over the last axes, with a tapped bias."""
    n_axes = tapped.weight.ndim
    flat = x.reshape(*x.shape[: x.ndim - n_axes], -1)
    operands = _operands(tapped, lambda leaf: leaf.reshape(-1))
    return tapped_ops.biased(tapped.plan, _by_unit(tapped.plan, flat), *operands).reshape(x.shape)


def tapped_lookup(tapped: Tapped, token_NT: jax.Array, *, is_head: bool) -> tuple[jax.Array, Tapped]:
    """Rows of a tapped table, and the table for what comes after: with the lookup in it if it is also the head."""
    plan, (V, D) = tapped.plan, tapped.weight.shape
    token_PRT = _by_unit(plan, token_NT)
    row_PU, place_PRT = tapped_ops.rows_in_use(token_PRT, n_rows=V)
    carrier_PRUD = jnp.zeros((*token_PRT.shape[:2], row_PU.shape[1] if is_head else 0, D), jnp.float32)
    x_PRTD, carrier_PRUD = tapped_ops.looked_up(
        plan, token_PRT, row_PU, place_PRT, carrier_PRUD, *_operands(tapped, _as_it_is)
    )
    lookup = Lookup(row_PU, carrier_PRUD) if is_head else None
    return x_PRTD.reshape(*token_NT.shape, D), tapped.replace(lookup=lookup)


def tapped_logits(hidden_NTD: jax.Array, tapped: Tapped, *, is_table: bool) -> jax.Array:
    """f32[N, T, V] from a tapped head [D, V], or from a table [V, D] whose `lookup` is filled in."""
    hidden_PRTD = _by_unit(tapped.plan, hidden_NTD)
    turn = jnp.transpose if is_table else _as_it_is
    logits_PRTV = tapped_ops.product(tapped.plan, jnp.float32, hidden_PRTD, *_operands(tapped, turn))
    if is_table:
        logits_PRTV = tapped_ops.through_carrier(tapped.plan, logits_PRTV, hidden_PRTD, *tapped.lookup)
    return logits_PRTV.reshape(*hidden_NTD.shape[:2], -1)


def tapped_logprobs(
    hidden_NTD: jax.Array, tapped: Tapped, token_NT: jax.Array, chunks: HeadChunks
) -> tuple[jax.Array, jax.Array]:
    """`layers.chosen_logprobs` with a tapped head, or a table whose `lookup` is filled in."""
    weight, reader = _operands(tapped, _as_it_is)
    lookup = tapped.lookup if chunks.is_table else (None, None)
    return chunked_logprobs(chunks, tapped.plan, hidden_NTD, weight, token_NT, reader, *lookup)


def _operands(tapped: Tapped, view: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, Reader]:
    """The weight and its reader, in the shape of one use; autodiff turns the cotangents back."""
    tap = tapped.tap._replace(gradient_sum=view(tapped.tap.gradient_sum))
    metric = view(tapped.metric) if tapped.metric is not None else None
    reader = Reader(tap, tapped.loss_weight_PR, tapped.noise_weight_PR, metric, tapped.seed)
    return view(tapped.weight), reader


def _as_it_is(leaf: jax.Array) -> jax.Array:
    return leaf


def _by_unit(plan: TapPlan, x_NT: jax.Array) -> jax.Array:
    """[N, T, ...] as [P, R, T, ...]; a unit of several rows has their tokens one after the other."""
    return x_NT.reshape(-1, plan.n_units, plan.rows_per_unit * x_NT.shape[1], *x_NT.shape[2:])

"""What the noise scale needs of every prompt group's gradient, without keeping the gradients."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class GroupGradients:
    """Of the gradients g_x of P prompt groups; exact but for the sketched inner products."""

    sq_norm_P: jax.Array  # f32[P], |g_x|^2
    sum_sq_norm: jax.Array  # f32, |sum_x g_x|^2
    dot_sum_P: jax.Array  # f32[P], <g_x, sum g>, from sketches: for intervals only
    block_sq_norm_B: jax.Array  # f32[B], |sum of g_x over a block|^2, for gns/naive


def build_group_gradients(
    group_loss: Callable[[Any, Any], jax.Array], *, build_sketch: Callable[[Any], Callable[[Any], jax.Array]]
) -> Callable[[Any, Any], GroupGradients]:
    """Returns `f(params, groups) -> GroupGradients`; leaves of `groups` are [B, C, c, ...].

    The P = B * C * c groups form B equal blocks (the mini-batches of the naive estimate); c of
    them are differentiated at once. Sums run in fp32. Memory: 2 + c gradients.

    Args:
        group_loss: (params, one group) -> scalar whose gradient is g_x.
        build_sketch: from a tree of the gradients' shapes to its sketch function.
    """

    def group_gradients(params: Any, groups: Any) -> GroupGradients:
        sketch = build_sketch(params)
        chunk_gradients = jax.vmap(jax.grad(group_loss), in_axes=(None, 0))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)

        def add_chunk(block_sum: Any, chunk: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            grads = jax.tree.map(lambda g: g.astype(jnp.float32), chunk_gradients(params, chunk))
            block_sum = jax.tree.map(lambda total, g: total + g.sum(axis=0), block_sum, grads)
            return block_sum, (jax.vmap(_sq_norm)(grads), jax.vmap(sketch)(grads))

        def add_block(total: Any, block: Any):
            block_sum, (sq_norm, sketches) = jax.lax.scan(add_chunk, zero, block)
            return jax.tree.map(jnp.add, total, block_sum), (sq_norm, sketches, _sq_norm(block_sum))

        total, (sq_norm_BCc, sketch_BCcW, block_sq_norm_B) = jax.lax.scan(add_block, zero, groups)
        sketch_PW = sketch_BCcW.reshape(-1, sketch_BCcW.shape[-1])
        return GroupGradients(
            sq_norm_P=sq_norm_BCc.reshape(-1),
            sum_sq_norm=_sq_norm(total),
            dot_sum_P=sketch_PW @ sketch_PW.sum(axis=0),
            block_sq_norm_B=block_sq_norm_B,
        )

    return group_gradients


def _sq_norm(tree: Any) -> jax.Array:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))

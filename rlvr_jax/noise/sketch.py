"""CountSketch: a gradient in a few thousand numbers that keep inner products."""

from typing import Any

import chex
import jax
import jax.numpy as jnp


def build_count_sketch(tree_like: Any, key: jax.Array, *, width: int):
    """Returns `sketch(tree) -> f32[width]` with E<sketch(a), sketch(b)> = <a, b>.

        sketch[h(i)] += sign(i) * a_i     one hash bucket h and one sign per parameter, from `key`

    Relative error of an inner product is about sqrt(2 / width) |a| |b|.
    Charikar, Chen and Farach-Colton, "Finding frequent items in data streams" (2002), sec. 3.

    Args:
        tree_like: a pytree with the shapes of what will be sketched.
        width: numbers per sketch.
    """
    leaves = jax.tree.leaves(tree_like)
    bucket_leaves, sign_leaves = [], []
    for number, leaf in enumerate(leaves):
        bucket_key, sign_key = jax.random.split(jax.random.fold_in(key, number))
        bucket_leaves.append(jax.random.randint(bucket_key, (leaf.size,), 0, width, jnp.int32))
        sign_leaves.append(jax.random.rademacher(sign_key, (leaf.size,), jnp.float32))

    def sketch(tree: Any) -> jax.Array:
        chex.assert_trees_all_equal_structs(tree, tree_like)
        total_W = jnp.zeros(width, jnp.float32)
        for leaf, bucket, sign in zip(jax.tree.leaves(tree), bucket_leaves, sign_leaves, strict=True):
            signed = leaf.reshape(-1).astype(jnp.float32) * sign
            total_W = total_W + jax.ops.segment_sum(signed, bucket, num_segments=width)
        return total_W

    return sketch

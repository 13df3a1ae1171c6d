"""A sketch that loses nothing, to see what was sketched: a bucket for every position."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ExactSketch:
    """The parameter itself times its seed, which shows both; what lies past `width` is padding and dropped."""

    width: int

    def dense(self, values: jax.Array, offset: jax.Array | int, seed: jax.Array) -> jax.Array:
        return self.sparse(values, offset + jnp.arange(values.shape[-1]), seed)

    def sparse(self, values: jax.Array, position: jax.Array, seed: jax.Array) -> jax.Array:
        empty = jnp.zeros((*values.shape[:-1], self.width), jnp.float32)
        return empty.at[..., position].add(seed.astype(jnp.float32) * values, mode="drop")

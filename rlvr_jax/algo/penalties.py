"""Rewards that depend on a completion's length alone."""

import chex
import jax
import jax.numpy as jnp


def overlong_penalty(length_PR: jax.Array, *, max_length: int, buffer: int) -> jax.Array:
    """0 up to max_length - buffer tokens, then falling evenly to -1 at max_length; never below.

        ((max_length - buffer) - length) / buffer

    Soft overlong punishment: DAPO, arXiv:2503.14476 sec. 3.4. Lengths are tokens, EOS included, never
    characters.

    Args:
        length_PR: int32[P, R] tokens.
        max_length: the most tokens a completion may have.
        buffer: 1..max_length tokens.

    Returns:
        f32[P, R] in [-1, 0].
    """
    chex.assert_rank(length_PR, 2)
    over_PR = length_PR.astype(jnp.float32) - (max_length - buffer)
    return -jnp.clip(over_PR / buffer, 0.0, 1.0)

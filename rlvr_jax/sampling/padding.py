"""Ragged token lists to rectangles and back."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np


def pad_right(rows: Sequence[Sequence[int]], *, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """int32[N, width] with the rows on the left, and their lengths int32[N].

    Raises ValueError when a row is empty or longer than `width`: a prompt is never cut in silence.
    """
    length_N = np.array([len(row) for row in rows], np.int32)
    if length_N.min() < 1 or length_N.max() > width:
        raise ValueError(f"row lengths {length_N.min()}..{length_N.max()} tokens do not lie in 1..{width}")
    token_NT = np.full((len(rows), width), pad_id, np.int32)
    for row, tokens in zip(token_NT, rows, strict=True):
        row[: len(tokens)] = tokens
    return token_NT, length_N


def bucket_widths(longest: int, *, first: int) -> tuple[int, ...]:
    """first, 2 first, 4 first ... and `longest` at the end: few shapes to compile for, little padding to compute."""
    widths = []
    while first < longest:
        widths.append(first)
        first *= 2
    return (*widths, longest)


def join_prompt_and_completion(prompt_NS: jax.Array, prompt_length_N: jax.Array, completion_NT: jax.Array) -> jax.Array:
    """Each row's prompt followed at once by its completion, then pads: int32[N, S + T].

    Args:
        prompt_NS: int32[N, S], padded on the right.
        prompt_length_N: int32[N], 1..S tokens.
        completion_NT: int32[N, T], padded on the right with the id the result is padded with.
    """
    chex.assert_rank([prompt_NS, prompt_length_N, completion_NT], [2, 1, 2])
    S, T = prompt_NS.shape[1], completion_NT.shape[1]
    place_1T = jnp.arange(S + T)[None]
    is_prompt_NT = place_1T < prompt_length_N[:, None]
    # past the completion's end its last column repeats; those places are pads or beyond every length
    completion_place_NT = jnp.clip(place_1T - prompt_length_N[:, None], 0, T - 1)
    return jnp.where(
        is_prompt_NT,
        jnp.pad(prompt_NS, ((0, 0), (0, T))),
        jnp.take_along_axis(completion_NT, completion_place_NT, axis=1),
    )


def is_completion_token(completion_length_N: jax.Array, *, width: int) -> jax.Array:
    """bool[N, width], true at the completion's tokens: EOS is one of them, nothing after it is."""
    return jnp.arange(width)[None] < completion_length_N[:, None]

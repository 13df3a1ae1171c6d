"""The pieces of a Llama-style block."""

import math

import jax
import jax.numpy as jnp

from rlvr_jax.models.chunked_head import HeadChunks, chunked_logprobs
from rlvr_jax.models.lora import Adapted
from rlvr_jax.models.taps import (
    Tapped,
    tapped_bias,
    tapped_linear,
    tapped_logits,
    tapped_logprobs,
    tapped_lookup,
    tapped_scale,
)

Weight = jax.Array | Tapped | Adapted


def rms_norm(x: jax.Array, scale_D: Weight, *, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, in fp32 whatever x is. arXiv:1910.07467 eq. 4."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    normed = (x32 * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype)
    scale_D = scale_D.astype(x.dtype)
    if isinstance(scale_D, Tapped):
        return tapped_scale(normed, scale_D)
    return normed * jnp.expand_dims(scale_D, range(x.ndim - 1))


def linear(x: jax.Array, weight: Weight, *, n_in_axes: int = 1) -> jax.Array:
    """Contracts the last `n_in_axes` of x with the first of the weight, in the dtype of x.

    As one rank-2 product: XLA's CPU backend is slow at the weight gradient of the rank-3 form. The
    gradient of a SwiGLU block took 18 ms there and 6 ms so (x [256, 11, 96], mlp width 256, 2-core CPU,
    jax 0.10.2, 2026-11-21).
    """
    if isinstance(weight, Adapted):
        thin = linear(x, weight.down, n_in_axes=n_in_axes).astype(jnp.float32)
        # in fp32: bfloat16 would round alpha / r itself, the same way at every token. And where it is thin
        thin = (weight.scale * thin).astype(x.dtype)
        return linear(x, weight.weight, n_in_axes=n_in_axes) + linear(thin, weight.up)
    if isinstance(weight, Tapped):
        return tapped_linear(x, weight, n_in_axes=n_in_axes)
    lead, in_shape = x.shape[: x.ndim - n_in_axes], weight.shape[:n_in_axes]
    n_in = math.prod(in_shape)
    product = x.reshape(-1, n_in) @ weight.reshape(n_in, -1)
    return product.reshape(*lead, *weight.shape[n_in_axes:])


def biased(x: jax.Array, bias: Weight) -> jax.Array:
    """x + bias over the last axes."""
    if isinstance(bias, Tapped):
        return tapped_bias(x, bias)
    return x + jnp.expand_dims(bias, range(x.ndim - bias.ndim))


def looked_up(table_VD: Weight, token_NT: jax.Array, *, is_head: bool) -> tuple[jax.Array, Weight]:
    """Rows [N, T, D] of a table, and the table to use from there on: a tapped one that is also the head remembers."""
    if isinstance(table_VD, Tapped):
        return tapped_lookup(table_VD, token_NT, is_head=is_head)
    return table_VD[token_NT], table_VD


def logits(hidden: jax.Array, weight: Weight, *, is_table: bool) -> jax.Array:
    """f32[..., V] from states [..., D] and a head [D, V], or the table [V, D] that serves as one."""
    if isinstance(weight, Tapped):
        return tapped_logits(hidden, weight, is_table=is_table)
    head_DV = weight.T if is_table else weight
    return jnp.einsum("...d,dv->...v", hidden, head_DV, preferred_element_type=jnp.float32)


def chosen_logprobs(
    hidden_NTD: jax.Array, weight: Weight, token_NT: jax.Array, chunks: HeadChunks
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy f32[N, T] of tokens, without the logits of all the vocabulary at once."""
    if isinstance(weight, Tapped):
        return tapped_logprobs(hidden_NTD, weight, token_NT, chunks)
    return chunked_logprobs(chunks, None, hidden_NTD, weight, token_NT, None, None, None)


def swiglu(x: jax.Array, *, gate_DF: Weight, up_DF: Weight, down_FD: Weight) -> jax.Array:
    """(silu(x gate) * (x up)) down. arXiv:2002.05202 sec. 2."""
    return linear(jax.nn.silu(linear(x, gate_DF)) * linear(x, up_DF), down_FD)

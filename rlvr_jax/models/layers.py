"""The pieces of a Llama-style block."""

import math

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale_D: jax.Array, *, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, in fp32 whatever x is. arXiv:1910.07467 eq. 4."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    scale = jnp.expand_dims(scale_D.astype(x.dtype), range(x.ndim - 1))
    return (x32 * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


def rotary_angles(position_NT: jax.Array, *, head_width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position / theta^(2i/K), f32[N, T, 1, K/2] each. arXiv:2104.09864 sec. 3.2.2."""
    frequency_K = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angle_NT1K = position_NT.astype(jnp.float32)[:, :, None, None] * frequency_K[None, None, None]
    return jnp.cos(angle_NT1K), jnp.sin(angle_NT1K)


def rotate(x_NTHK: jax.Array, cos_NT1K: jax.Array, sin_NT1K: jax.Array) -> jax.Array:
    """Turns each pair (x_i, x_{i+K/2}) by its angle: the half-split layout of the HF checkpoints."""
    first, second = jnp.split(x_NTHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos_NT1K - second * sin_NT1K, second * cos_NT1K + first * sin_NT1K], axis=-1)
    return turned.astype(x_NTHK.dtype)


def linear(x: jax.Array, weight: jax.Array, *, n_in_axes: int = 1) -> jax.Array:
    """Contracts the last `n_in_axes` of x with the first of the weight, in the dtype of x.

    As one rank-2 product: XLA's CPU backend is slow at the weight gradient of the rank-3 form. The
    gradient of a SwiGLU block took 18 ms there and 6 ms so (x [256, 11, 96], mlp width 256, 2-core CPU,
    jax 0.10.2, 2026-11-21).
    """
    lead, in_shape = x.shape[: x.ndim - n_in_axes], weight.shape[:n_in_axes]
    n_in = math.prod(in_shape)
    product = x.reshape(-1, n_in) @ weight.reshape(n_in, -1)
    return product.reshape(*lead, *weight.shape[n_in_axes:])


def swiglu(x: jax.Array, *, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array) -> jax.Array:
    """(silu(x gate) * (x up)) down. arXiv:2002.05202 sec. 2."""
    return linear(jax.nn.silu(linear(x, gate_DF)) * linear(x, up_DF), down_FD)

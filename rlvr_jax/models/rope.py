"""Rotary positions: how fast each pair of a head's numbers turns, and the turning."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

ROPE_SCALINGS = ("linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How published models stretch rotary positions beyond the length they were first trained at.

    A field that a kind does not use is 0. Field names are those of the config.json of published models, shortened.
    """

    kind: str  # one of ROPE_SCALINGS
    factor: float
    original_length: int = 0  # llama3, yarn: tokens
    low_freq_factor: float = 0.0  # llama3
    high_freq_factor: float = 0.0  # llama3
    beta_fast: float = 0.0  # yarn: turns over original_length above which a pair is left alone
    beta_slow: float = 0.0  # yarn: and below which it is slowed by the whole factor
    attention_factor: float = 0.0  # yarn: of cos and sin
    is_range_rounded: bool = True  # yarn: the pairs between are counted from a whole number to a whole number


def rotary_frequencies(*, head_width: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """Radians per position of each pair, f32[K/2], and the factor of cos and sin.

        f_i = theta^(-2i/K)                                                  arXiv:2104.09864 sec. 3.2.2
        linear: f_i / factor                                                 arXiv:2306.15595
        llama3: f_i where the wavelength is short, f_i / factor where it is long, between them a mix that is linear
                in original_length / wavelength                              arXiv:2407.21783 sec. 3.4.2
        yarn:   a mix of the two that is linear in i                         arXiv:2309.00071 sec. 3.2, 3.4

    Raises ValueError at a kind of scaling that is none of ROPE_SCALINGS.
    """
    pair_K = np.arange(0, head_width, 2, dtype=np.float32)
    frequency_K = np.float32(1.0) / np.float32(theta) ** (pair_K / np.float32(head_width))
    if scaling is None:
        return frequency_K, 1.0
    slowed_K = frequency_K / np.float32(scaling.factor)
    if scaling.kind == "linear":
        return slowed_K, 1.0
    if scaling.kind == "llama3":
        n_turns_K = scaling.original_length * frequency_K / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept_K = np.clip((n_turns_K - low) / (high - low), 0.0, 1.0)
        return _mixed(frequency_K, slowed_K, kept_K), 1.0
    if scaling.kind == "yarn":
        first, last = (
            _pair_with_turns(turns, length=scaling.original_length, head_width=head_width, theta=theta)
            for turns in (scaling.beta_fast, scaling.beta_slow)
        )
        if scaling.is_range_rounded:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_width - 1)
        width = last - first or 0.001
        kept_K = 1 - np.clip((np.arange(head_width // 2) - first) / width, 0.0, 1.0)
        return _mixed(frequency_K, slowed_K, kept_K), scaling.attention_factor
    raise ValueError(f"rope scaling {scaling.kind!r} is none of {ROPE_SCALINGS}")


def rotary_angles(
    position_NT: jax.Array, *, head_width: int, theta: float, scaling: RopeScaling | None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position * frequency, f32[N, T, 1, K/2] each, times the scaling's factor."""
    frequency_K, factor = rotary_frequencies(head_width=head_width, theta=theta, scaling=scaling)
    angle_NT1K = position_NT.astype(jnp.float32)[:, :, None, None] * frequency_K[None, None, None]
    return factor * jnp.cos(angle_NT1K), factor * jnp.sin(angle_NT1K)


def rotate(x_NTHK: jax.Array, cos_NT1K: jax.Array, sin_NT1K: jax.Array) -> jax.Array:
    """Turns each pair (x_i, x_{i+K/2}) by its angle: the half-split layout of the HF checkpoints."""
    first, second = jnp.split(x_NTHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos_NT1K - second * sin_NT1K, second * cos_NT1K + first * sin_NT1K], axis=-1)
    return turned.astype(x_NTHK.dtype)


def _mixed(frequency_K: np.ndarray, slowed_K: np.ndarray, kept_K: np.ndarray) -> np.ndarray:
    return (kept_K * frequency_K + (1 - kept_K) * slowed_K).astype(np.float32)


def _pair_with_turns(turns: float, *, length: int, head_width: int, theta: float) -> float:
    """The (fractional) number of the pair that turns so often over `length` positions."""
    return head_width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

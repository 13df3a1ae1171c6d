"""Rotary frequencies once more, pair by pair, from the definitions of the papers."""

import math

import numpy as np


def slow_frequencies(*, head_width, theta, scaling):
    """(radians per position of each pair, factor of cos and sin), float64."""
    plain = [theta ** (-2 * i / head_width) for i in range(head_width // 2)]
    if scaling is None:
        return np.array(plain), 1.0
    if scaling.kind == "linear":  # positions are divided
        return np.array([f / scaling.factor for f in plain]), 1.0
    if scaling.kind == "llama3":
        return np.array([_llama3(f, scaling) for f in plain]), 1.0
    first = _pair_that_turns(scaling.beta_fast, head_width, theta, scaling.original_length)
    last = _pair_that_turns(scaling.beta_slow, head_width, theta, scaling.original_length)
    if scaling.is_range_rounded:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    if first == last:
        last += 0.001
    slowed = [min(max((i - first) / (last - first), 0), 1) for i in range(head_width // 2)]
    mixed = [(1 - share) * f + share * f / scaling.factor for share, f in zip(slowed, plain, strict=True)]
    return np.array(mixed), scaling.attention_factor


def _llama3(frequency, scaling):
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_length / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_length / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (scaling.original_length / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _pair_that_turns(turns, head_width, theta, length):
    """The fractional pair whose angle grows by `turns` whole turns over `length` positions, by bisection."""
    low, high = -100.0 * head_width, 100.0 * head_width  # higher pairs turn less often
    for _ in range(200):
        middle = (low + high) / 2
        if math.log(length / (2 * math.pi)) - 2 * middle / head_width * math.log(theta) > math.log(turns):
            low = middle
        else:
            high = middle
    return low

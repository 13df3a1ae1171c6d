"""Rotary positions: frequencies by hand and by a slow version, and the turning."""

import math
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slow_rope import slow_frequencies

from rlvr_jax.models.rope import RopeScaling, rotary_angles, rotary_frequencies, rotate

LLAMA3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64, beta_fast=8.0, beta_slow=0.5, attention_factor=1.25)
SCALINGS = {
    "none": None,
    "linear": RopeScaling("linear", 4.0),
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, range not rounded": RopeScaling(**(YARN.__dict__ | {"is_range_rounded": False})),
    "yarn, the range is one pair": RopeScaling(**(YARN.__dict__ | {"beta_fast": 1e6, "beta_slow": 9e5})),
    "yarn of published models": RopeScaling("yarn", 4.0, 32_768, beta_fast=32.0, beta_slow=1.0, attention_factor=1.1),
}


def test_frequencies_fall_from_one_by_powers_of_theta():
    frequency_K, factor = rotary_frequencies(head_width=4, theta=100.0, scaling=None)
    np.testing.assert_allclose(frequency_K, [1.0, 0.1], rtol=1e-6)  # 100^0, 100^(-2/4)
    assert (frequency_K.dtype, factor) == (np.float32, 1.0)


def test_linear_scaling_divides_every_frequency():
    frequency_K, factor = rotary_frequencies(head_width=4, theta=100.0, scaling=RopeScaling("linear", 4.0))
    np.testing.assert_allclose(frequency_K, [0.25, 0.025], rtol=1e-6)
    assert factor == 1.0


def test_llama3_leaves_short_waves_slows_long_ones_and_mixes_between():
    # theta 10^4, 3 pairs: frequencies 1, 10^(-4/3), 10^(-8/3); wavelengths 6.28, 135.4, 2916. Of 200 positions:
    # 31.8 turns > 4: left; 1.477 turns: kept (1.477 - 1) / 3 = 0.1591; 0.0686 turns < 1: slowed 8 times
    scaling = RopeScaling("llama3", 8.0, 200, low_freq_factor=1.0, high_freq_factor=4.0)
    frequency_K, _ = rotary_frequencies(head_width=6, theta=1e4, scaling=scaling)
    kept = (200 * 10 ** (-4 / 3) / (2 * math.pi) - 1) / 3
    middle = 10 ** (-4 / 3) * (kept + (1 - kept) / 8)
    np.testing.assert_allclose(frequency_K, [1.0, middle, 10 ** (-8 / 3) / 8], rtol=1e-5)
    assert kept == pytest.approx(0.1591, abs=1e-4)


def test_yarn_leaves_pairs_that_turn_often_and_slows_those_that_hardly_turn():
    # theta 10^4, K 8: pair d turns 64 * 10^-d / 2 pi = 10.19 * 10^-d times over 64 positions; 8 turns at d = 0.105,
    # 0.5 turns at 1.309; rounded outwards to 0 and 2. Pair 0 is left, pair 1 is half slowed, pairs 2 and 3 whole
    frequency_K, factor = rotary_frequencies(head_width=8, theta=1e4, scaling=YARN)
    np.testing.assert_allclose(frequency_K, [1.0, 0.1 * (0.5 + 0.5 / 4), 0.01 / 4, 0.001 / 4], rtol=1e-5)
    assert factor == 1.25


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize(("head_width", "theta"), [(8, 500.0), (64, 5e5), (128, 1e6)])
def test_frequencies_are_those_of_the_definitions(name, head_width, theta):
    scaling = SCALINGS[name]
    expected_K, expected_factor = slow_frequencies(head_width=head_width, theta=theta, scaling=scaling)
    frequency_K, factor = rotary_frequencies(head_width=head_width, theta=theta, scaling=scaling)
    np.testing.assert_allclose(frequency_K, expected_K, rtol=1e-5)
    assert factor == expected_factor


def test_another_kind_of_scaling_is_refused():
    with pytest.raises(ValueError, match=r"rope scaling 'dynamic' is none of \('linear', 'llama3', 'yarn'\)"):
        rotary_frequencies(head_width=4, theta=100.0, scaling=RopeScaling("dynamic", 2.0))


def test_each_number_turns_with_the_one_half_a_head_away():
    # position 3, frequencies 1 and 0.1: (1, 0, 0, 0) becomes (cos 3, 0, sin 3, 0), (0, 0, 0, 2) 2 (0, -sin .3, 0, cos)
    angles = rotary_angles(jnp.array([[3]]), head_width=4, theta=100.0, scaling=None)
    x_1121K = jnp.array([[[[1.0, 0, 0, 0], [0, 0, 0, 2]]]])
    expected = [[math.cos(3), 0, math.sin(3), 0], [0, -2 * math.sin(0.3), 0, 2 * math.cos(0.3)]]
    np.testing.assert_allclose(rotate(x_1121K, *angles)[0, 0], expected, atol=1e-6)


def test_a_product_of_two_turned_heads_depends_on_their_distance_alone():
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(query_position, key_position):
        turned = (
            rotate(x, *rotary_angles(jnp.array([[place]]), head_width=8, theta=50.0, scaling=None))
            for x, place in ((query, query_position), (key, key_position))
        )
        return float(jnp.sum(next(turned) * next(turned)))

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


def test_yarn_makes_queries_and_keys_longer():
    plain, longer = (
        rotary_angles(jnp.array([[0, 7]]), head_width=8, theta=1e4, scaling=scaling)
        for scaling in (None, RopeScaling(**(YARN.__dict__ | {"factor": 1.0})))
    )
    for one, other in zip(plain, longer, strict=True):
        np.testing.assert_allclose(other, 1.25 * one, rtol=1e-6)

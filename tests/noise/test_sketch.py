"""CountSketch against one that draws a bucket and a sign for every number."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.noise.sketch import CountSketch, count_sketch

SKETCH = CountSketch(61)
SEED = jnp.uint32(7)


def numbers(number, *shape):
    return np.random.default_rng(number).normal(size=shape).astype(np.float32)


def test_every_number_lands_in_one_bucket_with_a_sign():
    got_nW = np.asarray(SKETCH.dense(jnp.eye(200), 0, SEED))
    assert (np.abs(got_nW).sum(axis=1) == 1).all()
    buckets, signs = np.abs(got_nW).argmax(axis=1), got_nW.sum(axis=1)
    np.testing.assert_array_equal(np.diff(buckets) % 61, 1)  # neighbours lie side by side, 61 after 60 is 0
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(200)
    assert abs((signs[:-61] * signs[61:]).mean()) < 4 / np.sqrt(139)  # those that collide agree half the time


def test_a_sketch_is_linear():
    a, b = numbers(0, 500), numbers(1, 500)
    both = SKETCH.dense(2 * a - 3 * b, 0, SEED)
    np.testing.assert_allclose(both, 2 * SKETCH.dense(a, 0, SEED) - 3 * SKETCH.dense(b, 0, SEED), atol=1e-4)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_leading_axes_are_sketched_one_by_one(lead):
    values, position = numbers(0, *lead, 150), jnp.arange(150, dtype=jnp.uint32) * 5
    for sketch in (lambda x: SKETCH.dense(x, 9, SEED), lambda x: SKETCH.sparse(x, position, SEED)):
        got = sketch(values)
        assert got.shape == (*lead, 61)
        for index in np.ndindex(*lead):
            np.testing.assert_allclose(got[index], sketch(values[index]), atol=1e-5)


@pytest.mark.parametrize("cuts", [[0, 130, 300], [0, 1, 62, 64, 299, 300]])
def test_the_sketches_of_parts_at_their_offsets_add_up_to_that_of_the_whole(cuts):
    values = numbers(0, 300)
    whole = SKETCH.dense(values, 1000, SEED)
    parts = sum(SKETCH.dense(values[a:b], 1000 + a, SEED) for a, b in itertools.pairwise(cuts))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 60, 61, 12345, 2**31, 2**32 - 400])
def test_a_sketch_of_positions_is_that_of_a_run_of_them(offset):
    values = numbers(0, 300)
    position = (np.arange(300) + offset).astype(np.uint32)
    dense = SKETCH.dense(values, np.uint32(offset), SEED)
    np.testing.assert_allclose(SKETCH.sparse(values, jnp.asarray(position), SEED), dense, atol=1e-5)
    order = np.random.default_rng(0).permutation(300)
    shuffled = SKETCH.sparse(values[order], jnp.asarray(position[order]), SEED)
    np.testing.assert_allclose(shuffled, dense, atol=1e-5)


def test_a_position_that_occurs_twice_counts_twice():
    position = jnp.array([5, 9, 5], jnp.uint32)
    once = SKETCH.sparse(jnp.array([4.0, 2.0]), jnp.array([5, 9], jnp.uint32), SEED)
    np.testing.assert_allclose(SKETCH.sparse(jnp.array([3.0, 2.0, 1.0]), position, SEED), once, atol=1e-6)


# What is kept of inner products, over many seeds.

N_SEEDS = 400


@functools.partial(jax.jit, static_argnums=0)
def sketches_by_seed(width, leaves):
    """[N_SEEDS, ..., width], sums over leaves [..., n], each with a seed of its own."""

    def of_seed(number):
        seeds = number * jnp.uint32(7919) + jnp.arange(len(leaves), dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
        return sum(CountSketch(width).dense(leaf, 0, seed) for leaf, seed in zip(leaves, seeds, strict=True))

    return jax.lax.map(of_seed, jnp.arange(N_SEEDS, dtype=jnp.uint32))


def random_sketches(width, leaves):
    """The same by a CountSketch that draws every bucket and every sign."""
    rng, values = np.random.default_rng(5), np.concatenate(leaves, axis=-1)
    out = np.zeros((N_SEEDS, *values.shape[:-1], width))
    for of_seed in out:
        bucket, sign = rng.integers(0, width, values.shape[-1]), rng.choice([-1, 1], values.shape[-1])
        for index in np.ndindex(*values.shape[:-1]):
            of_seed[index] = np.bincount(bucket, sign * values[index], width)
    return out


def matrix(rows, columns, scale=1.0):
    return (numbers(rows + columns, rows, columns) * scale).reshape(-1)


def heavy_profile():
    """Few large entries at the same places in every layer, as the columns of outlying features are."""
    return np.exp(1.5 * numbers(3, 32, 64))


VALUES = {
    # rows of a power of two, whose columns buckets by the last bits of a position would never mix
    "a matrix": [matrix(64, 64)],
    "a column of a matrix with rows of 256": [matrix(300, 256, scale=np.arange(256) == 17)],
    "rows of 256 of which every eighth is used": [matrix(64, 256, scale=(np.arange(64) % 8 == 0)[:, None])],
    "of rank one": [(numbers(1, 128, 1) * numbers(2, 1, 64)).reshape(-1)],
    "layers with the same large entries": [(heavy_profile() * numbers(i, 32, 64)).reshape(-1) for i in range(6)],
    "scales of norms, far fewer than buckets": [numbers(i, 24) for i in range(6)],
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("wish", [64, 512])
def test_inner_products_are_unbiased_with_the_spread_of_a_random_sketch(case, wish):
    width = count_sketch(wish).width
    leaves = VALUES[case]
    pairs = [np.stack([leaf, 0.6 * leaf + 0.8 * np.roll(leaf, 1)]) for leaf in leaves]  # two gradients, alike
    exact = np.concatenate(pairs, axis=1).astype(np.float64)
    exact = exact @ exact.T
    length = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    errors = []
    for of_seeds in (sketches_by_seed(width, pairs), random_sketches(width, pairs)):
        inner = np.einsum("xaw,xbw->xab", *[np.asarray(of_seeds, np.float64)] * 2)
        errors.append(((inner - exact) / length).reshape(N_SEEDS, 4)[:, [0, 1, 3]])
    got, expected = errors
    spread = np.sqrt((got**2).mean())
    assert spread < 1.15 * np.sqrt(2 / width)
    # chance aside no worse than random; better is fine: neighbours never collide
    assert spread < 1.25 * np.sqrt((expected**2).mean())
    assert np.abs(got.mean(axis=0)).max() < 4 * spread / np.sqrt(N_SEEDS)


@pytest.mark.parametrize(("wish", "width"), [(2, 2), (3, 3), (4, 3), (64, 61), (100, 97), (4096, 4093), (65536, 65521)])
def test_the_number_of_buckets_is_the_largest_prime_up_to_the_wish(wish, width):
    assert count_sketch(wish) == CountSketch(width)

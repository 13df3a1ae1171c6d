import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.noise.sketch import build_count_sketch

TREE = {"a": jax.random.normal(jax.random.key(0), (30, 10)), "b": jax.random.normal(jax.random.key(1), (50,))}
OTHER = {"a": jax.random.normal(jax.random.key(2), (30, 10)), "b": 0.5 * TREE["b"]}


def dot(x, y):
    return sum(float(jnp.vdot(x[name], y[name])) for name in x)


def test_inner_products_are_kept_on_average():
    truth, n = dot(TREE, OTHER), 400
    got = []
    for seed in range(n):
        sketch = build_count_sketch(TREE, jax.random.key(seed), width=64)
        got.append(float(sketch(TREE) @ sketch(OTHER)))
    spread = np.sqrt(2 / 64 * dot(TREE, TREE) * dot(OTHER, OTHER))
    assert np.mean(got) == pytest.approx(truth, abs=4 * spread / np.sqrt(n))
    assert np.std(got) < 1.5 * spread


def test_sketch_is_linear_and_the_same_every_time():
    sketch = build_count_sketch(TREE, jax.random.key(3), width=32)
    total = jax.tree.map(lambda x, y: 2 * x + y, TREE, OTHER)
    np.testing.assert_allclose(sketch(total), 2 * sketch(TREE) + sketch(OTHER), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(sketch(TREE), build_count_sketch(TREE, jax.random.key(3), width=32)(TREE))


def test_one_parameter_lands_in_one_bucket():
    one_hot = jax.tree.map(jnp.zeros_like, TREE) | {"b": jnp.zeros(50).at[7].set(3.0)}
    got = np.asarray(build_count_sketch(TREE, jax.random.key(3), width=32)(one_hot))
    assert sorted(np.abs(got)) == [0.0] * 31 + [3.0]


def test_a_tree_of_another_structure_is_refused():
    with pytest.raises(AssertionError):
        build_count_sketch(TREE, jax.random.key(0), width=8)({"a": TREE["a"]})

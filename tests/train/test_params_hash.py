import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax.train.params_hash import params_hash

PARAMS = {"a": {"w": np.arange(24, dtype=np.float32).reshape(4, 6)}, "b": np.ones(8, np.float32)}


def on_devices(params):
    return jax.tree.map(jnp.asarray, params)


def test_equal_weights_have_one_hash_however_they_are_spread():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"))
    found = set()
    for spec in (PartitionSpec(), PartitionSpec("x"), PartitionSpec("x", "y"), PartitionSpec(None, "y")):
        w = jax.device_put(PARAMS["a"]["w"], NamedSharding(mesh, spec))
        found.add(params_hash({"a": {"w": w}, "b": jnp.asarray(PARAMS["b"])}))
    assert found == {params_hash(on_devices(PARAMS))}
    assert len(found.pop()) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.at[2, 3].set(jnp.nextafter(w[2, 3], 100.0)),  # the last bit of one number
        lambda w: w.at[0, 0].set(-0.0),
        lambda w: w.at[0, 1].set(w[1, 0]).at[1, 0].set(w[0, 1]),  # two numbers change places
        lambda w: w[:, ::-1],
        lambda w: w.reshape(6, 4),
        lambda w: w.astype(jnp.bfloat16),
        lambda w: w.at[1].set(jnp.nan),
    ],
)
def test_other_weights_have_another(change):
    params = on_devices(PARAMS)
    changed = params | {"a": {"w": change(params["a"]["w"])}}
    assert params_hash(changed) != params_hash(params)


def test_other_names_have_another():
    params = on_devices(PARAMS)
    assert params_hash({"c": params["a"], "b": params["b"]}) != params_hash(params)


def mixed(x):  # MurmurHash3's finaliser, in whole numbers
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_the_digits_are_those_of_a_slow_sum_so_that_another_process_finds_them_too():
    w = PARAMS["a"]["w"]
    words = [0, 0, 0, 0]
    for i, row in enumerate(w):
        for j, value in enumerate(row):
            bits = int(np.float32(value).view(np.uint32))
            place = mixed((mixed(i) + j) % 2**32)
            for word in range(4):
                words[word] += mixed(bits ^ mixed((place + 0x9E3779B9 * (word + 1)) % 2**32))
    said = b"w float32 (4, 6) " + np.array([word % 2**32 for word in words], np.uint32).tobytes()
    assert params_hash({"w": jnp.asarray(w)}) == hashlib.sha256(said).hexdigest()[:16]

"""A fingerprint of parameters, made where they are: gigabytes of weights need not come to the host."""

import hashlib

import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.models.spec import Params
from rlvr_jax.train.processes import on_host

_N_WORDS = 4  # of 32 bits, each over every bit of a leaf


def params_hash(params: Params) -> str:
    """16 hex digits over names, shapes and bits of all parameters.

    Leaf by leaf: sums, modulo 2^32, of every element's bits mixed with its place. Such a sum is exact in any order, so
    the digits do not depend on how the leaf is spread over devices. Against accidents, not against forgers.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flax.traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(f"{path} {leaf.dtype} {leaf.shape} ".encode() + on_host(_words(leaf)).tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _words(leaf: jax.Array) -> jax.Array:
    """uint32[_N_WORDS]."""
    bits = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]).astype(jnp.uint32)
    # the place of an element from its indices, not by reshaping, which would gather a leaf that is spread over devices
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place = _mixed(place + index)
    return jnp.stack(
        [
            _mixed(bits ^ _mixed(place + jnp.uint32(0x9E3779B9 * word % 2**32))).sum(dtype=jnp.uint32)
            for word in range(1, 1 + _N_WORDS)
        ]
    )


def _mixed(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

"""Weights with an adapter multiplied out, in numpy float64, and gradients of its factors by the chain rule."""

import flax.traverse_util
import jax
import numpy as np

from rlvr_jax.models.lora import lora_table
from rlvr_jax.models.spec import initial_values


def random_factors(spec, lora, *, seed=0, at_start=False):
    """fp32 factors, none of which is 0 unless they are those before the first update."""
    factors = initial_values(lora_table(spec, lora), jax.random.key(seed))
    if at_start:
        return factors
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (leaf + rng.normal(0, 0.3, leaf.shape)).astype(np.float32), factors)


def merged(weights, factors, lora):
    """A tree like `weights`, f64: W + alpha / r down up, layer by layer."""
    flat = {path: np.array(leaf, np.float64) for path, leaf in flax.traverse_util.flatten_dict(weights).items()}
    for path, pair in pairs(factors).items():
        for layer in range(len(flat[path])):
            product = np.tensordot(pair["lora_down"][layer], pair["lora_up"][layer], axes=1)
            flat[path][layer] += lora.alpha / lora.rank * product
    return flax.traverse_util.unflatten_dict(flat)


def factor_gradients(of_merged, factors, lora):
    """{path: f64[..., *factor]} from gradients {path: [..., *matrix]} of the merged weights, with any leading axes.

    With y = x (W + c down up) and dW the gradient of the sum:  d down = c dW up^T,  d up = c down^T dW.
    """
    found = {}
    for path, pair in pairs(factors).items():
        down, up, gradient = pair["lora_down"], pair["lora_up"], np.asarray(of_merged[path], np.float64)
        L, r = up.shape[:2]
        n_lead, n_in = gradient.ndim - down.ndim - up.ndim + 3, int(np.prod(down.shape[1:-1]))
        lead = gradient.shape[:n_lead]
        dW_LIO, up_LRO = gradient.reshape(*lead, L, n_in, -1), up.reshape(L, r, -1)
        c, down_LIR = lora.alpha / lora.rank, down.reshape(L, n_in, r)
        found[(*path, "lora_down")] = c * np.einsum("...lio,lro->...lir", dW_LIO, up_LRO).reshape(*lead, *down.shape)
        found[(*path, "lora_up")] = c * np.einsum("lir,...lio->...lro", down_LIR, dW_LIO).reshape(*lead, *up.shape)
    return found


def pairs(factors):
    """{path of a matrix: {"lora_down": f64, "lora_up": f64}}."""
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(factors).items():
        found.setdefault(path[:-1], {})[path[-1]] = np.asarray(leaf, np.float64)
    return found

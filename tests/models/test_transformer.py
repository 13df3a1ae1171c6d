"""The decoder against numpy, and its causality."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slow_transformer import slow_logits

from rlvr_jax.models import transformer
from rlvr_jax.models.attention import grouped_query_attention
from rlvr_jax.models.layers import biased, linear
from rlvr_jax.models.rope import RopeScaling
from rlvr_jax.models.spec import ModelSpec, initial_params

SPEC = ModelSpec(
    vocab_size=13, width=12, n_layers=2, n_heads=6, n_kv_heads=2, head_width=2, mlp_width=20,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
TIED = ModelSpec(**(SPEC.__dict__ | {"has_tied_head": True}))
BIASED = ModelSpec(**(SPEC.__dict__ | {"has_attention_bias": True}))
HEADS_NORMED = ModelSpec(**(SPEC.__dict__ | {"qk_norm": "each_head"}))
OLMO2_LIKE = ModelSpec(**(SPEC.__dict__ | {"qk_norm": "all_heads", "has_post_norm": True, "has_attention_bias": True}))
YARN = RopeScaling("yarn", 4.0, 64, beta_fast=8.0, beta_slow=0.5, attention_factor=1.25)
STRETCHED = ModelSpec(**(SPEC.__dict__ | {"rope_scaling": YARN, "head_width": 4}))
SPECS = {
    "untied": SPEC, "tied": TIED, "with attention biases": BIASED, "each head normed": HEADS_NORMED,
    "all heads normed, norms after the blocks": OLMO2_LIKE, "stretched positions": STRETCHED,
}  # fmt: skip


def _params(spec):
    params = initial_params(spec, jax.random.key(3))
    # scales of 1 would hide a norm that is never applied
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


def _logits(params, spec, token_NT, **kw):
    hidden, params = transformer.hidden_states(params, spec, token_NT, remat=kw.get("remat", "none"))
    return transformer.vocab_logits(params, spec, hidden)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_equal_a_slow_numpy_decoder(spec):
    tokens = [1, 5, 0, 12, 7, 7, 3]
    got_TV = _logits(_params(spec), spec, jnp.array([tokens]))[0]
    np.testing.assert_allclose(got_TV, slow_logits(_params(spec), spec, tokens), rtol=2e-5, atol=2e-5)


def test_a_token_is_seen_by_later_places_only():
    params, token_NT = _params(SPEC), jnp.array([[1, 5, 0, 12, 7, 7, 3]])
    before = _logits(params, SPEC, token_NT)[0]
    after = _logits(params, SPEC, token_NT.at[0, 4].set(9))[0]
    np.testing.assert_array_equal(before[:4], after[:4])
    assert (np.abs(before[4:] - after[4:]).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_does_not_change_gradients(remat):
    params, token_NT = _params(SPEC), jnp.array([[1, 5, 0, 12]])

    def gradient(remat):
        return jax.grad(lambda p: jnp.square(_logits(p, SPEC, token_NT, remat=remat)).sum())(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient(remat), gradient("none"))


def test_remat_keeps_less_of_each_layer():
    spec = dataclasses.replace(SPEC, n_layers=24)
    params = jax.eval_shape(functools.partial(initial_params, spec), jax.random.key(0))
    token_NT = jnp.zeros((4, 64), jnp.int32)

    def temporaries(remat):
        gradient = jax.grad(lambda p: jnp.square(_logits(p, spec, token_NT, remat=remat)).sum())
        return jax.jit(gradient).lower(params).compile().memory_analysis().temp_size_in_bytes

    none, dots, full = (temporaries(remat) for remat in ("none", "dots", "full"))
    assert full < 0.8 * dots
    assert dots < 0.8 * none


def test_attention_of_one_visible_slot_is_its_value():
    value_NSGK = jnp.arange(6.0).reshape(1, 3, 1, 2)
    is_visible = jnp.array([False, True, False])[None, None, None, None]
    out = grouped_query_attention(jnp.ones((1, 1, 2, 2)), value_NSGK, value_NSGK, is_visible=is_visible)
    np.testing.assert_allclose(out, [[[[2.0, 3.0], [2.0, 3.0]]]])  # both heads share the one key head


def test_linear_contracts_as_einsum_does():
    x, weight = jax.random.normal(jax.random.key(0), (2, 3, 4, 5)), jax.random.normal(jax.random.key(1), (4, 5, 6))
    np.testing.assert_allclose(
        linear(x, weight, n_in_axes=2), np.einsum("nthk,hkd->ntd", x, weight), rtol=1e-5, atol=1e-5
    )


def test_a_bias_is_added_along_the_last_axes():
    x = jnp.arange(12.0).reshape(1, 2, 2, 3)
    bias = jnp.array([[100.0, 200, 300], [400, 500, 600]])
    np.testing.assert_array_equal(biased(x, bias)[0, 0], [[100, 201, 302], [403, 504, 605]])
    np.testing.assert_array_equal(biased(x, bias)[0, 1], [[106, 207, 308], [409, 510, 611]])

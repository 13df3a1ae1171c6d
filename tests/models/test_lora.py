"""Adapters against weights with the product of their factors multiplied out."""

import dataclasses
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slow_lora import factor_gradients, merged, random_factors
from slow_transformer import slow_logits

from rlvr_jax.models import transformer
from rlvr_jax.models.layers import linear
from rlvr_jax.models.lora import (
    LORA_TARGETS,
    Adapted,
    LoraSpec,
    adapted_matrices,
    lora_table,
    policy_params,
    trained_table,
)
from rlvr_jax.models.spec import (
    ModelSpec,
    does_decay,
    initial_params,
    initial_values,
    model_part,
    parameter_table,
    value_count,
)

SPEC = ModelSpec(
    vocab_size=13, width=12, n_layers=2, n_heads=6, n_kv_heads=2, head_width=2, mlp_width=20,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=True, has_attention_bias=True,
)  # fmt: skip
QWEN3_LIKE = dataclasses.replace(SPEC, qk_norm="each_head", has_attention_bias=False, has_tied_head=False)
OLMO2_LIKE = dataclasses.replace(QWEN3_LIKE, qk_norm="all_heads", has_post_norm=True)
ALL = LoraSpec(rank=3, alpha=4.0, targets=LORA_TARGETS)  # 4/3 is no number of few bits
SOME = LoraSpec(rank=2, alpha=2.0, targets=("value", "down"))
TOKENS = [1, 5, 0, 12, 7, 7, 3]


def base(spec):
    params = initial_params(spec, jax.random.key(3))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


def logits_of(params, spec, *, remat="none"):
    hidden, params = transformer.hidden_states(params, spec, jnp.array([TOKENS]), remat=remat)
    return transformer.vocab_logits(params, spec, hidden)[0]


def in_float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


# What is trained.


def test_factors_are_as_wide_as_the_matrices_they_stand_beside():
    # heads 6 x 2 = 12 and 2 x 2 = 4 wide, embed 12, mlp 20, 2 layers
    assert {path: row.shape for path, row in lora_table(SPEC, ALL).items()} == {
        "layers/attention/query/lora_down": (2, 12, 3), "layers/attention/query/lora_up": (2, 3, 6, 2),
        "layers/attention/key/lora_down": (2, 12, 3), "layers/attention/key/lora_up": (2, 3, 2, 2),
        "layers/attention/value/lora_down": (2, 12, 3), "layers/attention/value/lora_up": (2, 3, 2, 2),
        "layers/attention/out/lora_down": (2, 6, 2, 3), "layers/attention/out/lora_up": (2, 3, 12),
        "layers/mlp/gate/lora_down": (2, 12, 3), "layers/mlp/gate/lora_up": (2, 3, 20),
        "layers/mlp/up/lora_down": (2, 12, 3), "layers/mlp/up/lora_up": (2, 3, 20),
        "layers/mlp/down/lora_down": (2, 20, 3), "layers/mlp/down/lora_up": (2, 3, 12),
    }  # fmt: skip
    # 3 numbers per row and per column: (12+12) + 2 (12+4) + (12+12) + 2 (12+20) + (20+12) = 176, twice
    assert value_count(lora_table(SPEC, ALL)) == 2 * 3 * 176
    assert all(len(row.shape) == len(row.axes) for row in lora_table(SPEC, ALL).values())
    assert adapted_matrices(SPEC, LORA_TARGETS) == {
        "query": (12, 12), "key": (12, 4), "value": (12, 4), "out": (12, 12), "gate": (12, 20), "up": (12, 20),
        "down": (20, 12),
    }  # fmt: skip


def test_only_what_is_named_has_factors_and_without_an_adapter_everything_is_trained():
    assert {path.rsplit("/", 1)[0] for path in lora_table(SPEC, SOME)} == {"layers/attention/value", "layers/mlp/down"}
    assert trained_table(SPEC, SOME) == lora_table(SPEC, SOME)
    assert trained_table(SPEC, None) == parameter_table(SPEC)


@pytest.mark.parametrize(("name", "fan_in"), [("query", 64), ("out", 128), ("down", 256)])
def test_one_factor_starts_at_zero_and_the_other_spread_like_a_uniform_one(name, fan_in):
    wide = dataclasses.replace(SPEC, width=64, n_heads=8, head_width=16, mlp_width=256)
    factors = initial_values(lora_table(wide, LoraSpec(16, 32.0, (name,))), jax.random.key(1))
    (pair,) = (leaf for part in factors["layers"].values() for leaf in part.values())
    assert not np.asarray(pair["lora_up"]).any()
    assert float(pair["lora_down"].std()) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.05)


def test_both_factors_decay_as_matrices_do_though_one_starts_at_zero_as_biases_do():
    decayed = {path for path in [*parameter_table(SPEC), *lora_table(SPEC, SOME)] if does_decay(path)}
    matrices = ["embedding", *(f"layers/attention/{name}" for name in ("query", "key", "value", "out"))]
    matrices += [f"layers/mlp/{name}" for name in ("gate", "up", "down")]
    factors = [f"layers/{name}/lora_{side}" for name in ("attention/value", "mlp/down") for side in ("down", "up")]
    assert decayed == {*matrices, *factors}


def test_factors_belong_to_the_part_of_the_model_that_their_matrix_does():
    parts = {path: model_part(tuple(path.split("/"))) for path in lora_table(SPEC, ALL)}
    assert {part for path, part in parts.items() if "attention" in path} == {"attention"}
    assert {part for path, part in parts.items() if "mlp" in path} == {"mlp"}


# What is computed with it.


@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all matrices", "some"])
def test_logits_are_those_of_a_numpy_decoder_with_the_product_of_the_factors_added(lora):
    factors = random_factors(SPEC, lora)
    expected_TV = slow_logits(merged(base(SPEC), factors, lora), SPEC, TOKENS)
    got_TV = logits_of(policy_params(factors, base(SPEC), lora), SPEC)
    np.testing.assert_allclose(got_TV, expected_TV, rtol=2e-5, atol=2e-5)
    assert np.abs(expected_TV - slow_logits(base(SPEC), SPEC, TOKENS)).max() > 0.1


@pytest.mark.parametrize("spec", [QWEN3_LIKE, OLMO2_LIKE], ids=["normed heads", "norms after the blocks"])
def test_logits_are_those_of_merged_weights_in_other_families(spec):
    factors = random_factors(spec, ALL)
    expected_TV = logits_of(in_float32(merged(base(spec), factors, ALL)), spec)
    got_TV = logits_of(policy_params(factors, base(spec), ALL), spec)
    np.testing.assert_allclose(got_TV, expected_TV, rtol=2e-5, atol=2e-5)


def test_before_the_first_update_the_policy_is_the_one_without_adapter():
    factors = random_factors(SPEC, ALL, at_start=True)
    got_TV = logits_of(policy_params(factors, base(SPEC), ALL), SPEC)
    np.testing.assert_array_equal(got_TV, logits_of(base(SPEC), SPEC))


def test_what_has_no_adapter_is_passed_on_as_it_is():
    frozen, factors = base(SPEC), random_factors(SPEC, SOME)
    joined = flax.traverse_util.flatten_dict(policy_params(factors, frozen, SOME))
    flat = flax.traverse_util.flatten_dict(frozen)
    adapted = {("layers", "attention", "value"), ("layers", "mlp", "down")}
    assert {path for path, leaf in joined.items() if isinstance(leaf, Adapted)} == adapted
    assert all(leaf is flat[path] for path, leaf in joined.items() if path not in adapted)
    assert all(joined[path].weight is flat[path] for path in adapted)  # nothing is copied
    assert policy_params(frozen, None, None) is frozen


@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_of_the_factors_follow_by_the_chain_rule_from_those_of_merged_weights(remat):
    frozen, factors = base(SPEC), random_factors(SPEC, ALL)
    direction_TV = np.random.default_rng(0).normal(size=(len(TOKENS), SPEC.vocab_size)).astype(np.float32)

    def slope(params):
        return jnp.sum(direction_TV * logits_of(params, SPEC, remat=remat))

    of_merged = jax.jit(jax.grad(slope))(in_float32(merged(frozen, factors, ALL)))
    expected = factor_gradients(flax.traverse_util.flatten_dict(of_merged), factors, ALL)
    of_factors = jax.jit(jax.grad(lambda trained: slope(policy_params(trained, frozen, ALL))))(factors)
    got = flax.traverse_util.flatten_dict(of_factors)
    assert got.keys() == expected.keys()
    largest = max(np.abs(leaf).max() for leaf in expected.values())
    for path, leaf in expected.items():
        np.testing.assert_allclose(got[path], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=str(path))


def test_prefill_and_decoding_see_what_the_whole_sequence_does():
    factors, n_prompt = random_factors(SPEC, ALL), 4
    params = policy_params(factors, base(SPEC), ALL)
    expected_TV = slow_logits(merged(base(SPEC), factors, ALL), SPEC, TOKENS)
    layers = transformer.layer_weights(params, SPEC)
    hidden, prompt_caches = transformer.prefill(params, layers, SPEC, jnp.array([TOKENS[:n_prompt]]))
    got = [transformer.vocab_logits(params, SPEC, hidden)[0]]
    empty = jnp.zeros((1, SPEC.n_kv_heads, len(TOKENS) - n_prompt, SPEC.head_width))
    caches = [transformer.LayerCache(empty, empty)] * SPEC.n_layers
    for slot, token in enumerate(TOKENS[n_prompt:]):
        hidden, caches = transformer.decode_step(
            params, layers, SPEC, prompt_caches, [[]] * SPEC.n_layers, caches, jnp.array([token]),
            position_N=jnp.array([n_prompt + slot]), slot=jnp.int32(slot),
            is_prompt_slot_PS=jnp.ones((1, n_prompt), bool),
        )  # fmt: skip
        got.append(transformer.vocab_logits(params, SPEC, hidden))
    np.testing.assert_allclose(np.concatenate(got), expected_TV, rtol=2e-5, atol=2e-5)


# In half precision.


def test_everything_beside_the_statistics_is_cast():
    params = policy_params(random_factors(SPEC, ALL), base(SPEC), ALL)
    cast = transformer.cast_params(params, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype("bfloat16")}
    assert jax.tree.structure(cast) == jax.tree.structure(params)


def test_frozen_weights_may_be_kept_in_the_dtype_of_the_matmuls():
    factors = random_factors(SPEC, ALL)

    def logits(frozen):
        return logits_of(transformer.cast_params(policy_params(factors, frozen, ALL), jnp.bfloat16), SPEC)

    kept = transformer.cast_params(base(SPEC), jnp.bfloat16)
    np.testing.assert_array_equal(logits(kept), logits(base(SPEC)))


def test_half_precision_does_not_round_how_strong_an_adapter_is():
    # 4/3 has no short binary form: in bfloat16 it is 1.3359375, and all that an adapter adds would be 0.2% too much
    rng = np.random.default_rng(0)
    x, down, up = (jnp.asarray(rng.uniform(0.5, 1, shape), jnp.bfloat16) for shape in ((64, 32), (32, 3), (3, 40)))
    got = linear(x, Adapted(jnp.zeros((32, 40), jnp.bfloat16), down, up, 4 / 3))
    assert got.dtype == jnp.bfloat16
    x64, down64, up64 = (np.asarray(leaf, np.float64) for leaf in (x, down, up))
    ratio = np.asarray(got, np.float64) / (4 / 3 * x64 @ down64 @ up64)
    assert np.abs(ratio - 1).max() < 0.01  # three roundings to 8 bits
    assert ratio.mean() == pytest.approx(1.0, abs=5e-4)

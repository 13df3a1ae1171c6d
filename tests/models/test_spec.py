"""The parameter table against what initialisation makes of it."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from rlvr_jax.models.spec import (
    MODEL_PARTS,
    ModelSpec,
    initial_params,
    model_part,
    parameter_count,
    parameter_table,
)

SPEC = ModelSpec(
    vocab_size=11, width=8, n_layers=3, n_heads=4, n_kv_heads=2, head_width=2, mlp_width=12,
    rope_theta=100.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
BIASED = ModelSpec(**(SPEC.__dict__ | {"has_attention_bias": True}))


def test_parameters_are_counted():
    # embedding 11*8 + head 8*11 = 176; per layer: norms 2*8, q 8*4*2, k and v 2*8*2*2, out 4*2*8, mlp 3*8*12
    # = 16 + 64 + 64 + 64 + 288 = 496; three layers 1488; final norm 8
    assert parameter_count(SPEC) == 176 + 1488 + 8


@pytest.mark.parametrize("spec", [SPEC, BIASED], ids=["plain", "with attention biases"])
def test_initialisation_follows_the_table_row_by_row(spec):
    flat = flax.traverse_util.flatten_dict(initial_params(spec, jax.random.key(0)), sep="/")
    assert {name: leaf.shape for name, leaf in flat.items()} == {
        name: row.shape for name, row in parameter_table(spec).items()
    }
    assert all(len(row.shape) == len(row.axes) for row in parameter_table(spec).values())


@pytest.mark.parametrize("path", ["layers/mlp/up", "layers/mlp/down", "embedding"])
def test_initial_spread_is_that_of_the_table(path):
    wide = ModelSpec(**(SPEC.__dict__ | {"width": 64, "mlp_width": 256, "vocab_size": 200}))
    leaf = flax.traverse_util.flatten_dict(initial_params(wide, jax.random.key(1)), sep="/")[path]
    expected = {"layers/mlp/up": 1 / 8, "layers/mlp/down": 1 / np.sqrt(2 * 3 * 256), "embedding": 1.0}[path]
    assert float(leaf.std()) == pytest.approx(expected, rel=0.03)
    assert abs(float(leaf.mean())) < 0.03 * expected


def test_a_tied_head_has_no_matrix_of_its_own():
    tied = ModelSpec(**(SPEC.__dict__ | {"has_tied_head": True}))
    assert set(parameter_table(SPEC)) - set(parameter_table(tied)) == {"head"}


def test_attention_biases_belong_to_queries_keys_and_values_and_begin_at_zero():
    new = set(parameter_table(BIASED)) - set(parameter_table(SPEC))
    assert {name.rsplit("/", 1)[1] for name in new} == {"query_bias", "key_bias", "value_bias"}
    assert parameter_count(BIASED) - parameter_count(SPEC) == 3 * (4 * 2 + 2 * 2 + 2 * 2)  # layers * (H + G + G) * K
    params = flax.traverse_util.flatten_dict(initial_params(BIASED, jax.random.key(0)), sep="/")
    assert not any(np.asarray(params[name]).any() for name in new)


def test_every_parameter_belongs_to_a_part_of_the_model():
    parts = {name: model_part(tuple(name.split("/"))) for name in parameter_table(BIASED)}
    assert {name for name, part in parts.items() if part == "norms"} == {
        "layers/attention/norm", "layers/mlp/norm", "final_norm",
    }  # fmt: skip
    assert parts["layers/attention/query_bias"] == parts["layers/attention/out"] == "attention"
    assert parts["layers/mlp/gate"] == "mlp"
    assert (parts["embedding"], parts["head"]) == ("embedding", "head")
    assert set(parts.values()) == set(MODEL_PARTS)

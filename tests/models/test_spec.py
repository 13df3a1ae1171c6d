"""The parameter table against what initialisation makes of it."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from rlvr_jax.models.spec import ModelSpec, initial_params, parameter_count, parameter_table

SPEC = ModelSpec(
    vocab_size=11, width=8, n_layers=3, n_heads=4, n_kv_heads=2, head_width=2, mlp_width=12,
    rope_theta=100.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip


def test_parameters_are_counted():
    # embedding 11*8 + head 8*11 = 176; per layer: norms 2*8, q 8*4*2, k and v 2*8*2*2, out 4*2*8, mlp 3*8*12
    # = 16 + 64 + 64 + 64 + 288 = 496; three layers 1488; final norm 8
    assert parameter_count(SPEC) == 176 + 1488 + 8


def test_initialisation_follows_the_table_row_by_row():
    flat = flax.traverse_util.flatten_dict(initial_params(SPEC, jax.random.key(0)), sep="/")
    assert {name: leaf.shape for name, leaf in flat.items()} == {
        name: row.shape for name, row in parameter_table(SPEC).items()
    }
    assert all(len(row.shape) == len(row.axes) for row in parameter_table(SPEC).values())


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

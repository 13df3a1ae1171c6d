"""Which device holds what, from the parameter table and the config."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from rlvr_jax.models.lora import LoraSpec, policy_params
from rlvr_jax.models.spec import ModelSpec, parameter_table
from rlvr_jax.train.config import ConfigError, PlacementConfig
from rlvr_jax.train.placement import (
    abstract_state,
    build_mesh,
    n_batch_shards,
    param_shardings,
    parameter_layout,
    place_batch,
    state_shardings,
    unsplit_dimensions,
)

SPEC = ModelSpec(
    vocab_size=10, width=12, n_layers=3, n_heads=4, n_kv_heads=2, head_width=2, mlp_width=14,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=True, qk_norm="all_heads",
)  # fmt: skip
BOTH = ("data", "fsdp")


def mesh(data, fsdp, tensor):
    return build_mesh(PlacementConfig(data=data, fsdp=fsdp, tensor=tensor))


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [((0, 0, 0), (8, 1, 1)), ((0, 2, 2), (2, 2, 2)), ((1, 0, 4), (1, 1, 4)), ((0, 8, 0), (1, 8, 1))],
)
def test_what_is_automatic_takes_the_devices_that_are_left_along_data(asked, sizes):
    assert tuple(mesh(*asked).shape.values()) == sizes
    assert n_batch_shards(mesh(*asked)) == sizes[0] * sizes[1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((3, 0, 0), r"placement.data=3 does not divide the 8 device\(s\) here; use placement.data=2, or 0"),
        ((9, 0, 0), r"placement.data=9 is more than the 8 device\(s\) here; use placement.data=8, or 0"),
        (
            (4, 2, 2),
            r"placement.data=4 x placement.fsdp=2 x placement.tensor=2 is more than .*use placement.data=2, or",
        ),
        (
            (0, 3, 1),
            r"placement.fsdp=3 x placement.tensor=1 does not divide the 8 .*use placement.fsdp=2 and placement",
        ),
        ((0, 1, 16), r"does not divide the 8 device\(s\) here; use placement.fsdp=1 and placement.tensor=8"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused_with_the_fix(asked, message):
    with pytest.raises(ConfigError, match=message):
        mesh(*asked)


def test_parameters_are_split_by_the_names_of_their_axes():
    split = param_shardings(parameter_table(SPEC), mesh(2, 2, 2))
    attention, mlp = split["layers"]["attention"], split["layers"]["mlp"]
    assert split["embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert split["head"].spec == PartitionSpec("fsdp", "tensor")
    assert split["final_norm"].spec == PartitionSpec("fsdp")
    assert attention["query"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert attention["value"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert attention["out"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert attention["key_bias"].spec == PartitionSpec(None, "tensor", None)
    assert attention["query_norm"].spec == PartitionSpec(None, None)
    assert mlp["up"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert mlp["down"].spec == PartitionSpec(None, "tensor", "fsdp")


def test_a_dimension_that_does_not_divide_is_not_split_and_is_named():
    table, four = parameter_table(SPEC), mesh(2, 1, 4)  # 10 % 4, 2 % 4 and 14 % 4 are not 0; 4 heads are split
    split = param_shardings(table, four)
    assert split["embedding"].spec == PartitionSpec(None, None)
    assert split["layers"]["attention"]["key"].spec == PartitionSpec(None, None, None, None)
    assert split["layers"]["attention"]["query"].spec == PartitionSpec(None, None, "tensor", None)
    named = unsplit_dimensions(table, four)
    assert "layers/attention/key: 2 kv_heads over placement.tensor=4" in named
    assert "layers/mlp/up: 14 mlp over placement.tensor=4" in named
    assert sum("layers/attention/query:" in words for words in named) == 0
    assert unsplit_dimensions(table, mesh(2, 2, 2)) == []


def test_moments_lie_with_their_parameters_and_counters_everywhere():
    layout, optimizer = parameter_layout(mesh(2, 2, 2), SPEC, None), optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    state, split = abstract_state(layout.trained, optimizer), state_shardings(layout, optimizer)
    adam = split.opt_state[1][0]
    for found in (split.params, adam.mu, adam.nu):
        jax.tree.map(
            lambda got, want: np.testing.assert_equal(got, want), found, param_shardings(layout.trained, layout.mesh)
        )
    assert adam.count.spec == split.n_updates.spec == split.noise.grad_sq.spec == PartitionSpec()
    held = jax.tree.map(lambda leaf, sharding: np.prod(sharding.shard_shape(leaf.shape)), state, split)
    # by hand: embedding and head, 3 layers of query 96, key and value 48 each, out 96, three mlp of 168: all over 4;
    # over tensor alone 3 biases of 8 + 4 + 4; over fsdp alone 2 norms of 12 x 3 and the last; whole: q/k norms 8 + 4
    matrices = (2 * 120 + 3 * (96 + 48 + 48 + 96 + 3 * 168)) // 4
    assert sum(jax.tree.leaves(held.params)) == matrices + 3 * 16 // 2 + 7 * 12 // 2 + 3 * 12


def test_an_adapter_and_the_weights_under_it_are_found_by_name():
    lora = LoraSpec(rank=2, alpha=4.0, targets=("query", "down"))
    layout = parameter_layout(mesh(2, 2, 2), SPEC, lora)
    assert layout.of(abstract_state(layout.trained, optax.sgd(1.0)).params)["layers"]["mlp"]["down"][
        "lora_up"
    ].spec == (PartitionSpec(None, None, "fsdp"))
    factors, frozen = (
        abstract_state(layout.trained, optax.sgd(1.0)).params,
        abstract_state(layout.frozen, optax.sgd(1.0)).params,
    )
    joined = layout.of(policy_params(factors, frozen, lora))
    query = joined["layers"]["attention"]["query"]
    assert query.weight.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert query.down.spec == PartitionSpec(None, "fsdp", None)
    assert query.up.spec == PartitionSpec(None, None, "tensor", None)
    assert joined["layers"]["attention"]["out"].spec == PartitionSpec(None, "tensor", None, "fsdp")


def test_a_batch_is_split_over_data_and_fsdp_where_they_divide_it():
    batch = {"a": np.zeros((2, 8, 3)), "b": np.zeros((2, 6)), "c": np.zeros(2)}
    placed = place_batch(batch, mesh(2, 2, 2), axis=1)
    assert placed["a"].sharding.spec == PartitionSpec(None, BOTH)
    assert placed["a"].addressable_shards[0].data.shape == (2, 2, 3)
    assert placed["b"].sharding.spec == placed["c"].sharding.spec == PartitionSpec()

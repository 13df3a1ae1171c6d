import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax.models.lora import LoraSpec, lora_table
from rlvr_jax.models.spec import ModelSpec, Parameter, initial_params, parameter_table
from rlvr_jax.train.optimizer import adamw, learning_rate

SPEC = ModelSpec(
    vocab_size=5, width=4, n_layers=1, n_heads=1, n_kv_heads=1, head_width=4, mlp_width=6,
    rope_theta=10.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip


def rates(schedule, updates, *, decay_updates=10, warmup_updates=4):
    f = learning_rate(peak_lr=2.0, warmup_updates=warmup_updates, schedule=schedule, decay_updates=decay_updates)
    return [float(f(update)) for update in updates]


def test_warm_up_starts_above_zero_and_ends_at_the_peak():
    assert rates("constant", range(6)) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0]),
        ("linear", [2.0, 1.0, 0.0, 0.0]),  # from update 4 to update 10
        ("cosine", [2.0, 1.0, 0.0, 0.0]),  # half-way a cosine is half, too
    ],
)
def test_schedules_reach_zero_where_they_are_told_to(schedule, expected):
    assert rates(schedule, [4, 7, 10, 50]) == pytest.approx(expected, abs=1e-6)


def test_without_warm_up_the_first_update_has_the_peak():
    assert rates("linear", [0, 5], warmup_updates=0) == pytest.approx([2.0, 1.0])


def test_norm_scales_do_not_decay_and_matrices_do():
    params = initial_params(SPEC, jax.random.key(0))
    optimizer = adamw(
        parameter_table(SPEC), optax.constant_schedule(0.1), b1=0.9, b2=0.9, eps=1e-8, momentum_dtype="float32",
        weight_decay=0.5, clip_norm=1.0,
    )  # fmt: skip
    zero_grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero_grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["layers"]["mlp"]["norm"], 0.0)
    np.testing.assert_array_equal(updates["final_norm"], 0.0)
    np.testing.assert_allclose(updates["layers"]["mlp"]["up"], -0.05 * params["layers"]["mlp"]["up"], rtol=1e-5)


def test_both_factors_of_an_adapter_decay_though_one_of_them_starts_at_zero():
    factors = {"layers": {"mlp": {"up": {"lora_down": jnp.ones((1, 4, 2)), "lora_up": jnp.ones((1, 2, 6))}}}}
    optimizer = adamw(
        lora_table(SPEC, LoraSpec(rank=2, alpha=1.0, targets=("up",))), optax.constant_schedule(0.1), b1=0.9, b2=0.9,
        eps=1e-8, momentum_dtype="float32", weight_decay=0.5, clip_norm=1.0,
    )  # fmt: skip
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, factors), optimizer.init(factors), factors)
    jax.tree.map(lambda leaf: np.testing.assert_allclose(leaf, -0.05, rtol=1e-6), updates)  # rate 0.1, decay 0.5


def test_momentum_in_half_precision_leaves_the_variance_in_full():
    # two updates by hand for one weight w = 0 with gradients 1 and 3, b1 = 0.5, b2 = 0.75, rate 0.1:
    # m = 0.5, then 0.25 + 1.5 = 1.75; v = 0.25, then 0.1875 + 2.25 = 2.4375
    # steps 0.1 * (0.5 / 0.5) / sqrt(0.25 / 0.25) = 0.1, then 0.1 * (1.75 / 0.75) / sqrt(2.4375 / 0.4375)
    table = {"head": Parameter((1, 1), ("embed", "vocab"), 1.0)}
    optimizer = adamw(
        table, optax.constant_schedule(0.1), b1=0.5, b2=0.75, eps=1e-12, momentum_dtype="bfloat16",
        weight_decay=0.0, clip_norm=0.0,
    )  # fmt: skip
    params = {"head": jnp.zeros((1, 1))}
    state = optimizer.init(params)
    for gradient, expected in ((1.0, -0.1), (3.0, -0.1 * (1.75 / 0.75) / np.sqrt(2.4375 / 0.4375))):
        updates, state = optimizer.update({"head": jnp.full((1, 1), gradient, jnp.float32)}, state, params)
        np.testing.assert_allclose(updates["head"], expected, rtol=1e-5)  # 0.5 and 1.75 are bfloat16 numbers
    moments = {leaf.dtype for leaf in jax.tree.leaves(optax.tree.get(state, "mu"))}
    assert moments == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(optax.tree.get(state, "nu"))} == {jnp.dtype("float32")}
    # why v stays: 1 + 1% of 2 rounds back to 1 in bfloat16
    assert jnp.bfloat16(1.0) * jnp.bfloat16(0.999) + jnp.bfloat16(0.002) == jnp.bfloat16(1.0)

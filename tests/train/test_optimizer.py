import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax.models.spec import ModelSpec, initial_params
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
    import jax

    params = initial_params(SPEC, jax.random.key(0))
    optimizer = adamw(SPEC, optax.constant_schedule(0.1), b1=0.9, b2=0.9, eps=1e-8, weight_decay=0.5, clip_norm=1.0)
    zero_grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero_grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["layers"]["mlp"]["norm"], 0.0)
    np.testing.assert_array_equal(updates["final_norm"], 0.0)
    np.testing.assert_allclose(updates["layers"]["mlp"]["up"], -0.05 * params["layers"]["mlp"]["up"], rtol=1e-5)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.noise.group_gradients import build_group_gradients

PARAMS = {"w": jnp.array([0.5, -1.0, 2.0])}
X_PD = jax.random.normal(jax.random.key(0), (12, 3))


def group_loss(params, x_D):
    return jnp.sin(x_D @ params["w"])


def slow_gradients():
    """cos(x w) x, one group at a time."""
    return np.array([np.cos(x @ np.asarray(PARAMS["w"])) * x for x in np.asarray(X_PD, np.float64)])


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 1, 4), (4, 3, 1)])
def test_statistics_equal_a_slow_loop_whatever_the_chunks(shape):
    # an exact "sketch": the gradient itself
    measure = build_group_gradients(group_loss, build_sketch=lambda _: lambda tree: tree["w"])
    got = measure(PARAMS, X_PD.reshape(*shape, 3))
    g_PD = slow_gradients()
    total = g_PD.sum(axis=0)
    np.testing.assert_allclose(got.sq_norm_P, (g_PD**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(got.sum_sq_norm, (total**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(got.dot_sum_P, g_PD @ total, rtol=1e-4, atol=1e-5)
    blocks = g_PD.reshape(shape[0], -1, 3).sum(axis=1)
    np.testing.assert_allclose(got.block_sq_norm_B, (blocks**2).sum(axis=1), rtol=1e-5)

"""What a run carries from update to update."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rlvr_jax.models.spec import Params


@flax.struct.dataclass
class NoiseAverages:
    """Exponential averages, started at 0, so biased by the factor `weight`; it cancels in ratios. f32 scalars."""

    weight: jax.Array  # the same average of 1
    trace_cov: jax.Array  # S, of one group's gradient
    grad_sq: jax.Array  # |G|^2
    v_prompt: jax.Array
    zeta1: jax.Array
    zeta2: jax.Array


@flax.struct.dataclass
class TrainState:
    """All arrays a checkpoint holds. Random keys are not among them: they follow from counters."""

    n_updates: jax.Array  # int32, optimiser updates applied
    n_nonfinite: jax.Array  # int32, updates refused because their loss or gradient was not finite
    n_skipped_in_a_row: jax.Array  # int32, how many of them since the last that was applied
    params: Params
    opt_state: optax.OptState
    noise: NoiseAverages


def initial_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state before its first update. Owns a copy of `params`, because steps donate their state."""
    return TrainState(
        n_updates=jnp.zeros((), jnp.int32),
        n_nonfinite=jnp.zeros((), jnp.int32),
        n_skipped_in_a_row=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        noise=NoiseAverages(*(jnp.zeros((), jnp.float32) for _ in range(6))),
    )

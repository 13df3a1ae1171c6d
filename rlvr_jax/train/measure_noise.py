"""The measuring pass around an update: within it, or before it as a program of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlvr_jax.models.spec import Params
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.config import NoiseConfig, OptimizerConfig
from rlvr_jax.train.loss import Batch
from rlvr_jax.train.noise_estimates import (
    NoiseMetrics,
    centred_rewards,
    is_finite_rollout,
    new_averages,
    noise_estimates,
    noise_metrics,
)
from rlvr_jax.train.noise_pass import GradientSums, Measured, NoisePass, Reading
from rlvr_jax.train.placement import Layout, replicated
from rlvr_jax.train.state import NoiseAverages, TrainState


class MeasuredArrays(NamedTuple):
    """What is known of each rollout, [P, R, ...]."""

    is_finite_PR: jax.Array  # bool, false where a gradient is not finite
    sketch_PRW: jax.Array | None  # f32, of the score; None unless they are kept
    gram_PRR: jax.Array | None  # f32, inner products of the scores within a prompt


Estimate = Callable[[TrainState, GradientSums, Reading, Batch], tuple[NoiseAverages, NoiseMetrics, MeasuredArrays]]
NoiseMeasurement = Callable[[TrainState, Params | None, Batch], tuple[NoiseAverages, NoiseMetrics, MeasuredArrays]]


class Measuring(NamedTuple):
    """A noise pass and what is made of it; both are traced into a program."""

    noise_pass: NoisePass
    metric: Callable[[TrainState], Params | None]  # what `noise_pass` takes
    estimate: Estimate


def adam_metric(state: TrainState, *, b2: float, eps: float) -> Params:
    """What Adam multiplies a gradient with, its momentum and rate aside: 1 / (sqrt(v / (1 - b2^t)) + eps).

    A tree like the parameters. arXiv:1412.6980, algorithm 1. NaN before the first update. Later it is 0 where v still
    is: there a gradient, once there is one, makes its own v, and 1 / eps would be all that is measured. So it is with
    the rows of tokens that never occurred, and with half of an adapter's factors until its second update.
    """
    correction = 1 - b2 ** state.n_updates.astype(jnp.float32)
    second_moment = optax.tree_utils.tree_get(state.opt_state, "nu")

    def of_leaf(v: jax.Array) -> jax.Array:
        known = jnp.where(v == 0, 0.0, 1 / (jnp.sqrt(v / correction) + eps))
        return jnp.where(state.n_updates > 0, known, jnp.nan)

    return jax.tree.map(of_leaf, second_moment)


def build_measuring(
    noise_pass: NoisePass, noise: NoiseConfig, optimizer: OptimizerConfig, *, n_prompts: int, n_rollouts: int
) -> Measuring:
    """A pass with its estimates of `estimate(state, sums, reading [P, ...], batch [P, ...])`."""

    def metric(state: TrainState) -> Params | None:
        return adam_metric(state, b2=optimizer.b2, eps=optimizer.eps) if noise.optimizer_metric else None

    def estimate(
        state: TrainState, sums: GradientSums, reading: Reading, batch: Batch
    ) -> tuple[NoiseAverages, NoiseMetrics, MeasuredArrays]:
        found = noise_estimates(
            reading,
            sums,
            metric(state),
            reward_PR=centred_rewards(batch),
            is_kept_PR=batch.is_kept_PR,
            naive_minibatches=noise.naive_minibatches,
        )
        averages = new_averages(state.noise, found, smoothing=noise.smoothing)
        metrics = noise_metrics(found, averages, n_prompts=n_prompts, n_rollouts=n_rollouts)
        gram_PRR = sum(reading.gram.values()) if reading.gram is not None else None
        return (
            averages,
            metrics,
            MeasuredArrays(is_finite_rollout(reading, batch.is_kept_PR), reading.rollout_sketch_PRW, gram_PRR),
        )

    return Measuring(noise_pass, metric, estimate)


def build_noise_measurement(measuring: Measuring, layout: Layout) -> NoiseMeasurement:
    """Returns jitted `measure(state, frozen, batch) -> (averages, gns/ metrics, arrays)`; leaves are [M, n, ...]."""

    def measure(
        state: TrainState, frozen: Params | None, batch: Batch
    ) -> tuple[NoiseAverages, NoiseMetrics, MeasuredArrays]:
        def noise_pass(*args: Any) -> Measured:
            _, _, sums, reading = measuring.noise_pass(*args)
            return None, None, layout.constrained(sums), reading

        sums, reading = accumulated_reading(noise_pass, state.params, frozen, batch, measuring.metric(state))
        return measuring.estimate(state, sums, reading, joined_microbatches(batch))

    return jax.jit(measure, out_shardings=replicated(layout.mesh))


def accumulated_reading(
    noise_pass: NoisePass, params: Params, frozen: Params | None, batch: Batch, metric: Params | None
) -> tuple[GradientSums, Reading]:
    """The pass over micro-batches [M, n, ...]: sums over all of them, and the reading [P, ...] of each prompt."""

    def add_microbatch(total: GradientSums, microbatch: Batch) -> tuple[GradientSums, Reading]:
        _, _, sums, reading = noise_pass(params, frozen, microbatch, metric)
        return jax.tree.map(jnp.add, total, sums), reading

    first = jax.tree.map(lambda leaf: leaf[0], batch)
    shapes = jax.eval_shape(noise_pass, params, frozen, first, metric)[2]
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, reading = jax.lax.scan(add_microbatch, zero, batch)
    return total, joined_microbatches(reading)


def measured_rollouts(collection: Collection, arrays: MeasuredArrays) -> dict[str, np.ndarray]:
    """What is saved of measured rollouts for later: anything that needs scores, rewards and lengths alone.

    prompt text[P], sketch_PRW and gram_PRR of the scores, reward_PR, is_kept_PR, completion_length_PR.
    """
    return {
        "prompt": np.array([problem.prompt for problem in collection.problems]),
        "sketch_PRW": arrays.sketch_PRW,
        "gram_PRR": arrays.gram_PRR,
        "reward_PR": collection.reward_PR,
        "is_kept_PR": collection.is_kept_PR & arrays.is_finite_PR,
        "completion_length_PR": np.asarray(collection.rollouts.completion_length_PR),
    }


def joined_microbatches(tree: Any) -> Any:
    """Leaves [M, n, ...] as [P, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

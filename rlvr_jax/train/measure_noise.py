"""The noise of a collection's gradient, measured in a pass of its own before the update."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlvr_jax.algo.policy_loss import kl_k3
from rlvr_jax.models.spec import Params
from rlvr_jax.noise.group_gradients import build_group_gradients
from rlvr_jax.noise.noise_scale import NoiseScale, naive_noise_scale, noise_scale
from rlvr_jax.noise.sketch import build_count_sketch
from rlvr_jax.sampling.padding import is_completion_token
from rlvr_jax.train.placement import place_batch, replicated
from rlvr_jax.train.state import NoiseAverages
from rlvr_jax.train.step import Batch, RolloutLogprobs

SKETCH_SEED = 20_250_101  # any constant: the hash must not change between steps or runs
LARGEST_AUTOMATIC_CHUNK = 8

NoiseMetrics = dict[str, jax.Array]
NoiseMeasurement = Callable[[Params, NoiseAverages, Batch], tuple[NoiseAverages, NoiseMetrics]]


def build_group_loss(rollout_logprobs: RolloutLogprobs, *, kl_coef: float) -> Callable[[Params, Batch], jax.Array]:
    """Returns `loss(params, batch of one prompt)` whose gradient is the group gradient g_x.

        loss = -1/R sum_j ( A_j sum_t log pi(y_jt) - kl_coef sum_t k3_jt )

    with leave-one-out advantages A, so that E[g_x] does not depend on R, and no division by a
    length or a token count, which would couple the prompts. On-policy: the ratio is 1.
    """

    def group_loss(params: Params, group: Batch) -> jax.Array:
        group = jax.tree.map(lambda leaf: leaf[None], group)
        logprob_PRT, _ = rollout_logprobs(params, group)
        _, R, T = logprob_PRT.shape
        is_trained_RT = is_completion_token(group.completion_length_PR[0], width=T)
        gain_RT = group.loo_advantage_PR[0][:, None] * logprob_PRT[0]
        if group.reference_logprob_PRT is not None:
            gain_RT = gain_RT - kl_coef * kl_k3(logprob_PRT[0], group.reference_logprob_PRT[0])
        return -jnp.where(is_trained_RT, gain_RT, 0.0).sum() / R

    return group_loss


def noise_chunk_prompts(*, block_prompts: int, chunk_prompts: int, n_devices: int) -> int:
    """How many groups to differentiate at once: the largest divisor of a block up to the wish.

    A multiple of the number of devices is preferred, so that they share the work.
    """
    wish = min(block_prompts, max(chunk_prompts or LARGEST_AUTOMATIC_CHUNK, n_devices))
    divisors = [c for c in range(1, wish + 1) if block_prompts % c == 0]
    shared = [c for c in divisors if c % n_devices == 0]
    return max(shared or divisors)


def build_noise_measurement(
    group_loss: Callable[[Params, Batch], jax.Array],
    mesh: Mesh,
    *,
    n_prompts: int,
    n_rollouts: int,
    naive_minibatches: int,
    sketch_width: int,
    smoothing: float,
    chunk_prompts: int,
) -> NoiseMeasurement:
    """Returns `measure(params, averages, batch [P, ...]) -> (averages, gns/ metrics)`."""
    block_prompts = n_prompts // naive_minibatches
    chunk = noise_chunk_prompts(block_prompts=block_prompts, chunk_prompts=chunk_prompts, n_devices=mesh.shape["data"])
    group_gradients = build_group_gradients(
        group_loss,
        build_sketch=lambda tree: build_count_sketch(tree, jax.random.key(SKETCH_SEED), width=sketch_width),
    )

    def measured(params: Params, averages: NoiseAverages, groups: Batch) -> tuple[NoiseAverages, NoiseMetrics]:
        found = group_gradients(params, groups)
        scale = noise_scale(found.sq_norm_P, found.sum_sq_norm, found.dot_sum_P)
        averages = NoiseAverages(
            trace_cov=smoothing * averages.trace_cov + (1 - smoothing) * scale.trace_cov,
            grad_sq=smoothing * averages.grad_sq + (1 - smoothing) * scale.grad_sq,
        )
        naive = naive_noise_scale(
            found.block_sq_norm_B, found.sum_sq_norm, rollouts_per_block=n_rollouts * block_prompts
        )
        return averages, _metrics(scale, averages, naive, n_prompts, n_rollouts)

    jitted = jax.jit(measured, out_shardings=replicated(mesh))

    def measure(params: Params, averages: NoiseAverages, batch: Batch) -> tuple[NoiseAverages, NoiseMetrics]:
        shape = (naive_minibatches, block_prompts // chunk, chunk)
        groups = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), batch)
        return jitted(params, averages, place_batch(groups, mesh, axis=2))

    return measure


def _metrics(
    scale: NoiseScale, averages: NoiseAverages, naive: jax.Array, n_prompts: int, n_rollouts: int
) -> NoiseMetrics:
    """Numbers that mean nothing are NaN here and written as null."""

    def if_resolved(x: jax.Array) -> jax.Array:
        return jnp.where(scale.is_resolved, x, math.nan)

    average_ratio = jnp.where(averages.grad_sq > 0, averages.trace_cov / averages.grad_sq, math.nan)
    return {
        "gns/trace_cov": scale.trace_cov,
        "gns/grad_sq": scale.grad_sq,
        "gns/resolved": scale.is_resolved,
        "gns/b_noise_prompts": if_resolved(scale.b_noise_prompts),
        "gns/b_noise_prompts_low": if_resolved(scale.low_prompts),
        "gns/b_noise_prompts_high": if_resolved(scale.high_prompts),
        "gns/b_noise_rollouts": if_resolved(scale.b_noise_prompts * n_rollouts),
        "gns/noise_to_signal": if_resolved(scale.b_noise_prompts / n_prompts),
        "gns/running_b_noise_prompts": average_ratio,
        "gns/running_noise_to_signal": average_ratio / n_prompts,
        "gns/naive": naive,
    }

"""The noise of a collection's gradient, measured in a pass of its own before the update."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlvr_jax.algo.policy_loss import kl_estimate
from rlvr_jax.models.spec import Params
from rlvr_jax.noise.group_gradients import build_group_gradients
from rlvr_jax.noise.noise_scale import NoiseScale, naive_noise_scale, noise_scale
from rlvr_jax.noise.sketch import build_count_sketch
from rlvr_jax.train.config import AlgoConfig
from rlvr_jax.train.loss import Batch, RolloutLogprobs, is_trained_token
from rlvr_jax.train.placement import place_batch, replicated
from rlvr_jax.train.state import NoiseAverages

SKETCH_SEED = 20_250_101  # any constant: the hash must not change between steps or runs
LARGEST_AUTOMATIC_CHUNK = 8

NoiseMetrics = dict[str, jax.Array]
NoiseMeasurement = Callable[[Params, NoiseAverages, Batch], tuple[NoiseAverages, NoiseMetrics]]


def build_group_loss(rollout_logprobs: RolloutLogprobs, algo: AlgoConfig) -> Callable[[Params, Batch], jax.Array]:
    """Returns `loss(params, batch of one prompt)` whose gradient is the group gradient g_x.

        loss = -1/R sum_j sum_t ( A_j log pi(y_jt) - kl_coef KL_jt + entropy_coef entropy_jt )

    with leave-one-out advantages A, so that E[g_x] does not depend on R, and no division by a
    length or a token count, which would couple the prompts. R counts the rollouts that are kept;
    a prompt without any is a group of gradient 0. On-policy: the ratio is 1.
    """

    def group_loss(params: Params, group: Batch) -> jax.Array:
        group = jax.tree.map(lambda leaf: leaf[None], group)
        logprob_PRT, entropy_PRT = rollout_logprobs(params, group)
        gain_PRT = group.loo_advantage_PR[..., None] * logprob_PRT
        if group.reference_logprob_PRT is not None:
            kl_PRT = kl_estimate(logprob_PRT, group.reference_logprob_PRT, estimator=algo.kl_estimator)
            gain_PRT = gain_PRT - algo.kl_coef * kl_PRT
        if algo.entropy_coef > 0:
            gain_PRT = gain_PRT + algo.entropy_coef * entropy_PRT
        n_kept = jnp.maximum(group.is_kept_PR.sum(), 1)
        return -jnp.where(is_trained_token(group), gain_PRT, 0.0).sum() / n_kept

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
        is_finite = jnp.isfinite(scale.trace_cov) & jnp.isfinite(scale.grad_sq)  # else it would stay in the averages

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(is_finite, smoothing * old + (1 - smoothing) * new, old)

        averages = NoiseAverages(
            trace_cov=average(averages.trace_cov, scale.trace_cov), grad_sq=average(averages.grad_sq, scale.grad_sq)
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

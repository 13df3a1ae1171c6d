"""From a collection to the arrays of an update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.algo.advantages import advantages, leave_one_out_advantages
from rlvr_jax.algo.selection import selected_rollouts
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.config import AlgoConfig, TrainConfig
from rlvr_jax.train.loss import Batch
from rlvr_jax.train.placement import place_batch

Advantages = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def build_advantages(algo: AlgoConfig) -> Advantages:
    """Returns jitted `f(reward_PR, is_kept_PR) -> (advantage_PR, loo_advantage_PR)`."""

    @jax.jit
    def both(reward_PR: jax.Array, is_kept_PR: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantage_PR = advantages(reward_PR, is_kept_PR, kind=algo.advantage, ddof=algo.std_ddof, eps=algo.std_eps)
        return advantage_PR, leave_one_out_advantages(reward_PR, is_kept_PR)

    return both


def batch_without_advantages(collection: Collection) -> Batch:
    """The collection as arrays [P, ...] on the host, its advantages 0 and no log-probability pass filled in."""
    rollouts = collection.rollouts
    zero_PR = np.zeros(collection.is_kept_PR.shape, np.float32)
    return Batch(
        prompt_PS=rollouts.prompt_PS,
        prompt_length_P=rollouts.prompt_length_P,
        completion_PRT=rollouts.completion_PRT,
        completion_length_PR=rollouts.completion_length_PR,
        is_kept_PR=collection.is_kept_PR,
        advantage_PR=zero_PR,
        loo_advantage_PR=zero_PR,
        behavior_logprob_PRT=rollouts.behavior_logprob_PRT,
        old_logprob_PRT=None,
        reference_logprob_PRT=None,
        is_action_PRT=rollouts.is_action_PRT,
    )


def with_advantages(batch: Batch, collection: Collection, build: Advantages) -> Batch:
    """The batch with the advantages of the collection's rewards."""
    found = build(jnp.asarray(collection.reward_PR), jnp.asarray(collection.is_kept_PR))
    advantage_PR, loo_advantage_PR = jax.device_get(found)
    return batch.replace(advantage_PR=advantage_PR, loo_advantage_PR=loo_advantage_PR)


def with_selection(batch: Batch, collection: Collection, algo: AlgoConfig) -> Batch:
    """The batch with the rollouts that algo.select takes, if it is not all of them."""
    return batch if algo.select == "all" else batch.replace(is_selected_PR=is_selected(collection, algo))


def is_selected(collection: Collection, algo: AlgoConfig) -> np.ndarray:
    """bool[P, R], the rollouts that the loss is taken of, by the rewards that are trained on."""
    selected_PR = selected_rollouts(
        jnp.asarray(collection.reward_PR, jnp.float32),
        jnp.asarray(collection.is_kept_PR),
        kind=algo.select,
        threshold=algo.select_threshold,
        n=algo.select_n,
    )
    return np.asarray(selected_PR)


def selection_metrics(collection: Collection, algo: AlgoConfig) -> dict[str, float]:
    """How large the batch is that the loss is taken of; {} where it is all that is kept."""
    if algo.select == "all":
        return {}
    selected_PR = is_selected(collection, algo)
    return {
        "batch/selected_rollouts": float(selected_PR.sum()),
        "batch/selected_frac": float(selected_PR.sum() / max(collection.is_kept_PR.sum(), 1)),
        "batch/selected_prompts": float(selected_PR.any(axis=1).sum()),
    }


def in_microbatches(batch: Batch, mesh: Mesh, *, microbatch_prompts: int) -> Batch:
    """Leaves [P, ...] as [M, n, ...] on the mesh, each micro-batch split over the devices."""
    return place_batch(
        jax.tree.map(lambda leaf: leaf.reshape(-1, microbatch_prompts, *leaf.shape[1:]), batch), mesh, axis=1
    )


def minibatch_rows(config: TrainConfig, step: int) -> list[np.ndarray]:
    """Which prompts of the collection each update of a step takes: whole groups, every one once per epoch.

    In collection order when a step is one update, else in an order seeded by (seed, step, epoch).
    """
    n_prompts, n_updates = config.batch.n_prompts, config.updates_per_step
    if n_updates == 1:
        return [np.arange(n_prompts)]
    orders = [
        np.random.default_rng([config.seed, step, epoch]).permutation(n_prompts)
        for epoch in range(config.batch.epochs_per_buffer)
    ]
    return [rows for order in orders for rows in order.reshape(-1, config.minibatch_prompts)]

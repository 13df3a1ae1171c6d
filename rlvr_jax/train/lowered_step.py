"""The update of a run, lowered from shapes alone: what a compiler says of its memory, with nothing allocated."""

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlvr_jax.models.spec import Params, parameter_table
from rlvr_jax.tasks.turns import max_turns
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.loss import Batch
from rlvr_jax.train.placement import BATCH_AXES, n_batch_shards, param_shardings, placed_abstract_state
from rlvr_jax.train.programs import build_programs


def lowered_step(config: TrainConfig, parts: Parts) -> jax.stages.Lowered:
    """The program of an update that measures nothing."""
    programs = build_programs(config, parts)
    state = placed_abstract_state(parts.layout, programs.optimizer)
    frozen = None if parts.lora is None else abstract_params(parts)
    return programs.train_step.lower(state, frozen, abstract_batch(config, parts))


def abstract_params(parts: Parts) -> Params:
    """The weights under an adapter, in the dtype of the matmuls."""
    table = parameter_table(parts.spec)
    shardings = flax.traverse_util.flatten_dict(param_shardings(table, parts.mesh), sep="/")
    flat = {
        path: jax.ShapeDtypeStruct(row.shape, parts.compute_dtype, sharding=shardings[path])
        for path, row in table.items()
    }
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def abstract_batch(config: TrainConfig, parts: Parts) -> Batch:
    """The widest batch of an update, as micro-batches."""
    plan, (R, T) = parts.plan, (config.batch.n_rollouts, config.sampling.max_new_tokens)
    M, P = plan.microbatches_per_update, plan.microbatch_prompts
    split = BATCH_AXES if P % n_batch_shards(parts.mesh) == 0 else None
    sharding = NamedSharding(parts.mesh, PartitionSpec(None, split))

    def leaf(dtype: jnp.dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((M, P, *shape), dtype, sharding=sharding)

    has_reference = config.algo.kl_coef > 0 and config.algo.kl_in == "loss"
    return Batch(
        prompt_PS=leaf(jnp.int32, plan.max_prompt_tokens),
        prompt_length_P=leaf(jnp.int32),
        completion_PRT=leaf(jnp.int32, R, T),
        completion_length_PR=leaf(jnp.int32, R),
        is_kept_PR=leaf(jnp.bool_, R),
        advantage_PR=leaf(jnp.float32, R),
        loo_advantage_PR=leaf(jnp.float32, R),
        behavior_logprob_PRT=leaf(jnp.float32, R, T),
        old_logprob_PRT=leaf(jnp.float32, R, T) if plan.updates_per_step > 1 else None,
        reference_logprob_PRT=leaf(jnp.float32, R, T) if has_reference else None,
        is_action_PRT=leaf(jnp.bool_, R, T) if max_turns(parts.task) > 1 else None,
    )

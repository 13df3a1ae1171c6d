"""What a run holds before its first update: the weights it starts from, and the state that updates change."""

import optax

from rlvr_jax.models.lora import lora_table
from rlvr_jax.models.spec import Params, initial_values
from rlvr_jax.models.transformer import cast_params
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.state import TrainState, initial_state


def held_params(starting_params: Params, parts: Parts) -> Params:
    """The starting weights as a run holds them: those under an adapter in the dtype of the matmuls.

    Every pass would cast them to it anyway; only weights that are trained need what the cast drops. No copy is made of
    what has the dtype already.
    """
    return starting_params if parts.lora is None else cast_params(starting_params, parts.compute_dtype)


def starting_state(
    config: TrainConfig, parts: Parts, starting_params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first update, on the mesh: of the starting weights, or of an adapter's factors alone.

    Those are drawn by config.seed, so that the seeds of a study differ in them too.
    """
    layout, trained = parts.layout, starting_params
    if parts.lora is not None:
        table = lora_table(parts.spec, parts.lora)
        trained = layout.built(lambda key: initial_values(table, key), root_key(config.seed, "adapter"))
    return layout.built(lambda params: initial_state(params, optimizer), trained)

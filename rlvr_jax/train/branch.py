"""A branch: a run that starts from a checkpoint of another run, its trunk, and goes on with prompts after its.

Branches of one checkpoint with several batch sizes show what a batch costs at that point of training: branched
training, arXiv:2505.23971. analysis/branches.py compares them.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.checkpoint import CheckpointError
from rlvr_jax.train.config import ConfigError, TrainConfig
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.run_directory import RunDirectoryError, config_as_json, read_run
from rlvr_jax.train.saved_policy import located_checkpoint, run_folder, saved_checkpoint
from rlvr_jax.train.state import TrainState, initial_state

Trunk = dict[str, Any]  # what run.json keeps of it


def branch_problems(config: TrainConfig) -> list[str]:
    """Why the trunk that the config names cannot be gone on from, one message each, from its run.json alone."""
    if not config.start.checkpoint:
        return []
    checkpoint = Path(config.start.checkpoint)
    try:
        folder, update = located_checkpoint(checkpoint, option="start.checkpoint")
        run = read_run(run_folder(checkpoint))
    except (CheckpointError, RunDirectoryError) as error:
        return [str(error)]
    if run is None:
        return [
            f"start.checkpoint={checkpoint}: {run_folder(checkpoint)} has no run.json, which would say what was trained"
        ]
    if update is None and not any(path.name.isdigit() for path in folder.iterdir()):
        return [f"start.checkpoint={checkpoint} has no checkpoint yet; let that run save one"]
    changed = _changed_fields(config, run["config"])
    if not changed:
        return []
    return [
        f"start.checkpoint={checkpoint} cannot be gone on from with other settings: {'; '.join(changed)}. Change them "
        "back, or name a run that was trained with them"
    ]


def _changed_fields(config: TrainConfig, of_trunk: dict[str, Any]) -> list[str]:
    """The settings that say what the trunk's state is a state of, where they differ."""
    now = config_as_json(config)
    groups = ["model."]
    groups += ["warmstart."] * bool(now["warmstart.enabled"] or of_trunk.get("warmstart.enabled"))
    groups += ["lora."] * bool(now["lora.enabled"] or of_trunk.get("lora.enabled"))
    free = ("lora.peak_lr", "model.remat", "model.logprob_chunk_mib")  # a rate, and what is for memory alone
    names = [name for name in now if name.startswith(tuple(groups)) and name not in free]
    names.append("optimizer.momentum_dtype")
    changed = [name for name in names if name in of_trunk and of_trunk[name] != now[name]]
    clip = "optimizer.clip_norm"  # whether anything is clipped is part of the optimiser's state
    if clip in of_trunk and (of_trunk[clip] > 0) != (now[clip] > 0):
        changed.append(clip)
    return [f"{name} was {of_trunk[name]!r} and is {now[name]!r} now" for name in changed]


def branch_state(
    config: TrainConfig, parts: Parts, start_hash: str, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Trunk]:
    """The state a branch starts from, on the mesh, and what its run.json keeps of the trunk.

    The trunk's parameters; with start.keeps_optimizer its optimiser too, whose count goes on, so that a warm-up is not
    repeated and a schedule goes on where it was. The noise averages start anew: they are of another batch.

    Args:
        start_hash: of the weights that this config starts from, which a KL penalty refers to and which lie under an
            adapter; the trunk has to have started from the same where there is either.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not hold this config's model.
        ConfigError: the trunk started from other weights.
    """
    checkpoint = Path(config.start.checkpoint)
    run = read_run(run_folder(checkpoint, option="start.checkpoint"))
    if run is None:
        raise CheckpointError(f"start.checkpoint={checkpoint} belongs to no run: there is no run.json beside it")
    if (config.algo.kl_coef > 0 or parts.lora is not None) and run["starting_params"] != start_hash:
        raise ConfigError(
            [
                f"start.checkpoint={checkpoint} was started from other weights ({run['starting_params']}) than this "
                f"config now starts from ({start_hash}), as happens when the code, jax or the machine changed; an "
                "adapter, or a penalty to the initial policy, needs the same: train the trunk anew here"
            ]
        )
    state, progress = saved_checkpoint(config, parts, checkpoint, option="start.checkpoint")
    trunk = {
        "checkpoint": config.start.checkpoint,
        "point": run["point"],
        "update": progress["update"],
        "prompts": progress["prompts"] + run.get("trunk", {}).get("prompts", 0),  # a trunk may be a branch itself
        "params": params_hash(state.params),
    }
    if not config.start.keeps_optimizer:
        return parts.layout.built(lambda params: initial_state(params, optimizer), state.params), trunk
    return _as_new(state), trunk


@jax.jit
def _as_new(state: TrainState) -> TrainState:
    """Without what was counted and averaged over the trunk's batches."""
    zeros = jax.tree.map(jnp.zeros_like, (state.n_nonfinite, state.n_skipped_in_a_row, state.noise))
    return state.replace(n_nonfinite=zeros[0], n_skipped_in_a_row=zeros[1], noise=zeros[2])


def recorded_trunk(config: TrainConfig, earlier: dict[str, Any] | None, folder: Path) -> Trunk | None:
    """What the run.json of a branch that is resumed says of its trunk, which need not exist any more.

    Raises RunDirectoryError if it says nothing: the run could not know which prompts come next.
    """
    trunk = (earlier or {}).get("trunk")
    if config.start.checkpoint and trunk is None:
        raise RunDirectoryError(
            f"{folder} has checkpoints of a branch, but its run.json does not say where it started; "
            "delete the directory to start over"
        )
    return trunk

"""A branch: a run that starts from a checkpoint of another run, its trunk, and goes on with prompts after its.

With the trunk's seed those are prompts it has not had; another seed draws in another order, which may bring some again.

Branches of one checkpoint with several batch sizes show what a batch costs at that point of training: branched
training, arXiv:2505.23971. analysis/branches.py compares them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.config import ConfigError, TrainConfig
from rlvr_jax.train.log import RUN_FILE
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.run_directory import FINISHED, RunDirectoryError, config_as_json, read_run, tokenizer_record
from rlvr_jax.train.saved_policy import located_checkpoint, run_folder, saved_checkpoint
from rlvr_jax.train.state import TrainState, initial_state

Trunk = dict[str, Any]  # what run.json keeps of it


def branch_problems(config: TrainConfig, parts: Parts, others: Sequence[Trunk] = ()) -> list[str]:
    """Why the trunk that the config names cannot be gone on from, one message each, before anything of it is loaded.

    `others` is what the other branches of the study recorded of it, see `recorded_trunks`.
    """
    if not config.start.checkpoint:
        return []
    checkpoint = Path(config.start.checkpoint)
    named = f"start.checkpoint={checkpoint}"
    try:
        folder, named_update = located_checkpoint(checkpoint, option="start.checkpoint")
    except CheckpointError as error:
        return [f"{error}; train that run first, or name another with --config.start.checkpoint"]
    where = run_folder(checkpoint)
    try:
        run = read_run(where)
    except RunDirectoryError as error:
        return [f"{named}: {where / RUN_FILE} cannot be read ({error.__cause__}); name a run whose record is whole"]
    if run is None:
        return [f"{named}: {where} has no run.json, which would say what was trained"]
    if lacking := _lacking_record(run):
        return [f"{named}: {where / RUN_FILE} is not of a run of this program, or of an older one: {lacking}"]
    update = others[0]["update"] if named_update is None and others else named_update
    if update is None and run["status"] != FINISHED:
        return [
            f"{named} is {run['status']}, and its newest checkpoint may soon be another; let it finish, or name one "
            "folder of its checkpoints/"
        ]
    known = _complete_updates(folder)
    if not known:
        return [f"{named} has no checkpoint yet; let that run save one"]
    if update is not None and update not in known:
        since = ", where the other branches of this study started" if named_update is None else ""
        return [f"{named}: {folder} has no complete checkpoint of update {update}{since}; it has {known}"]
    changed = _changed_fields(config, run["config"])
    problems = []
    if changed:
        problems.append(
            f"{named} cannot be gone on from with other settings: {'; '.join(changed)}. Change them back, or name a "
            "run that was trained with them"
        )
    sources = (("tokenizer", tokenizer_record(parts.tokenizer)), ("task_data", parts.task.fingerprint))
    for name, now in sources:
        if run[name] != now:
            what = {"tokenizer": "tokenizer", "task_data": f"data than those of task {parts.task.name!r} now"}[name]
            problems.append(
                f"{named} was trained with another {what} ({run[name]} -> {now}): put it back, or train the trunk anew"
            )
    return problems


_RECORD = {"status": str, "point": str, "config": dict, "starting_params": str, "tokenizer": dict, "task_data": str}


def _lacking_record(run: Any) -> str:
    """What a run.json lacks that branches need, if anything."""
    if not isinstance(run, dict):
        return "it holds no record"
    lacking = [name for name, kind in _RECORD.items() if not isinstance(run.get(name), kind)]
    if not lacking and not isinstance(run["config"].get("optimizer.clip_norm", 0.0), (int, float)):
        lacking = ["optimizer.clip_norm"]
    return f"it has no {', '.join(lacking)}" if lacking else ""


def _complete_updates(folder: Path) -> list[int]:
    checkpoints = Checkpoints(folder, keep_newest=1, keep_best=0, is_read_only=True)
    try:
        found = checkpoints.all_updates()  # by name; a copy may have been cut off
        return [u for u in found if all((folder / str(u) / item).is_dir() for item in ("state", "progress"))]
    finally:
        checkpoints.close()


def recorded_trunks(config: TrainConfig, study_folder: Path) -> list[Trunk]:
    """What the branches of a study that were started before recorded of the trunk that this config names too.

    A run directory stands for its newest checkpoint when the first of them started: all are to be of one policy.
    """
    trunks = []
    for path in sorted(study_folder.glob(f"*/{RUN_FILE}")) if config.start.checkpoint else ():
        try:
            run = read_run(path.parent)
        except RunDirectoryError:
            continue  # which is said when that point is started
        trunk = run.get("trunk") if isinstance(run, dict) else None
        if trunk and trunk["checkpoint"] == config.start.checkpoint:
            trunks.append(trunk)
    return trunks


def _changed_fields(config: TrainConfig, of_trunk: dict[str, Any]) -> list[str]:
    """The settings that say what the trunk's state is a state of, and its data, where they differ."""
    now = config_as_json(config)
    groups = ["model."]
    groups += ["warmstart."] * bool(now["warmstart.enabled"] or of_trunk.get("warmstart.enabled"))
    groups += ["lora."] * bool(now["lora.enabled"] or of_trunk.get("lora.enabled"))
    free = ("lora.peak_lr", "model.remat", "model.logprob_chunk_mib")  # a rate, and what is for memory alone
    names = [name for name in now if name.startswith(tuple(groups)) and name not in free]
    names += ["optimizer.momentum_dtype", "task.name"]  # prompts after the trunk's are of its data
    changed = [name for name in names if name in of_trunk and of_trunk[name] != now[name]]
    clip = "optimizer.clip_norm"  # whether anything is clipped is part of the optimiser's state
    if clip in of_trunk and (of_trunk[clip] > 0) != (now[clip] > 0):
        changed.append(clip)
    return [f"{name} was {of_trunk[name]!r} and is {now[name]!r} now" for name in changed]


def branch_state(
    config: TrainConfig,
    parts: Parts,
    start_hash: str,
    optimizer: optax.GradientTransformation,
    *,
    others: Sequence[Trunk] = (),
) -> tuple[TrainState, Trunk]:
    """The state a branch starts from, on the mesh, and what its run.json keeps of the trunk.

    The trunk's parameters; with start.keeps_optimizer its optimiser too, whose count goes on, so that a warm-up is not
    repeated and a schedule goes on where it was. The noise averages start anew: they are of another batch.

    Args:
        start_hash: of the weights that this config starts from, which a KL penalty refers to and which lie under an
            adapter; the trunk has to have started from the same where there is either.
        others: what other branches of the study recorded, which this one starts beside, see `recorded_trunks`.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not hold this config's model.
        ConfigError: the trunk started from other weights, or is another than that of the other branches.
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
    folder, update = located_checkpoint(checkpoint, option="start.checkpoint")
    if update is None and others:
        checkpoint = folder / str(others[0]["update"])
    state, progress = saved_checkpoint(config, parts, checkpoint, option="start.checkpoint")
    before = run.get("trunk", {})  # a trunk may be a branch itself
    trunk = {
        "checkpoint": config.start.checkpoint,
        "point": run["point"],
        "update": progress["update"],
        "steps": progress["step"] + before.get("steps", 0),
        "prompts": progress["prompts"] + before.get("prompts", 0),
        "params": params_hash(state.params),
    }
    if others and others[0]["params"] != trunk["params"]:
        raise ConfigError(
            [
                f"{checkpoint} holds other weights ({trunk['params']}) than when other branches of study "
                f"{config.study!r} started from it ({others[0]['params']}): it was trained anew since, and branches of "
                "both cannot be compared; choose another --config.study"
            ]
        )
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

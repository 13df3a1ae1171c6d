"""A policy on disk, outside any run."""

import logging
from pathlib import Path
from typing import Any

from rlvr_jax.models.spec import Params
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints, first_line
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.placement import placed_abstract_state
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.run_directory import MEMORY_FIELDS, config_as_json, read_run
from rlvr_jax.train.state import TrainState

log = logging.getLogger(__name__)


def saved_state(config: TrainConfig, parts: Parts, checkpoint: Path) -> tuple[TrainState, int]:
    """The state that a checkpoint holds, on the mesh, and the update it was saved after.

    Args:
        checkpoint: a run directory (its newest checkpoint) or one folder of its `checkpoints/`.

    Raises CheckpointError if there is no such checkpoint, or it does not hold this config's model.
    """
    state, progress = saved_checkpoint(config, parts, checkpoint, option="--checkpoint")
    return state, progress["update"]


def saved_checkpoint(
    config: TrainConfig, parts: Parts, checkpoint: Path, *, option: str
) -> tuple[TrainState, dict[str, Any]]:
    """The state, and the host's counters that were saved with it; `option` names `checkpoint` in messages."""
    folder, update = located_checkpoint(checkpoint, option=option)
    checkpoints = Checkpoints(folder, keep_newest=1, keep_best=0, is_read_only=True)
    known = checkpoints.all_updates()
    update = update if update is not None else max(known, default=None)
    if update not in known:
        raise CheckpointError(f"{folder} has no complete checkpoint of update {update}; it has {known}")
    _check_config(config, checkpoint)
    like = placed_abstract_state(parts.layout, build_programs(config, parts).optimizer)
    try:
        state, progress = checkpoints.restore(update, like)
    except Exception as error:  # orbax raises many kinds
        raise CheckpointError(
            f"checkpoint {folder / str(update)} cannot be read as the model of this config "
            f"({type(error).__name__}: {first_line(error)}); is --config the one it was trained with, and was it "
            "trained with this version?"
        ) from error
    finally:
        checkpoints.close()
    return state, progress


def check_base_weights(checkpoint: Path, starting_params: Params) -> None:
    """Raises CheckpointError if the factors of a checkpoint were trained beside other weights than these.

    A checkpoint of an adapter does not hold the weights under it: they are those that its run started from.
    """
    run = read_run(run_folder(checkpoint))
    if run is None:
        log.warning("%s has no run.json, which would say what weights its adapter was trained beside", checkpoint)
        return
    found = params_hash(starting_params)
    if run["starting_params"] != found:
        raise CheckpointError(
            f"the adapter in {checkpoint} was trained beside other weights ({run['starting_params']}) than this config "
            f"now starts from ({found}), as happens when model.name or the warm start, the code, jax or the machine "
            "changed; use the config, the version and the machine it was trained with"
        )


def _check_config(config: TrainConfig, checkpoint: Path) -> None:
    """Raises CheckpointError if the run says it trained another model; warns of what else differs and matters here.

    Shapes alone would not tell: another rope_theta is another network with the same weights.
    """
    run = read_run(run_folder(checkpoint))
    if run is None:
        return
    changed = {
        name: f"{name} was {run['config'][name]!r} and is {value!r} now"
        for name, value in config_as_json(config).items()
        if name in run["config"] and run["config"][name] != value and name not in MEMORY_FIELDS
    }
    groups = ("model.", "lora.") if config.lora.enabled or run["config"].get("lora.enabled") else ("model.",)
    of_model = [text for name, text in changed.items() if name.startswith(groups) and name != "lora.peak_lr"]
    if of_model:
        raise CheckpointError(f"checkpoint {checkpoint} is of another model: {'; '.join(of_model)}")
    surprising = [text for name, text in changed.items() if name.startswith(("task.", "sampling.", "algo."))]
    if surprising:
        log.warning("checkpoint %s was trained with other settings: %s", checkpoint, "; ".join(surprising))


def run_folder(checkpoint: Path, *, option: str = "--checkpoint") -> Path:
    """The run directory that a checkpoint belongs to; the folder it lies in, if that is not called checkpoints."""
    folder, _ = located_checkpoint(checkpoint, option=option)
    return folder.parent if folder.name == "checkpoints" else folder


def located_checkpoint(checkpoint: Path, *, option: str = "--checkpoint") -> tuple[Path, int | None]:
    """The folder of checkpoints, and the update if one is named. Raises CheckpointError if it is neither."""
    if (checkpoint / "checkpoints").is_dir():
        return checkpoint / "checkpoints", None
    parent = checkpoint.parent if checkpoint.parent.name else checkpoint.parent.absolute()  # "40" names no folder
    if checkpoint.name.isdigit() and parent.is_dir():
        return parent, int(checkpoint.name)
    raise CheckpointError(f"{option}={checkpoint} is neither a run directory nor a folder of its checkpoints/")

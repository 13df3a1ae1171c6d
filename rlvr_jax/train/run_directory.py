"""runs/<study>/<point>/: who may write there, what it was started with, whether it is finished."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.train.batch_plan import BatchPlan
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields
from rlvr_jax.train.log import RUN_FILE, write_json

log = logging.getLogger(__name__)

RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "chex", "tensorboardX", "transformers")


class RunDirectoryError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def locked(folder: Path, *, what: str = "run directory", option: str = "--runs=DIR") -> Iterator[None]:
    """Makes the folder and holds it against other processes. Raises RunDirectoryError if it cannot.

    `what` the folder is and the `option` that moves it are for the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the {what} {folder} ({error.strerror}); choose another place with {option} or free the disk"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when a process dies
        except BlockingIOError as error:
            raise RunDirectoryError(f"another process is running {folder}; wait for it or stop it") from error
        yield


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json, or None if the run never started. Raises RunDirectoryError when it is unreadable."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}); delete {folder} to start over") from error


# which other rates a study has is no setting of a run, whose own is in optimizer.peak_lr: a grid may be extended
STUDY_FIELDS = ("optimizer.lr_grid",)
# a run that did not fit may go on with others
MEMORY_FIELDS = (
    "batch.microbatch_prompts",
    "sampling.rollouts_at_once",
    "model.remat",
    "model.logprob_chunk_mib",
    "noise.chunk_mib",
)
# and one whose judge did not answer, or had no budget left, with others of these: what a score means does not change
JUDGE_FIELDS = (
    "task.judge.base_url",  # the same model may have moved
    "task.judge.api_key_env",
    "task.judge.concurrency",
    "task.judge.timeout_s",
    "task.judge.n_retries",
    "task.judge.backoff_s",
    "task.judge.longest_wait_s",
    "task.judge.budget_requests",
    "task.judge.budget_tokens",
    "task.judge.cache_folder",
)


def check_same_config(config: TrainConfig, run: dict[str, Any], folder: Path) -> None:
    """Raises ConfigError naming every field that differs from what the run was started with.

    n_updates may grow, devices may be arranged in another way, and less be done at a time. A schedule that decays to
    n_updates would change with it, so it then has to be pinned by name.
    """
    old, new = run["config"], config_as_json(config)
    unknown = sorted(new.keys() - old.keys())
    if unknown:
        raise ConfigError(
            [
                f"{folder} was started by an earlier version, which had no {', '.join(unknown)}; finish it with that "
                "version, or choose another --runs=DIR"
            ]
        )
    problems = [
        f"{name} was {old.get(name)!r} when {folder} was started and is {new.get(name)!r} now; "
        "a run keeps its settings (only n_updates may grow, and placement and what is for memory alone change): change "
        "it back, choose another --config.study, or delete the directory"
        for name in sorted(old.keys() | new.keys())
        if not name.startswith(("n_updates", "placement.", *STUDY_FIELDS, *MEMORY_FIELDS, *JUDGE_FIELDS))
        and old.get(name) != new.get(name)
    ]
    if new["n_updates"] < old["n_updates"]:
        problems.append(
            f"n_updates={new['n_updates']} is less than the {old['n_updates']} {folder} was started with; "
            "it may only grow"
        )
    is_decay_automatic = config.optimizer.schedule != "constant" and config.optimizer.decay_updates == 0
    if is_decay_automatic and new["n_updates"] > old["n_updates"]:
        problems.append(
            f"n_updates grows from {old['n_updates']} to {new['n_updates']}, and "
            f"optimizer.schedule={config.optimizer.schedule!r} decays to n_updates, so the rates of past updates "
            "would have been others; start anew with optimizer.decay_updates set"
        )
    if problems:
        raise ConfigError(problems)


def is_placement_changed(config: TrainConfig, run: dict[str, Any]) -> bool:
    """Whether devices are arranged in another way than when the run was started, or are not as many."""
    new = config_as_json(config)
    return run["devices"] != device_kind() or any(
        run["config"][name] != value for name, value in new.items() if name.startswith("placement.")
    )


def write_run(
    folder: Path,
    config: TrainConfig,
    plan: BatchPlan,
    *,
    status: str,
    starting_params_hash: str,
    task_data: str,
    **more: Any,
) -> None:
    """run.json: what the run is, on what, and how it stands."""
    write_json(
        folder / RUN_FILE,
        {
            "status": status,
            "study": config.study,
            "point": config.point_name,
            "config": config_as_json(config),
            "plan": dataclasses.asdict(plan),
            "starting_params": starting_params_hash,
            "task_data": task_data,
            "git_revision": git_revision(),
            "versions": package_versions(),
            "devices": device_kind(),
            **more,
        },
    )


def warn_if_machine_changed(run: dict[str, Any]) -> None:
    """A run may move to another machine, but is then no longer bit for bit what it would have been."""
    changed = [
        f"{name} was {run[name]} and is {now}"
        for name, now in (("devices", device_kind()), ("versions", package_versions()))
        if run.get(name) != now
    ]
    if changed:
        log.warning("resuming on another machine or environment, not bit for bit the same: %s", "; ".join(changed))


def device_kind() -> dict[str, Any]:
    """What computes here, and how many of them."""
    return {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind, "n": jax.device_count()}


def config_as_json(config: TrainConfig) -> dict[str, Any]:
    """All fields by dotted path, as they come back from run.json."""
    return json.loads(json.dumps(flat_fields(config)))  # tuples become lists, as they come back from disk


def tokenizer_record(tokenizer: Tokenizer) -> dict[str, Any]:
    """What run.json keeps of it: by another one the same ids are another text."""
    return {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "eos_ids": list(tokenizer.eos_ids)}


def package_versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_revision() -> str | None:
    """Of the code that runs, with a + if it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        is_changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, timeout=10).returncode != 0
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + "+" * is_changed

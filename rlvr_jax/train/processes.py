"""Several processes that run one program together: how they start, what each has, what they must agree on.

Every process runs the same host loop, so that all of them dispatch the same programs in the same order: a program that
spans processes waits for all. Whatever a clock, a signal or a file decides is therefore decided once and told to all.
With one process nothing here communicates.
"""

import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from rlvr_jax.train.config import ConfigError

LOST_AFTER_S = 60  # without a sign of life a process counts as lost, and the others end
_WORDS_OF_A_LOST_PROCESS = ("gloo", "nccl", "connection", "socket", "coordination", "heartbeat")
_FIRST_PORT, _N_PORTS = 61_440, 4_096  # where nothing else listens by convention


@dataclasses.dataclass(frozen=True)
class Group:
    """How this process finds the others."""

    coordinator: str  # HOST:PORT of the first one
    n_processes: int
    process_id: int  # 0 .. n_processes - 1


def group_of(coordinator: str | None, n_processes: int | None, process_id: int | None) -> Group | None:
    """What the flags of bin/train ask for, None for a process of its own. Raises ConfigError if they cannot work."""
    flags = {"--coordinator": coordinator, "--num_processes": n_processes, "--process_id": process_id}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return None
    problems = [f"--coordinator, --num_processes and --process_id go together; {name} is missing" for name in missing]
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        problems.append(f"--coordinator={coordinator} must be HOST:PORT, where the process with --process_id=0 runs")
    if n_processes is not None and n_processes < 1:
        problems.append(f"--num_processes={n_processes} must be at least 1")
    elif None not in (n_processes, process_id) and not 0 <= process_id < n_processes:
        problems.append(f"--process_id={process_id} must lie in 0..{n_processes - 1}")
    if problems:
        raise ConfigError(problems)
    return Group(coordinator, n_processes, process_id)


def slurm_group(environment: Mapping[str, str]) -> Group | None:
    """The tasks of a Slurm job step, None if this is its only one.

    Of the step, not of the job: the shell of an allocation for many tasks is one process, which would wait for others
    that nobody started. Raises ConfigError outside a step.
    """
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
    missing = [name for name in names if name not in environment]
    if missing:
        raise ConfigError(
            [f"--distributed=slurm, but {', '.join(missing)} is not set: start it with srun, or leave the flag out"]
        )
    n_processes, process_id, nodes, job = (environment[name] for name in names)
    if int(n_processes) == 1:
        return None
    port = _FIRST_PORT + int(job) % _N_PORTS
    return Group(f"{first_host(nodes)}:{port}", int(n_processes), int(process_id))


def first_host(nodes: str) -> str:
    """The first of a list as Slurm writes it: a7 of "a[7-9,12],b1"."""
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups())


def join(group: Group | None) -> None:
    """Waits until all processes of the group are there. Has to come before anything uses a device.

    Raises ConfigError if they do not come.
    """
    if group is None or group.n_processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    sys.excepthook = _end_at_once
    # two programs at a time would mix up what they exchange
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.n_processes,
            group.process_id,
            heartbeat_timeout_seconds=LOST_AFTER_S,
            shutdown_timeout_seconds=LOST_AFTER_S,
        )
    except RuntimeError as error:
        raise ConfigError(
            [
                f"process {group.process_id} of {group.n_processes} could not join the others at {group.coordinator} "
                f"({str(error).splitlines()[0][:200]}); is the first one running there, and are all of them started?"
            ]
        ) from error


def _end_at_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    is_lost = any(word in str(error).lower() for word in _WORDS_OF_A_LOST_PROCESS)
    if issubclass(kind, jax.errors.JaxRuntimeError) and is_lost:
        reason = (str(error).splitlines() or [""])[0][:200]
        print(
            f"process {jax.process_index()}: the devices failed, most likely because another process has ended, which "
            f"then says why ({reason}); run the same command to go on from the last checkpoint",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
    leave(1)


def leave(code: int) -> int:
    """The exit code of a process that failed; of several it ends here, so that the others notice.

    Python's own end would wait for all of them, while they wait for what this one no longer does.
    """
    if jax.distributed.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def placed(leaf: Any, sharding: Sharding) -> jax.Array:
    """An array that every process has whole, or that is on devices already, where `sharding` says."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(_same, out_shardings=sharding)(leaf)
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        return jax.jit(_same, out_shardings=sharding)(leaf)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _same(x: jax.Array) -> jax.Array:
    return x


def on_host(tree: Any) -> Any:
    """`tree` as numpy arrays, whole in every process. All processes have to ask for it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    return jax.tree.map(whole, tree)


def told_by_first(value: Any) -> Any:
    """What the first process has as `value`, which JSON can hold; the others' is ignored."""
    if jax.process_count() == 1:
        return value
    return json.loads(gathered(json.dumps(value).encode() if is_first() else b"")[0])


def arrays_of_first(load: Callable[[], Any], *, shapes: Any) -> Any:
    """What `load` gives in the first process; elsewhere it is not called, and `shapes` says what will come."""
    if jax.process_count() == 1:
        return load()
    mine = load() if is_first() else jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return multihost_utils.broadcast_one_to_all(mine)


def check_same_everywhere(own: Mapping[str, Any]) -> None:
    """Raises ConfigError, in all processes, unless all have the same values, such as JSON holds, by the same names."""
    first, *others = [json.loads(share) for share in gathered(json.dumps(own).encode())]
    for number, other in enumerate(others, 1):
        different = [name for name in first.keys() | other.keys() if first.get(name) != other.get(name)]
        if different:
            name = min(different)
            raise ConfigError(
                [
                    f"{name} is {other.get(name)!r} in process {number} and {first.get(name)!r} in the first; "
                    "start all processes with the same command, files and versions"
                ]
            )


def any_process(is_so: bool) -> bool:
    """Whether it is so in any of them."""
    return largest(int(is_so)) > 0


def largest(n: int) -> int:
    """Of all processes' numbers."""
    if jax.process_count() == 1:
        return n
    return int(multihost_utils.process_allgather(np.int32(n)).max())


def gathered(payload: bytes) -> list[bytes]:
    """What every process has, in their order."""
    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.int32(len(payload))).reshape(-1)
    width = 1 << max(int(lengths.max()) - 1, 0).bit_length()  # few widths: each is compiled once
    padded = np.zeros(width, np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), width)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def own_rows(n: int) -> slice:
    """Which of n prompts are this process's to decode and grade: those its devices hold, where they divide evenly."""
    n_processes, i = jax.process_count(), jax.process_index()
    return slice(i * n // n_processes, (i + 1) * n // n_processes)


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; what was written before can then be read by all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)

"""A study as a Slurm job array: one task per point, each of which goes on where it was stopped."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rlvr_jax.train.config import ConfigError, TrainConfig
from rlvr_jax.train.stop import OUT_OF_TIME

ASKED_TO_STOP = 143  # 128 + SIGTERM
_SAVE_S = 300  # a signal comes so long before the time limit, should the command itself not end in time


def slurm_script(
    points: Sequence[TrainConfig], command: Sequence[str], *, folder: Path, hours: float, gpus: int, nodes: int
) -> str:
    """A batch script for `sbatch`.

    Args:
        command: python, bin/train and its arguments, without --index and --max_hours.
        folder: where the command was given, to which its relative paths refer.
        hours: time limit of one task; one that needs more goes on in another.
        gpus: of each node; one process has all of them.
        nodes: of each task, with a process on each.

    Raises ConfigError if there is nothing to run or a number cannot be asked for.
    """
    if not points:
        raise ConfigError(["--slurm: the study has no point to run"])
    if not 0.25 <= hours < math.inf or gpus < 0 or nodes < 1:
        raise ConfigError(
            [
                f"--slurm_hours={hours:g} --slurm_gpus={gpus} --slurm_nodes={nodes}: use a quarter of an hour or more, "
                "0 GPUs or more, and at least one node"
            ]
        )
    distributed = ["--distributed=slurm"] if nodes > 1 else []
    run = shlex.join([*command, *distributed, f"--max_hours={hours:g}"])
    listed = "\n".join(f"#   {number} {config.point_name}" for number, config in enumerate(points))
    gpu_line = f"#SBATCH --gpus-per-node={gpus}\n" if gpus else ""
    return f"""#!/bin/bash
# Made by --slurm. Submit it with: sbatch FILE
# Other options of sbatch, such as --partition, go before FILE. The array's tasks are the points
{listed}
#SBATCH --job-name={re.sub(r"[^A-Za-z0-9_.+-]", "_", points[0].study)}
#SBATCH --array=0-{len(points) - 1}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpu_line}#SBATCH --time={math.floor(hours * 60)}
#SBATCH --signal=TERM@{_SAVE_S}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%a.log

cd {shlex.quote(str(folder))} || exit 1
# srun does not ask sbatch for it, as of Slurm 22.05
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
srun {run} --index="$SLURM_ARRAY_TASK_ID"
code=$?
# {OUT_OF_TIME}: no time is left, {ASKED_TO_STOP}: asked to stop; all is saved, and the same task goes on from there
if [ "$code" -eq {OUT_OF_TIME} ] || [ "$code" -eq {ASKED_TO_STOP} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def arguments_of_task(arguments: Sequence[str]) -> list[str]:
    """Those of bin/train without what the script decides: --slurm, --slurm_hours (=1 or 1), --distributed."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if name == "distributed" or name.startswith("slurm"):
            if not equals and name != "slurm":
                next(rest, None)  # its value
        else:
            kept.append(argument)
    return kept

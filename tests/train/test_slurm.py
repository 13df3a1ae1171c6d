"""The job array of a study, run by bash with stand-ins for Slurm's commands."""

import os
import subprocess

import pytest

from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.slurm import arguments_of_task, slurm_script

COMMAND = ["/usr/bin/python3", "bin/train", "--config=cbs_p1.py:tiny", "--runs=my runs"]


def script(config, folder, **more):
    return slurm_script([config, config], COMMAND, folder=folder, **({"hours": 2.0, "gpus": 2, "nodes": 1} | more))


def test_the_array_has_a_task_per_point_with_the_time_and_the_gpus_asked_for(tiny_config, tmp_path):
    lines = script(tiny_config, tmp_path).splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = {"array=0-1", "nodes=1", "gpus-per-node=2", "time=120", "requeue", "open-mode=append", "job-name=tiny"}
    assert wanted <= {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")}
    # Slurm reads its options up to the first command only
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index(
        f"cd {tmp_path} || exit 1"
    )


@pytest.mark.parametrize(("code", "is_requeued"), [(0, False), (1, False), (75, True), (143, True)])
def test_a_task_is_requeued_only_if_it_was_stopped(tiny_config, tmp_path, code, is_requeued):
    for name, body in (("srun", f'printf "%s\\n" "$@" > srun.log; exit {code}'), ("scontrol", 'echo "$@" > requeued')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "77",
    }  # fmt: skip
    done = subprocess.run(["bash"], input=script(tiny_config, tmp_path), text=True, env=environment, cwd="/")
    assert done.returncode == code
    assert (tmp_path / "srun.log").read_text().splitlines() == [*COMMAND, "--max_hours=2", "--index=1"]
    requeued = tmp_path / "requeued"
    assert (requeued.read_text().split() if requeued.exists() else None) == (
        ["requeue", "77_1"] if is_requeued else None
    )


def test_several_nodes_are_told_of_each_other(tiny_config, tmp_path):
    text = script(tiny_config, tmp_path, nodes=2, gpus=0)
    assert "#SBATCH --nodes=2\n" in text
    assert "--distributed=slurm" in text
    assert "gpus-per-node" not in text


@pytest.mark.parametrize("wrong", [{"hours": 0.0}, {"gpus": -1}, {"nodes": 0}, {"hours": float("inf")}])
def test_what_cannot_be_asked_for_is_refused(tiny_config, tmp_path, wrong):
    with pytest.raises(ConfigError, match="--slurm_hours"):
        script(tiny_config, tmp_path, **wrong)


def test_a_task_has_the_arguments_that_are_not_the_scripts():
    given = ["--config=a.py", "--slurm", "--slurm_hours", "12", "--runs", "r", "-slurm_gpus=2", "--distributed=slurm"]
    assert arguments_of_task(given) == ["--config=a.py", "--runs", "r"]

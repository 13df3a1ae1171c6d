"""Two processes that share one run, as bin/train starts them, against one process with as many devices."""

import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rows_of_run import exact_rows

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import ConfigError, PlacementConfig
from rlvr_jax.train.processes import Group, check_same_everywhere, first_host, group_of, slurm_group
from rlvr_jax.train.run_directory import read_run
from rlvr_jax.train.saved_policy import saved_state

ROOT = Path(__file__).parents[2]
CONFIG = '''"""Two data shards of two devices each."""
from rlvr_jax.train import config as c


def get_config(arg=None):
    return c.TrainConfig(
        study="pair", point="pair", n_updates=3,
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=100, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        optimizer=c.OptimizerConfig(peak_lr=1e-3, warmup_updates=2, eps=1e-3),
        noise=c.NoiseConfig(every_updates=2, sketch_width=64),
        eval=c.EvalConfig(every_updates=2, n_problems=3, n_samples=4, k=(1, 4)),
        checkpoint=c.CheckpointConfig(every_updates=1),
        log=c.LogConfig(rollouts_every_updates=1),
        placement=c.PlacementConfig(data=2, fsdp=2),
    )
'''


def run(folder, *, n_processes, arguments=(), own_arguments=((), ()), limit_s=240):
    """(exit code, standard error) of every process; four devices in all. `own_arguments` are one process's each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // n_processes} --xla_backend_optimization_level=0",
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / "tests" / ".xla_cache"),
    }
    command = [sys.executable, str(ROOT / "bin" / "train"), f"--config={folder.parent / 'pair.py'}", f"--runs={folder}"]
    started = [
        subprocess.Popen(
            [*command, *arguments, *own_arguments[number], *join_flags(port, n_processes, number)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(n_processes)
    ]
    try:
        errors = [process.communicate(timeout=limit_s)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]


def join_flags(port, n_processes, number):
    if n_processes == 1:
        return []
    return [f"--coordinator=localhost:{port}", f"--num_processes={n_processes}", f"--process_id={number}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run of one process, and of two that were stopped after two updates and started again."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "pair.py").write_text(CONFIG)
    outcomes = run(folder / "one", n_processes=1)
    for n_updates in (2, 3):
        outcomes += run(folder / "two", n_processes=2, arguments=[f"--config.n_updates={n_updates}"])
    for code, error in outcomes:
        assert code == 0, error
    return folder / "one" / "pair" / "pair", folder / "two" / "pair" / "pair"


def test_two_processes_train_and_save_what_one_does(runs):
    # one test: the fixture takes a minute, and each test process that has one of several would make it again
    assert_rows_agree_and_go_on_where_they_stopped(runs)
    assert_only_the_first_process_writes_and_it_writes_everything(runs)
    assert_what_was_saved_is_read_by_one_on_another_mesh(runs)


def assert_rows_agree_and_go_on_where_they_stopped(runs):
    one, two = (exact_rows(folder) for folder in runs)
    assert [row["update"] for row in two] == [1, 2, 3]
    for row, wanted in zip(two, one, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            if not name.startswith("gns/") or name.endswith(("trace_cov", "grad_sq")):
                assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert any("gns/trace_cov" in row for row in two)
    assert read_run(runs[1])["status"] == "finished"


def assert_only_the_first_process_writes_and_it_writes_everything(runs):
    for name in ("evals.jsonl", "rollouts.jsonl.gz"):
        one, two = (list(read_rows(folder / name)) for folder in runs)
        assert [row["update"] for row in two] == [row["update"] for row in one]
    texts = [[row.get("completion") for row in read_rows(folder / "rollouts.jsonl.gz")] for folder in runs]
    assert texts[0] == texts[1]
    assert len(list(runs[1].glob("events.out.tfevents.*"))) == 2  # one for each time it was started


def assert_what_was_saved_is_read_by_one_on_another_mesh(runs):
    config = runpy.run_path(str(runs[0].parents[2] / "pair.py"))["get_config"]()
    config.placement = PlacementConfig(data=1)
    parts = assemble(config)
    one, two = (jax.device_get(saved_state(config, parts, folder)[0]) for folder in runs)
    assert int(two.n_updates) == 3
    for name, leaf in flax.traverse_util.flatten_dict(one.params, sep="/").items():
        found = flax.traverse_util.flatten_dict(two.params, sep="/")[name]
        assert np.linalg.norm(found - leaf) <= 1e-5 * np.linalg.norm(leaf), name


SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04,7]",
    "SLURM_JOB_ID": "4097",
}


@pytest.mark.parametrize(
    ("own_arguments", "message"),
    [
        (((), ("--config.optimizer.peak_lr=0.5",)), r"optimizer.peak_lr is 0.5 in process 1 and 0.001 in the first"),
        (((), ("--runs=elsewhere",)), "not every process sees"),
    ],
)  # fmt: skip
def test_processes_that_would_not_do_the_same_end_at_once(tmp_path, own_arguments, message):
    folder = tmp_path / "two"
    (tmp_path / "pair.py").write_text(CONFIG)
    own_arguments = tuple(tuple(a.replace("elsewhere", str(tmp_path / "else")) for a in own) for own in own_arguments)
    for code, error in run(folder, n_processes=2, own_arguments=own_arguments):
        assert code == 1
        assert re.search(message, error), error
        assert "Traceback" not in error


def test_values_that_differ_between_processes_are_named(monkeypatch):
    shares = [b'{"a": 1, "b": 2}', b'{"a": 1, "b": 2}', b'{"a": 1, "b": 3, "c": 4}']
    monkeypatch.setattr("rlvr_jax.train.processes.gathered", lambda own: shares)
    with pytest.raises(ConfigError, match="b is 3 in process 2 and 2 in the first"):
        check_same_everywhere({"a": 1, "b": 2})
    monkeypatch.setattr("rlvr_jax.train.processes.gathered", lambda own: shares[:2])
    check_same_everywhere({"a": 1, "b": 2})


def test_a_slurm_step_says_who_is_who():
    assert slurm_group(SLURM) == Group("gpu03:61441", 4, 2)
    assert slurm_group(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None  # the shell of an allocation does not wait
    with pytest.raises(ConfigError, match="SLURM_STEP_NUM_TASKS is not set: start it with srun, or leave the flag out"):
        slurm_group({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NUM_TASKS"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a7", "a7"), ("a7,b1", "a7"), ("a[7-9,12],b1", "a7"), ("a[07,12]", "a07"), ("n-[3]x", "n-3x")],
)
def test_the_first_host_of_a_list_as_slurm_writes_it(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, 0), "go together; --coordinator is missing"),
        (("host:1", None, 0), "go together; --num_processes is missing"),
        (("host", 2, 0), "--coordinator=host must be HOST:PORT"),
        (("host:1", 0, 0), "--num_processes=0 must be at least 1"),
        (("host:1", 2, 2), r"--process_id=2 must lie in 0\.\.1"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        group_of(*flags)


def test_a_process_of_its_own_needs_no_flags():
    assert group_of(None, None, None) is None
    assert group_of("host:1", 2, 1) == Group("host:1", 2, 1)

"""What a study will cost, from a few steps of each of its different points, before it is started.

Each is run by the run loop itself, with the run's own programs, in a folder that is deleted afterwards. Compiling is
timed apart: programs are kept on disk, so that the study finds them there.
"""

import contextlib
import copy
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rlvr_jax.analysis.read_runs import Row, read_rows
from rlvr_jax.models.spec import Params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.batch_plan import BatchPlan, is_due, is_evaluation_due
from rlvr_jax.train.branch import branch_problems
from rlvr_jax.train.checkpoint import Checkpoints
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields
from rlvr_jax.train.log import EVALS_FILE, METRICS_FILE, NOISE_FOLDER, ROLLOUTS_FILE
from rlvr_jax.train.perf import compile_seconds
from rlvr_jax.train.pilot_cost import PointCost, cost_table, duration, save_cost, study_text
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run import run_point
from rlvr_jax.train.run_directory import FINISHED, RunDirectoryError, read_run
from rlvr_jax.train.saved_policy import saved_checkpoint
from rlvr_jax.train.starting_policy import starting_key
from rlvr_jax.train.stop import Stopped, StopRequest
from rlvr_jax.train.study import assembled, starting_weights

N_STEPS = 7  # the first two trace and compile, the fifth measures the noise again, the others are timed
_MEASURED = (0, 4)
_PLAIN = (2, 3, 5, 6)
_OF_A_SEED = ("study", "point", "seed", "start.checkpoint")  # what points of one cost may differ in


def pilot_study(
    points: Sequence[TrainConfig],
    runs_folder: Path,
    *,
    task_hours: float,
    stop: StopRequest,
    say: Callable[[str], None],
) -> list[PointCost]:
    """Runs a few steps of every different point and says what the study will take; the cost of each point, in order.

    Args:
        runs_folder: where the runs will be, on whose disk the pilot writes for a while, too.
        task_hours: time limit of one Slurm task; points that need more are named.

    Raises:
        ConfigError, RunDirectoryError, RewardError, FloatingPointError: as `run_study`.
        Stopped: `stop` is due; nothing is kept.
    """
    if not task_hours > 0:
        raise ConfigError([f"--slurm_hours={task_hours:g} must be a number of hours above 0"])
    all_parts = assembled(points)
    problems = [p for config, parts in zip(points, all_parts, strict=True) for p in branch_problems(config, parts)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    kinds = [_kind(config) for config in points]
    costs: dict[str, PointCost] = {}
    params, params_of = None, None
    for config, parts, kind in zip(points, all_parts, kinds, strict=True):
        if kind in costs:
            continue
        what = (starting_key(config, parts), parts.lora is None)
        if params_of != what:
            params, params_of = starting_weights(config, parts, stop), what
        say(f"pilot of {config.point_name}: {N_STEPS} steps")
        try:
            costs[kind] = _point_cost(config, parts, params, runs_folder, stop)
        except OSError as error:
            raise RunDirectoryError(
                f"writing the pilot in {runs_folder} failed ({error.strerror or error}); it needs about as much room "
                "as a run: free the disk, or choose another with --runs=DIR"
            ) from error
    of_points = [costs[kind] for kind in kinds]
    n_devices = all_parts[0].plan.n_devices
    say(cost_table(points, kinds, costs))
    say(study_text(of_points, compile_s=sum(cost.compile_s for cost in costs.values()), n_devices=n_devices))
    left = [cost for config, cost in zip(points, of_points, strict=True) if not _is_finished(config, runs_folder)]
    if len(left) < len(points):
        left_s = sum(cost.run_s for cost in left)
        say(f"{len(points) - len(left)} of them are finished in {runs_folder}; the others take {duration(left_s)}")
    for config, cost in zip(points, of_points, strict=True):
        hours = (cost.run_s + cost.compile_s) / 3600  # tasks start at the same time, and each compiles
        if hours > task_hours:
            say(
                f"point {config.point_name} needs {hours:.3g} h, more than --slurm_hours={task_hours:g}: it goes "
                f"on in {math.ceil(hours / task_hours)} tasks"
            )
    return of_points


def _kind(config: TrainConfig) -> str:
    return repr([item for item in flat_fields(config).items() if item[0] not in _OF_A_SEED])


def _is_finished(config: TrainConfig, runs_folder: Path) -> bool:
    run = read_run(runs_folder / config.study / config.point_name)
    return run is not None and run["status"] == FINISHED and run["config"]["n_updates"] == config.n_updates


def pilot_config(config: TrainConfig) -> TrainConfig:
    """The same run for N_STEPS steps, evaluated and saved at its end, with nothing sent anywhere."""
    piloted = copy.deepcopy(config)
    piloted.n_updates = N_STEPS * config.updates_per_step
    if config.noise.every_updates:
        piloted.noise.every_updates = (_MEASURED[1] - _MEASURED[0]) * config.updates_per_step
    piloted.eval.milestones, piloted.eval.every_updates = (), piloted.n_updates
    piloted.checkpoint.every_updates = piloted.checkpoint.keep_best = 0
    piloted.checkpoint.keep_newest = 1
    piloted.optimizer.decay_updates = config.decay_updates  # else another schedule, which is another program
    piloted.log.wandb = "off"
    piloted.log.rollouts_every_updates = piloted.n_updates if config.log.rollouts_every_updates else 0
    return piloted


def _point_cost(config: TrainConfig, parts: Parts, params: Params, runs_folder: Path, stop: StopRequest) -> PointCost:
    piloted = pilot_config(config)
    with _temporary_folder(runs_folder) as temporary:
        folder = Path(temporary) / "point"
        folder.mkdir()
        progress = Progress(f"pilot of {config.point_name}")
        started_s, compiled_s = time.monotonic(), compile_seconds()
        try:
            run_point(piloted, assemble(piloted), params, folder, stop=stop, progress=progress)
        except Stopped as stopped:
            raise Stopped("stopped during the pilot, which keeps nothing", exit_code=stopped.exit_code) from None
        finally:
            progress.close()
        wall_s, compile_s = time.monotonic() - started_s, compile_seconds() - compiled_s
        rows = list({row["step"]: row for row in read_rows(folder / METRICS_FILE)}.values())
        evaluation_s = list(read_rows(folder / EVALS_FILE))[-1]["perf/eval_s"]  # the first one compiles
        times = measured_times(rows, wall_s - compile_s, evaluation_s)
        n_bytes = _bytes_of_point(config, parts.plan, folder)
        hold_s, whole_s = _save_seconds(piloted, parts, folder)
        return PointCost(
            **times,
            compile_s=compile_s,
            save_s=save_cost(hold_s, whole_s, between_s=times["step_s"] * _steps_between_saves(config)),
            n_bytes=n_bytes,
            **_how_often(config, parts.plan),
        )


@contextlib.contextmanager
def _temporary_folder(runs_folder: Path) -> Iterator[str]:
    """On the disk of the runs: saving is timed there, and no other needs the room."""
    runs_folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".pilot_", dir=runs_folder) as temporary:
            yield temporary
    finally:
        with contextlib.suppress(OSError):  # it holds runs
            runs_folder.rmdir()


def _steps_between_saves(config: TrainConfig) -> float:
    every = config.checkpoint.every_updates
    return every / config.updates_per_step if every else math.inf


def measured_times(rows: Sequence[Row], wall_s: float, evaluation_s: float) -> dict[str, float]:
    """What the steps of a pilot took.

    Args:
        rows: one per step, N_STEPS of them.
        wall_s: of the whole pilot without compiling, with an evaluation before and one after.
    """
    step_s = statistics.median(rows[i]["perf/step_s"] for i in _PLAIN)
    measured = rows[_MEASURED[1]]
    noise_s = measured.get("perf/noise_s", 0.0)  # timed apart where it is a pass of its own
    n_measured = len(_MEASURED) * ("perf/noise_s" in measured)
    return {
        "step_s": step_s,
        "noise_s": noise_s,
        "evaluation_s": evaluation_s,
        "start_s": max(0.0, wall_s - N_STEPS * step_s - n_measured * noise_s - 2 * evaluation_s),
        "step_tokens": rows[-1]["tokens"] / N_STEPS,
    }


def _how_often(config: TrainConfig, plan: BatchPlan) -> dict[str, int]:
    def is_saved(step: int) -> bool:
        is_maybe_best = config.checkpoint.keep_best > 0 and is_evaluation_due(step, config)
        return is_due(step, config.checkpoint.every_updates, config) or is_maybe_best

    return {
        "n_steps": plan.n_steps,
        "n_measurements": plan.n_noise_measurements,
        "n_evaluations": plan.n_evaluations,
        "n_saves": sum(map(is_saved, range(plan.n_steps - 1))),  # the last is in start_s
    }


def _save_seconds(config: TrainConfig, parts: Parts, folder: Path) -> tuple[float, float]:
    """Until a save returns, and until it is complete; the pilot's own checkpoint makes room for it."""
    state, _ = saved_checkpoint(config, parts, folder, option="pilot")
    shutil.rmtree(folder / "checkpoints")
    checkpoints = Checkpoints(folder / "second", keep_newest=1, keep_best=0)
    started_s = time.monotonic()
    checkpoints.save(state, {}, update=1, accuracy=None)  # returns when the arrays are copied; the rest is behind
    hold_s = time.monotonic() - started_s
    checkpoints.close()
    return hold_s, time.monotonic() - started_s


def _bytes_of_point(config: TrainConfig, plan: BatchPlan, folder: Path) -> float:
    """What the run directory of the whole point will hold, from that of the pilot."""

    def size(path: Path) -> int:
        files = [path] if path.is_file() else path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    n_kept = config.checkpoint.keep_newest + config.checkpoint.keep_best
    every, saves = config.log.rollouts_every_updates, config.checkpoint.every_updates
    n_checkpoints = min(n_kept, 1 + (plan.n_updates - 1) // saves if saves else 1 + config.checkpoint.keep_best)
    rows = sum(size(path) for path in [folder / METRICS_FILE, *folder.glob("events.*")])
    return (
        n_checkpoints * size(folder / "checkpoints")
        + rows / N_STEPS * plan.n_steps
        + size(folder / EVALS_FILE) / 2 * plan.n_evaluations
        + size(folder / NOISE_FOLDER) / len(_MEASURED) * plan.n_noise_measurements
        + size(folder / ROLLOUTS_FILE) * (every and math.ceil(plan.n_updates / every))
    )


def refuse_several_processes(n_processes: int) -> None:
    """Raises ConfigError: the folder of a pilot is one process's own."""
    if n_processes > 1:
        raise ConfigError(
            [f"--pilot runs in one process and this is one of {n_processes}; start one, with all the devices of a node"]
        )

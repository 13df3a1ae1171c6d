"""All points of a study, one after the other; finished ones are skipped."""

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from rlvr_jax.models.spec import Params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.batch_plan import plan_table
from rlvr_jax.train.branch import branch_problems, recorded_trunks
from rlvr_jax.train.cache_folder import cache_folder
from rlvr_jax.train.config import ConfigError, SourceError, TrainConfig, flat_fields
from rlvr_jax.train.log import RUN_FILE
from rlvr_jax.train.memory_plan import memory_problems, memory_table
from rlvr_jax.train.out_of_memory import out_of_memory_explained
from rlvr_jax.train.placement import unsplit_dimensions
from rlvr_jax.train.processes import any_process, check_same_everywhere, is_first, told_by_first, wait_for_all
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run import run_point
from rlvr_jax.train.run_directory import RunDirectoryError, locked
from rlvr_jax.train.starting_policy import starting_key, starting_params, starting_words
from rlvr_jax.train.starting_state import held_params
from rlvr_jax.train.stop import Stopped, StopRequest

log = logging.getLogger(__name__)

SEEN_WITHIN_S = 30  # a network's disk may take so long to show what another machine wrote


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the next seed, point or process need not compile them."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def run_study(
    points: list[TrainConfig], runs_folder: Path, *, stop: StopRequest, say: Callable[[str], None]
) -> list[Path]:
    """Runs every point and returns their directories.

    All points are checked before the first one starts. A point that fails ends the study: its
    cause is likely to be the next one's too.

    Raises:
        ConfigError, RunDirectoryError, FloatingPointError, RewardError, Stopped: see `run_point`.
    """
    check_same_everywhere({f"{c.point_name}: {name}": v for c in points for name, v in flat_fields(c).items()})
    all_parts = assembled(points)
    problems = []
    for config, parts in zip(points, all_parts, strict=True):
        study_folder = runs_folder / config.study
        if not (study_folder / config.point_name / RUN_FILE).exists():  # else it needs its trunk no more
            problems += branch_problems(config, parts, recorded_trunks(config, study_folder))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    named_parts = zip((config.point_name for config in points), all_parts, strict=True)
    check_same_everywhere({f"{point}: {name}": v for point, p in named_parts for name, v in _sources(p)})
    shown = set()
    for config, parts in zip(points, all_parts, strict=True):
        table = f"{plan_table(parts.plan)}\n{memory_table(parts.memory)}"
        if table not in shown:  # seeds share a plan
            say(f"plan of {config.point_name}\n{table}")
            for words in unsplit_dimensions(parts.layout.trained | parts.layout.frozen, parts.mesh):
                say(f"  not split, since it does not divide: {words}")
            shown.add(table)
    params, params_of = None, None
    folders = []
    for number, (config, parts) in enumerate(zip(points, all_parts, strict=True), 1):
        folder = runs_folder / config.study / config.point_name
        with _held(folder):
            what = (starting_key(config, parts), parts.lora is None)
            if params_of != what:
                params = starting_weights(config, parts, stop)
                params_of = what
            progress = Progress(f"[{number}/{len(points)}] {config.point_name}")
            try:
                outcome = run_point(config, parts, params, folder, stop=stop, progress=progress)
            except OSError as error:
                raise RunDirectoryError(
                    f"writing {folder} failed ({error.strerror or error}); what was written before is whole. "
                    "Free the disk or make it writable, and run the same command to go on"
                ) from error
            finally:
                progress.close()
            say(
                f"[{number}/{len(points)}] {folder}: {'already finished, skipped' if outcome == 'skipped' else outcome}"
            )
        folders.append(folder)
        if number < len(points) and stop.is_due(next_s=0.0):
            raise Stopped(f"{folder} is finished, {len(points) - number} point(s) are left", exit_code=stop.exit_code)
    return folders


def starting_weights(config: TrainConfig, parts: Parts, stop: StopRequest) -> Params:
    """The weights that a point starts from, as its run holds them. Raises Stopped if `stop` is due meanwhile."""
    words = starting_words(config, parts)
    progress = StoppableProgress(words, stop)
    fix = "use a smaller warmstart.batch_size" if config.warmstart.enabled else None
    with out_of_memory_explained(parts.memory, lambda: words, fix=fix):
        params = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        params = held_params(params, parts)
    progress.close()
    return params


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder's lock, which one process holds for all; if it cannot, none goes on."""
    with contextlib.ExitStack() as holding:
        problem = None
        if is_first():
            try:
                holding.enter_context(locked(folder))
            except RunDirectoryError as error:
                problem = str(error)
        problem, token = told_by_first([problem, secrets.token_hex(8)])
        if problem is not None:
            raise RunDirectoryError(problem)
        _check_shared(folder, token)
        yield


def _check_shared(folder: Path, token: str) -> None:
    """Raises RunDirectoryError unless all processes see what the first one writes there."""
    if jax.process_count() == 1:
        return
    lock = folder / "lock"
    if is_first():
        lock.write_text(token)
    wait_for_all("token written")
    ends_s = time.monotonic() + SEEN_WITHIN_S
    while not (is_seen := lock.exists() and lock.read_text() == token) and time.monotonic() < ends_s:
        time.sleep(0.5)
    if any_process(not is_seen):
        raise RunDirectoryError(
            f"not every process sees {folder} as the first one does; --runs=DIR has to lie on a disk that all share"
        )


def _sources(parts: Parts) -> list[tuple[str, str]]:
    return [("data", parts.task.fingerprint), ("tokenizer", parts.tokenizer.fingerprint)]


def assembled(points: Sequence[TrainConfig]) -> list[Parts]:
    """What each point is made of. Raises ConfigError, whose one message holds the problems of all, each once."""
    parts, problems, out_of_reach = [], [], []
    for config in points:
        if (config.task, config.model) in out_of_reach:  # a network that is down takes long to say so
            continue
        try:
            parts.append(assemble(config))
            problems += [problem for problem in memory_problems(parts[-1].memory) if problem not in problems]
        except ConfigError as error:
            if isinstance(error, SourceError):
                out_of_reach.append((config.task, config.model))
            problems += [problem for problem in error.problems if problem not in problems]
    names = [config.point_name for config in points]
    problems += [
        f"two points are called {name!r}; give them different names"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    return parts


class StoppableProgress(Progress):
    """Progress of work that has nothing to save: a stop ends it at once."""

    def __init__(self, title: str, stop: StopRequest):
        super().__init__(title)
        self._stop = stop

    def update(self, done: int, total: int, text: str) -> None:
        super().update(done, total, text)
        if done < total and self._stop.is_due(next_s=0.0):
            raise Stopped("stopped during the warm start, which starts over next time", exit_code=self._stop.exit_code)

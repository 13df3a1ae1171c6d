"""A large noise measurement at frozen weights, chunk after chunk through a folder."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rlvr_jax.analysis.noise_figure import save_noise_figure
from rlvr_jax.models.spec import Params
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.cache_folder import cache_folder
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields
from rlvr_jax.train.learner import RewardError
from rlvr_jax.train.log import write_json
from rlvr_jax.train.noise_chunk import Chunk, ChunkMeasurement
from rlvr_jax.train.noise_folder import Arrays, NoiseFolder, Settings, load_settings
from rlvr_jax.train.noise_options import (
    Options,
    check_options,
    chunk_prompts,
    n_problems_drawn_from,
    no_metric_text,
    problem_order,
)
from rlvr_jax.train.noise_pass import has_other_terms
from rlvr_jax.train.noise_summary import Json, Measured, noise_summary
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run_directory import device_kind, git_revision, locked, package_versions
from rlvr_jax.train.saved_policy import check_base_weights, run_folder, saved_state
from rlvr_jax.train.starting_policy import starting_params, starting_words
from rlvr_jax.train.starting_state import held_params, starting_state
from rlvr_jax.train.state import TrainState
from rlvr_jax.train.stop import Stopped, StopRequest
from rlvr_jax.train.study import StoppableProgress

log = logging.getLogger(__name__)

RESULT_FILE, FIGURE_FILE = "noise.json", "noise.png"
MOST_UNGRADED_IN_A_ROW = 8  # prompts; after so many it is the reward that is broken, not a row of the data
# what the numbers do not depend on; batch only suggests a chunk's size, which is compared itself
_FREE_FIELDS = ("study", "point", "n_updates", "batch.", "eval.", "checkpoint.", "log.", "noise.every_updates")


class _Policy(NamedTuple):
    """What is measured."""

    words: str
    state: TrainState
    starting_params: Params | None  # where something needs them
    update: int | None  # None: the starting policy


def measure_policy(
    config: TrainConfig, options: Options, *, stop: StopRequest, say: Callable[[str], None]
) -> tuple[Json, Path]:
    """Measures what is not on disk yet and writes noise.json and noise.png; the former's content and their folder.

    Raises:
        ConfigError: the config or the options cannot work.
        CheckpointError: there is no such checkpoint, or it does not hold this config's model.
        NoiseFolderError, RunDirectoryError: the folder cannot be used.
        RewardError: prompt after prompt cannot be graded.
        FloatingPointError: not one prompt has a gradient that is finite.
        Stopped: `stop` is due; the chunks so far are saved.
    """
    parts = assemble(config)
    check_options(options, config, parts)
    policy = _policy(config, parts, options.checkpoint, stop)
    folder = options.out or _default_folder(config, options, policy.update)
    with locked(folder, what="folder", option="--out=DIR"):
        size = options.prompts_per_chunk or (load_settings(folder) or {}).get("prompts_per_chunk")
        size = size or chunk_prompts(
            config, options, microbatch_prompts=parts.plan.microbatch_prompts, n_devices=parts.plan.n_shards
        )
        settings = _settings(config, options, parts, policy, size)
        disk = NoiseFolder(folder, settings, remarks={"policy": policy.words, "git_revision": git_revision()})
        measure = ChunkMeasurement(
            config,
            parts,
            policy.state,
            policy.starting_params,
            chunk_prompts=size,
            n_rollouts=options.n_rollouts,
            seed=options.seed,
        )
        n_chunks = -(-options.n_prompts // size)
        say(
            f"{options.n_prompts} prompts x {options.n_rollouts} rollouts of {policy.words}, {size} prompt(s) at a time"
        )
        say(f"{folder}: {_progress_text(disk.n_chunks, n_chunks)}")
        _measure_chunks(measure, disk, problem_order(config, options, parts), size, stop=stop)
        arrays = disk.arrays()
        _check_some_are_kept(arrays, policy)
        measured = Measured(
            policy=policy.words,
            n_prompts=options.n_prompts,
            n_rollouts=options.n_rollouts,
            n_problems=n_problems_drawn_from(parts),
            has_other_terms=has_other_terms(config.algo),
            costs=None if options.cost_per_rollout is None else (options.cost_per_prompt, options.cost_per_rollout),
        )
        result = noise_summary(measured, arrays, disk.sums, measure.metric)
        result |= {"seed": options.seed, "update": policy.update, "folder": str(folder), "settings": settings}
        with disk.writing():
            write_json(folder / RESULT_FILE, result)
            _write_figure(result, folder / FIGURE_FILE, say)
    return result, folder


def _policy(config: TrainConfig, parts: Parts, checkpoint: Path | None, stop: StopRequest) -> _Policy:
    start = None
    if checkpoint is None or config.algo.kl_coef > 0 or parts.lora is not None:
        progress = StoppableProgress(starting_words(config, parts), stop)
        start = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        start = held_params(start, parts)
        progress.close()
    if checkpoint is None:
        state = starting_state(config, parts, start, build_programs(config, parts).optimizer)
        return _Policy(f"the starting policy of {config.study}", state, start, None)
    state, update = saved_state(config, parts, checkpoint)
    if parts.lora is not None:
        check_base_weights(checkpoint, start)
    if config.noise.optimizer_metric and int(state.n_updates) == 0:
        raise ConfigError([no_metric_text(str(checkpoint))])
    return _Policy(f"{checkpoint}, update {update}", state, start, update)


def _default_folder(config: TrainConfig, options: Options, update: int | None) -> Path:
    size = f"np{options.n_prompts}_nr{options.n_rollouts}"
    if options.checkpoint is None:
        return options.runs / config.study / "noise" / f"start_{size}_s{options.seed}"
    return run_folder(options.checkpoint) / "noise" / f"{size}_u{update}_s{options.seed}"


def _settings(config: TrainConfig, options: Options, parts: Parts, policy: _Policy, size: int) -> Settings:
    """What every number of the measurement depends on."""
    reference = policy.starting_params if config.algo.kl_coef > 0 else None
    found = {
        "n_prompts": options.n_prompts,
        "n_rollouts": options.n_rollouts,
        "seed": options.seed,
        "prompts_per_chunk": size,
        "update": policy.update,
        "weights": params_hash(policy.state.params),
        "reference_weights": None if reference is None else params_hash(reference),
        "weights_under_adapter": None if parts.lora is None else params_hash(policy.starting_params),
        "task_data": parts.task.fingerprint,
    }
    found |= {f"versions.{name}": version for name, version in package_versions().items()}
    found |= {f"devices.{name}": value for name, value in device_kind().items()}
    fields = flat_fields(config).items()
    return found | {f"config.{name}": value for name, value in fields if not name.startswith(_FREE_FIELDS)}


def _progress_text(n_done: int, n_chunks: int) -> str:
    if n_done == n_chunks:
        return "already measured"
    return f"going on after chunk {n_done} of {n_chunks}" if n_done else f"{n_chunks} chunk(s) to measure"


def _measure_chunks(
    measure: ChunkMeasurement, disk: NoiseFolder, problem_P: np.ndarray, size: int, *, stop: StopRequest
) -> None:
    n_chunks = -(-len(problem_P) // size)
    longest_s, n_ungraded = 0.0, 0
    progress = Progress("noise", unit="chunk")
    try:
        while disk.n_chunks < n_chunks:
            started_s = time.monotonic()
            first = disk.n_chunks * size
            chunk = _measured(measure, problem_P[first : first + size], first)
            reward_PR = chunk.arrays["reward_PR"]
            n_ungraded = 0 if np.isfinite(reward_PR).any() else n_ungraded + len(reward_PR)
            if n_ungraded >= min(MOST_UNGRADED_IN_A_ROW, len(problem_P)):
                raise RewardError(f"{n_ungraded} prompts in a row could not be graded; {_saved(disk, n_chunks)}")
            _warn_of_nonfinite(chunk.arrays)
            disk.add(chunk.arrays, chunk.sums)
            kept = reward_PR[chunk.arrays["is_kept_PR"]]
            progress.update(disk.n_chunks, n_chunks, f"reward {kept.mean():.3f}" if len(kept) else "nothing kept")
            longest_s = max(longest_s, time.monotonic() - started_s)
            if disk.n_chunks < n_chunks and stop.is_due(next_s=longest_s):
                raise Stopped(_saved(disk, n_chunks), exit_code=stop.exit_code)
    finally:
        progress.close()


def _measured(measure: ChunkMeasurement, problem_P: np.ndarray, first_prompt: int) -> Chunk:
    try:
        return measure(problem_P, first_prompt)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            [
                f"the device's memory does not hold {len(problem_P)} prompts at a time "
                f"({str(error).splitlines()[0][:200]}); use a smaller --prompts_per_chunk"
                + (", or a smaller noise.sketch_width or noise.chunk_mib" if len(problem_P) == 1 else "")
            ]
        ) from error


def _saved(disk: NoiseFolder, n_chunks: int) -> str:
    return f"{disk.n_chunks} of {n_chunks} chunks are saved in {disk.folder}"


def _warn_of_nonfinite(arrays: Arrays) -> None:
    is_bad_PR = ~arrays["is_finite_PR"]
    for p in np.flatnonzero(is_bad_PR.any(axis=1)):
        log.warning(
            "the gradient of rollout(s) %s of prompt %r is not finite; all %d rollouts of the prompt are left out",
            *(", ".join(map(str, np.flatnonzero(is_bad_PR[p]))), str(arrays["prompt"][p])[:80], is_bad_PR.shape[1]),
        )


def _check_some_are_kept(arrays: Arrays, policy: _Policy) -> None:
    is_bad_P = ~arrays["is_finite_PR"].all(axis=1)
    if is_bad_P.any() and not arrays["is_kept_PR"].any():
        raise FloatingPointError(
            f"not one prompt is left whose gradient is finite ({is_bad_P.sum()} of {len(is_bad_P)} are not), so there "
            f"is nothing to measure; {policy.words} has weights or log-probabilities that overflow"
        )


def _write_figure(result: Json, path: Path, say: Callable[[str], None]) -> None:
    try:
        save_noise_figure(result, path)
    except ModuleNotFoundError as error:
        say(f"no {path.name}: {error}; get it with `pip install matplotlib` and run the same command again")

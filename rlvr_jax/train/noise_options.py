"""What bin/noise can be asked for: what cannot work, and what follows from it."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from rlvr_jax.noise.decompose import MIN_ROLLOUTS
from rlvr_jax.tasks.schedule import different_problems, schedule_of
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.config import ConfigError, TrainConfig

_ORDER_SEED = 20_250_102  # any constant: with it the order of problems is no run's


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for beside the config: the flags of bin/noise."""

    checkpoint: Path | None  # None: the policy that runs of the config start from
    n_prompts: int
    n_rollouts: int
    prompts_per_chunk: int  # 0: automatic, see `chunk_prompts`
    seed: int
    runs: Path
    out: Path | None  # None: a folder of its own in the run directory, or in that of the study
    cost_per_prompt: float | None
    cost_per_rollout: float | None


def check_options(options: Options, config: TrainConfig, parts: Parts) -> None:
    """Raises ConfigError with every option that cannot work, its value and the fix."""
    n_shards, n_train, problems = parts.plan.n_shards, parts.task.n_train, []
    if schedule_of(parts.task) and options.seed >= 0:  # a negative one is refused below
        n_train = len(_whole_order(config, options, parts))
    if options.n_prompts < 1:
        problems.append(f"--n_prompts={options.n_prompts} must be at least 1")
    if options.n_prompts > n_train:
        problems.append(
            f"--n_prompts={options.n_prompts} is more than the {n_train} training problems of task "
            f"{config.task.name!r}{_where(parts)}, and none is measured twice; use --n_prompts={n_train} or less"
        )
    if options.n_rollouts < 2:
        problems.append(
            f"--n_rollouts={options.n_rollouts} leaves a rollout without others of its prompt to compare it with; use "
            f"2 or more, and {MIN_ROLLOUTS} or more to tell prompt noise from rollout noise"
        )
    if not 0 <= options.seed < 2**32:
        problems.append(f"--seed={options.seed} must lie in 0..2^32-1")
    if options.prompts_per_chunk < 0:
        problems.append(f"--prompts_per_chunk={options.prompts_per_chunk} must be at least 1, or 0 for automatic")
    elif options.prompts_per_chunk % n_shards:
        above = -(-options.prompts_per_chunk // n_shards) * n_shards
        problems.append(
            f"--prompts_per_chunk={options.prompts_per_chunk} cannot be shared by {n_shards} device(s); use "
            f"--prompts_per_chunk={above}, or 0 for automatic"
        )
    if (options.cost_per_prompt is None) != (options.cost_per_rollout is None):
        problems.append("--cost_per_prompt and --cost_per_rollout go together, in one unit; give both or neither")
    elif options.cost_per_rollout is not None and not (
        0 <= options.cost_per_prompt < math.inf and 0 < options.cost_per_rollout < math.inf
    ):
        problems.append(
            f"--cost_per_prompt={options.cost_per_prompt} must be 0 or more and "
            f"--cost_per_rollout={options.cost_per_rollout} above 0"
        )
    if config.noise.optimizer_metric and options.checkpoint is None:
        problems.append(no_metric_text("the starting policy"))
    if problems:
        raise ConfigError(problems)


def no_metric_text(words: str) -> str:
    return (
        f"noise.optimizer_metric=True needs Adam's second moment, and {words} has made no update yet; "
        "name a --checkpoint of a later one, or set noise.optimizer_metric=False"
    )


def chunk_prompts(config: TrainConfig, options: Options, *, microbatch_prompts: int, n_devices: int) -> int:
    """Prompts at a time: as many rollouts as one backward pass of a run, in chunks of about one size.

    At least one prompt per device. The last chunk may have fewer and is filled up.
    """
    at_most = microbatch_prompts * config.batch.n_rollouts // options.n_rollouts
    at_most = max(at_most // n_devices, 1) * n_devices
    n_chunks = -(-options.n_prompts // at_most)
    return -(-options.n_prompts // (n_chunks * n_devices)) * n_devices


def problem_order(config: TrainConfig, options: Options, parts: Parts) -> np.ndarray:
    """int[n_prompts], different training problems in an order of its own for every seed of config and measurement.

    Of a task with stages those of the last one, in its proportions.
    """
    return _whole_order(config, options, parts)[: options.n_prompts]


def _whole_order(config: TrainConfig, options: Options, parts: Parts) -> np.ndarray:
    rng, schedule = np.random.default_rng([_ORDER_SEED, config.seed, options.seed]), schedule_of(parts.task)
    if schedule:
        return different_problems(parts.task.n_train, seed=int(rng.integers(2**32)), schedule=schedule)
    return rng.permutation(parts.task.n_train)


def n_problems_drawn_from(parts: Parts) -> int:
    """How many different training problems there are, of a task with stages in its last one."""
    schedule = schedule_of(parts.task)
    return len(np.unique(np.concatenate(schedule[-1].pools))) if schedule else parts.task.n_train


def _where(parts: Parts) -> str:
    return " that can be drawn in the proportions of its last stage" if schedule_of(parts.task) else ""

"""What a schedule of stages comes to in a run, counted before it does anything."""

import dataclasses
import math

from rlvr_jax.tasks.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class PoolPlan:
    """A pool of problems in one stage."""

    name: str
    share: float  # of the stage's prompts
    n_problems: int
    passes_over_data: float


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage."""

    first_prompt: int
    n_prompts: int  # in this run, as long as dynamic sampling draws none again
    pools: tuple[PoolPlan, ...]


def stage_plans(schedule: Schedule, *, total_prompts: int) -> tuple[StagePlan, ...]:
    """A plan per stage, also of those that a run of so many prompts does not reach."""
    if not schedule:
        return ()
    ends = [*(stage.first_prompt for stage in schedule[1:]), math.inf]
    plans = []
    for stage, end in zip(schedule, ends, strict=True):
        n_prompts = int(max(min(end, total_prompts) - stage.first_prompt, 0))
        shares = [weight / sum(stage.weights) for weight in stage.weights]
        pools = tuple(
            PoolPlan(name, share, len(pool), n_prompts * share / len(pool))
            for name, share, pool in zip(stage.names, shares, stage.pools, strict=True)
        )
        plans.append(StagePlan(stage.first_prompt, n_prompts, pools))
    return tuple(plans)


def stage_problems(stages: tuple[StagePlan, ...], *, n_prompts: int) -> list[str]:
    """One line per pool that has fewer problems than a step of `n_prompts` takes from it."""
    problems = []
    for number, stage in enumerate(stages, 1):
        for pool in stage.pools:
            if math.floor(n_prompts * pool.share) > pool.n_problems:
                problems.append(
                    f"batch.n_prompts={n_prompts} takes {n_prompts * pool.share:.0f} prompts of {pool.name!r} in "
                    f"stage {number}, which has {pool.n_problems} training problems; use "
                    f"batch.n_prompts={int(pool.n_problems / pool.share)} or less, or a larger task"
                )
    return problems


def stage_warnings(stages: tuple[StagePlan, ...], *, total_prompts: int) -> list[str]:
    """What works but may surprise."""
    warnings = [
        f"stage {number} begins with prompt {stage.first_prompt}, and this run draws {total_prompts}: it is not reached"
        for number, stage in enumerate(stages, 1)
        if stage.n_prompts == 0
    ]
    warnings += [
        f"every training problem of {pool.name!r} is seen {pool.passes_over_data:.1f} times in stage {number}: "
        "expect training reward above held-out accuracy"
        for number, stage in enumerate(stages, 1)
        for pool in stage.pools
        if pool.passes_over_data > 5
    ]
    return warnings


def stage_rows(stages: tuple[StagePlan, ...]) -> list[tuple[str, int, str]]:
    """Rows of the plan's table: what, prompts, how they come about."""
    return [
        (
            f"prompts of stage {number}",
            round(stage.n_prompts * pool.share),
            f"from prompt {stage.first_prompt} on: {100 * pool.share:.3g}% {pool.name!r}, "
            f"{pool.n_problems} problems {pool.passes_over_data:.2f} times",
        )
        for number, stage in enumerate(stages, 1)
        for pool in stage.pools
    ]

"""Which training problem a prompt shows: pure functions of the prompt's number in the run.

Without a schedule every pass over the data is a permutation of its own. A schedule splits the run into stages, and
each stage draws from pools of problems, as often from each as its weight says.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.problem import Task

LONGEST_CYCLE = 1_000  # prompts in which proportions are exact; weights are rounded to so many parts


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """From one prompt of a run on: pools of training problems, as indices of the task, and how often each is drawn."""

    first_prompt: int
    names: tuple[str, ...]  # of the pools
    pools: tuple[np.ndarray, ...]  # int, which may overlap
    weights: tuple[float, ...]  # one per pool, above 0


Schedule = tuple[Stage, ...]  # by first_prompt, the first of which is 0; () for one pool of everything


def schedule_of(task: Task) -> Schedule:
    """The task's, or () where it has none."""
    return getattr(task, "schedule", ())


def problem_index(counter: int, n_problems: int, *, seed: int, schedule: Schedule = ()) -> int:
    """Which problem the `counter`-th prompt of a run shows.

    Every pass over a pool is its own permutation, seeded by (seed, pass), so the only state of the data order is
    the counter itself. A stage begins with new passes.
    """
    if not schedule:
        return int(_permutation((seed, counter // n_problems), n_problems)[counter % n_problems])
    number = stage_number(schedule, counter)
    stage = schedule[number]
    pool, nth_of_pool = _drawn_pool(counter - stage.first_prompt, slots_per_cycle(stage.weights), (seed, number))
    problems = stage.pools[pool]
    epoch, place = divmod(nth_of_pool, len(problems))
    # the 1 tells these permutations from those of slots
    return int(problems[_permutation((seed, number, 1, pool, epoch), len(problems))[place]])


def stage_number(schedule: Schedule, counter: int) -> int:
    """The stage of a prompt, counted from 0."""
    if counter < 0:
        raise IndexError(f"prompt {counter}: prompts are counted from 0")
    return max(number for number, stage in enumerate(schedule) if stage.first_prompt <= counter)


@functools.lru_cache(maxsize=64)
def slots_per_cycle(weights: tuple[float, ...]) -> tuple[int, ...]:
    """How often each pool occurs in one cycle: the shortest cycle whose proportions are the weights.

    (0.5, 0.25, 0.25) gives (2, 1, 1). Where up to LONGEST_CYCLE slots give none, the largest remainders of
    LONGEST_CYCLE slots are rounded up; every pool has a slot.
    """
    share = np.asarray(weights, float) / np.sum(weights)
    for length in range(len(weights), LONGEST_CYCLE + 1):
        slots = share * length
        if np.abs(slots - slots.round()).max() < 1e-6 and slots.round().min() >= 1:
            return tuple(int(n) for n in slots.round())
    slots = np.maximum(np.floor(share * LONGEST_CYCLE), 1)
    n_left = max(LONGEST_CYCLE - int(slots.sum()), 0)
    slots[np.argsort(slots - share * LONGEST_CYCLE, kind="stable")[:n_left]] += 1
    return tuple(int(n) for n in slots)


def _drawn_pool(counter: int, slots: tuple[int, ...], seed: tuple[int, ...]) -> tuple[int, int]:
    """(the pool that prompt `counter` of a stage is drawn from, how many prompts before it were)."""
    cycle, place = divmod(counter, sum(slots))
    order = np.repeat(np.arange(len(slots)), slots)[_permutation((*seed, 0, cycle), sum(slots))]
    pool = int(order[place])
    return pool, cycle * slots[pool] + int((order[:place] == pool).sum())


@functools.lru_cache(maxsize=16)  # of pure values; a run asks for the same few many times
def _permutation(seed: tuple[int, ...], n: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(n)
    order.setflags(write=False)
    return order


def random_problems(rng: np.random.Generator, n_problems: int, *, n: int, schedule: Schedule) -> np.ndarray:
    """int[n] problems drawn with replacement: of all, or with a schedule of its last stage, by the weights."""
    if not schedule:
        return rng.integers(n_problems, size=n)
    stage = schedule[-1]
    share = np.asarray(stage.weights) / np.sum(stage.weights)
    pool_N = rng.choice(len(stage.pools), p=share, size=n)
    place_N = (rng.random(n) * np.array([len(pool) for pool in stage.pools])[pool_N]).astype(int)
    return np.array([stage.pools[pool][place] for pool, place in zip(pool_N, place_N, strict=True)])


def different_problems(n_problems: int, *, seed: int, schedule: Schedule) -> np.ndarray:
    """Problems of the last stage in an order that has its proportions, each once, until a pool is used up."""
    stage = schedule[-1]
    slots = slots_per_cycle(stage.weights)
    n_cycles = min(-(-len(pool) // n) for pool, n in zip(stage.pools, slots, strict=True))
    found: dict[int, None] = {}
    for counter in range(n_cycles * sum(slots)):
        pool, nth_of_pool = _drawn_pool(counter, slots, (seed, len(schedule) - 1))
        if nth_of_pool >= len(stage.pools[pool]):
            break
        index = problem_index(stage.first_prompt + counter, n_problems, seed=seed, schedule=schedule)
        found[index] = None  # pools may overlap
    return np.array(list(found))


def kept_schedule(schedule: Schedule, kept: Sequence[int]) -> Schedule:
    """The schedule of a task with only the problems `kept`, ascending, which are numbered anew.

    Raises ValueError naming the pool that would be empty.
    """
    kept = np.asarray(kept)
    stages = []
    for number, stage in enumerate(schedule, 1):
        pools = tuple(np.flatnonzero(np.isin(kept, pool)) for pool in stage.pools)
        for name, pool in zip(stage.names, pools, strict=True):
            if not len(pool):
                raise ValueError(f"no problem of {name!r} in stage {number} is left")
        stages.append(dataclasses.replace(stage, pools=pools))
    return tuple(stages)

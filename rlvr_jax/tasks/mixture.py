"""Several tasks in one, drawn in exact proportions, in one stage or several."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.listed_task import DEFAULT_REWARDS, OWN_REWARDS, ListedTask, listed_grades
from rlvr_jax.tasks.problem import Grades, Problem, nth
from rlvr_jax.tasks.rewards import Rewards, RewardSettings
from rlvr_jax.tasks.schedule import Stage, slots_per_cycle


@dataclasses.dataclass(frozen=True)
class Component:
    """A task of a mixture in one of its stages."""

    words: str  # as the config names it
    task: ListedTask
    weight: float


class Mixture:
    """The different problems of all components of all stages; each stage draws from its own, in proportion.

    What is held out is held out in every component and stage, since the content alone decides it. The held-out
    problems are those of the last stage: in proportion until a component has no more, then of the others.
    """

    fingerprint = ""

    def __init__(
        self,
        name: str,
        stages: Sequence[Sequence[Component]],
        *,
        stage_prompts: Sequence[int],
        rewards: RewardSettings,
    ):
        """Raises ValueError if a component has nothing to train on.

        Args:
            name: what its results are called.
            stages: the components of each.
            stage_prompts: how many prompts each stage lasts, but the last.
        """
        self.name = name
        self._train: list[Problem] = []
        index_of: dict[str, int] = {}  # by prompt

        def pool(component: Component) -> np.ndarray:
            found = []
            for i in range(component.task.n_train):
                problem = component.task.train_problem(i)
                if problem.prompt not in index_of:
                    index_of[problem.prompt] = len(self._train)
                    self._train.append(problem)
                found.append(index_of[problem.prompt])
            if not found:
                raise ValueError(f"{component.words!r} has no training problem; use more operands or operators")
            return np.array(found)

        firsts = [0, *itertools.accumulate(stage_prompts)]
        self.schedule = tuple(
            Stage(
                first,
                names=tuple(component.words for component in components),
                pools=tuple(pool(component) for component in components),
                weights=tuple(component.weight for component in components),
            )
            for first, components in zip(firsts, stages, strict=True)
        )
        self._heldout = _in_proportion(stages[-1])
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        tasks = [component.task for components in stages for component in components]
        self._tasks = {task.name: task for task in tasks}  # those of one name grade alike
        self.longest_answer = max(task.longest_answer for task in tasks)
        self.longest_demonstration = max(task.longest_demonstration for task in tasks)
        self._rewards = Rewards(rewards, own=OWN_REWARDS, default=DEFAULT_REWARDS)

    def train_problem(self, index: int) -> Problem:
        return nth(self._train, index)

    def heldout_problem(self, index: int) -> Problem:
        return nth(self._heldout, index)

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        return listed_grades(self._rewards, self._task_of, problems, completion_texts)

    def close(self) -> None:
        """Ends the processes of the rewards."""
        self._rewards.close()

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        return self._task_of(problem).demonstration(problem, rng, p_correct=p_correct)

    def _task_of(self, problem: Problem) -> ListedTask:
        return self._tasks[problem.row["task"]]


def _in_proportion(components: Sequence[Component]) -> list[Problem]:
    """The different held-out problems of all: any prefix has the proportions, as long as every component lasts."""
    tasks = [component.task for component in components]
    slots = slots_per_cycle(tuple(component.weight for component in components))
    n_taken, found = [0] * len(tasks), {}
    while any(n < task.n_heldout for n, task in zip(n_taken, tasks, strict=True)):
        # whose turn it is: the one that is furthest behind its share, counted to the middle of its next problem
        left = [i for i, task in enumerate(tasks) if n_taken[i] < task.n_heldout]
        turn = min(left, key=lambda i: (n_taken[i] + 0.5) / slots[i])
        problem = tasks[turn].heldout_problem(n_taken[turn])
        n_taken[turn] += 1
        found.setdefault(problem.prompt, problem)
    return list(found.values())

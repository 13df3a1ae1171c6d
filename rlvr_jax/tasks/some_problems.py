"""A task with only some of its problems."""

from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.problem import Grades, Problem, Task, nth
from rlvr_jax.tasks.schedule import kept_schedule, schedule_of
from rlvr_jax.tasks.turns import max_turns


class SomeProblems:
    """The problems at some indices of another task, in its order; everything else is that task's."""

    def __init__(self, task: Task, *, train: Sequence[int], heldout: Sequence[int]):
        """Raises ValueError if a pool of the task's schedule would be empty.

        Args:
            train, heldout: indices of the problems that are kept, ascending.
        """
        self._task, self._train, self._heldout = task, train, heldout
        self.name, self.fingerprint = task.name, task.fingerprint
        self.n_train, self.n_heldout = len(train), len(heldout)
        self.schedule = kept_schedule(schedule_of(task), train)
        self.longest_answer, self.longest_demonstration = task.longest_answer, task.longest_demonstration
        self.max_turns, self.possible_replies = max_turns(task), getattr(task, "possible_replies", ())

    def train_problem(self, index: int) -> Problem:
        return self._task.train_problem(int(nth(self._train, index)))

    def heldout_problem(self, index: int) -> Problem:
        return self._task.heldout_problem(int(nth(self._heldout, index)))

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        return self._task.grade(problems, completion_texts)

    def reply(self, problem: Problem, turns: Sequence[str]) -> str | None:
        return self._task.reply(problem, turns)

    def grade_turns(self, problems: Sequence[Problem], turns: Sequence[Sequence[Sequence[str]]]) -> Grades:
        return self._task.grade_turns(problems, turns)

    def demonstrated_turns(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> list[str]:
        return self._task.demonstrated_turns(problem, rng, p_correct=p_correct)

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        return self._task.demonstration(problem, rng, p_correct=p_correct)

"""A task with only some of its problems."""

from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.problem import Grades, Problem, Task, nth


class SomeProblems:
    """The problems at some indices of another task, in its order; everything else is that task's."""

    def __init__(self, task: Task, *, train: Sequence[int], heldout: Sequence[int]):
        """Args: indices of the problems that are kept, ascending."""
        self._task, self._train, self._heldout = task, train, heldout
        self.name, self.fingerprint = task.name, task.fingerprint
        self.n_train, self.n_heldout = len(train), len(heldout)
        self.longest_answer, self.longest_demonstration = task.longest_answer, task.longest_demonstration

    def train_problem(self, index: int) -> Problem:
        return self._task.train_problem(int(nth(self._train, index)))

    def heldout_problem(self, index: int) -> Problem:
        return self._task.heldout_problem(int(nth(self._heldout, index)))

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        return self._task.grade(problems, completion_texts)

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        return self._task.demonstration(problem, rng, p_correct=p_correct)

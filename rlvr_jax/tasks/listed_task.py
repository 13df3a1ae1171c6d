"""What tasks share whose problems the config alone decides: a list of facts, each asked by one problem."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlvr_jax.tasks.heldout import fair_order, is_heldout
from rlvr_jax.tasks.problem import Grades, Problem, nth
from rlvr_jax.tasks.rewards import Rewards, RewardSettings

CORRECT, PARTIAL = "correct", "partial"
OWN_REWARDS, DEFAULT_REWARDS = (CORRECT, PARTIAL), (CORRECT,)
ONLY_CORRECT = RewardSettings(names=(), weights=(), correct_at=1.0, limit_s=60.0, n_processes=1)
LARGEST_SLIP = 5  # of a number that is nearly right, and of a wrong demonstration

Fact = tuple[Any, ...]


class ListedTask(abc.ABC):
    """Facts split by content; rewards "correct" (1 or 0) and "partial", whose values each task has of its own."""

    name: str
    fingerprint = ""
    longest_answer: int
    longest_demonstration: int

    def __init__(self, facts: Sequence[Fact], *, n_problems: int, rewards: RewardSettings):
        """Raises ValueError if there are not so many training problems.

        Args:
            n_problems: how many are trained on; 0 for all. Which ones is decided by a hash of each, so that fewer
                are a part of more. Those that are held out are the same for any number.
        """
        train, heldout = [], []
        for fact in facts:
            (heldout if is_heldout(self._content(*fact)) else train).append(fact)
        self._train = _some(train, n_problems)
        self._heldout = sorted(heldout, key=lambda fact: fair_order(str(fact)))  # with a + b far from b + a
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        self._rewards = Rewards(rewards, own=OWN_REWARDS, default=DEFAULT_REWARDS)

    def train_problem(self, index: int) -> Problem:
        return self._problem(*nth(self._train, index))

    def heldout_problem(self, index: int) -> Problem:
        return self._problem(*nth(self._heldout, index))

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        return listed_grades(self._rewards, lambda problem: self, problems, completion_texts)

    def close(self) -> None:
        """Ends the processes of the rewards."""
        self._rewards.close()

    def is_correct(self, problem: Problem, completion: str) -> bool:
        """Whether its final answer is the problem's."""
        return self.final_answer(completion) == self.final_answer(problem.answer)

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The answer, or a wrong one."""
        return problem.answer if rng.random() < p_correct else self._wrong_answer(problem, rng)

    @abc.abstractmethod
    def final_answer(self, completion: str) -> str | None:
        """What the completion answers, the same text for the same answer; None where it answers nothing."""

    @abc.abstractmethod
    def partial_credit(self, problem: Problem, answer: str | None) -> float:
        """The reward "partial" of a final answer, -1 to 1."""

    @abc.abstractmethod
    def _content(self, *fact: Any) -> str: ...

    @abc.abstractmethod
    def _problem(self, *fact: Any) -> Problem: ...

    @abc.abstractmethod
    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str: ...


def _some(facts: list[Fact], n_problems: int) -> list[Fact]:
    """`n_problems` of the facts (0: all) in their order."""
    if n_problems > len(facts):
        raise ValueError(
            f"task.n_problems={n_problems} is more than the {len(facts)} training problems there are; use that or "
            "less, 0 for all, or more operands or operators"
        )
    if n_problems in (0, len(facts)):
        return facts
    chosen = sorted(range(len(facts)), key=lambda i: fair_order(f"some {facts[i]}"))[:n_problems]
    return [facts[i] for i in sorted(chosen)]


def listed_grades(
    rewards: Rewards,
    task_of: Callable[[Problem], ListedTask],
    problems: Sequence[Problem],
    completion_texts: Sequence[Sequence[str]],
) -> Grades:
    """Grades of completions of problems that may be of different tasks; correct is what "correct" says."""
    answers = tuple(
        tuple(task_of(problem).final_answer(text) for text in texts)
        for problem, texts in zip(problems, completion_texts, strict=True)
    )
    is_correct, partial = [], []
    for problem, answer_R in zip(problems, answers, strict=True):
        task = task_of(problem)
        gold = task.final_answer(problem.answer)
        is_correct.append([answer == gold for answer in answer_R])
        partial.append([task.partial_credit(problem, answer) for answer in answer_R])
    is_correct_PR = np.array(is_correct, bool)
    own = {CORRECT: is_correct_PR, PARTIAL: np.array(partial, float)}
    return rewards.grade(problems, completion_texts, own, is_correct_PR=is_correct_PR, answers=answers)


def number_credit(number: int | None, right: int, *, others: frozenset[int] = frozenset()) -> float:
    """1 for the right number, 0.5 off by 1, 0.25 off by 2 to 5, -0.5 for one of `others`, -1 for anything else.

    The first that applies counts: what is nearly right is so even where another operation gives it.
    """
    if number is None:
        return -1.0
    distance = abs(number - right)
    if distance <= LARGEST_SLIP:
        return {0: 1.0, 1: 0.5}.get(distance, 0.25)
    return -0.5 if number in others else -1.0

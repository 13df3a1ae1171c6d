"""What a task is: problems by index, grades of their completions, demonstrations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """One prompt with its gold answer.

    `content` names the problem itself, whatever its wording: two problems with equal
    content never stand on different sides of the train / held-out split.
    """

    prompt: str
    answer: str
    content: str
    row: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # for users' rewards
    categories: tuple[str, ...] = ()  # what evaluation breaks its results down by, such as ("level_5", "algebra")


@dataclasses.dataclass(frozen=True)
class RowProblem(Problem):
    """A problem with the row of a file it was made of."""

    demonstration: str = dataclasses.field(default="", compare=False, repr=False)  # what the warm start imitates


Answers = tuple[tuple[str | None, ...], ...]  # [P][R]: the same text for the same answer, None where there is none


@dataclasses.dataclass(frozen=True)
class Grades:
    """What a task says of the completions of P prompts, R each.

    NaN only ever means that a reward could not be graded: what is wrong is the verifier or its row, not the
    policy. Such a completion counts as never drawn.
    """

    named_rewards: dict[str, np.ndarray]  # name -> f32[P, R], unweighted
    reward_PR: np.ndarray  # f32, their weighted sum, which is trained on
    is_correct_PR: np.ndarray  # bool, what evaluation counts; false where it could not be graded
    failures: tuple[str, ...]  # one message per prompt with a completion that could not be graded: what, where, why
    answers: Answers | None = None  # final answers; None: the task has no such notion
    weights: dict[str, float] = dataclasses.field(default_factory=dict)  # of named_rewards in the sum; 1 where absent
    counts: dict[str, int] = dataclasses.field(default_factory=dict)  # of what is logged as health/NAME


class Task(Protocol):
    """Problems as a pure function of an index, and the grades of completions.

    One that draws from some of its problems more often than from others, or in stages, has a `schedule` besides: see
    tasks/schedule.py.
    """

    name: str
    fingerprint: str  # of the data: "" where the config alone decides the problems, for files a hash of their bytes
    n_train: int
    n_heldout: int
    longest_answer: int  # characters of a gold answer, over both sets
    longest_demonstration: int  # characters, right or wrong

    def train_problem(self, index: int) -> Problem:
        """Problem `index` of the training set, 0 <= index < n_train."""

    def heldout_problem(self, index: int) -> Problem:
        """Problem `index` of the held-out set, 0 <= index < n_heldout."""

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        """Grades [P][R] completions of P problems of this task."""

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """A completion for the warm start, right with probability `p_correct`."""


Item = TypeVar("Item")


def nth(items: Sequence[Item], index: int) -> Item:
    """Item `index`; a negative one raises IndexError instead of counting from the end."""
    if index < 0:
        raise IndexError(f"problem {index}: problems are counted from 0")
    return items[index]

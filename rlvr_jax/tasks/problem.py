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


@dataclasses.dataclass(frozen=True)
class RowProblem(Problem):
    """A problem with the row of a file it was made of."""

    row: dict[str, Any] = dataclasses.field(compare=False, repr=False)
    demonstration: str = dataclasses.field(compare=False, repr=False)  # what the warm start imitates


@dataclasses.dataclass(frozen=True)
class Grades:
    """What a task says of the completions of P prompts, R each.

    NaN only ever means that a reward could not be graded, and then for all R completions of the
    prompt: what is wrong is the verifier or its row, not the policy.
    """

    named_rewards: dict[str, np.ndarray]  # name -> f32[P, R], unweighted
    reward_PR: np.ndarray  # f32, their weighted sum, which is trained on
    is_correct_PR: np.ndarray  # bool, what evaluation counts; false where it could not be graded
    failures: tuple[str, ...]  # one message per prompt that could not be graded: which reward, which prompt, why


class Task(Protocol):
    """Problems as a pure function of an index, and the grades of completions."""

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


def problem_index(counter: int, n_problems: int, *, seed: int) -> int:
    """Which problem the `counter`-th prompt of a run shows.

    Every pass over the data is its own permutation, seeded by (seed, pass), so the only
    state of the data order is the counter itself.
    """
    return int(_permutation(seed, counter // n_problems, n_problems)[counter % n_problems])


_last_permutation: tuple[tuple[int, int, int], np.ndarray] | None = None


def _permutation(seed: int, epoch: int, n_problems: int) -> np.ndarray:
    global _last_permutation  # a cache of one pure value; a run asks for the same pass many times
    key = (seed, epoch, n_problems)
    if _last_permutation is None or _last_permutation[0] != key:
        _last_permutation = key, np.random.default_rng([seed, epoch]).permutation(n_problems)
    return _last_permutation[1]

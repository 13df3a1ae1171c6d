"""What a task is: problems by index, named rewards, demonstrations."""

import dataclasses
from typing import Protocol

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


class Task(Protocol):
    """Problems as a pure function of an index, and the rewards of a completion."""

    name: str
    n_train: int
    n_heldout: int
    longest_answer: int  # characters of a gold answer, over both sets
    longest_demonstration: int  # characters, right or wrong

    def train_problem(self, index: int) -> Problem:
        """Problem `index` of the training set, 0 <= index < n_train."""

    def heldout_problem(self, index: int) -> Problem:
        """Problem `index` of the held-out set, 0 <= index < n_heldout."""

    def rewards(self, problem: Problem, completion: str) -> dict[str, float]:
        """The rewards of one completion by name; their sum is what is trained on."""

    def is_correct(self, problem: Problem, completion: str) -> bool:
        """Whether the completion answers the problem; what evaluation counts."""

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """A completion for the warm start, right with probability `p_correct`."""


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

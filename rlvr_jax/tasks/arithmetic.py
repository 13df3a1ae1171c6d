"""Sums, differences and products, in two wordings.

`arithmetic`  "Calculate: 7 + 12 = "   any completion; the answer is its first integer
`digits`      "07+12="                 fixed width, answer digits least significant first ("910"),
                                       the order in which a small transformer can carry
"""

import abc
import re
from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.heldout import fair_order, is_heldout
from rlvr_jax.tasks.problem import Grades, Problem, nth

_FIRST_INTEGER = re.compile(r"-?[0-9]+")
_COMMUTATIVE = "+*"


def first_integer(text: str) -> int | None:
    """The first integer written in `text`; "3-5" gives 3, "is -5" gives -5, no digits give None."""
    found = _FIRST_INTEGER.search(text)
    # 400 digits are no answer, and int() refuses more than 4300
    return int(found.group()) if found and len(found.group()) <= 400 else None


def _result(operator: str, left: int, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _content(operator: str, left: int, right: int) -> str:
    """3+5 and 5+3 are one content: training on one would leak the other."""
    if operator in _COMMUTATIVE:
        left, right = min(left, right), max(left, right)
    return f"{left}{operator}{right}"


class _Arithmetic(abc.ABC):
    """What the two wordings share: the triples (operator, left, right) and their split by content."""

    fingerprint = ""

    def __init__(self, triples: list[tuple[str, int, int]]):
        self._train, heldout = [], []
        for triple in triples:
            (heldout if is_heldout(_content(*triple)) else self._train).append(triple)
        self._heldout = sorted(heldout, key=lambda triple: fair_order(str(triple)))  # with a + b far from b + a
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        results = [_result(*triple) for triple in triples]
        self._extremes = min(results), max(results)

    def train_problem(self, index: int) -> Problem:
        return self._problem(*nth(self._train, index))

    def heldout_problem(self, index: int) -> Problem:
        return self._problem(*nth(self._heldout, index))

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        """The only reward is "correct", 1 or 0."""
        is_correct_PR = np.array(
            [[self.is_correct(p, text) for text in texts] for p, texts in zip(problems, completion_texts, strict=True)]
        )
        reward_PR = is_correct_PR.astype(np.float32)
        return Grades({"correct": reward_PR}, reward_PR.copy(), is_correct_PR, failures=())

    @abc.abstractmethod
    def _problem(self, operator: str, left: int, right: int) -> Problem: ...

    @abc.abstractmethod
    def is_correct(self, problem: Problem, completion: str) -> bool: ...


class SentenceArithmetic(_Arithmetic):
    """`Calculate: a op b = ` with operands operand_min..operand_max."""

    name = "arithmetic"
    largest_slip = 5  # of a wrong demonstration

    def __init__(self, *, operators: str, operand_min: int, operand_max: int):
        operands = range(operand_min, operand_max + 1)
        super().__init__([(op, a, b) for op in operators for a in operands for b in operands])
        least, most = self._extremes
        self.longest_answer = max(len(str(least)), len(str(most)))
        self.longest_demonstration = max(len(str(least - self.largest_slip)), len(str(most + self.largest_slip)))

    def _problem(self, operator: str, left: int, right: int) -> Problem:
        answer = str(_result(operator, left, right))
        return Problem(f"Calculate: {left} {operator} {right} = ", answer, _content(operator, left, right))

    def is_correct(self, problem: Problem, completion: str) -> bool:
        return first_integer(completion) == int(problem.answer)

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The answer, or one off by 1 to 5 in either direction."""
        if rng.random() < p_correct:
            return problem.answer
        return str(int(problem.answer) + int(rng.integers(1, self.largest_slip + 1)) * int(rng.choice([-1, 1])))


class DigitArithmetic(_Arithmetic):
    """Two-digit sums and differences of fixed width; differences are never negative."""

    name = "digits"
    answer_width = longest_answer = longest_demonstration = 3

    def __init__(self, *, operators: str, operand_min: int, operand_max: int):
        operands = range(operand_min, operand_max + 1)
        super().__init__([(op, a, b) for op in operators for a in operands for b in operands if op == "+" or a >= b])

    def _problem(self, operator: str, left: int, right: int) -> Problem:
        answer = str(_result(operator, left, right)).zfill(self.answer_width)[::-1]
        return Problem(f"{left:02d}{operator}{right:02d}=", answer, _content(operator, left, right))

    def is_correct(self, problem: Problem, completion: str) -> bool:
        return completion == problem.answer

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The answer, or the answer with one digit replaced by another one."""
        if rng.random() < p_correct:
            return problem.answer
        place = int(rng.integers(self.answer_width))
        wrong_digit = (int(problem.answer[place]) + int(rng.integers(1, 10))) % 10
        return problem.answer[:place] + str(wrong_digit) + problem.answer[place + 1 :]

"""Sums, differences and products, in two wordings.

`arithmetic`  "Calculate: 7 + 12 = "   any completion; the answer is its first integer
`digits`      "07+12="                 fixed width, answer digits least significant first ("910"),
                                       the order in which a small transformer can carry
"""

import abc
import hashlib
import re

import numpy as np

from rlvr_jax.tasks.problem import Problem

HELDOUT_ONE_IN = 10  # one problem in ten is never trained on
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


def _hash(content: str) -> int:
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")


def _item(triples: list[tuple[str, int, int]], index: int) -> tuple[str, int, int]:
    if index < 0:
        raise IndexError(f"problem {index}: problems are counted from 0")
    return triples[index]


class _Arithmetic(abc.ABC):
    """What the two wordings share: the triples (operator, left, right) and their split by content."""

    def __init__(self, triples: list[tuple[str, int, int]]):
        hashes = {triple: _hash(_content(*triple)) for triple in triples}
        self._train = [triple for triple in triples if hashes[triple] % HELDOUT_ONE_IN]
        # in an order of another hash, so that any prefix is a fair sample, with a + b far from b + a
        self._heldout = sorted(
            (t for t in triples if hashes[t] % HELDOUT_ONE_IN == 0), key=lambda t: _hash(f"order {t}")
        )
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        results = [_result(*triple) for triple in triples]
        self._extremes = min(results), max(results)

    def train_problem(self, index: int) -> Problem:
        return self._problem(*_item(self._train, index))

    def heldout_problem(self, index: int) -> Problem:
        return self._problem(*_item(self._heldout, index))

    def rewards(self, problem: Problem, completion: str) -> dict[str, float]:
        return {"correct": float(self.is_correct(problem, completion))}

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

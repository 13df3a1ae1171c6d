"""Sums, differences and products, in two wordings.

`arithmetic`  "Calculate: 7 + 12 = "   any completion; the answer is its first integer
`digits`      "07+12="                 fixed width, answer digits least significant first ("910"),
                                       the order in which a small transformer can carry
"""

import re

import numpy as np

from rlvr_jax.tasks.listed_task import LARGEST_SLIP, ONLY_CORRECT, ListedTask, number_credit
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.tasks.rewards import RewardSettings

_FIRST_INTEGER = re.compile(r"-?[0-9]+")
_THREE_DIGITS = re.compile(r"[0-9]{3}")
_COMMUTATIVE = "+*"
_NAMES = {"+": "addition", "-": "subtraction", "*": "multiplication"}


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


class _Arithmetic(ListedTask):
    """What the two wordings share: the triples (operator, left, right)."""

    def __init__(self, triples: list[tuple[str, int, int]], *, n_problems: int, rewards: RewardSettings):
        super().__init__(triples, n_problems=n_problems, rewards=rewards)
        results = [_result(*triple) for triple in triples]
        self._extremes = min(results), max(results)

    def partial_credit(self, problem: Problem, answer: str | None) -> float:
        """1, 0.5 off by 1, 0.25 off by 2 to 5, -0.5 for the result of another of + - *, else -1."""
        operator, left, right = (problem.row[name] for name in ("operator", "left", "right"))
        others = frozenset(_result(other, left, right) for other in _NAMES if other != operator)
        number = None if answer is None else self._number(answer)
        return number_credit(number, _result(operator, left, right), others=others)

    def _number(self, answer: str) -> int:
        return int(answer)

    def _content(self, operator: str, left: int, right: int) -> str:
        return _content(operator, left, right)

    def _asked(self, prompt: str, answer: str, operator: str, left: int, right: int) -> Problem:
        return Problem(
            prompt,
            answer,
            _content(operator, left, right),
            row={"task": self.name, "operator": operator, "left": left, "right": right},
            categories=(self.name, _NAMES[operator]),
        )


class SentenceArithmetic(_Arithmetic):
    """`Calculate: a op b = ` with operands operand_min..operand_max."""

    name = "arithmetic"

    def __init__(
        self,
        *,
        operators: str,
        operand_min: int,
        operand_max: int,
        n_problems: int = 0,
        rewards: RewardSettings = ONLY_CORRECT,
    ):
        operands = range(operand_min, operand_max + 1)
        triples = [(op, a, b) for op in operators for a in operands for b in operands]
        super().__init__(triples, n_problems=n_problems, rewards=rewards)
        least, most = self._extremes
        self.longest_answer = max(len(str(least)), len(str(most)))
        self.longest_demonstration = max(len(str(least - LARGEST_SLIP)), len(str(most + LARGEST_SLIP)))

    def _problem(self, operator: str, left: int, right: int) -> Problem:
        answer = str(_result(operator, left, right))
        return self._asked(f"Calculate: {left} {operator} {right} = ", answer, operator, left, right)

    def final_answer(self, completion: str) -> str | None:
        number = first_integer(completion)
        return None if number is None else str(number)

    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        """Off by 1 to 5 in either direction."""
        return str(int(problem.answer) + int(rng.integers(1, LARGEST_SLIP + 1)) * int(rng.choice([-1, 1])))


class DigitArithmetic(_Arithmetic):
    """Two-digit sums and differences of fixed width; differences are never negative."""

    name = "digits"
    answer_width = longest_answer = longest_demonstration = 3

    def __init__(
        self,
        *,
        operators: str,
        operand_min: int,
        operand_max: int,
        n_problems: int = 0,
        rewards: RewardSettings = ONLY_CORRECT,
    ):
        operands = range(operand_min, operand_max + 1)
        triples = [(op, a, b) for op in operators for a in operands for b in operands if op == "+" or a >= b]
        super().__init__(triples, n_problems=n_problems, rewards=rewards)

    def _problem(self, operator: str, left: int, right: int) -> Problem:
        answer = str(_result(operator, left, right)).zfill(self.answer_width)[::-1]
        return self._asked(f"{left:02d}{operator}{right:02d}=", answer, operator, left, right)

    def final_answer(self, completion: str) -> str | None:
        return completion if _THREE_DIGITS.fullmatch(completion) else None

    def _number(self, answer: str) -> int:
        return int(answer[::-1])

    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        """The answer with one digit replaced by another one."""
        place = int(rng.integers(self.answer_width))
        wrong_digit = (int(problem.answer[place]) + int(rng.integers(1, 10))) % 10
        return problem.answer[:place] + str(wrong_digit) + problem.answer[place + 1 :]

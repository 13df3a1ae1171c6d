"""Counting words, comparing numbers, and writing them in binary.

`counting`    "Count the words: sun cat tree = "             3
`comparison`  "Is 7 larger than 12? "                        no
`binary`      "Write 5 in binary: ", "Write 101 in decimal: "    101, 5
"""

import re

import numpy as np

from rlvr_jax.tasks.arithmetic import first_integer
from rlvr_jax.tasks.listed_task import LARGEST_SLIP, ONLY_CORRECT, ListedTask, number_credit
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.tasks.rewards import RewardSettings

MOST_WORDS = 30  # in a prompt of "counting"
TEXTS_PER_COUNT = 60  # and a word of its own each for the count of 1
_WORD_LIST = """ant axe bag bear bell bird boat book bus cat coin cow cup dog door duck egg eye fan farm fish flag fox
    frog gate goat hat hill jam key kite lamp leaf lion map milk moon mug nest net nut oak owl park pen pig pond rain
    ring road rose salt sand ship shoe snow sock star sun tent tree van wave wolf"""
_WORDS = _WORD_LIST.split()
_YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class Counting(ListedTask):
    """How many words a text has, operand_min (at least 1) to operand_max; TEXTS_PER_COUNT different ones of each."""

    name = "counting"

    def __init__(
        self, *, operand_min: int, operand_max: int, n_problems: int = 0, rewards: RewardSettings = ONLY_CORRECT
    ):
        counts = range(max(operand_min, 1), operand_max + 1)
        facts = [(words,) for count in counts for words in _texts(count)]
        super().__init__(facts, n_problems=n_problems, rewards=rewards)
        self.longest_answer = len(str(operand_max))
        self.longest_demonstration = len(str(operand_max + LARGEST_SLIP))

    def final_answer(self, completion: str) -> str | None:
        number = first_integer(completion)
        return None if number is None else str(number)

    def partial_credit(self, problem: Problem, answer: str | None) -> float:
        """1, 0.5 off by 1, 0.25 off by 2 to 5, else -1."""
        return number_credit(None if answer is None else int(answer), int(problem.answer))

    def _content(self, words: str) -> str:
        return f"count {words}"

    def _problem(self, words: str) -> Problem:
        row = {"task": self.name, "words": words}
        count = str(len(words.split()))
        return Problem(f"Count the words: {words} = ", count, self._content(words), row, categories=(self.name,))

    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        return str(_slipped(int(problem.answer), rng))


def _texts(count: int) -> list[str]:
    """Texts of `count` different words, the same ones whatever else there is."""
    if count == 1:
        return list(_WORDS)
    drawn = (np.random.default_rng([count, i]).permutation(len(_WORDS))[:count] for i in range(TEXTS_PER_COUNT))
    return list(dict.fromkeys(" ".join(_WORDS[word] for word in words) for words in drawn))


class Comparison(ListedTask):
    """Whether one number is larger than another; no for a number and itself."""

    name = "comparison"
    longest_answer = longest_demonstration = len("yes")

    def __init__(
        self, *, operand_min: int, operand_max: int, n_problems: int = 0, rewards: RewardSettings = ONLY_CORRECT
    ):
        operands = range(operand_min, operand_max + 1)
        super().__init__([(a, b) for a in operands for b in operands], n_problems=n_problems, rewards=rewards)

    def final_answer(self, completion: str) -> str | None:
        """The first yes or no that is a word."""
        found = _YES_OR_NO.search(completion)
        return found[0].lower() if found else None

    def partial_credit(self, problem: Problem, answer: str | None) -> float:
        """1 if right, else -1."""
        return 1.0 if answer == problem.answer else -1.0

    def _content(self, left: int, right: int) -> str:
        """Either order is one content: who knows that 7 < 12 knows that 12 > 7."""
        return f"{min(left, right)}?{max(left, right)}"

    def _problem(self, left: int, right: int) -> Problem:
        return Problem(
            f"Is {left} larger than {right}? ",
            "yes" if left > right else "no",
            self._content(left, right),
            row={"task": self.name, "operator": ">", "left": left, "right": right},
            categories=(self.name,),
        )

    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        return {"yes": "no", "no": "yes"}[problem.answer]


class Binary(ListedTask):
    """Numbers operand_min..operand_max to binary and back. Leading zeros do not matter."""

    name = "binary"

    def __init__(
        self, *, operand_min: int, operand_max: int, n_problems: int = 0, rewards: RewardSettings = ONLY_CORRECT
    ):
        numbers = range(operand_min, operand_max + 1)
        facts = [(direction, number) for direction in ("binary", "decimal") for number in numbers]
        super().__init__(facts, n_problems=n_problems, rewards=rewards)
        self.longest_answer = len(f"{operand_max:b}")
        self.longest_demonstration = len(f"{operand_max + LARGEST_SLIP:b}")

    def final_answer(self, completion: str) -> str | None:
        """Its first integer, as written: 101 for five in binary."""
        number = first_integer(completion)
        return None if number is None else str(number)

    def partial_credit(self, problem: Problem, answer: str | None) -> float:
        """1 if right, else -1."""
        return 1.0 if answer == problem.answer else -1.0

    def _content(self, direction: str, number: int) -> str:
        """Both directions are one content: one could be learned from the other."""
        return f"binary {number}"

    def _problem(self, direction: str, number: int) -> Problem:
        asked, answer = (str(number), f"{number:b}") if direction == "binary" else (f"{number:b}", str(number))
        return Problem(
            f"Write {asked} in {direction}: ",
            answer,
            self._content(direction, number),
            row={"task": self.name, "number": number, "to": direction},
            categories=(self.name, f"to_{direction}"),
        )

    def _wrong_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        number = _slipped(problem.row["number"], rng)
        return f"{number:b}" if problem.row["to"] == "binary" else str(number)


def _slipped(number: int, rng: np.random.Generator) -> int:
    """Another number, off by 1 to 5 and not below 0."""
    slip = int(rng.integers(1, LARGEST_SLIP + 1)) * int(rng.choice([-1, 1]))
    return number + slip if number + slip >= 0 else number - slip

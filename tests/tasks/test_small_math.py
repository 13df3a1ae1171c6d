"""The small problems in the form of MATH: their answers worked out another way."""

import itertools
import re
from collections import Counter
from fractions import Fraction

import pytest

from rlvr_jax.tasks.small_math import N_SMALL_MATH, small_math_row

ROWS = [small_math_row(i) for i in range(N_SMALL_MATH)]


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def remainder_is_right(problem, answer):
    whole, by = numbers(problem)
    while whole >= by:
        whole -= by
    return answer == str(whole)


def fraction_is_right(problem, answer):
    value = Fraction(*numbers(problem))
    return answer == f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def equation_is_right(problem, answer):
    slope, offset, right = numbers(problem)
    return slope * int(answer) + offset == right


def count_is_right(problem, answer):
    n, two, more = numbers(problem)
    return two == 2 and int(answer) == len(list(itertools.combinations(range(n), 2))) + more


def interval_is_right(problem, answer):
    middle, radius = numbers(problem)
    low, high = numbers(answer)
    return {x for x in range(-100, 200) if abs(x - middle) < radius} == set(range(low + 1, high))


@pytest.mark.parametrize(
    ("level", "is_right"),
    [
        (1, remainder_is_right),
        (2, fraction_is_right),
        (3, equation_is_right),
        (4, count_is_right),
        (5, interval_is_right),
    ],
)
def test_every_answer_is_right(level, is_right):
    rows = [row for row in ROWS if row["level"] == f"Level {level}"]
    assert len(rows) == N_SMALL_MATH / 5
    for row in rows:
        assert is_right(row["problem"], row["answer"]), row
        assert row["solution"].endswith(f"\\boxed{{{row['answer']}}}")


def test_all_are_different_and_short():
    assert len({row["problem"] for row in ROWS}) == len(ROWS)
    assert max(len(row["problem"]) for row in ROWS) <= 20
    assert len(Counter(row["type"] for row in ROWS)) == 5


def test_neighbours_differ_in_their_numbers():
    found = [tuple(numbers(row["problem"])) for row in ROWS[:50]]
    assert len(set(found)) == 50

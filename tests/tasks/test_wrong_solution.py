"""Solutions with another final answer."""

from collections import Counter

import numpy as np
import pytest

from rlvr_jax.tasks.wrong_solution import wrong_solution


def drawn(solution, gold, n=400):
    rng = np.random.default_rng(0)
    return Counter(wrong_solution(solution, gold, rng) for _ in range(n))


def test_one_digit_of_the_answer_changes_where_it_is_stated_and_worked_out():
    # 12 can become 22 ... 92 (no leading zero) and 10, 11, 13 ... 19
    wanted = {f"7+5={n}\n#### {n}" for n in (10, 11, *range(13, 20), *range(22, 100, 10))}
    assert set(drawn("7+5=12\n#### 12", "12")) == wanted


def test_numbers_of_the_question_stay():
    found = drawn("12-6=6\n#### 6", "6")
    assert set(found) == {f"12-6={n}\n#### {n}" for n in range(10) if n != 6}
    assert all(abs(n / 400 - 1 / 9) < 4 * (1 / 9 * 8 / 9 / 400) ** 0.5 for n in found.values())


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("so \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("#### 1,234", "1,234"),
        ("x=\\boxed{-7}", "-7"),
        ("\\boxed{(2,12)}", "(2,12)"),
        ("It costs $5.\n#### 5", "5"),
    ],
)
def test_a_wrong_solution_is_another_of_the_same_length(solution, gold):
    for wrong in drawn(solution, gold):
        assert len(wrong) == len(solution)
        assert sum(a != b for a, b in zip(wrong, solution, strict=True)) in (1, 2)
        assert "(02" not in wrong
        assert "{0" not in wrong.replace("{0}", "")


@pytest.mark.parametrize(
    ("solution", "gold"), [("\\boxed{\\pi}", "\\pi"), ("it is seven", "7"), ("#### 120", "12"), ("", "1")]
)
def test_where_no_answer_can_be_changed_there_is_none(solution, gold):
    assert set(drawn(solution, gold, n=5)) == {None}

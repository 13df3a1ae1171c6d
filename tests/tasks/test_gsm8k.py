"""The final number of a solution, as people read it."""

from decimal import Decimal

import pytest

from rlvr_jax.tasks.gsm8k import final_number, same_final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.\n#### 7", "7"),
        ("#### 5 is wrong, so\n#### 6", "6"),
        ("#### 1,234,567", "1234567"),
        ("so it costs $18.", "18"),
        ("\\boxed{42.00} dollars for 5 days", "42"),
        ("the difference is 3-5", "5"),
        ("it fell to -12 degrees", "-12"),
        ("half of it, .5", "0.5"),
        ("the pair 1,2", "2"),
        ("#### none, but 9 before: 9", "9"),
    ],
)
def test_the_final_number_is_the_one_people_read(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "####", "no number", "٣", "\0"])
def test_a_text_without_a_number_has_none(text):
    assert final_number(text) is None


def test_completions_are_compared_by_value_not_by_text():
    assert same_final_number(["#### 18.0", "It is $18", "#### 81", ""], "so\n#### 18") == [1.0, 1.0, 0.0, 0.0]


def test_an_answer_without_a_number_is_refused():
    with pytest.raises(ValueError, match="'eighteen' holds no number"):
        same_final_number(["18"], "eighteen")


def test_a_long_hostile_text_costs_no_more_than_its_end():
    assert final_number("9" * 1_000_000 + " and 7") == 7

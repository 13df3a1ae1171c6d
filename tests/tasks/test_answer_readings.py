"""Sentences as answers: which one number they say, and where they say none."""

import pytest

from rlvr_jax.tasks.answer_readings import is_prose, readings_of


@pytest.mark.parametrize(
    ("sentence", "reading"),
    [
        ("18 dollars for 3 days", "18"),
        ("the cost for 3 days is 54 dollars", "54"),
        ("the distance between the 2 towns is 5 miles", "5"),
        ("Jane started 3 hours ago", "3"),
        ("5 times 3 = 15 apples", "15"),
        ("the roots are -2,1", "-2,1"),
        ("the slope is $\\frac{2}{3}$ here", r"\frac{2}{3}"),
        ("not 5, it is 6", "6"),
        ("$5 a day", "$5"),
        ("in all, she pays 147 x $2 = $294 on eggs", "$294"),
        ("since $125 > $96, she makes a profit of $125", "125"),
        ("you save $4 + $2 = $6 for 2 tubs of ice and 4 of milk", "$6"),
        ("60 miles - 35 miles = 25 miles between the two stops", "25"),
        ("40 girls are not there", "40"),
        ("the solution is $x = 5$ here", "x = 5"),
    ],
)
def test_a_sentence_says_one_number(sentence, reading):
    assert readings_of(sentence) == (sentence, reading)


@pytest.mark.parametrize(
    "sentence",
    [
        "not 5",
        "5 or perhaps 6",
        "5 apples or rather 6",
        "5 else 6",
        "5 maybe 6",
        "7 maybe $5$ or 6",
        "$5 a day or $35 a week",
        "5 is wrong",
        "between 5 and 6",
        "either 5 or 6",
        "half of 5",
        "5 less than 10",
        "5 and then 6",
        "5 dollars and 6 cents",
        "it isn't 5",
    ],
)
def test_a_sentence_that_denies_or_offers_several_numbers_says_none(sentence):
    assert readings_of(sentence) == (sentence,)


def test_a_choice_with_its_value_is_also_the_value():
    assert readings_of(r"\text{(B) }7") == (r"\text{(B) }7", "7")
    assert readings_of(r"\text{(B)}") == (r"\text{(B)}",)


def test_functions_and_products_are_no_prose():
    assert not any(is_prose(text) for text in ("sin x", "2ab", r"\frac{1}{2}", r"5 \text{ apples}"))
    assert is_prose("5 apples")
    assert is_prose("x is 5")

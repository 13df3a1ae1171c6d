"""Numbers as people write them, by value; what is no number stays none."""

from fractions import Fraction

import pytest

from rlvr_jax.tasks.plain_number import numbers_in, plain_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("1,234,567.50", Fraction(2469135, 2)),
        ("$18", 18),
        (r"\$1,500", 1500),
        ("-$5", -5),
        ("$-5", -5),
        ("−7", -7),
        ("42.", 42),
        ("42.00", 42),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("1,234/2", 617),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"\frac{3}{-4}", Fraction(-3, 4)),
        (r"-\frac{-3}{4}", Fraction(3, 4)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)),
        ("1.5e3", 1500),
        (r"6.02 \times 10^{23}", 602 * 10**21),
        (r"2 \cdot 10^{-3}", Fraction(1, 500)),
        ("18 €", 18),
        ("007", 7),
    ],
)
def test_a_number_is_read_by_its_exact_value(text, value):
    assert plain_number(text).value == value


@pytest.mark.parametrize(
    "text",
    [
        *["", "-", ".", "3-5", "12,34", "1,2345", "0,111", "--5", "1/0", r"\frac{1}{0}", "x", "5x", "٣", "1e999999"],
        *["9" * 500, "10^5", "1 2", "3.5 1/2", "$", "1.2.3"],
    ],
)
def test_what_is_no_number_is_none(text):
    assert plain_number(text) is None


def test_how_a_number_was_written_is_kept():
    assert plain_number("50%").is_percent
    assert plain_number("50%").value == 50
    assert (plain_number("0.50").n_decimals, plain_number("3").n_decimals, plain_number("1/2").n_decimals) == (
        2,
        0,
        None,
    )
    assert [plain_number(text).is_reduced for text in ("1/2", "2/4", "6/3", "3")] == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("the difference 3-5", ["3", "5"]),
        ("it fell to -12 degrees", ["-12"]),
        ("from (-3) to $-4 and -$5", ["-3", "-4", "-$5"]),
        ("$1,234.50 a day.", ["$1,234.50"]),
        ("1, 2 and 3.", ["1", "2", "3"]),
        ("x2-3", ["2", "3"]),
        ("3/4 of them, 1/0 of those", ["3/4", "1", "0"]),
        ("half, .5", [".5"]),
        ("7 m2 and 3 cm3", ["7", "3"]),
        ("1e3 and 2.5E-2 but 2e", ["1e3", "2.5E-2", "2"]),
        ("none", []),
    ],
)
def test_numbers_in_a_text_have_the_sign_that_people_read(text, numbers):
    assert numbers_in(text) == numbers

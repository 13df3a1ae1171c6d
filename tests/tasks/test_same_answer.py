"""Answers compared without algebra: what is the same, what is not, and what cannot be told; each policy on and off."""

import pytest

from rlvr_jax.tasks.answer_text import listed, normal_text, split_list
from rlvr_jax.tasks.same_answer import POLICIES, canonical_answer, policy_of, same_answer

NONE = policy_of(())


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"12{,}000", "12000"),
        (r"32,\! 349", "32349"),
        ("1,234,567", "1234567"),
        ("(100,200)", "(100,200)"),
        ("1,000, 2,000", "1000,2000"),
        ("0,111", "0.111"),
        (r"15\mbox{ cm}^2", "15"),
        ("5 square inches", "5"),
        ("5 m", "5"),
        ("3 a day", "3"),
        ("4s", "4s"),
        (r"\frac{1}{2}s^2", r"\frac{1}{2}s^2"),
        ("5 x", "5x"),
        (r"90^\circ", "90"),
        (r"\left( 3, \frac{\pi}{2} \right]", r"(3,\frac{\pi}{2}]"),
        (r"\$32,\!348", "32348"),
        (r"28 percent", r"28\%"),
        (r"\text{(A)}", "(A)"),
        (r"4:30 \text{ p.m.}", "4:30pm"),
        (r"2 \text{ and } 3", "2,3"),
        ("4 2", "4 2"),
        ("3 1/2", r"3\frac{1}{2}"),
        (r"\begin{bmatrix} 1 \\ 2 \\ \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("x² ≤ 3π", r"x^2\le3\pi"),
        (r"\approx 8.24", "8.24"),
        (r"\text{no solution}", r"\emptyset"),
        ("$ $", ""),
    ],
)
def test_typesetting_and_units_are_taken_off(written, normal):
    assert normal_text(written).replace(" ", "" if normal != "4 2" else " ") == normal


def test_a_list_is_split_outside_brackets_only():
    assert split_list("1,(2,3),f(x,y)") == ["1", "(2,3)", "f(x,y)"]
    assert listed(r"\{1,2\}") == ["1", "2"]
    assert listed(r"x=\pm3") == ["x=3", "x=-3"]
    assert listed(r"1\pm\sqrt{2}") == [r"1+\sqrt{2}", r"1-\sqrt{2}"]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1,234.00", "1234"),
        ("$18", "18"),
        (r"\frac{2}{4}", "0.5"),
        ("x = 5", "5"),
        ("5", "x=5"),
        (r"x \in [-2,7]", "[-2, 7]"),
        ("x = 5+6 = 11", "11"),
        ("3 * 4 = 12", "12"),
        ("(p,q,r) = (3,2,7)", "(3,2,7)"),
        ("2, 1", "1,2"),
        (r"\{2,1\}", "1 and 2"),
        (r"\pm 3", "-3, 3"),
        ("(1.0, 4/2)", "(1,2)"),
        (r"\begin{pmatrix} 1 \\ 0.5 \end{pmatrix}", r"\begin{bmatrix} 1 \\ \frac{1}{2} \end{bmatrix}"),
        ("yes", r"\text{Yes}"),
        ("B. 15", r"\text{(B)}"),
        ("10%", "10"),
        ("0.1", r"10\%"),
        ("0.333333333333333", "1/3"),
        ("0.0535714285714164", r"\frac{3}{56}"),  # rounding errors of a program's arithmetic
        ("11_{2}", "11_2"),
        ("two", "2"),
        (r"\langle 1, 2 \rangle", "(1,2)"),
        ("2 million", "2,000,000"),
        (r"0.1\overline{6}", "1/6"),
        ("[3, 2]", "2,3"),  # as Python prints a list
        ("[[1], [2]]", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("3,14", "3.14"),
        ("1.234,50", "1234.5"),
        (r"\frac\pi6", r"\frac{\pi}{6}"),
        (r"x=5 \lor x=6", "5,6"),
        (r"\{x | x>1\}", "x>1"),
        ("no", "No"),
        ("an ellipse", r"\text{ellipse}"),
        ("12=x", "12"),
        (r"25\pi cm^2", r"25\pi"),
        (r"100^\circ C", "100"),
        (r"\sqrt13", r"\sqrt{13}"),
        (r"2\sqrt 34", r"2\sqrt{34}"),
        (r"8\text{ a.m.}", "8 am"),
        ("minus 7", "-7"),
        (r"5\text{ hundred}", "500"),
        ("7 thousand dollars", "7000"),
        ("25¢", "25"),
        (r"0.\dot3", r"\frac13"),
        (r"\overline{1234}", "1234"),
        ("(-oo,0) U (0,oo)", r"(-\infty,0)\cup(0,\infty)"),
        ("all real numbers", r"\mathbb{R}"),
        (r"\begin{pmatrix}1\cr 2\end{pmatrix}", r"\begin{pmatrix}1\\[2pt]2\end{pmatrix}"),
        ("11_2", "3"),
    ],
)
def test_these_are_the_same(answer, gold):
    assert same_answer(answer, gold, policy=NONE) is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", ""),
        (" ", "$$"),
        ("5", ""),
        ("1.234", "1234"),
        ("0.33333333333", "1/3"),
        ("-5", "5"),
        ("(2,1)", "(1,2)"),
        ("1:3:2", "1:2:3"),
        ("123456789012.5", "123456789012"),
        ("3,14", "3,15"),
        ("None", "no"),
        ("[1,2)", "[1,2]"),
        (r"\{1,2\}", "(1,2)"),
        ("(1,2,3)", "(1,2)"),
        ("1,2,3", "1,2"),
        ("1,3", "1,2"),
        ("y", "5"),
        ("x > 5", "5"),
        ("4 2", "42"),
        (r"0.\overline{3}", "0.3"),
        ("3 * 4 = 13", "12"),
        ("A", r"\text{(B)}"),
        ("no", "yes"),
        ("11_3", "11_2"),
        ("4:30 a.m.", "4:30 p.m."),
        ("0.05", r"50\%"),
        (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("x" * 5_000, "5"),
        ("5=6", "6"),
        ("1=2=3", "3"),
        ("5...", "5"),
        (r"5\ldots", "5"),
        ("11_2", "11"),
        (r"5\text{ squared}", "5"),
        (r"5^\circ\text{C below zero}", "5"),
        ("12 or more", "12"),
    ],
)
def test_these_are_not_the_same(answer, gold):
    assert same_answer(answer, gold, policy=NONE) is False


@pytest.mark.parametrize("answer", ["A) 3 B) 4", "A. or B.", "A) or B)"])
def test_of_two_choices_none_is_chosen(answer):
    assert not same_answer(answer, "A", policy=NONE)


@pytest.mark.parametrize(("answer", "gold"), [("(x+1)^2", "x^2+2x+1"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x<1", "1>x")])
def test_what_needs_algebra_is_left_open(answer, gold):
    assert same_answer(answer, gold, policy=NONE) is None


@pytest.mark.parametrize(
    ("name", "answer", "gold"),
    [
        ("exact_percent", "50", r"50\%"),
        ("ordered_lists", "2,1", "1,2"),
        ("reduced_fractions", "2/4", r"\frac{1}{2}"),
        ("units", r"5\text{ cm}", "5"),
    ],
)
def test_a_stricter_policy_refuses_what_is_accepted_by_default(name, answer, gold):
    assert same_answer(answer, gold, policy=NONE) is True
    assert same_answer(answer, gold, policy=policy_of((name,))) in (False, None)


@pytest.mark.parametrize(
    ("name", "answer", "gold"),
    [
        ("exact_percent", "0.5", r"50\%"),
        ("ordered_lists", "1, 2", "1,2"),
        ("reduced_fractions", "0.5", r"\frac{1}{2}"),
        ("units", r"5\text{ cm}", r"5 \text{cm}"),
        ("rounded", "33.3", r"\frac{100}{3}"),
    ],
)
def test_what_a_policy_still_accepts(name, answer, gold):
    assert same_answer(answer, gold, policy=policy_of((name,))) is True


def test_rounding_is_accepted_only_where_it_is_asked_for_and_right():
    assert same_answer("33.3", "100/3", policy=NONE) is False
    assert same_answer("33.4", "100/3", policy=policy_of(("rounded",))) is False


def test_an_unknown_policy_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=f"'strict' does not exist; the names are {', '.join(POLICIES)}"):
        policy_of(("strict",))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("42.00", "$42"),
        ("x = 1/2", r"\frac12"),
        ("2, 1", r"1 \text{ and } 2"),
        (r"\left(1, 0.5\right)", r"(1,\frac{1}{2})"),
        ("(B)", r"\text{B}"),
        ("Yes", "yes."),
    ],
)
def test_equal_answers_share_a_canonical_spelling(first, second):
    assert canonical_answer(first) == canonical_answer(second)


def test_different_answers_have_different_canonical_spellings():
    answers = ["1", "-1", "1/2", "(1,2)", "(2,1)", "1,2", r"50\%", "A", "x+1", ""]
    assert len({canonical_answer(answer) for answer in answers}) == len(answers)

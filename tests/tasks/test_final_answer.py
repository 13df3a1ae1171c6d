"""Where answers are found: by which rule, in which order, and where there are none."""

import time

import pytest

from rlvr_jax.tasks.final_answer import final_answer, gold_answer, has_marked_answer


def found(text, *, prefer_hashes=False):
    answer = final_answer(text, prefer_hashes=prefer_hashes)
    return answer and (answer.rule, answer.text)


@pytest.mark.parametrize(
    ("text", "rule", "answer"),
    [
        ("She has 7.\n#### 8\nOr more: 9", "####", "8"),
        ("#### 5 is wrong, so\n#### 6", "####", "6"),
        (r"#### 6, that is \boxed{7}", "####", "6, that is \\boxed{7}"),
        (r"first \boxed{1}, then \boxed{2}.", "box", "2"),
        (r"\boxed{\frac{1}{2}}", "box", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", "box", r"\{1, 2\}"),
        (r"\boxed 5 apples", "box", "5"),
        (r"\boxed   { x^2 } text", "box", "x^2"),
        (r"\fbox{7}", "box", "7"),
        (r"\boxed{\boxed{5}}", "box", "5"),
        (r"$\boxed{12$", "box", "12$"),
        ("<think>3</think><answer>4</answer>", "<answer>", "4"),
        (
            r"\boxed{255} ... Final Answer: The final answer is $10,455$. I hope it is correct.",
            "final answer is",
            "10,455",
        ),
        ("**Final Answer**\n\\boxed{189}", "box", "189"),
        ("2 + 3 = 5. The answer is 5.", "answer is", "5"),
        ("The answer is:\n\\[\n12\n\\]", "answer is", "12"),
        ("3 * 5 = <<3*5=15>>15\nA: 15", "answer is", "15"),
        ("Answer: $3 a day", "answer is", "$3 a day"),
        ("x+1", "whole text", "x+1"),
        (r"\frac{64}{400}", "whole text", r"\frac{64}{400}"),
        ("so it costs $18.", "last number", "$18"),
        ("Thus the slope is $\\frac{2}{3}$.", "last formula", r"\frac{2}{3}"),
        ("no idea", "last words", "no idea"),
        ("The final answer is -5.", "final answer is", "-5"),
        ("Final Answer: (-6, 10)", "final answer is", "(-6, 10)"),
        (r"**Final Answer:** $\frac{7}{2}$", "final answer is", r"\frac{7}{2}"),
        ("### Final Answer\n\n$$-5$$", "final answer is", "-5"),
        ("**Final Answer**\n\\[ -\\frac{1}{2} \\]", "final answer is", r"-\frac{1}{2}"),
        ("The final answer is .5", "final answer is", ".5"),
        ("The answer isn't 5", "answer is", "not 5"),
        ("The answer is 5? No, 6.", "answer is", "5? No, 6"),
        ('{"answer": 7}', "answer is", "7"),
        ("#### \\pi", "####", r"\pi"),
        ("It weighs 1.5e3 grams", "last number", "1.5e3"),
        ("The area is 7 m2", "last number", "7"),
        (r"\boxed{5}" + " \n" * 20_000, "box", "5"),
    ],
)
def test_each_rule_finds_its_answer(text, rule, answer):
    assert found(text, prefer_hashes=rule == "####") == (rule, answer)


def test_hashes_come_before_a_box_only_where_they_are_preferred():
    text = "#### 6\n" + r"but \boxed{7}"
    assert found(text, prefer_hashes=True) == ("####", "6")
    assert found(text, prefer_hashes=False) == ("box", "7")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>maybe \boxed{99}</think> The answer is 15.", "15"),
        (r"<think>\boxed{1}</think>" + "\n2", "2"),
        (r"<think>\boxed{3}</think>" + "\nI hope this helps", "3"),
        (r"<think>so \boxed{4}</think>", "4"),
        ("<think>10 - 5 = 5\n<answer>5</answer>", "5"),
    ],
)
def test_what_follows_a_thought_counts_before_it(text, answer):
    assert final_answer(text, prefer_hashes=False).text == answer


@pytest.mark.parametrize("kind", ["", "latex", "math", "json", "text"])
def test_a_fence_around_an_answer_that_is_no_program_hides_nothing(kind):
    assert found(f"```{kind}\n\\boxed{{7}}\n```") == ("box", "7")
    assert found(f"```{kind}\n\\boxed{{7}}\nand no end") == ("box", "7")


def test_a_programs_code_is_no_answer_but_its_output_is_unless_text_follows():
    code = "```python\nx = 42  # the answer is 41\nprint(x)\n```\n"
    output = "```output\n42\n```\n"
    assert found(code + output) == ("output", "42")
    assert found(code + output + "He has 43 apples.") == ("last number", "43")
    assert found(code) is None
    assert found("```python\nx = 42") is None
    assert found(code + "```output\nNameError: name x\n```") is None


@pytest.mark.parametrize("text", ["", "   ", "\0", "$$", "```", "<|im_end|>"])
def test_a_text_without_an_answer_has_none(text):
    assert found(text) in (None, ("whole text", "$$"))


@pytest.mark.parametrize("answer", ["The answer is 8.", r"It is \boxed{8}.", "#### 8"])
@pytest.mark.parametrize("mark", ["Q: ", "Human: ", "User: ", "### Instruction:\n", "## Problem 2: "])
def test_questions_that_a_base_model_adds_after_its_answer_do_not_count(answer, mark):
    text = answer + f"\n\n{mark}And twice that?\nA: The answer is 16.\n#### 16"
    assert final_answer(text, prefer_hashes=True).text == "8"
    assert final_answer("Question: what?\n" + answer, prefer_hashes=True).text == "8"


def test_an_empty_box_is_found_empty_rather_than_skipped():
    assert found(r"5, so \boxed{}") == ("box", "")


def test_boxes_joined_at_the_end_are_offered_as_a_list():
    answer = final_answer(r"$\boxed{1}$ and $\boxed{2}$", prefer_hashes=False)
    assert (answer.text, answer.joined) == ("2", "1, 2")
    assert final_answer(r"\boxed{1} is wrong. It is \boxed{2}", prefer_hashes=False).joined is None


def test_formulas_joined_at_the_end_are_offered_as_a_list():
    assert final_answer("The solutions are $x=1$ and $x=2$.", prefer_hashes=False).joined == "x=1, x=2"


def test_what_a_calculator_wrote_is_not_the_answer():
    assert found("She has 2+3=<<2+3=5>> apples: five of them") != ("last number", "5")
    assert found("9*2 = <<9*2=18>>18") == ("whole text", "9*2 = 18")


def test_a_sentence_is_also_read_as_its_number():
    answer = final_answer("Final Answer: Jane started 3 hours ago.", prefer_hashes=False)
    assert answer.readings == ("Jane started 3 hours ago", "3")
    assert final_answer("The answer is 5 times 3 = 15 apples.", prefer_hashes=True).readings[-1] == "15"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("18", "18"),
        ("He makes 9*2=18.\n#### 18", "18"),
        (r"We get $x=2$, or $\boxed{\frac{1}{5}}$ of it.", r"\frac{1}{5}"),
        ("$125$ miles", "$125$ miles"),
        ("The answer is $3$.", "3"),
        (r"\boxed{1} no no no no no \boxed{2}", "2"),
        (r"the answer should be \\boxed{004}", "004"),
        ("", ""),
    ],
)
def test_a_gold_may_be_a_whole_solution(gold, answer):
    assert gold_answer(gold) == answer


@pytest.mark.parametrize(
    ("text", "is_marked"),
    [
        ("#### 5", True),
        (r"\boxed{5}", True),
        ("####", False),
        (r"\boxed{}", False),
        ("the answer is 5", False),
        ("", False),
    ],
)
def test_a_mark_is_hashes_or_a_box_with_something_in_it(text, is_marked):
    assert has_marked_answer(text) == is_marked


@pytest.mark.parametrize(
    "part",
    [
        "\\boxed{",
        "\\boxed{\n",
        "\\[",
        "\\(",
        "\n",
        "\n ",
        "</think>",
        "$",
        "answer: \n",
        "<answer>",
        "[asy]",
        " ",
        "####",
        "```",
        "1,",
        "final answer",
        "((",
        "\\text{",
    ],
)
def test_a_megabyte_of_anything_costs_little(part):
    text = part * (1_000_000 // len(part)) + "x"
    start = time.process_time()
    final_answer(text, prefer_hashes=False)
    gold_answer(text[:32_000])
    assert time.process_time() - start < 0.6  # a pattern that is quadratic in 32,000 characters takes more

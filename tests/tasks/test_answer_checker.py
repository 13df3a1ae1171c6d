"""Whole verdicts on completions with real workers: families of formats, limits, what is counted and left behind."""

import time
from pathlib import Path

import pytest

from rlvr_jax.tasks.answer_checker import AnswerChecker

FAMILIES = {  # (task, gold): (right, wrong)
    ("gsm8k", "18"): (
        [
            "#### 18",
            "The answer is 18.",
            "9 * 2 = <<9*2=18>>18\nA: 18",
            "so she makes $18 every day",
            r"\boxed{18}",
            "**18**",
            "```output\n18.0\n```\nShe makes $18.00.",
            "Answer: 18 dollars",
            "It is 10 + 8 = 18",
            "eighteen? #### 18",
            "The final answer is: 18",
            "<think>#### 17</think> So 18.",
        ],
        [
            "#### 81",
            "18 + 2 = 20",
            "18\n#### 20",
            r"\boxed{}",
            "",
            "18,000",
            "#### -18",
            "```python\nx = 18",
            "#### 18 or 19",
            "The answer is not 18.",
        ],
    ),
    ("gsm8k", "4"): (
        [
            r"\boxed{\frac{8}{2}}",
            r"\sqrt{16}",
            "Therefore $x = 4$.",
            r"2 \times 2",
            "+4",
            r"\lim_{x\to 0}\frac{4x}{x} = 4",
        ],
        ["4 or 5", "4x", r"\boxed{\frac{4}{3}}", "NaN", "[]", "4.5"],
    ),
    ("math", r"\frac{1}{2}"): (
        [
            r"\boxed{\dfrac12}",
            "0.5",
            "$x = 1/2$",
            r"\frac{1}{\sqrt{4}}",
            "2^{-1}",
            r"50\%",
            "Final Answer: The final answer is $\\frac12$. I hope it is correct.",
        ],
        [r"\frac{1}{3}", "2", "-1/2", "1,2", r"\boxed{12}"],
    ),
    ("math", "12"): (
        [
            r"\boxed{12",
            r"\fbox{12}",
            r"\boxed{4}. No wait, \boxed{12}",
            "The answer is:\n\n$$12$$",
            "## Answer\n\n12",
            r"\boxed{12 \text{ apples}}",
            r"\boxed{12}<|im_end|>",
            "12 is the answer",
        ],
        [
            r"\boxed{12}, I mean \boxed{13}",
            r"\boxed{1 2 3}",
            r"\boxed{12, 13}",
            "I think 12 or 13",
            r"\boxed{12!}",
            "112",
        ],
    ),
    ("math", "1,2"): (
        [
            r"\{2,1\}",
            r"\boxed{1} \text{ and } \boxed{2}",
            r"\boxed{9, 10}, \boxed{\sqrt{4}, 1^3}",
            "x=1 or x=2",
            r"x = \frac{3 \pm 1}{2}",
        ],
        ["1", "2", "12", "1,2,3", "(1,2,3)"],
    ),
    ("math", "2"): ([r"\boxed{1} and \boxed{2}", r"1+1 = \boxed{2}"], [r"\boxed{2}. So \boxed{1}"]),
    ("math", r"[-1,\infty)"): (
        [r"x \ge -1", r"\left[-1, \infty\right)", "[-1, ∞)", r"-1 \leq x"],
        [r"(-1,\infty)", "x > -1", r"[1,\infty)", "-1"],
    ),
    ("math", r"We add, and so $p = \boxed{x^2-1}$."): ([r"(x-1)(x+1)", "p = -1 + x^2"], ["x^2+1", "x^2", "0"]),
}


@pytest.fixture(scope="module")
def checkers():
    checkers = {task: AnswerChecker(task, policy=(), limit_s=30.0, n_processes=1) for task in ("gsm8k", "math")}
    yield checkers
    for checker in checkers.values():
        checker.close()


@pytest.mark.parametrize(("task", "gold"), FAMILIES)
def test_every_form_of_the_right_answer_is_correct_and_none_of_the_wrong(checkers, task, gold):
    right, wrong = FAMILIES[task, gold]
    verdicts = checkers[task].check([(completion, gold) for completion in (*right, *wrong)])
    accepted = [text for text, verdict in zip((*right, *wrong), verdicts, strict=True) if verdict.is_correct]
    assert accepted == right


def test_a_verdict_says_what_was_found_and_how(checkers):
    [equal, other, by_algebra, none] = checkers["math"].check(
        [(r"\boxed{0.5}", "1/2"), ("The answer is 3.", "4"), (r"\boxed{(x+1)^2}", "x^2+2x+1"), ("", "5")]
    )
    assert (equal.extracted, equal.canonical, equal.reason) == ("0.5", "1/2", "box: equal")
    assert (other.extracted, other.canonical, other.reason) == ("3", "3", "answer is: different")
    assert by_algebra.reason == "box: equal by algebra"
    assert by_algebra.canonical == "x^2+2x+1"  # the gold's, so that all correct answers vote together
    assert (none.is_correct, none.extracted, none.canonical, none.reason) == (False, None, None, "no answer")


def test_numbers_start_no_worker():
    checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
    assert [v.is_correct for v in checker.check([("#### 7", "7"), ("so 4 blue and 6 red", "10")])] == [True, False]
    assert checker._pool is None


def test_only_marked_answers_count_under_that_policy():
    checker = AnswerChecker("math", policy=("marked_only",), limit_s=1.0, n_processes=1)
    verdicts = checker.check([("so it is 5", "5"), (r"\boxed{5}", "5"), ("the answer is 5", "5")])
    assert [v.is_correct for v in verdicts] == [False, True, True]
    assert verdicts[0].reason == "no marked answer, only a last number"


def test_a_comparison_past_its_time_is_wrong_and_counted_and_the_next_one_works():
    checker = AnswerChecker("math", policy=(), limit_s=1e-6, n_processes=1)
    [verdict] = checker.check([("(x+1)^2", "x^2+2x+1")])
    assert (verdict.is_correct, checker.n_timeouts) == (False, 1)
    assert verdict.reason == "whole text: took longer than 1e-06 s"
    pids = [process.pid for process in checker._pool._processes]
    checker.check([("(x+1)^2", "x^2+2x+1")])
    assert checker.n_timeouts == 1  # known by now
    checker.close()
    time.sleep(0.1)
    assert [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}",
        "(((9!)!)!)!",
        "9" * 100000 + "!",
        "{" * 5000,
        "}" * 5000 + r"\boxed{",
        "٣٤",
        "5\x00\x00",
        "�",
        "x" * 1000000,
        r"\frac{1}{" * 500,
        r"\begin{pmatrix}" * 100,
        "$" * 999,
        "\\" * 999,
        r"\boxed{\boxed{" * 99,
    ],
)
def test_hostile_texts_are_wrong_at_once(checkers, text):
    start = time.monotonic()
    verdicts = checkers["math"].check([(wrapped, "5") for wrapped in (text, rf"\boxed{{{text}}}", f"${text}$")])
    assert time.monotonic() - start < 10.0
    assert [v.is_correct for v in verdicts] == [text == "5\0\0"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "aime"}, "answers of task 'aime' cannot be checked; the tasks are gsm8k, math"),
        ({"limit_s": 0.0}, "the time limit of one comparison, 0.0 s, must be above 0"),
        ({"n_processes": 0}, "the number of worker processes, 0, must be at least 1"),
        ({"policy": ("lenient",)}, "answer policy 'lenient' does not exist"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    settings = {"task": "math", "policy": (), "limit_s": 1.0, "n_processes": 1} | options
    with pytest.raises(ValueError, match=message):
        AnswerChecker(settings.pop("task"), **settings)

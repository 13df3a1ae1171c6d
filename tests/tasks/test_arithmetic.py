"""Sums, differences and products: wording, answers, the split and the demonstrations."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from rlvr_jax.tasks.arithmetic import DigitArithmetic, SentenceArithmetic, first_integer

OPERATION = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def all_problems(task):
    train = [task.train_problem(i) for i in range(task.n_train)]
    return train + [task.heldout_problem(i) for i in range(task.n_heldout)]


def problem_asking(task, prompt):
    (found,) = [problem for problem in all_problems(task) if problem.prompt == prompt]
    return found


def heldout_contents(task):
    return {task.heldout_problem(i).content for i in range(task.n_heldout)}


SENTENCES = SentenceArithmetic(operators="+-*", operand_min=0, operand_max=20)
DIGITS = DigitArithmetic(operators="+-", operand_min=0, operand_max=99)


@pytest.mark.parametrize(
    ("text", "integer"),
    [
        ("19", 19),
        (" 19. And 20", 19),
        ("is -5", -5),
        ("3-5", 3),  # the minus is an operator, not a sign
        ("-3-5", -3),
        ("x-5", -5),
        ("12.5", 12),
        ("007", 7),
        ("-0", 0),
        ("no digits", None),
        ("-", None),
        ("", None),
        ("٣", None),  # an Arabic three: only ASCII digits are looked at
        ("9" * 400, 10**400 - 1),
        ("9" * 401, None),
        ("1" * 5_000, None),  # int() itself would refuse this one
    ],
)
def test_the_first_integer_of_a_text(text, integer):
    assert first_integer(text) == integer


def test_a_sentence_and_its_answer():  # 7 + 12 = 19
    problem = problem_asking(SENTENCES, "Calculate: 7 + 12 = ")
    assert (problem.answer, problem.content) == ("19", "7+12")


def test_a_sentence_may_have_a_negative_answer():
    problem = problem_asking(SENTENCES, "Calculate: 3 - 5 = ")
    assert (problem.answer, problem.content) == ("-2", "3-5")


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("07+12=", "910"),  # 19 is 019, from its last digit on
        ("99+99=", "891"),  # 198
        ("12-07=", "500"),  # 5 is 005
        ("00+00=", "000"),
    ],
)
def test_digits_are_answered_least_significant_first(prompt, answer):
    assert problem_asking(DIGITS, prompt).answer == answer


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
def test_every_answer_is_the_result_of_its_prompt(task):
    for problem in all_problems(task):
        if task is SENTENCES:
            left, operator, right = problem.prompt.removeprefix("Calculate: ").removesuffix(" = ").split(" ")
            answer = int(problem.answer)
        else:
            left, operator, right = problem.prompt[:2], problem.prompt[2], problem.prompt[3:5]
            assert (len(problem.prompt), len(problem.answer)) == (6, 3)
            answer = int(problem.answer[::-1])
        assert answer == OPERATION[operator](int(left), int(right)), problem


@pytest.mark.parametrize(
    ("task", "n_problems"),
    [  # operands 2..5, so 4 x 4 pairs per operator; digits take differences with left >= right only: 4 + 3 + 2 + 1
        (SentenceArithmetic(operators="+-*", operand_min=2, operand_max=5), 48),
        (DigitArithmetic(operators="+-", operand_min=2, operand_max=5), 26),
        (DigitArithmetic(operators="+", operand_min=2, operand_max=5), 16),
    ],
)
def test_all_pairs_of_operands_occur_once(task, n_problems):
    problems = all_problems(task)
    assert task.n_train + task.n_heldout == n_problems
    assert len({problem.prompt for problem in problems}) == n_problems


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
def test_no_heldout_content_is_trained_on(task):
    trained = {task.train_problem(i).content for i in range(task.n_train)}
    assert trained
    assert heldout_contents(task)
    assert trained & heldout_contents(task) == set()


def test_a_sum_is_one_content_in_either_order_and_a_difference_is_not():
    content = {problem.prompt: problem.content for problem in all_problems(SENTENCES)}
    assert content["Calculate: 12 + 7 = "] == content["Calculate: 7 + 12 = "]
    assert content["Calculate: 12 * 7 = "] == content["Calculate: 7 * 12 = "]
    assert content["Calculate: 12 - 7 = "] != content["Calculate: 7 - 12 = "]


def test_about_one_problem_in_ten_is_held_out():  # 10,100 contents: one standard deviation is 0.3 points
    assert 0.08 < DIGITS.n_heldout / (DIGITS.n_train + DIGITS.n_heldout) < 0.12


def test_a_wider_range_of_operands_moves_no_problem_across_the_split():
    small = SentenceArithmetic(operators="+", operand_min=0, operand_max=10)
    small_contents = {problem.content for problem in all_problems(small)}
    assert heldout_contents(small) == heldout_contents(SENTENCES) & small_contents


def test_the_heldout_problems_are_those_of_the_runs_reported_so_far():
    assert [SENTENCES.heldout_problem(i).content for i in range(4)] == ["1-9", "5+5", "1+16", "7+16"]
    assert [DIGITS.heldout_problem(i).content for i in range(4)] == ["10+56", "28+34", "83-35", "27+83"]


def test_both_wordings_hold_out_the_same_sums():
    digits = DigitArithmetic(operators="+", operand_min=0, operand_max=20)
    sentences = SentenceArithmetic(operators="+", operand_min=0, operand_max=20)
    assert heldout_contents(digits) == heldout_contents(sentences)


def test_the_first_heldout_problems_are_a_fair_sample_of_all():
    def mean_operand(n):
        prompts = [DIGITS.heldout_problem(i).prompt for i in range(n)]
        return np.mean([int(prompt[:2]) for prompt in prompts]), np.mean(["-" in prompt for prompt in prompts])

    (left_200, differences_200), (left_all, differences_all) = mean_operand(200), mean_operand(DIGITS.n_heldout)
    # four standard errors of 200 draws, doubled variance because a sum may come in both orders
    assert abs(left_200 - left_all) < 4 * 29 * (2 / 200) ** 0.5
    assert abs(differences_200 - differences_all) < 4 * 0.5 * (2 / 200) ** 0.5


def test_a_sum_and_its_mirror_image_are_neighbours_no_more_often_than_by_chance():
    contents = [DIGITS.heldout_problem(i).content for i in range(DIGITS.n_heldout)]
    n_pairs = len(contents) - len(set(contents))  # of a + b and b + a
    n_neighbours = sum(left == right for left, right in itertools.pairwise(contents))
    assert n_pairs > 300
    # a pair takes neighbouring places with chance 2 / n: about 1 pair in all; Poisson, four standard deviations
    by_chance = 2 * n_pairs / len(contents)
    assert n_neighbours <= by_chance + 4 * by_chance**0.5


def test_the_problems_are_the_same_in_every_process():
    code = (
        "from rlvr_jax.tasks.arithmetic import DigitArithmetic\n"
        "task = DigitArithmetic(operators='+-', operand_min=0, operand_max=9)\n"
        "print([task.train_problem(i).prompt for i in range(task.n_train)])\n"
        "print([task.heldout_problem(i).prompt for i in range(task.n_heldout)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
def test_there_is_no_problem_after_the_last(task):
    with pytest.raises(IndexError):
        task.train_problem(task.n_train)
    with pytest.raises(IndexError):
        task.heldout_problem(task.n_heldout)


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
@pytest.mark.parametrize("index", [-1, -2])
def test_there_is_no_problem_before_the_first(task, index):
    for problem in (task.train_problem, task.heldout_problem):
        with pytest.raises(IndexError, match=f"problem {index}: problems are counted from 0"):
            problem(index)


@pytest.mark.parametrize(
    ("task", "prompt", "completion", "correct"),
    [
        (SENTENCES, "Calculate: 7 + 12 = ", "19", 1.0),
        (SENTENCES, "Calculate: 7 + 12 = ", " 19.", 1.0),
        (SENTENCES, "Calculate: 7 + 12 = ", "19, not 20", 1.0),
        (SENTENCES, "Calculate: 7 + 12 = ", "20, not 19", 0.0),
        (SENTENCES, "Calculate: 7 + 12 = ", "-19", 0.0),
        (SENTENCES, "Calculate: 7 + 12 = ", "190", 0.0),
        (SENTENCES, "Calculate: 7 + 12 = ", "", 0.0),
        (SENTENCES, "Calculate: 3 - 5 = ", "-2", 1.0),
        (SENTENCES, "Calculate: 3 - 5 = ", "2", 0.0),
        (SENTENCES, "Calculate: 3 - 3 = ", "none", 0.0),  # no integer is not 0
        (DIGITS, "07+12=", "910", 1.0),
        (DIGITS, "07+12=", "019", 0.0),
        (DIGITS, "07+12=", "91", 0.0),
        (DIGITS, "07+12=", "9100", 0.0),
        (DIGITS, "07+12=", " 910", 0.0),
    ],
)
def test_the_reward_of_a_completion(task, prompt, completion, correct):
    grades = task.grade([problem_asking(task, prompt)], [[completion]])
    assert grades.named_rewards == {"correct": [[correct]]}
    assert grades.reward_PR == [[correct]]
    assert grades.is_correct_PR == [[bool(correct)]]


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
def test_grades_keep_the_places_of_prompts_and_completions(task):
    problems = [task.train_problem(i) for i in range(3)]
    (first, second, third) = (problem.answer for problem in problems)
    grades = task.grade(problems, [[first, "none"], ["none", second], [third, third]])
    np.testing.assert_array_equal(grades.reward_PR, np.array([[1, 0], [0, 1], [1, 1]], np.float32), strict=True)
    np.testing.assert_array_equal(grades.named_rewards["correct"], grades.reward_PR, strict=True)
    np.testing.assert_array_equal(grades.is_correct_PR, grades.reward_PR == 1, strict=True)
    assert grades.failures == ()


def test_as_many_rows_of_completions_as_problems_are_needed():
    with pytest.raises(ValueError, match="shorter"):
        DIGITS.grade([DIGITS.train_problem(0), DIGITS.train_problem(1)], [["000"]])


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
@pytest.mark.parametrize("p_correct", [0.0, 0.3, 1.0])
def test_demonstrations_are_right_as_often_as_asked(task, p_correct):
    rng, n = np.random.default_rng(0), 2_000
    problems = [task.train_problem(i % task.n_train) for i in range(n)]
    texts = [[task.demonstration(problem, rng, p_correct=p_correct)] for problem in problems]
    share = task.grade(problems, texts).is_correct_PR.mean()
    four_sd = 4 * (p_correct * (1 - p_correct) / n) ** 0.5
    assert abs(share - p_correct) <= four_sd  # exactly 0 and 1 at the ends


def test_a_wrong_sentence_is_off_by_one_to_five_in_either_direction():
    problem, rng = problem_asking(SENTENCES, "Calculate: 7 + 12 = "), np.random.default_rng(0)
    off = {int(SENTENCES.demonstration(problem, rng, p_correct=0.0)) - 19 for _ in range(500)}
    assert off == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5}


def test_a_wrong_row_of_digits_has_one_digit_replaced_by_any_other():
    problem, rng = problem_asking(DIGITS, "07+12="), np.random.default_rng(0)
    seen = {DIGITS.demonstration(problem, rng, p_correct=0.0) for _ in range(2_000)}
    one_replaced = {"910"[:i] + d + "910"[i + 1 :] for i in range(3) for d in "0123456789"} - {"910"}
    assert seen == one_replaced  # 27 of them


@pytest.mark.parametrize("task", [SENTENCES, DIGITS], ids=["arithmetic", "digits"])
def test_a_demonstration_is_a_function_of_its_generator(task):
    def texts(seed):
        rng = np.random.default_rng(seed)
        return [task.demonstration(task.train_problem(i), rng, p_correct=0.5) for i in range(100)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)

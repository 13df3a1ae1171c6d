"""What listed tasks share: how many problems, rewards of their own and of users, answers; and partial credit."""

import dataclasses

import numpy as np
import pytest

from rlvr_jax.tasks.arithmetic import DigitArithmetic, SentenceArithmetic
from rlvr_jax.tasks.listed_task import ONLY_CORRECT, number_credit
from rlvr_jax.tasks.rewards import RewardSettings


def sums(n_problems=0, **rewards):
    settings = dataclasses.replace(ONLY_CORRECT, **rewards)
    return SentenceArithmetic(operators="+-*", operand_min=0, operand_max=10, n_problems=n_problems, rewards=settings)


def prompts(task):
    return [task.train_problem(i).prompt for i in range(task.n_train)]


def heldout_prompts(task):
    return [task.heldout_problem(i).prompt for i in range(task.n_heldout)]


def asking(task, prompt):
    problems = [task.train_problem(i) for i in range(task.n_train)]
    problems += [task.heldout_problem(i) for i in range(task.n_heldout)]
    return {problem.prompt: problem for problem in problems}[prompt]


def test_fewer_problems_are_a_part_of_more_in_the_same_order():
    all_prompts, prompts_200, prompts_50 = prompts(sums()), prompts(sums(200)), prompts(sums(50))
    assert [len(prompts_200), len(prompts_50)] == [200, 50]
    assert prompts_200 == [prompt for prompt in all_prompts if prompt in set(prompts_200)]
    assert prompts_50 == [prompt for prompt in prompts_200 if prompt in set(prompts_50)]


def test_fewer_problems_are_a_fair_sample():  # three operators with a third of the problems each
    shown = prompts(sums(150))
    for operator in "+-*":
        share = np.mean([f" {operator} " in prompt for prompt in shown])
        assert abs(share - 1 / 3) < 4 * (2 / 9 / 150) ** 0.5


def test_the_heldout_problems_do_not_depend_on_how_many_are_trained_on():
    assert heldout_prompts(sums(50)) == heldout_prompts(sums())


def test_as_many_problems_as_there_are_is_all_of_them_and_one_more_is_refused():
    n = sums().n_train
    assert prompts(sums(n)) == prompts(sums())
    with pytest.raises(ValueError, match=rf"task.n_problems={n + 1} is more than the {n} training problems"):
        sums(n + 1)


@pytest.mark.parametrize(
    ("number", "credit"),
    [
        (20, 1.0),
        (19, 0.5), (21, 0.5),
        (18, 0.25), (22, 0.25), (15, 0.25), (25, 0.25),
        (14, -1.0), (26, -1.0), (-20, -1.0), (2_000, -1.0),
        (9, -0.5), (99, -0.5),
        (None, -1.0),
    ],
)  # fmt: skip
def test_the_credit_of_a_number_where_20_is_right_and_9_99_and_22_are_other_operations(number, credit):
    assert number_credit(number, 20, others=frozenset({9, 99, 22})) == credit  # 22 is off by 2, which comes first


@pytest.mark.parametrize(
    ("prompt", "completion", "credit"),
    [
        ("Calculate: 9 + 3 = ", "12", 1.0),
        ("Calculate: 9 + 3 = ", "so 11", 0.5),
        ("Calculate: 9 + 3 = ", "17", 0.25),
        ("Calculate: 9 + 3 = ", "6", -0.5),  # 9 - 3
        ("Calculate: 9 + 3 = ", "27", -0.5),  # 9 * 3
        ("Calculate: 9 + 3 = ", "18", -1.0),
        ("Calculate: 9 + 3 = ", "twelve", -1.0),
        ("Calculate: 3 - 9 = ", "-6", 1.0),
        ("Calculate: 3 - 9 = ", "6", -1.0),  # 9 - 3 is no operation of this order
        ("Calculate: 8 * 8 = ", "16", -0.5),
        ("Calculate: 8 * 8 = ", "0", -0.5),
    ],
)
def test_partial_credit_of_a_sum(prompt, completion, credit):
    task = sums(names=("partial",))
    grades = task.grade([asking(task, prompt)], [[completion]])
    assert grades.named_rewards == {"partial": [[credit]]}
    assert grades.reward_PR == [[credit]]
    assert grades.is_correct_PR == [[credit == 1.0]]


def test_partial_credit_of_digits_reads_them_backwards():
    task = DigitArithmetic(operators="+", operand_min=0, operand_max=20)
    problem = asking(task, "07+12=")  # 19 is "910"
    credits = [task.partial_credit(problem, task.final_answer(text)) for text in ("910", "810", "019", "91", "9100")]
    assert credits == [1.0, 0.5, -1.0, -1.0, -1.0]  # 19, 18, 910, nothing, nothing


def test_correct_is_what_the_answer_says_whatever_is_rewarded():
    task = sums(names=("partial", "correct"), weights=(0.25, 0.1))
    grades = task.grade([asking(task, "Calculate: 9 + 3 = ")], [["12", "11", "no"]])
    np.testing.assert_allclose(grades.named_rewards["partial"], [[1, 0.5, -1]])
    np.testing.assert_allclose(grades.named_rewards["correct"], [[1, 0, 0]])
    np.testing.assert_allclose(grades.reward_PR, [[0.35, 0.125, -0.25]], rtol=1e-6)
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, False, False]])
    assert grades.weights == {"partial": 0.25, "correct": 0.1}


def test_answers_are_what_a_majority_is_taken_of():
    task = sums()
    grades = task.grade([asking(task, "Calculate: 9 + 3 = ")], [["12", " 012 or 13", "-12", "none"]])
    assert grades.answers == (("12", "12", "-12", None),)


def test_a_users_reward_sees_the_operands(tmp_path, monkeypatch):
    (tmp_path / "operand_rewards.py").write_text(
        "def left_operand(completions, row):\n    return [float(row['left']) for _ in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    task = SentenceArithmetic(
        operators="+", operand_min=0, operand_max=10,
        rewards=RewardSettings(("operand_rewards:left_operand",), (), 1.0, 20.0, 1),
    )  # fmt: skip
    try:
        grades = task.grade([asking(task, "Calculate: 7 + 2 = ")], [["9", "8"]])
    finally:
        task.close()
    assert grades.failures == ()
    np.testing.assert_allclose(grades.reward_PR, [[7, 7]])
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, False]])


def test_problems_say_what_they_are():
    problem = asking(sums(), "Calculate: 8 * 8 = ")
    assert problem.categories == ("arithmetic", "multiplication")
    assert problem.row == {"task": "arithmetic", "operator": "*", "left": 8, "right": 8}

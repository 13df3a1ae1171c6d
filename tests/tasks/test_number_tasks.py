"""Counting, comparing and binary numbers: wording, answers, the split and the demonstrations."""

import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.tasks.number_tasks import TEXTS_PER_COUNT, Binary, Comparison, Counting

COUNTING = Counting(operand_min=0, operand_max=12)
COMPARISON = Comparison(operand_min=0, operand_max=20)
BINARY = Binary(operand_min=0, operand_max=99)
TASKS = [COUNTING, COMPARISON, BINARY]


def heldout(task):
    return [task.heldout_problem(i) for i in range(task.n_heldout)]


def everything(task):
    return [task.train_problem(i) for i in range(task.n_train)] + heldout(task)


def problem_asking(task, prompt):
    (found,) = [problem for problem in everything(task) if problem.prompt == prompt]
    return found


def slow_answer(prompt):
    """The answer, from the prompt alone."""
    words = prompt.replace("?", "").replace(":", "").split()
    if prompt.startswith("Count"):
        return str(len(words) - 4)
    if prompt.startswith("Is"):
        return "yes" if int(words[1]) > int(words[-1]) else "no"
    asked, to = words[1], words[-1]
    return {"binary": lambda: bin(int(asked))[2:], "decimal": lambda: str(int(asked, 2))}[to]()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_answer_is_that_of_its_prompt(task):
    problems = everything(task)
    assert all(problem.answer == slow_answer(problem.prompt) for problem in problems)
    assert len({problem.prompt for problem in problems}) == len(problems)
    assert max(len(problem.answer) for problem in problems) == task.longest_answer


@pytest.mark.parametrize(
    ("task", "n"),
    [
        (COMPARISON, 21 * 21),
        (BINARY, 2 * 100),
        (Counting(operand_min=3, operand_max=7), 5 * TEXTS_PER_COUNT),  # by chance no text comes twice
    ],
)
def test_how_many_problems_there_are(task, n):
    assert task.n_train + task.n_heldout == n


def test_a_wider_range_keeps_the_texts_of_every_count():
    small = {problem.prompt for problem in everything(Counting(operand_min=2, operand_max=4))}
    assert small < {problem.prompt for problem in everything(COUNTING)}
    small_heldout = {problem.prompt for problem in heldout(Counting(operand_min=2, operand_max=4))}
    assert small_heldout < {problem.prompt for problem in heldout(COUNTING)}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_heldout_content_is_trained_on(task):
    trained = {task.train_problem(i).content for i in range(task.n_train)}
    contents = {problem.content for problem in heldout(task)}
    assert trained
    assert contents
    assert not trained & contents


def test_both_orders_and_both_directions_are_one_content():
    content = {problem.prompt: problem.content for problem in everything(COMPARISON) + everything(BINARY)}
    assert content["Is 7 larger than 12? "] == content["Is 12 larger than 7? "]
    assert content["Write 5 in binary: "] == content["Write 101 in decimal: "]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_built_in_tokenizer_knows_every_character(task):
    tokenizer = CharTokenizer()
    for problem in everything(task):
        assert tokenizer.decode(tokenizer.encode_prompt(problem.prompt)) == problem.prompt


@pytest.mark.parametrize(
    ("task", "prompt", "completion", "correct", "partial"),
    [
        (COMPARISON, "Is 7 larger than 12? ", "no", 1, 1),
        (COMPARISON, "Is 7 larger than 12? ", " No.", 1, 1),
        (COMPARISON, "Is 7 larger than 12? ", "no, yes", 1, 1),
        (COMPARISON, "Is 7 larger than 12? ", "yes", 0, -1),
        (COMPARISON, "Is 7 larger than 12? ", "not", 0, -1),
        (COMPARISON, "Is 7 larger than 12? ", "", 0, -1),
        (COMPARISON, "Is 7 larger than 7? ", "no", 1, 1),
        (COMPARISON, "Is 12 larger than 7? ", "yes", 1, 1),
        (BINARY, "Write 5 in binary: ", "101", 1, 1),
        (BINARY, "Write 5 in binary: ", "0101", 1, 1),
        (BINARY, "Write 5 in binary: ", "5", 0, -1),
        (BINARY, "Write 5 in binary: ", "110", 0, -1),
        (BINARY, "Write 101 in decimal: ", "5", 1, 1),
        (BINARY, "Write 101 in decimal: ", "6", 0, -1),
        (BINARY, "Write 101 in decimal: ", "none", 0, -1),
    ],
)
def test_the_rewards_of_a_completion(task, prompt, completion, correct, partial):
    problem = problem_asking(task, prompt)
    assert task.is_correct(problem, completion) == bool(correct)
    assert task.partial_credit(problem, task.final_answer(completion)) == partial


def test_a_count_is_nearly_right_within_five():
    problem = next(problem for problem in everything(COUNTING) if problem.answer == "7")
    texts = ("7", "8 words", "6", "9", "12", "13", "1", "seven")
    credits = [COUNTING.partial_credit(problem, COUNTING.final_answer(text)) for text in texts]
    assert credits == [1, 0.5, 0.5, 0.25, 0.25, -1, -1, -1]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("p_correct", [0.0, 0.4, 1.0])
def test_demonstrations_are_right_as_often_as_asked_and_fit(task, p_correct):
    rng, n = np.random.default_rng(0), 1_000
    problems = [task.train_problem(i % task.n_train) for i in range(n)]
    texts = [task.demonstration(problem, rng, p_correct=p_correct) for problem in problems]
    right = np.mean([task.is_correct(problem, text) for problem, text in zip(problems, texts, strict=True)])
    assert abs(right - p_correct) <= 4 * (p_correct * (1 - p_correct) / n) ** 0.5
    assert max(map(len, texts)) <= task.longest_demonstration
    assert all(task.final_answer(text) is not None for text in texts)

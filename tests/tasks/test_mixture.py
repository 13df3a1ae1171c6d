"""Tasks drawn together and in stages: the split, the proportions, the grades."""

import collections
import dataclasses

import numpy as np
import pytest

from rlvr_jax.tasks.arithmetic import DigitArithmetic, SentenceArithmetic
from rlvr_jax.tasks.listed_task import ONLY_CORRECT
from rlvr_jax.tasks.mixture import Component, Mixture
from rlvr_jax.tasks.number_tasks import Comparison, Counting
from rlvr_jax.tasks.schedule import problem_index


def sums(operand_max, operators="+-"):
    return SentenceArithmetic(operators=operators, operand_min=0, operand_max=operand_max)


def part(task, weight=1.0):
    return Component(f"{task.name} {weight}", task, weight)


MIXED = [
    part(sums(20), 2),
    part(Counting(operand_min=1, operand_max=20)),
    part(Comparison(operand_min=0, operand_max=20)),
]


def mixture(*stages, stage_prompts=(), **rewards):
    settings = dataclasses.replace(ONLY_CORRECT, **rewards)
    return Mixture("mixture", stages, stage_prompts=stage_prompts, rewards=settings)


def drawn(task, counters):
    return [
        task.train_problem(problem_index(counter, task.n_train, seed=0, schedule=task.schedule)) for counter in counters
    ]


def heldout(task):
    return [task.heldout_problem(i) for i in range(task.n_heldout)]


def test_prompts_are_drawn_in_the_exact_proportions():
    task = mixture(MIXED)
    for first in (0, 40):
        kinds = collections.Counter(problem.categories[0] for problem in drawn(task, range(first, first + 40)))
        assert kinds == {"arithmetic": 20, "counting": 10, "comparison": 10}


def test_stages_follow_each_other_and_their_problems_are_numbered_once():
    task = mixture([part(sums(5, "+"))], [part(sums(5))], [part(sums(9))], stage_prompts=(30, 50))
    assert [stage.first_prompt for stage in task.schedule] == [0, 30, 80]
    assert task.n_train == sums(9).n_train  # the others are a part of it
    assert {problem.prompt for problem in drawn(task, range(30))} <= {
        f"Calculate: {a} + {b} = " for a in range(6) for b in range(6)
    }
    trained_9 = {problem.prompt for problem in drawn(task, range(80, 80 + sums(9).n_train))}
    assert len(trained_9) == sums(9).n_train


def test_no_content_is_trained_in_one_part_or_stage_and_held_out_in_another():
    digits = DigitArithmetic(operators="+-", operand_min=0, operand_max=20)
    task = mixture([part(sums(10)), part(digits)], [*MIXED, part(sums(10)), part(digits)], stage_prompts=(8,))
    trained = {task.train_problem(i).content for i in range(task.n_train)}
    assert not trained & {problem.content for problem in heldout(task)}


def test_what_is_held_out_is_of_the_last_stage():
    task = mixture([part(sums(20))], [part(sums(10))], stage_prompts=(8,))
    assert {p.prompt for p in heldout(task)} == {p.prompt for p in heldout(mixture([part(sums(10))]))}


def test_any_prefix_of_what_is_held_out_has_the_proportions():
    found = heldout(mixture(MIXED))
    for n in (4, 8, 20, 60):
        kinds = collections.Counter(problem.categories[0] for problem in found[:n])
        assert kinds == {"arithmetic": n // 2, "counting": n // 4, "comparison": n // 4}


def test_every_heldout_problem_of_every_part_is_there_once():
    prompts = [problem.prompt for problem in heldout(mixture([*MIXED, part(sums(10))]))]
    assert len(set(prompts)) == len(prompts)
    for component in MIXED:
        assert {problem.prompt for problem in heldout(component.task)} <= set(prompts)


def test_each_problem_is_graded_by_its_own_task():
    task = mixture(MIXED, names=("correct", "partial"), weights=(1.0, 0.5))
    by_kind = {problem.categories[0]: problem for problem in heldout(task)}
    order = ("comparison", "arithmetic", "counting")
    problems = [by_kind[kind] for kind in order]
    near = [str(int(by_kind[kind].answer) + 1) for kind in order[1:]]
    grades = task.grade(problems, [[problems[0].answer, "3"], [problems[1].answer, near[0]], ["yes", near[1]]])
    np.testing.assert_allclose(grades.named_rewards["correct"], [[1, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(grades.named_rewards["partial"], [[1, -1], [1, 0.5], [-1, 0.5]])
    np.testing.assert_allclose(grades.reward_PR, [[1.5, -0.5], [1.5, 0.25], [-0.5, 0.25]])
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, False], [True, False], [False, False]])
    assert grades.answers[0] == (problems[0].answer, None)


def test_demonstrations_are_those_of_the_tasks():
    task, rng = mixture(MIXED), np.random.default_rng(0)
    for problem in drawn(task, range(40)):
        assert task.demonstration(problem, rng, p_correct=1.0) == problem.answer
        wrong = task.demonstration(problem, rng, p_correct=0.0)
        assert len(wrong) <= task.longest_demonstration
        assert not task.grade([problem], [[wrong]]).is_correct_PR.any()


def test_a_part_without_problems_is_refused():
    empty = Counting(operand_min=5, operand_max=4)
    with pytest.raises(ValueError, match=r"'counting 1.0' has no training problem"):
        mixture([part(sums(5)), part(empty)])

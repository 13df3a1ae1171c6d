import dataclasses

import numpy as np
import pytest

from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.evaluate import build_evaluator


def test_evaluation_is_the_same_every_time_and_counts_what_it_samples(tiny_config, tiny_params):
    parts = assemble(tiny_config)
    evaluate = build_evaluator(tiny_config.eval, parts, tiny_config.sampling)
    first = evaluate(tiny_params)
    assert first == evaluate(tiny_params)
    means = {"greedy", "pass@1", "pass@4", "maj@1", "maj@4"}
    categories = ("digits", "addition")  # of sums with a plus
    means |= {f"{category}/{name}" for category in categories for name in ("greedy", "pass@1")}
    names = {f"{name}{suffix}" for name in means for suffix in ("", "_se")}
    names |= {"reward", "rewards/correct", "ungraded_frac", *(f"{category}/n" for category in categories)}
    assert set(first) == {f"eval/digits/{name}" for name in names}
    assert first["eval/digits/maj@1"] == first["eval/digits/pass@1"] == first["eval/digits/addition/pass@1"]
    assert first["eval/digits/ungraded_frac"] == 0
    assert first["eval/digits/pass@1"] * 12 == pytest.approx(round(first["eval/digits/pass@1"] * 12))  # of 3 x 4
    assert first["eval/digits/pass@1"] <= first["eval/digits/pass@4"]


class EvenFirstDigit:
    """The task with another idea of right: about half of all draws are, and draws of one problem differ."""

    def __init__(self, task, *, n_ungraded=0):
        self.name, self.heldout_problem, self.n_ungraded = task.name, task.heldout_problem, n_ungraded
        self.n_heldout = task.n_heldout

    def grade(self, problems, completion_texts):
        is_correct_PR = np.array([[text[:1] in tuple("02468") for text in row] for row in completion_texts])
        reward_PR = is_correct_PR.astype(np.float32)
        if self.n_ungraded:
            reward_PR[: self.n_ungraded], is_correct_PR[: self.n_ungraded] = np.nan, False
        return Grades({"even": reward_PR}, reward_PR, is_correct_PR, failures=("no",) * self.n_ungraded)


def test_samples_are_drawn_at_the_temperature_of_the_config(tiny_config, tiny_params):
    parts = assemble(tiny_config)
    parts = dataclasses.replace(parts, task=EvenFirstDigit(parts.task))

    def evaluated(temperature):
        tiny_config.eval.temperature = temperature
        return build_evaluator(tiny_config.eval, parts, tiny_config.sampling)(tiny_params)

    cold, warm = evaluated(1e-3), evaluated(1.0)
    assert cold["eval/digits/pass@1"] == cold["eval/digits/pass@4"] == cold["eval/digits/greedy"]
    assert warm["eval/digits/pass@1"] < warm["eval/digits/pass@4"]


def test_problems_that_cannot_be_graded_count_as_wrong_and_are_reported(tiny_config, tiny_params):
    parts = assemble(tiny_config)
    parts = dataclasses.replace(parts, task=EvenFirstDigit(parts.task, n_ungraded=3))
    got = build_evaluator(tiny_config.eval, parts, tiny_config.sampling)(tiny_params)
    assert got["eval/digits/ungraded_frac"] == 1.0
    assert got["eval/digits/greedy"] == got["eval/digits/pass@4"] == 0.0


def test_no_number_of_problems_means_all_held_out_ones(tiny_config, tiny_params):
    tiny_config.eval.n_problems = 0
    parts = assemble(tiny_config)
    asked = []

    class Counting(EvenFirstDigit):
        def grade(self, problems, completion_texts):
            asked.append([problem.prompt for problem in problems])
            return super().grade(problems, completion_texts)

    build_evaluator(tiny_config.eval, dataclasses.replace(parts, task=Counting(parts.task)), tiny_config.sampling)(
        tiny_params
    )
    everything = [parts.task.heldout_problem(i).prompt for i in range(parts.task.n_heldout)]
    assert asked == [everything, everything]

import dataclasses
import itertools
import math

import numpy as np
import pytest

from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.evaluate import build_evaluator, mean_and_se, pass_at_k


def slow_pass_at_k(n_correct: int, n_samples: int, k: int) -> float:
    """The share of all k-subsets of the samples that hold a right one."""
    is_right = [True] * n_correct + [False] * (n_samples - n_correct)
    subsets = list(itertools.combinations(is_right, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_counts_subsets_without_replacement(k):
    n_correct_P = np.array([0, 1, 2, 5])
    expected = [slow_pass_at_k(c, 5, k) for c in n_correct_P]
    value, se = pass_at_k(n_correct_P, n_samples=5, k=k)
    assert value == pytest.approx(np.mean(expected))
    assert se == pytest.approx(np.std(expected, ddof=1) / 2)  # sqrt(4 problems)


def test_pass_at_k_is_unbiased():
    # each sample right with probability 0.3: any-of-2 is 1 - 0.7^2
    rng = np.random.default_rng(0)
    value, se = pass_at_k(rng.binomial(6, 0.3, 20_000), n_samples=6, k=2)
    assert value == pytest.approx(0.51, abs=4 * se)
    assert se < 0.005


def test_more_tries_than_samples_are_refused():
    with pytest.raises(ValueError, match="pass@9 needs 1 <= k <= n_samples=8"):
        pass_at_k(np.array([1]), n_samples=8, k=9)


def test_one_problem_has_no_standard_error():
    assert math.isnan(mean_and_se(np.array([1.0]))[1])


def test_evaluation_is_the_same_every_time_and_counts_what_it_samples(tiny_config, tiny_params):
    parts = assemble(tiny_config)
    evaluate = build_evaluator(tiny_config.eval, parts, tiny_config.sampling)
    first = evaluate(tiny_params)
    assert first == evaluate(tiny_params)
    names = {f"eval/digits/{name}{suffix}" for name in ("greedy", "pass@1", "pass@4") for suffix in ("", "_se")}
    assert set(first) == names | {"eval/digits/ungraded_frac"}
    assert first["eval/digits/ungraded_frac"] == 0
    assert first["eval/digits/pass@1"] * 12 == pytest.approx(round(first["eval/digits/pass@1"] * 12))  # of 3 x 4
    assert first["eval/digits/pass@1"] <= first["eval/digits/pass@4"]


class EvenFirstDigit:
    """The task with another idea of right: about half of all draws are, and draws of one problem differ."""

    def __init__(self, task, *, n_ungraded=0):
        self.name, self.heldout_problem, self.n_ungraded = task.name, task.heldout_problem, n_ungraded

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

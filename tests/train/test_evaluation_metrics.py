"""Metrics of an evaluation against numbers worked by hand and slow counting."""

import itertools
import math

import numpy as np
import pytest

from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train.evaluation_metrics import evaluation_metrics, mean_and_se, pass_at_k


def slow_pass_at_k(n_correct: int, n_samples: int, k: int) -> float:
    """The share of all k-subsets of the samples that hold a right one."""
    is_right = [True] * n_correct + [False] * (n_samples - n_correct)
    subsets = list(itertools.combinations(is_right, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_counts_subsets_without_replacement(k):
    expected_P = [slow_pass_at_k(c, 5, k) for c in (0, 1, 2, 5)]
    np.testing.assert_allclose(pass_at_k(np.array([0, 1, 2, 5]), n_samples=5, k=k), expected_P, atol=1e-12)


def test_pass_at_k_is_unbiased():
    # each sample right with probability 0.3: any-of-2 is 1 - 0.7^2
    rng = np.random.default_rng(0)
    value, se = mean_and_se(pass_at_k(rng.binomial(6, 0.3, 20_000), n_samples=6, k=2))
    assert value == pytest.approx(0.51, abs=4 * se)
    assert se < 0.005


def test_more_tries_than_samples_are_refused():
    with pytest.raises(ValueError, match="pass@9 needs 1 <= k <= n_samples=8"):
        pass_at_k(np.array([1]), n_samples=8, k=9)


def test_a_standard_error_is_over_problems():
    # 0, 1, 1, 0: variance 4 * 0.25 / 3, over 4 problems
    assert mean_and_se(np.array([0, 1, 1, 0])) == (0.5, pytest.approx(math.sqrt(1 / 3 / 4)))
    assert math.isnan(mean_and_se(np.array([1.0]))[1])


def problem(*categories):
    return Problem("2+2=", "4", "2+2", categories=categories)


def grades(is_correct_PR, answers=None, *, ungraded=()):
    is_correct_PR = np.array(is_correct_PR, bool)
    reward_PR = is_correct_PR.astype(np.float32)
    for place in ungraded:
        reward_PR[place] = np.nan
    return Grades({}, reward_PR, is_correct_PR, (), answers)


PROBLEMS = [problem("level_1", "algebra"), problem("level_1"), problem("level_5", "algebra"), problem()]
GREEDY = grades([[1], [0], [1], [1]])
SAMPLED = [[1, 1], [0, 1], [0, 0], [1, 0]]


def test_categories_are_broken_down_and_a_problem_counts_in_each_of_its_own():
    got = evaluation_metrics(PROBLEMS, GREEDY, grades(SAMPLED), k=(1, 2))
    assert (got["greedy"], got["pass@1"], got["pass@2"]) == (0.75, 0.5, 0.75)
    by_hand = {"level_1": (0.5, 0.75, 2), "level_5": (1.0, 0.0, 1), "algebra": (1.0, 0.5, 2)}
    for name, numbers in by_hand.items():
        assert (got[f"{name}/greedy"], got[f"{name}/pass@1"], got[f"{name}/n"]) == numbers
    assert got["level_1/pass@1_se"] == 0.25  # 1 and 0.5: a spread of sqrt(1/8) over sqrt(2)
    assert math.isnan(got["level_5/greedy_se"])
    assert not any(name.startswith("maj@") for name in got)  # the task names no answers


def test_majorities_are_counted_where_the_task_names_answers():
    answers = (("4", "4"), ("5", "4"), ("1", "2"), ("4", None))
    got = evaluation_metrics(PROBLEMS, GREEDY, grades(SAMPLED, answers), k=(1, 2))
    assert got["maj@1"] == 0.5  # as pass@1
    assert got["maj@2"] == (1 + 0.5 + 0 + 1) / 4  # a tie of a right and a wrong one, and one that does not vote
    assert got["maj@2_se"] == pytest.approx(np.std([1, 0.5, 0, 1], ddof=1) / 2)


def test_problems_with_an_ungraded_completion_are_counted():
    # the first of greedy alone, the second of the samples alone, the fourth of both
    greedy, sampled = (
        grades([[0], [0], [1], [0]], ungraded=[(0, 0), (3, 0)]),
        grades(SAMPLED, ungraded=[(3, 1), (1, 0)]),
    )
    assert evaluation_metrics(PROBLEMS, greedy, sampled, k=(1,))["ungraded_frac"] == 0.75

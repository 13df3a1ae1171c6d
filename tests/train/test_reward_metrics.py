"""Metrics and tables of a collection, by hand: an ungraded prompt, a masked rollout, a prompt drawn twice."""

import dataclasses
import warnings

import numpy as np
import pytest

from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.reward_metrics import completion_rows, prompt_rows, reward_metrics

NAN = np.nan


def make_collection(correct_PR, *, format_PR=None, overlong_PR=None, kept_PR=None, length_PR=None, prompts=None):
    """Rewards of `correct` plus half of `format`; a prompt with a NaN in either could not be graded."""
    correct_PR = np.array(correct_PR, np.float32)
    P, R = correct_PR.shape
    format_PR = np.zeros((P, R), np.float32) if format_PR is None else np.array(format_PR, np.float32)
    reward_PR = correct_PR + np.float32(0.5) * format_PR
    length_PR = np.ones((P, R), np.int32) if length_PR is None else np.array(length_PR, np.int32)
    kept_PR = np.isfinite(reward_PR) if kept_PR is None else np.array(kept_PR, bool)
    prompts = prompts or [f"prompt {p}" for p in range(P)]
    collection = Collection(
        problems=[Problem(prompt, f"answer of {prompt}", prompt) for prompt in prompts],
        rollouts=Rollouts(
            prompt_PS=np.ones((P, 2), np.int32),
            prompt_length_P=np.full(P, 2, np.int32),
            completion_PRT=np.ones((P, R, 4), np.int32),
            completion_length_PR=length_PR,
            is_truncated_PR=length_PR == 4,
            behavior_logprob_PRT=np.zeros((P, R, 4), np.float32),
            n_decode_steps=np.int32(4),
        ),
        completion_texts=[[f"text {p}{r}" for r in range(R)] for p in range(P)],
        grades=Grades(
            {"correct": correct_PR, "format": format_PR},
            reward_PR,
            correct_PR == 1,
            failures=tuple(f"prompt {p}" for p in np.flatnonzero(np.isnan(reward_PR).any(axis=1))),
            weights={"format": 0.5},
        ),
        penalties={} if overlong_PR is None else {"overlong": np.array(overlong_PR, np.float32)},
        is_kept_PR=kept_PR,
        n_prompts_drawn=P,
        n_effective_drawn=0,
        n_ungraded_drawn=int(np.isnan(reward_PR).sum()),
        n_tokens=0,
    )
    return dataclasses.replace(collection, n_effective_drawn=int(collection.is_effective_P.sum()))


def metrics_of(collection):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an average of nothing warns
        return reward_metrics(collection)


def test_what_a_task_counts_is_logged_as_health():
    collection = make_collection([[1, 0]])
    assert "health/verifier_timeouts" not in metrics_of(collection)
    grades = dataclasses.replace(collection.grades, counts={"verifier_timeouts": 3})
    assert metrics_of(dataclasses.replace(collection, grades=grades))["health/verifier_timeouts"] == 3


# five prompts, two rollouts each: rewards with their penalty
#   1.5  0     unequal
#   1    1
#   -    -     could not be graded
#   0.5 (-1)   the second is masked
#   0    0     the same prompt as the second
HARD = make_collection(
    [[1, 0], [1, 1], [0, 1], [0, 0], [0, 0]],
    format_PR=[[1, 1], [0, 0], [NAN, NAN], [1, 0], [0, 0]],
    overlong_PR=[[0, -0.5], [0, 0], [0, 0], [0, -1], [0, 0]],
    kept_PR=[[1, 1], [1, 1], [0, 0], [1, 0], [1, 1]],
    length_PR=[[2, 3], [1, 3], [2, 2], [3, 4], [3, 3]],
    prompts=["a", "b", "c", "d", "b"],
)
HARD.grades.is_correct_PR[2] = False  # as of every prompt that could not be graded


def test_metrics_of_rewards_are_over_what_is_kept():
    metrics = metrics_of(HARD)
    # kept: 1.5 0 1 1 0.5 0 0, of mean 4/7 and mean square 4.5/7
    expected = {
        "reward/mean": 4 / 7,
        "reward/std": np.sqrt(4.5 / 7 - 16 / 49),
        "reward/within_group_std": 0.75 / 4,  # 3/4, 0, 0 of one rollout, 0: not the spread of the batch
        "reward/frac_all_zero": 1 / 4,
        "reward/frac_all_one": 1 / 4,
        "reward/best_of_n": (1.5 + 1 + 0.5 + 0) / 4,
        "reward/best_of_n_gap": 3 / 4 - 4 / 7,
        "batch/n_kept_rollouts": 7,
        "batch/effective_prompts": 1,
        "health/ungraded_prompts": 1,
        "health/ungraded_rollouts": 2,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_metrics_of_lengths_and_counts_are_over_everything_drawn():
    metrics = metrics_of(dataclasses.replace(HARD, n_prompts_drawn=15, n_effective_drawn=4, n_ungraded_drawn=7))
    expected = {
        "health/ungraded_rollouts": 7,
        "completions/mean_length": 2.6,  # 26 of 10
        "completions/max_length": 4,
        "completions/truncated_frac": 0.1,
        "completions/length_correct": 2,  # 2 1 3
        "completions/length_incorrect": 20 / 7,
        "batch/n_prompts": 5,
        "batch/n_rollouts": 2,
        "batch/unique_prompts": 4,
        "batch/n_prompts_drawn": 15,
        "batch/effective_prompts_drawn": 4,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_metrics_of_each_reward_are_over_those_that_were_graded():
    metrics = metrics_of(HARD)
    expected = {
        "rewards/correct/mean": 4 / 10,
        "rewards/correct/std": np.sqrt(0.4 * 0.6),
        "rewards/correct/weighted_mean": 4 / 10,
        "rewards/format/mean": 3 / 8,  # unweighted; two could not be graded
        "rewards/format/std": np.sqrt(3 / 8 * 5 / 8),
        "rewards/format/weighted_mean": 3 / 16,
        "rewards/overlong/mean": -1.5 / 10,
        "rewards/overlong/std": np.sqrt(1.25 / 10 - 0.15**2),
        "rewards/overlong/weighted_mean": -1.5 / 10,
    }
    assert {name: metrics[name] for name in metrics if name.startswith("rewards/")} == pytest.approx(expected)


def test_an_ungraded_prompt_and_a_masked_rollout_make_no_metric_nan():
    assert np.isfinite(list(metrics_of(HARD).values())).all()


def test_metrics_are_python_floats():
    assert {type(value) for value in metrics_of(HARD).values()} == {float}


def test_groups_of_equal_rewards_are_counted():
    metrics = metrics_of(make_collection([[0, 1], [1, 1], [0, 0], [0.3, 0.3]]))
    assert metrics["reward/frac_zero_std"] == 0.75
    assert metrics["batch/effective_prompts"] == 1
    assert metrics["reward/frac_all_zero"] == 0.25
    assert metrics["reward/frac_all_one"] == 0.25
    assert metrics["health/ungraded_prompts"] == 0


def test_one_rollout_per_prompt_has_no_spread_within_a_group():
    metrics = metrics_of(make_collection([[1], [0], [NAN], [1]]))
    assert np.isnan(metrics["reward/within_group_std"])
    assert np.isnan(metrics["reward/frac_zero_std"])
    expected = {"reward/mean": 2 / 3, "reward/std": np.sqrt(2) / 3, "reward/best_of_n": 2 / 3}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["batch/effective_prompts"] == 3  # they are compared with one another


def test_nothing_kept_and_nothing_right_are_not_a_number_and_no_warning():
    metrics = metrics_of(make_collection([[0, 0], [0, 0]], kept_PR=np.zeros((2, 2))))
    not_numbers = {name for name, value in metrics.items() if np.isnan(value)}
    assert not_numbers == {
        "reward/mean", "reward/std", "reward/within_group_std", "reward/frac_all_zero", "reward/frac_all_one",
        "reward/best_of_n", "reward/best_of_n_gap", "completions/length_correct",
    }  # fmt: skip
    assert metrics["batch/n_kept_rollouts"] == 0


def test_a_reward_that_graded_nothing_is_not_a_number_and_no_warning():
    metrics = metrics_of(make_collection([[1, 0]], format_PR=[[NAN, NAN]]))
    assert np.isnan([metrics["rewards/format/mean"], metrics["rewards/format/std"]]).all()
    assert metrics["rewards/correct/mean"] == 0.5


def test_completions_of_the_first_prompts_are_rows():
    rows = completion_rows(HARD, 7, n_prompts=4)
    assert [row["completion"] for row in rows] == [f"text {p}{r}" for p in range(4) for r in range(2)]
    assert rows[1] == {
        "update": 7,
        "prompt": "a",
        "answer": "answer of a",
        "completion": "text 01",
        "reward": 0.0,  # 0 + 1/2 - 1/2
        "is_correct": False,
        "length_tokens": 3,
        "is_truncated": False,
        "is_kept": True,
    }
    assert (rows[0]["reward"], rows[0]["is_correct"]) == (1.5, True)
    assert np.isnan(rows[4]["reward"])
    assert [row["is_kept"] for row in rows] == [True, True, True, True, False, False, True, False]
    assert [row["is_truncated"] for row in rows] == [False] * 7 + [True]
    assert len(completion_rows(HARD, 7, n_prompts=99)) == 10


def test_groups_of_one_prompt_are_one_row():
    rows = prompt_rows(HARD, 7)
    assert [row["prompt"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[1] == {
        "update": 7,
        "prompt": "b",
        "answer": "answer of b",
        "n_groups": 2,
        "n_rollouts": 4,
        "reward_mean": 0.5,  # 1 1 0 0
        "reward_std": 0.5,
        "reward_max": 1.0,
        "n_correct": 2,
    }
    assert (rows[0]["n_groups"], rows[0]["n_rollouts"], rows[0]["reward_mean"]) == (1, 2, 0.75)


def test_the_row_of_a_prompt_is_over_what_is_kept():
    rows = prompt_rows(HARD, 7)
    names = ("n_groups", "n_rollouts", "reward_mean", "reward_std", "reward_max")
    assert [rows[3][name] for name in names] == [1, 1, 0.5, 0.0, 0.5]
    assert (rows[2]["n_groups"], rows[2]["n_rollouts"], rows[2]["n_correct"]) == (1, 0, 0)
    assert np.isnan([rows[2][name] for name in names[2:]]).all()
    (row,) = prompt_rows(make_collection([[1, 0, 0]], kept_PR=[[0, 1, 1]]), 7)  # the best one is masked
    assert [row[name] for name in names] == [1, 2, 0.0, 0.0, 0.0]


def test_the_row_of_a_prompt_counts_no_more_right_rollouts_than_rollouts():
    collection = make_collection([[1, 1], [1, 0]], kept_PR=[[0, 0], [0, 1]])  # right, but masked
    assert [(row["n_rollouts"], row["n_correct"]) for row in prompt_rows(collection, 7)] == [(0, 0), (1, 0)]

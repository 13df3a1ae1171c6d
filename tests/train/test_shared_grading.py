"""Grades on their way between processes."""

import numpy as np

from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.shared_grading import _packed, _unpacked, joined_counts


def test_grades_come_out_of_their_package_as_they_went_in():
    texts = [["a\n", "é"], ["", "x"]]
    reward_PR = np.array([[1.25, np.nan], [0.0, 1.0]], np.float32)
    grades = Grades(
        {"correct": np.array([[1, 0], [0, 1]], np.float32), "format": np.array([[1, 0], [0, 0]], np.float32)},
        reward_PR,
        reward_PR >= 1,
        ("no",),
        (("1", None), ("2", "1")),
        {"correct": 1.0, "format": 0.25},
        {"verifier_timeouts": 3},
    )
    got_texts, got = _unpacked(_packed(texts, grades))
    assert got_texts == texts
    assert vars(got).keys() == vars(grades).keys()
    for name in ("failures", "answers", "weights", "counts"):
        assert getattr(got, name) == getattr(grades, name)
    np.testing.assert_array_equal(got.reward_PR, reward_PR)
    np.testing.assert_array_equal(got.is_correct_PR, grades.is_correct_PR)
    for name, values_PR in grades.named_rewards.items():
        np.testing.assert_array_equal(got.named_rewards[name], values_PR)


def test_counts_of_all_processes_add_up():
    assert joined_counts([{"a": 1, "b": 0}, {"a": 2, "b": 5}]) == {"a": 3, "b": 5}
    assert joined_counts([{}, {}]) == {}

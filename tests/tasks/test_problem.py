"""What a problem is."""

import dataclasses

import pytest

from rlvr_jax.tasks.problem import Problem


def test_a_problem_cannot_be_changed():
    problem = Problem("1+1=", "2", "1+1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "3"

"""The order in which a run sees its problems."""

import dataclasses

import numpy as np
import pytest

from rlvr_jax.tasks.problem import Problem, problem_index


def one_pass(epoch, n_problems, *, seed):
    return [problem_index(c, n_problems, seed=seed) for c in range(epoch * n_problems, (epoch + 1) * n_problems)]


def test_a_single_problem_is_shown_every_time():
    assert [problem_index(counter, 1, seed=3) for counter in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("n_problems", [1, 2, 7, 100])
@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("seed", [0, 9])
def test_every_pass_shows_every_problem_once(n_problems, epoch, seed):
    assert sorted(one_pass(epoch, n_problems, seed=seed)) == list(range(n_problems))


def test_passes_and_seeds_have_orders_of_their_own():
    orders = {tuple(one_pass(epoch, 50, seed=seed)) for epoch in range(4) for seed in range(4)}
    assert len(orders) == 16  # also (pass 1, seed 2) and (pass 2, seed 1) differ
    assert tuple(range(50)) not in orders


def test_the_index_does_not_depend_on_what_was_asked_before():
    in_order = [problem_index(counter, 7, seed=4) for counter in range(70)]
    rng, found = np.random.default_rng(0), {}
    for counter in rng.permutation(70):
        problem_index(int(rng.integers(1_000)), 11, seed=5)  # another run in between
        found[int(counter)] = problem_index(int(counter), 7, seed=4)
    assert [found[counter] for counter in range(70)] == in_order


def test_every_problem_comes_first_equally_often():
    firsts = [problem_index(4 * epoch, 4, seed=0) for epoch in range(4_000)]
    counts = np.bincount(firsts, minlength=4)
    assert np.abs(counts - 1_000).max() < 4 * (4_000 * 0.25 * 0.75) ** 0.5  # four standard deviations


def test_the_index_is_a_plain_int():
    assert type(problem_index(3, 5, seed=0)) is int


def test_a_negative_counter_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        problem_index(-1, 5, seed=0)


def test_a_problem_cannot_be_changed():
    problem = Problem("1+1=", "2", "1+1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "3"

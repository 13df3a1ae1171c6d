"""The order in which a run sees its problems, without stages and with them."""

import collections

import numpy as np
import pytest

from rlvr_jax.tasks.schedule import (
    Stage,
    different_problems,
    kept_schedule,
    problem_index,
    random_problems,
    slots_per_cycle,
    stage_number,
)


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


def test_the_order_is_that_of_the_runs_reported_so_far():  # seeded by [seed, pass]
    expected = [*np.random.default_rng([3, 0]).permutation(5), *np.random.default_rng([3, 1]).permutation(5)]
    assert [problem_index(counter, 5, seed=3) for counter in range(10)] == expected


def stage(first_prompt, pools, weights):
    names = tuple(f"pool {i}" for i in range(len(pools)))
    return Stage(first_prompt, names, tuple(np.array(pool) for pool in pools), weights)


EASY, HARD, OTHER = range(0, 10), range(5, 25), range(25, 32)
SCHEDULE = (stage(0, [EASY], (1.0,)), stage(40, [HARD, EASY, OTHER], (0.5, 0.25, 0.25)))


def drawn(counters, *, seed=0, schedule=SCHEDULE):
    return [problem_index(counter, 32, seed=seed, schedule=schedule) for counter in counters]


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ((1.0,), (1,)),
        ((1.0, 1.0), (1, 1)),
        ((0.5, 0.25, 0.25), (2, 1, 1)),
        ((50, 25, 25), (2, 1, 1)),
        ((0.6, 0.4), (3, 2)),
        ((1 / 3, 2 / 3), (1, 2)),
        ((0.999, 0.001), (999, 1)),
        ((1.0, 2**0.5), (414, 586)),  # 1000 / (1 + 1.41421) = 414.2
        ((1.0, 1e-9), (999, 1)),  # every task is drawn now and then
    ],
)
def test_the_shortest_cycle_that_has_the_proportions(weights, slots):
    assert slots_per_cycle(weights) == slots


def test_a_stage_draws_from_its_own_pools_alone():
    assert set(drawn(range(40))) == set(EASY)
    assert set(drawn(range(40, 140))) == set(range(32))


@pytest.mark.parametrize("seed", [0, 7])
def test_every_cycle_has_the_proportions_of_the_weights(seed):
    schedule = (stage(0, [range(0, 8), range(8, 16), range(16, 24)], (0.5, 0.25, 0.25)),)
    for first in range(0, 80, 4):
        pools = sorted(index // 8 for index in drawn(range(first, first + 4), seed=seed, schedule=schedule))
        assert pools == [0, 0, 1, 2]


def test_the_places_of_a_cycle_are_shuffled():
    schedule = (stage(0, [range(0, 8), range(8, 16)], (1.0, 1.0)),)
    firsts = [drawn([first], schedule=schedule)[0] < 8 for first in range(0, 400, 2)]
    assert 0.5 - 4 * (0.25 / 200) ** 0.5 < np.mean(firsts) < 0.5 + 4 * (0.25 / 200) ** 0.5


def test_every_pass_over_a_pool_shows_each_of_its_problems_once():
    assert sorted(drawn(range(10))) == sorted(drawn(range(10, 20))) == list(EASY)
    assert drawn(range(10)) != drawn(range(10, 20))
    # OTHER has 7 problems and one slot of four: 28 prompts show each once
    counts = collections.Counter(index for index in drawn(range(40, 68)) if index >= 25)
    assert counts == dict.fromkeys(OTHER, 1)


def test_a_scheduled_index_does_not_depend_on_what_was_asked_before():
    in_order = drawn(range(100))
    for counter in np.random.default_rng(0).permutation(100):
        assert drawn([int(counter)]) == [in_order[counter]]
    assert drawn(range(100), seed=1) != in_order


def test_the_stage_of_a_prompt():
    assert [stage_number(SCHEDULE, counter) for counter in (0, 39, 40, 10_000)] == [0, 0, 1, 1]
    with pytest.raises(IndexError, match="prompt -1"):
        stage_number(SCHEDULE, -1)


def test_random_problems_are_of_the_last_stage_by_its_weights():
    schedule = (stage(0, [range(90, 99)], (1.0,)), stage(1, [range(0, 8), range(8, 80)], (3.0, 1.0)))
    found = random_problems(np.random.default_rng(0), 99, n=4_000, schedule=schedule)
    assert set(found) == set(range(80))
    assert abs((found < 8).mean() - 0.75) < 4 * (0.75 * 0.25 / 4_000) ** 0.5


def test_without_a_schedule_random_problems_are_those_of_the_runs_reported_so_far():
    found = random_problems(np.random.default_rng(5), 17, n=9, schedule=())
    np.testing.assert_array_equal(found, np.random.default_rng(5).integers(17, size=9))


def test_different_problems_keep_the_proportions_until_a_pool_is_used_up():
    schedule = (stage(0, [range(0, 30), range(30, 40)], (2.0, 1.0)),)
    found = different_problems(40, seed=3, schedule=schedule)
    # 10 of the second and, in the same cycles, 20 of the first; a place more where the cycle begins with the first
    assert len(set(found)) == len(found)
    assert [sum(found[:n] >= 30) for n in (3, 6, 30)] == [1, 2, 10]


def test_problems_that_are_left_out_leave_every_pool():
    kept = kept_schedule(SCHEDULE, [0, 6, 9, 24, 31])
    assert [list(pool) for pool in kept[0].pools] == [[0, 1, 2]]
    assert [list(pool) for pool in kept[1].pools] == [[1, 2, 3], [0, 1, 2], [4]]
    assert (kept[1].first_prompt, kept[1].weights) == (40, (0.5, 0.25, 0.25))
    with pytest.raises(ValueError, match="no problem of 'pool 2' in stage 2"):
        kept_schedule(SCHEDULE, [0, 6])

"""Which groups of several rounds are kept, and that nothing of theirs is mixed up or lost."""

import dataclasses

import jax
import numpy as np
import pytest

from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.dynamic_sampling import effective_first

R = 2


def make_round(first, effective, *, S=3, T=4, n_decode_steps=5, failures=(), n_timeouts=0):
    """Prompts first, first + 1, ...; rewards differ where `effective` says so. Every array tells whose it is."""
    number_P = np.arange(first, first + len(effective))
    P = len(effective)
    number_PR = number_P[:, None] * 10 + np.arange(1, R + 1)
    reward_PR = np.where(np.array(effective)[:, None], number_PR, number_PR[:, :1]).astype(np.float32)
    length_P, length_PR = 1 + number_P % S, 1 + number_PR % T
    is_token_PRT = np.arange(T) < length_PR[..., None]
    return Collection(
        problems=[Problem(f"{n}", f"answer {n}", f"{n}") for n in number_P],
        rollouts=Rollouts(
            prompt_PS=np.where(np.arange(S) < length_P[:, None], number_P[:, None], 0).astype(np.int32),
            prompt_length_P=length_P.astype(np.int32),
            completion_PRT=np.where(is_token_PRT, number_PR[..., None], 0).astype(np.int32),
            completion_length_PR=length_PR.astype(np.int32),
            is_truncated_PR=number_PR % 3 == 0,
            behavior_logprob_PRT=np.where(is_token_PRT, -number_PR[..., None], 0).astype(np.float32),
            n_decode_steps=np.int32(n_decode_steps),
        ),
        completion_texts=[[f"{n}" for n in row] for row in number_PR],
        grades=Grades(
            {"a": reward_PR + 0.5, "b": -reward_PR},
            reward_PR + 0.25,
            number_PR % 2 == 0,
            failures=tuple(failures),
            counts={"verifier_timeouts": n_timeouts},
        ),
        penalties={"overlong": np.full((P, R), -0.25, np.float32)},
        is_kept_PR=np.ones((P, R), bool),
        n_prompts_drawn=P,
        n_effective_drawn=sum(effective),
        n_ungraded_drawn=R * len(failures),
        n_tokens=int(length_P.sum() + length_PR.sum()),
    )


def numbers(collection):
    return [int(problem.prompt) for problem in collection.problems]


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        ([[1, 0, 1], [0, 1, 1]], [0, 2, 11]),  # three teach something: the first of the four
        ([[0, 0, 1], [0, 1, 1]], [2, 11, 12]),
        ([[0, 0, 0], [0, 0, 1]], [0, 1, 12]),  # one does: filled with the first of the others, in the order drawn
        ([[0, 0, 0], [0, 0, 0]], [0, 1, 2]),
        ([[0, 1, 0], [0, 0, 0], [1, 0, 0]], [0, 1, 20]),
        ([[1, 1, 1]], [0, 1, 2]),
        ([[0, 1, 1, 1]], [1, 2, 3]),
    ],
)
def test_groups_with_unequal_rewards_come_before_others(effective, expected):
    rounds = [make_round(10 * i, [bool(x) for x in row]) for i, row in enumerate(effective)]
    assert numbers(effective_first(rounds, n_prompts=3)) == expected


WIDE = [
    make_round(0, [True, False, True], S=2, T=4, n_decode_steps=5, failures=["prompt 1"], n_timeouts=1),
    make_round(10, [False, True, False], S=5, T=3, n_decode_steps=7, n_timeouts=2),
    make_round(20, [True, False, True], S=3, T=8, n_decode_steps=2, failures=["prompt 21", "prompt 22"], n_timeouts=4),
]
CHOSEN = [(0, 0), (0, 2), (1, 1), (2, 0)]  # (round, place)


@pytest.fixture(scope="module")
def chosen():
    return effective_first(WIDE, n_prompts=4)


def test_everything_of_a_group_moves_with_it(chosen):
    assert numbers(chosen) == [0, 2, 11, 20]
    for row, (i, p) in enumerate(CHOSEN):
        assert chosen.problems[row] is WIDE[i].problems[p]
        assert chosen.completion_texts[row] == WIDE[i].completion_texts[p]
        for name in ("prompt_length_P", "completion_length_PR", "is_truncated_PR"):
            np.testing.assert_array_equal(getattr(chosen.rollouts, name)[row], getattr(WIDE[i].rollouts, name)[p])
        np.testing.assert_array_equal(chosen.grades.reward_PR[row], WIDE[i].grades.reward_PR[p])
        np.testing.assert_array_equal(chosen.grades.is_correct_PR[row], WIDE[i].grades.is_correct_PR[p])
        for name in ("a", "b"):
            np.testing.assert_array_equal(chosen.grades.named_rewards[name][row], WIDE[i].grades.named_rewards[name][p])
        np.testing.assert_array_equal(chosen.reward_PR[row], WIDE[i].reward_PR[p])
    np.testing.assert_array_equal(chosen.is_effective_P, [True] * 4)


def test_rounds_of_other_widths_are_padded_with_zeros_on_the_right(chosen):
    for name, width in (("prompt_PS", 5), ("completion_PRT", 8), ("behavior_logprob_PRT", 8)):
        got = getattr(chosen.rollouts, name)
        assert got.shape[-1] == width
        for row, (i, p) in enumerate(CHOSEN):
            before = getattr(WIDE[i].rollouts, name)[p]
            np.testing.assert_array_equal(got[row][..., : before.shape[-1]], before)
            assert (got[row][..., before.shape[-1] :] == 0).all()
        assert got.dtype == getattr(WIDE[0].rollouts, name).dtype


def test_what_was_drawn_is_counted_whether_chosen_or_not(chosen):
    assert chosen.n_prompts_drawn == 9
    assert chosen.n_effective_drawn == 5
    assert chosen.n_ungraded_drawn == 2 * (1 + 0 + 2)
    assert chosen.grades.counts == {"verifier_timeouts": 1 + 2 + 4}
    assert chosen.n_tokens == sum(round_.n_tokens for round_ in WIDE)
    assert chosen.grades.failures == ("prompt 1", "prompt 21", "prompt 22")
    assert int(chosen.rollouts.n_decode_steps) == 5 + 7 + 2


def test_what_is_kept_decides_and_moves_along():
    one, other = make_round(0, [True, True]), make_round(10, [True, True])
    one.is_kept_PR[0] = [True, False]  # one rollout alone teaches nothing
    one.grades.reward_PR[1] = np.nan  # could not be graded
    one.is_kept_PR[1] = False
    got = effective_first([one, other], n_prompts=3)
    assert numbers(got) == [0, 10, 11]
    np.testing.assert_array_equal(got.is_kept_PR, [[True, False], [True, True], [True, True]])


def test_penalties_decide_too_and_move_along():
    one, other = make_round(0, [False, False]), make_round(10, [False, True])
    one.penalties["overlong"][1] = [-1, 0]
    got = effective_first([one, other], n_prompts=2)
    assert numbers(got) == [1, 11]
    np.testing.assert_array_equal(got.penalties["overlong"], [[-1, 0], [-0.25, -0.25]])


def test_the_rounds_themselves_stay_what_they_were(chosen):
    again = make_round(0, [True, False, True], S=2, T=4)
    jax.tree.map(np.testing.assert_array_equal, WIDE[0].rollouts, again.rollouts)
    assert len(WIDE[0].problems) == 3


def test_which_tokens_are_the_policys_moves_with_the_tokens():
    def with_turns(one):
        is_action_PRT = one.rollouts.completion_PRT % 2 == 1
        return dataclasses.replace(one, rollouts=one.rollouts.replace(is_action_PRT=is_action_PRT))

    rollouts = effective_first([with_turns(one) for one in WIDE], n_prompts=4).rollouts
    assert rollouts.is_action_PRT.dtype == bool
    np.testing.assert_array_equal(rollouts.is_action_PRT, rollouts.completion_PRT % 2 == 1)  # pads are 0
    assert rollouts.is_action_PRT.any()

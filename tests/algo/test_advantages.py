"""Every kind of advantage against a loop over Python floats, with rollouts left out anywhere."""

import jax.numpy as jnp
import numpy as np
import pytest
from slow_advantages import slow_advantages

from rlvr_jax.algo.advantages import (
    ADVANTAGE_KINDS,
    KINDS_FOR_ONE_ROLLOUT,
    advantages,
    leave_one_out_advantages,
)

OF_ONE_ROLLOUT = ("batch_mean", "reinforce++", "none")
OF_A_GROUP = tuple(kind for kind in ADVANTAGE_KINDS if kind not in OF_ONE_ROLLOUT)

REWARD_PR = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0.3, -1, 2.5, 0.1], [1, 1, 1, 1], [0.7, 0.2, 0.2, -4]], np.float32)
ALL_PR = np.ones((5, 4), bool)
MASKS = {
    "all kept": ALL_PR,
    "one of each left out": np.arange(4) != (np.arange(5) % 4)[:, None],
    "4, 3, 2, 1 and 0 of a group kept": np.arange(4) < (4 - np.arange(5))[:, None],
    "equal rewards where kept": np.equal(REWARD_PR, np.array([[1], [0], [2.5], [1], [0.2]], np.float32)),
    "one rollout in all": (np.arange(5) == 2)[:, None] & (np.arange(4) == 1),
    "none kept": ~ALL_PR,
}


# rewards 2 0 1 | 1 1 _   group means 1 and 1, batch mean 1
# squared deviations      1 1 0 | 0 0: group sum 2 of 3, batch sum 2 of 5
HAND_REWARD_PR = np.array([[2, 0, 1], [1, 1, 9]], np.float32)
HAND_KEPT_PR = np.array([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("kind", "ddof", "eps", "expected"),
    [
        ("grpo", 0, 0.0, [[1.5**0.5, -(1.5**0.5), 0], [0, 0, 0]]),  # std sqrt(2 / 3)
        ("grpo", 1, 1.0, [[0.5, -0.5, 0], [0, 0, 0]]),  # std sqrt(2 / 2), plus 1
        ("centred", 0, 0.0, [[1, -1, 0], [0, 0, 0]]),
        ("rloo", 0, 0.0, [[1.5, -1.5, 0], [0, 0, 0]]),  # 2 - (0 + 1) / 2
        ("batch_scaled", 1, 0.0, [[2**0.5, -(2**0.5), 0], [0, 0, 0]]),  # std sqrt(2 / 4)
        ("batch_scaled", 0, 0.1, [[1 / (0.4**0.5 + 0.1), -1 / (0.4**0.5 + 0.1), 0], [0, 0, 0]]),  # std sqrt(2 / 5)
        ("batch_mean", 0, 0.0, [[1, -1, 0], [0, 0, 0]]),
        ("reinforce++", 1, 0.0, [[2**0.5, -(2**0.5), 0], [0, 0, 0]]),
        ("none", 0, 0.0, [[2, 0, 1], [1, 1, 0]]),
    ],
)
def test_every_kind_by_hand(kind, ddof, eps, expected):
    got = advantages(jnp.asarray(HAND_REWARD_PR), jnp.asarray(HAND_KEPT_PR), kind=kind, ddof=ddof, eps=eps)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_two_of_four_right():  # mean 1/2; without itself 1/3 of the others are right, or 2/3
    got = advantages(jnp.array([[1.0, 0, 0, 1]]), jnp.ones((1, 4), bool), kind="rloo", ddof=0, eps=0.0)
    np.testing.assert_allclose(got, [[2 / 3, -2 / 3, -2 / 3, 2 / 3]], rtol=1e-6)


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("mask", MASKS)
def test_every_kind_equals_a_slow_loop(kind, ddof, eps, mask):
    is_kept_PR = MASKS[mask]
    poisoned_PR = np.where(is_kept_PR, REWARD_PR, np.nan).astype(np.float32)
    got = advantages(jnp.asarray(poisoned_PR), jnp.asarray(is_kept_PR), kind=kind, ddof=ddof, eps=eps)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, slow_advantages(REWARD_PR, is_kept_PR, kind=kind, ddof=ddof, eps=eps), rtol=2e-5, atol=1e-6
    )
    assert (np.asarray(got)[~is_kept_PR] == 0).all()


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
def test_what_is_not_kept_has_no_influence_whatever_it_holds(kind):
    is_kept_PR = jnp.asarray(MASKS["one of each left out"])
    got = [
        advantages(jnp.where(is_kept_PR, REWARD_PR, other), is_kept_PR, kind=kind, ddof=1, eps=0.1)
        for other in (0.0, -7.0, 1e30, jnp.inf, jnp.nan)
    ]
    for one in got[1:]:
        np.testing.assert_array_equal(one, got[0])


@pytest.mark.parametrize("kind", OF_ONE_ROLLOUT)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("n_kept", [6, 4, 1, 0])
def test_one_rollout_per_prompt_equals_a_slow_loop(kind, ddof, n_kept):
    reward_PR = np.array([[1], [0], [0.3], [-2], [0], [1]], np.float32)
    is_kept_PR = np.arange(6)[:, None] < n_kept
    poisoned_PR = np.where(is_kept_PR, reward_PR, np.nan).astype(np.float32)
    got = advantages(jnp.asarray(poisoned_PR), jnp.asarray(is_kept_PR), kind=kind, ddof=ddof, eps=1e-3)
    np.testing.assert_allclose(
        got, slow_advantages(reward_PR, is_kept_PR, kind=kind, ddof=ddof, eps=1e-3), rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", [kind for kind in ADVANTAGE_KINDS if kind != "none"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.7])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_rewards_everywhere_are_exactly_zero(kind, value, eps, ddof):
    # 0.1 twenty-four times: in f32 the mean is not 0.1, so a subtraction would leave something
    is_kept_PR = jnp.ones((3, 8), bool).at[1, :3].set(False)
    reward_PR = jnp.where(is_kept_PR, jnp.float32(value), 5.0)
    got = np.asarray(advantages(reward_PR, is_kept_PR, kind=kind, ddof=ddof, eps=eps))
    assert (got == 0).all()


@pytest.mark.parametrize("kind", OF_A_GROUP)
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_a_group_of_equal_rewards_is_exactly_zero_beside_others(kind, eps):
    is_kept_PR = jnp.ones((3, 8), bool).at[1, 0].set(False)
    reward_PR = jnp.full((3, 8), 0.1).at[1, 0].set(-4.0).at[2].set(jnp.arange(8.0))
    got = np.asarray(advantages(reward_PR, is_kept_PR, kind=kind, ddof=0, eps=eps))
    assert (got[:2] == 0).all()
    assert (got[2] != 0).any()


@pytest.mark.parametrize("kind", ["batch_mean", "reinforce++"])
def test_a_batch_baseline_keeps_groups_of_equal_rewards(kind):  # all right, and all wrong
    reward_PR = jnp.array([[1.0, 1], [0, 0]])
    got = np.asarray(advantages(reward_PR, jnp.ones((2, 2), bool), kind=kind, ddof=0, eps=0.0))
    scale = {"batch_mean": 1.0, "reinforce++": 0.5}[kind]  # std 1/2
    np.testing.assert_allclose(got, np.array([[0.5, 0.5], [-0.5, -0.5]]) / scale, rtol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in ADVANTAGE_KINDS if kind != "none"])
def test_advantages_do_not_depend_on_where_zero_is(kind):
    is_kept_PR = jnp.asarray(MASKS["one of each left out"])
    one, moved = (
        advantages(jnp.asarray(REWARD_PR + shift), is_kept_PR, kind=kind, ddof=1, eps=0.1)
        for shift in (np.float32(0), np.float32(8))
    )
    np.testing.assert_allclose(moved, one, atol=1e-5)


def test_the_kinds_for_one_rollout_are_those_without_a_group():
    assert sorted(KINDS_FOR_ONE_ROLLOUT) == sorted(OF_ONE_ROLLOUT)


@pytest.mark.parametrize("kind", OF_A_GROUP)
def test_one_rollout_has_no_group(kind):
    with pytest.raises(ValueError, match="at least 2 rollouts per prompt, got 1"):
        advantages(jnp.ones((3, 1)), jnp.ones((3, 1), bool), kind=kind, ddof=0, eps=0.0)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'gae' is not one of"):
        advantages(jnp.ones((3, 2)), jnp.ones((3, 2), bool), kind="gae", ddof=0, eps=0.0)


@pytest.mark.parametrize(
    ("reward_PR", "is_kept_PR"),
    [
        (jnp.ones((3, 2), jnp.int32), jnp.ones((3, 2), bool)),
        (jnp.ones((3, 2)), jnp.ones((3, 2))),  # a mask of numbers
        (jnp.ones((3, 2)), jnp.ones((3, 1), bool)),
        (jnp.ones(3), jnp.ones(3, bool)),
    ],
    ids=["integers", "no mask", "shapes", "rank"],
)
def test_arrays_of_another_kind_are_refused(reward_PR, is_kept_PR):
    with pytest.raises(AssertionError):
        advantages(reward_PR, is_kept_PR, kind="none", ddof=0, eps=0.0)


@pytest.mark.parametrize("mask", MASKS)
def test_leave_one_out_of_a_group_equals_a_slow_loop(mask):
    is_kept_PR = MASKS[mask]
    poisoned_PR = np.where(is_kept_PR, REWARD_PR, np.nan).astype(np.float32)
    got = leave_one_out_advantages(jnp.asarray(poisoned_PR), jnp.asarray(is_kept_PR))
    np.testing.assert_allclose(
        got, slow_advantages(REWARD_PR, is_kept_PR, kind="rloo", ddof=0, eps=0.0), rtol=2e-5, atol=1e-6
    )


def test_leave_one_out_with_one_rollout_per_prompt_compares_with_the_other_prompts():
    reward_PR = jnp.array([[1.0], [0.0], [0.0], [3.0]])
    got = leave_one_out_advantages(reward_PR, jnp.ones((4, 1), bool))
    # 1 - (0 + 0 + 3) / 3, 0 - (1 + 0 + 3) / 3 twice, 3 - 1/3
    np.testing.assert_allclose(got, [[0], [-4 / 3], [-4 / 3], [8 / 3]], rtol=1e-6, atol=1e-7)
    got = leave_one_out_advantages(reward_PR, jnp.array([[True], [True], [True], [False]]))
    np.testing.assert_allclose(got, [[1], [-0.5], [-0.5], [0]], rtol=1e-6)  # 1 - 0, 0 - 1/2
    got = leave_one_out_advantages(reward_PR, jnp.array([[True], [False], [False], [False]]))
    assert (np.asarray(got) == 0).all()  # nothing to compare with


def test_leave_one_out_is_unbiased_at_every_number_of_rollouts():
    # two outcomes of probability 1/4 and 3/4 with rewards 1 and 0 and scores 3 and -1: E[r score] = 3/4
    for n_rollouts in (2, 3):
        total = 0.0
        for draw in np.ndindex(*[2] * n_rollouts):
            is_right = np.array(draw) == 1
            probability = np.prod(np.where(is_right, 0.25, 0.75))
            advantage = leave_one_out_advantages(
                jnp.asarray(is_right[None], jnp.float32), jnp.ones((1, n_rollouts), bool)
            )
            total += probability * (np.asarray(advantage[0], np.float64) * np.where(is_right, 3, -1)).mean()
        assert total == pytest.approx(0.75, rel=1e-5)

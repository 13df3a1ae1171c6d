import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.advantages import leave_one_out_advantages
from rlvr_jax.noise import gram

# several times faster than one operation after another
leave_one_out_weights, weighted_sq_norms = jax.jit(gram.leave_one_out_weights), jax.jit(gram.weighted_sq_norms)
NAN = float("nan")
REWARD_PR = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0.3, -1, 2.5, 0.1], [1, 1, 1, 1], [0.7, 0.2, 0.2, -4]], np.float32)
MASKS = {
    "all kept": np.ones((5, 4), bool),
    "one of each left out": np.arange(4) != (np.arange(5) % 4)[:, None],
    "4, 3, 2, 1 and 0 of a group kept": np.arange(4) < (4 - np.arange(5))[:, None],
    "none kept": np.zeros((5, 4), bool),
}
SCORE_PRD = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
GRAM_PRR = np.einsum("pjd,pkd->pjk", SCORE_PRD, SCORE_PRD)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def weights(reward_PR, is_kept_PR=None):
    reward_PR = jnp.asarray(reward_PR, jnp.float32)
    is_kept_PR = jnp.ones(reward_PR.shape, bool) if is_kept_PR is None else jnp.asarray(is_kept_PR)
    return np.asarray(leave_one_out_weights(reward_PR, is_kept_PR))


def slow_weight(rewards, j):
    """1/n of (reward - mean of the others)."""
    others = [r for k, r in enumerate(rewards) if k != j]
    return (rewards[j] - sum(others) / len(others)) / len(rewards) if others else 0.0


def test_two_of_four_right():  # mean 1/2 over R - 1 = 3
    np.testing.assert_allclose(weights([[1, 0, 0, 1]]), [[1 / 6, -1 / 6, -1 / 6, 1 / 6]], rtol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
def test_weights_are_each_rollout_against_the_mean_of_the_others(mask):
    expected = np.zeros((5, 4))
    for x in range(5):
        kept = np.flatnonzero(MASKS[mask][x])
        for place, j in enumerate(kept):
            expected[x, j] = slow_weight([float(r) for r in REWARD_PR[x, kept]], place)
    got = weights(np.where(MASKS[mask], REWARD_PR, NAN), MASKS[mask])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [(5, 4), (20, 1)])
def test_weights_are_the_advantages_of_training_over_the_rollouts_kept(mask, shape):
    reward_PR, is_kept_PR = jnp.asarray(REWARD_PR.reshape(shape)), jnp.asarray(MASKS[mask].reshape(shape))
    advantage_PR = np.array(leave_one_out_advantages(reward_PR, is_kept_PR))
    n = np.maximum(is_kept_PR.sum(axis=1, keepdims=True), 1)
    is_lonely = is_kept_PR.sum(axis=1 if shape[1] > 1 else None, keepdims=True) < 2
    expected = np.where(is_lonely, 0.0, advantage_PR / n)
    np.testing.assert_allclose(weights(reward_PR, is_kept_PR), expected, rtol=1e-5, atol=1e-7)


def test_single_rollouts_use_the_mean_of_the_other_prompts():
    # 3 kept, mean 2: (r - 2) 3/2 = 1 - 5/2, 2 - 2, 3 - 3/2
    got = weights([[1], [2], [3], [NAN]], [[True], [True], [True], [False]])
    np.testing.assert_allclose(got, [[-1.5], [0], [1.5], [0]], rtol=1e-6)


def test_one_single_rollout_has_no_baseline():
    np.testing.assert_array_equal(weights([[3.0]]), [[0]])


def test_a_group_with_one_rollout_is_zero_whatever_its_reward():
    got = weights([[NAN, 1, 2], [1, 0, 5]], [[True, False, False], [True, True, False]])
    np.testing.assert_allclose(got, [[0, 0, 0], [0.5, -0.5, 0]])


def test_equal_rewards_are_exactly_zero():
    np.testing.assert_array_equal(weights(np.full((2, 8), 0.1)), np.zeros((2, 8)))
    np.testing.assert_array_equal(weights(np.full((8, 1), 0.1)), np.zeros((8, 1)))
    among_others = np.full((2, 10), 0.1)
    among_others[:, 8:] = [[7, -7], [NAN, 7]]
    is_kept_PR = np.broadcast_to(np.arange(10) < 8, (2, 10))
    np.testing.assert_array_equal(weights(among_others, is_kept_PR), np.zeros((2, 10)))


def test_a_kept_nan_reward_shows_in_its_group_only():
    got = weights([[1, NAN, 1], [1, 0, 1]])
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("mask", MASKS)
def test_sq_norm_is_that_of_the_weighted_scores(mask):
    is_kept_PR = MASKS[mask]
    weight_PR = weights(REWARD_PR, is_kept_PR)
    expected_P = (np.einsum("pj,pjd->pd", weight_PR, SCORE_PRD) ** 2).sum(axis=1)
    is_pair_PRR = is_kept_PR[:, :, None] & is_kept_PR[:, None, :]
    gram_PRR = jnp.asarray(np.where(is_pair_PRR, GRAM_PRR, NAN))
    got_P = weighted_sq_norms(gram_PRR, jnp.asarray(weight_PR), jnp.asarray(is_kept_PR))
    np.testing.assert_allclose(got_P, expected_P, rtol=1e-5, atol=1e-7)


def test_sq_norm_by_hand():  # s = (2, 3), w = (1/2, -1/2): |1 - 3/2|^2
    got = weighted_sq_norms(jnp.array([[[4.0, 6], [6, 9]]]), jnp.array([[0.5, -0.5]]), jnp.ones((1, 2), bool))
    np.testing.assert_allclose(got, [0.25], rtol=1e-6)


def test_a_nan_score_shows_even_with_weight_zero():
    gram_PRR = jnp.ones((2, 3, 3)).at[0, 1].set(NAN).at[0, :, 1].set(NAN)
    got = weighted_sq_norms(gram_PRR, jnp.zeros((2, 3)), jnp.ones((2, 3), bool))
    assert np.isnan(got[0])
    assert got[1] == 0


def test_wrong_shapes_and_types_are_refused():
    with pytest.raises(AssertionError):
        leave_one_out_weights(jnp.ones((2, 3)), jnp.ones((2, 4), bool))
    with pytest.raises(AssertionError):
        leave_one_out_weights(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(AssertionError):
        weighted_sq_norms(jnp.ones((2, 3, 4)), jnp.ones((2, 3)), jnp.ones((2, 3), bool))

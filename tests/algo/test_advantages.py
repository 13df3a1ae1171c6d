import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS, advantages, group_advantages, standardised_advantages

ROWS = np.array([[1.0, 0, 0, 1], [0, 0, 1, 0], [0.3, -1.0, 2.5, 0.1]], np.float32)


def slow(reward_PR, *, kind, ddof, eps):
    """One reward at a time, in Python floats."""
    out = []
    for row in reward_PR.tolist():
        n, mean = len(row), sum(row) / len(row)
        spread = (sum((r - mean) ** 2 for r in row) / (n - ddof)) ** 0.5
        for r in row:
            if max(row) == min(row):
                out.append(0.0)
            elif kind == "grpo":
                out.append((r - mean) / (spread + eps))
            elif kind == "rloo":
                out.append(r - (sum(row) - r) / (n - 1))
            else:
                out.append(r - mean)
    return np.array(out).reshape(reward_PR.shape)


def test_two_of_four_right():  # mean 1/2; leave-one-out scales by 4/3
    got_PR = group_advantages(jnp.array([[1.0, 0, 0, 1]]), leave_one_out=True)
    np.testing.assert_allclose(got_PR, [[2 / 3, -2 / 3, -2 / 3, 2 / 3]], rtol=1e-6)


def test_one_of_four_right_standardised():  # mean 1/4, squared deviations 9/16 + 3/16 = 3/4
    got = standardised_advantages(jnp.array([[1.0, 0, 0, 0]]), ddof=0, eps=0.0)
    np.testing.assert_allclose(got, [[np.sqrt(3), *[-1 / np.sqrt(3)] * 3]], rtol=1e-6)  # std sqrt(3)/4
    got = standardised_advantages(jnp.array([[1.0, 0, 0, 0]]), ddof=1, eps=0.5)
    np.testing.assert_allclose(got, [[0.75, -0.25, -0.25, -0.25]], rtol=1e-6)  # std 1/2, plus 1/2


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("n_rollouts", [2, 3, 4])
def test_every_kind_equals_a_slow_loop(kind, ddof, eps, n_rollouts):
    reward_PR = ROWS[:, :n_rollouts]
    got = advantages(jnp.asarray(reward_PR), kind=kind, ddof=ddof, eps=eps)
    np.testing.assert_allclose(got, slow(reward_PR, kind=kind, ddof=ddof, eps=eps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.7])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_a_constant_row_is_exactly_zero(kind, value, eps):
    # 0.1 eight times: in f32 the mean is not 0.1, so a subtraction would leave something
    got = np.asarray(advantages(jnp.full((2, 8), value, jnp.float32), kind=kind, ddof=0, eps=eps))
    assert (got == 0).all()


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
def test_one_rollout_has_no_group(kind):
    with pytest.raises(ValueError, match="at least 2 rollouts per prompt, got 1"):
        advantages(jnp.ones((3, 1)), kind=kind, ddof=0, eps=0.0)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'gae' is not one of"):
        advantages(jnp.ones((3, 2)), kind="gae", ddof=0, eps=0.0)


def test_integer_rewards_are_refused():
    with pytest.raises(AssertionError):
        group_advantages(jnp.ones((3, 2), jnp.int32), leave_one_out=False)

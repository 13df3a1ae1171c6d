import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.policy_loss import clipped_policy_loss, kl_k3


def loss(ratio, advantage, *, low=0.2, high=0.3):
    return clipped_policy_loss(
        jnp.log(jnp.array([[ratio]])), jnp.zeros((1, 1)), jnp.array([advantage]), clip_low=low, clip_high=high
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "low", "high"),
    [
        (1.0, 2.0, -2.0, False, False),
        (1.5, 2.0, -2.6, False, True),  # cut at 1.3
        (1.5, -2.0, 3.0, False, False),  # too likely and bad: pushed down without limit
        (0.5, -2.0, 1.6, True, False),  # cut at 0.8
        (0.5, 2.0, -1.0, False, False),  # too unlikely and good: pulled back up
    ],
)
def test_the_clip_by_hand(ratio, advantage, expected, low, high):
    got = loss(ratio, advantage)
    assert float(got.loss_NT[0, 0]) == pytest.approx(expected, rel=1e-6)
    assert (bool(got.is_clipped_low_NT[0, 0]), bool(got.is_clipped_high_NT[0, 0])) == (low, high)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 2.0), (0.5, -2.0), (1.5, -2.0), (0.5, 2.0)])
def test_gradient_is_zero_exactly_where_a_clip_is_reported(ratio, advantage):
    def value(logprob):
        return clipped_policy_loss(
            logprob[None, None], jnp.zeros((1, 1)), jnp.array([advantage]), clip_low=0.2, clip_high=0.3
        ).loss_NT[0, 0]

    slope = float(jax.grad(value)(jnp.log(jnp.float32(ratio))))
    got = loss(ratio, advantage)
    is_clipped = bool(got.is_clipped_low_NT[0, 0] | got.is_clipped_high_NT[0, 0])
    assert (slope == 0.0) == is_clipped
    if not is_clipped:
        assert slope == pytest.approx(-ratio * advantage, rel=1e-6)


def test_at_ratio_one_the_gradient_is_that_of_the_policy_gradient():
    logprob_NT, advantage_N = jnp.array([[-0.5, -1.0], [-2.0, -0.1]]), jnp.array([0.7, -0.3])

    def total(logprob):
        return clipped_policy_loss(logprob, logprob_NT, advantage_N, clip_low=0.2, clip_high=0.2).loss_NT.sum()

    np.testing.assert_allclose(jax.grad(total)(logprob_NT), [[-0.7, -0.7], [0.3, 0.3]], rtol=1e-6)


def test_old_log_probabilities_get_no_gradient():
    def total(old):
        return clipped_policy_loss(jnp.zeros((1, 2)), old, jnp.ones(1), clip_low=0.2, clip_high=0.2).loss_NT.sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((1, 2), 0.1)), [[0.0, 0.0]])


def test_k3_by_hand():
    # policy twice as likely as the reference: d = log 1/2, k3 = 1/2 + log 2 - 1
    got = kl_k3(jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]])))
    assert float(got[0, 0]) == pytest.approx(0.5 + np.log(2) - 1, rel=1e-5)


def test_k3_averages_to_the_divergence_and_is_never_negative():
    policy, reference = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    k3 = np.asarray(kl_k3(jnp.log(jnp.array(policy))[None], jnp.log(jnp.array(reference))[None]))[0]
    assert (k3 >= 0).all()
    assert (policy * k3).sum() == pytest.approx((policy * np.log(policy / reference)).sum(), rel=1e-5)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(AssertionError):
        clipped_policy_loss(jnp.zeros((2, 3)), jnp.zeros((2, 2)), jnp.zeros(2), clip_low=0.2, clip_high=0.2)

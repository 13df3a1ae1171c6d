"""Ratios, surrogates, weights and KL estimates: by hand, and in expectation over a small softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.policy_loss import (
    KL_ESTIMATORS,
    cispo_loss,
    clipped_policy_loss,
    importance_weights,
    kl_estimate,
    policy_ratio,
)

# two rollouts of 3 and 1 tokens; what stands past the end must not count
POLICY_NT = jnp.log(jnp.array([[0.2, 0.4, 0.5], [0.3, 0.9, 0.9]]))
OLD_NT = jnp.log(jnp.array([[0.1, 0.4, 0.25], [0.6, 0.1, 0.1]]))
TRAINED_NT = jnp.array([[True, True, True], [True, False, False]])


def test_the_token_ratio_by_hand():
    got = policy_ratio(POLICY_NT, OLD_NT, TRAINED_NT, level="token")
    np.testing.assert_allclose(got, [[2, 1, 2], [0.5, 1, 1]], rtol=1e-6)


def test_the_sequence_ratio_by_hand():  # geometric means: (2 * 1 * 2)^(1/3), and 1/2 of one token
    got = policy_ratio(POLICY_NT, OLD_NT, TRAINED_NT, level="sequence")
    np.testing.assert_allclose(got, [[4 ** (1 / 3)] * 3, [0.5, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_ratio_is_one_where_nothing_counts_whatever_stands_there(level):
    is_trained_NT = TRAINED_NT.at[0].set(False)
    policy_NT = jnp.where(is_trained_NT, POLICY_NT, jnp.nan)
    got = policy_ratio(policy_NT, OLD_NT, is_trained_NT, level=level)
    np.testing.assert_allclose(got, [[1, 1, 1], [0.5, 1, 1]], rtol=1e-6)


def test_the_gradient_of_the_token_ratio_stays_at_its_token():
    def total(policy_NT):  # weights 1, 10, 100 tell the tokens apart
        return (policy_ratio(policy_NT, OLD_NT, TRAINED_NT, level="token") * jnp.array([[1.0, 10, 100]])).sum()

    # d exp(x) = exp(x): the ratio itself, and nothing past the end
    np.testing.assert_allclose(jax.grad(total)(POLICY_NT), [[2, 10, 200], [0.5, 0, 0]], rtol=1e-5)


def test_the_gradient_of_the_sequence_ratio_is_shared_by_its_tokens():
    def total(policy_NT):
        return (policy_ratio(policy_NT, OLD_NT, TRAINED_NT, level="sequence") * jnp.array([[1.0, 10, 100]])).sum()

    # each of the three ratios is exp(mean), so d/dx_s = ratio / 3 at every token s: (1 + 10 + 100) * 4^(1/3) / 3
    first = 111 * 4 ** (1 / 3) / 3
    np.testing.assert_allclose(jax.grad(total)(POLICY_NT), [[first] * 3, [0.5, 0, 0]], rtol=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_old_log_probabilities_get_no_gradient(level):
    grads = jax.grad(lambda old_NT: policy_ratio(POLICY_NT, old_NT, TRAINED_NT, level=level).sum())(OLD_NT)
    np.testing.assert_array_equal(grads, np.zeros((2, 3)))


def test_an_unknown_level_is_named():
    with pytest.raises(ValueError, match="'word' is neither"):
        policy_ratio(POLICY_NT, OLD_NT, TRAINED_NT, level="word")


def clipped(ratio, advantage, *, low=0.2, high=0.3, dual_clip=0.0):
    return clipped_policy_loss(
        jnp.array([[ratio]]), jnp.array([advantage]), clip_low=low, clip_high=high, dual_clip=dual_clip
    )


# ratio, advantage, dual_clip -> loss, clipped low, clipped high; clips at 0.8 and 1.3
CLIP_CASES = [
    (1.0, 2.0, 0.0, -2.0, False, False),
    (1.0, -2.0, 0.0, 2.0, False, False),
    (1.29, 2.0, 0.0, -2.58, False, False),
    (1.31, 2.0, 0.0, -2.6, False, True),
    (1.31, -2.0, 0.0, 2.62, False, False),  # too likely and bad: pushed down without limit
    (9.0, -2.0, 0.0, 18.0, False, False),
    (0.81, -2.0, 0.0, 1.62, False, False),
    (0.79, -2.0, 0.0, 1.6, True, False),
    (0.79, 2.0, 0.0, -1.58, False, False),  # too unlikely and good: pulled back up
    (2.99, -2.0, 3.0, 5.98, False, False),
    (3.01, -2.0, 3.0, 6.0, False, True),  # with a limit
    (3.01, 2.0, 3.0, -2.6, False, True),  # the limit is for negative advantages only
    (0.79, -2.0, 3.0, 1.6, True, False),
    (0.79, 2.0, 3.0, -1.58, False, False),
    (1.21, -2.0, 1.2, 2.4, False, True),  # a dual clip inside the other one
    (1.19, -2.0, 1.2, 2.38, False, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "dual_clip", "expected", "low", "high"), CLIP_CASES)
def test_the_clip_by_hand(ratio, advantage, dual_clip, expected, low, high):
    got = clipped(ratio, advantage, dual_clip=dual_clip)
    assert float(got.loss_NT[0, 0]) == pytest.approx(expected, rel=1e-6)
    assert (bool(got.is_clipped_low_NT[0, 0]), bool(got.is_clipped_high_NT[0, 0])) == (low, high)


@pytest.mark.parametrize(("ratio", "advantage", "dual_clip", "expected", "low", "high"), CLIP_CASES)
def test_the_gradient_is_zero_exactly_where_a_clip_is_reported(ratio, advantage, dual_clip, expected, low, high):
    slope = float(jax.grad(lambda ratio: clipped(ratio, advantage, dual_clip=dual_clip).loss_NT[0, 0])(ratio))
    assert slope == (0.0 if low or high else pytest.approx(-advantage, rel=1e-6))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_clip_of_width_zero_cuts_the_gradient_at_ratio_one_or_leaves_it_whole(low, high, advantage):
    # where a clip does not bite the loss is -ratio * A on both sides of 1, so its slope there is -A
    got = clipped(1.0, advantage, low=low, high=high)
    is_clipped = bool(got.is_clipped_low_NT[0, 0] | got.is_clipped_high_NT[0, 0])
    slope = float(jax.grad(lambda ratio: clipped(ratio, advantage, low=low, high=high).loss_NT[0, 0])(1.0))
    assert slope == (0.0 if is_clipped else -advantage)


def test_a_clip_of_each_rollout_reads_its_own_advantage():
    got = clipped_policy_loss(
        jnp.full((3, 2), 1.5), jnp.array([1.0, -1.0, 0.0]), clip_low=0.2, clip_high=0.2, dual_clip=0.0
    )
    np.testing.assert_allclose(got.loss_NT, [[-1.2, -1.2], [1.5, 1.5], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(got.is_clipped_high_NT, [[True, True], [False, False], [False, False]])


def test_at_ratio_one_the_gradient_is_that_of_the_policy_gradient():
    logprob_NT, advantage_N = jnp.array([[-0.5, -1.0], [-2.0, -0.1]]), jnp.array([0.7, -0.3])

    def total(policy_NT):
        ratio_NT = policy_ratio(policy_NT, logprob_NT, jnp.ones((2, 2), bool), level="token")
        return clipped_policy_loss(ratio_NT, advantage_N, clip_low=0.2, clip_high=0.2, dual_clip=3.0).loss_NT.sum()

    np.testing.assert_allclose(jax.grad(total)(logprob_NT), [[-0.7, -0.7], [0.3, 0.3]], rtol=1e-6)


# ratio, advantage -> weight, clipped low, clipped high: both signs alike; clips at 0.8 and 1.3
CISPO_CASES = [
    (1.0, 2.0, 1.0, False, False),
    (1.31, 2.0, 1.3, False, True),
    (1.31, -2.0, 1.3, False, True),
    (0.79, 2.0, 0.8, True, False),
    (0.79, -2.0, 0.8, True, False),
    (0.81, -2.0, 0.81, False, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "weight", "low", "high"), CISPO_CASES)
def test_cispo_by_hand(ratio, advantage, weight, low, high):
    # one token of probability 1/e: loss = -weight * A * -1
    got = cispo_loss(jnp.array([[-1.0]]), jnp.array([[ratio]]), jnp.array([advantage]), clip_low=0.2, clip_high=0.3)
    assert float(got.loss_NT[0, 0]) == pytest.approx(weight * advantage, rel=1e-6)
    assert (bool(got.is_clipped_low_NT[0, 0]), bool(got.is_clipped_high_NT[0, 0])) == (low, high)


@pytest.mark.parametrize(("ratio", "advantage", "weight", "low", "high"), CISPO_CASES)
def test_the_gradient_of_cispo_passes_through_the_log_probability_alone(ratio, advantage, weight, low, high):
    def loss(logprob):
        ratio_11 = (ratio * jnp.exp(logprob + 1.0))[None, None]  # at logprob -1 this is `ratio`
        terms = cispo_loss(logprob[None, None], ratio_11, jnp.array([advantage]), clip_low=0.2, clip_high=0.3)
        return terms.loss_NT[0, 0]

    # -weight * A, clipped or not; with the ratio's own it would be -weight * A * (1 + logprob) = 0 where not clipped
    assert float(jax.grad(loss)(jnp.float32(-1.0))) == pytest.approx(-weight * advantage, rel=1e-5)


def test_cispo_without_a_lower_bound():
    got = cispo_loss(jnp.array([[-1.0]]), jnp.array([[1e-3]]), jnp.array([2.0]), clip_low=1.0, clip_high=0.3)
    assert float(got.loss_NT[0, 0]) == pytest.approx(2e-3, rel=1e-5)
    assert not bool(got.is_clipped_low_NT[0, 0])


def test_importance_weights_by_hand():
    old_NT, behavior_NT = jnp.log(jnp.array([[0.2, 0.1, 0.9]])), jnp.log(jnp.array([[0.2, 0.4, 0.1]]))
    np.testing.assert_allclose(importance_weights(old_NT, behavior_NT, cap=2.0), [[1, 0.25, 2]], rtol=1e-6)
    np.testing.assert_allclose(importance_weights(old_NT, behavior_NT, cap=0.5), [[0.5, 0.25, 0.5]], rtol=1e-6)


def test_importance_weights_have_no_gradient():
    old_NT, behavior_NT = jnp.log(jnp.array([[0.2, 0.1]])), jnp.log(jnp.array([[0.2, 0.4]]))
    grads = jax.grad(lambda *pair: importance_weights(*pair, cap=2.0).sum(), argnums=(0, 1))(old_NT, behavior_NT)
    np.testing.assert_array_equal(grads, np.zeros((2, 1, 2)))


@pytest.mark.parametrize(
    ("policy", "reference", "expected"),  # d = log(reference / policy)
    [
        (0.5, 0.25, {"k1": np.log(2), "k2": np.log(2) ** 2 / 2, "k3": 0.5 + np.log(2) - 1}),  # d = -log 2
        (0.2, 0.6, {"k1": -np.log(3), "k2": np.log(3) ** 2 / 2, "k3": 3 - np.log(3) - 1}),  # d = log 3
        (0.3, 0.3, {"k1": 0.0, "k2": 0.0, "k3": 0.0}),
    ],
)
@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_kl_estimates_by_hand(policy, reference, expected, estimator):
    got = kl_estimate(jnp.log(jnp.array([[policy]])), jnp.log(jnp.array([[reference]])), estimator=estimator)
    assert float(got[0, 0]) == pytest.approx(expected[estimator], rel=1e-5, abs=1e-7)


LOGITS_V, REFERENCE_V = jnp.array([0.6, -0.3, 0.1, 1.2]), jnp.log(jnp.array([0.2, 0.3, 0.4, 0.1]))


def exact_kl(logits_V):
    logprob_V = jax.nn.log_softmax(logits_V)
    return (jnp.exp(logprob_V) * (logprob_V - REFERENCE_V)).sum()


def exact_reverse_kl(logits_V):
    return (jnp.exp(REFERENCE_V) * (REFERENCE_V - jax.nn.log_softmax(logits_V))).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_average_to_the_divergence(estimator):
    logprob_V = jax.nn.log_softmax(LOGITS_V)
    mean = (jnp.exp(logprob_V) * kl_estimate(logprob_V, REFERENCE_V, estimator=estimator)).sum()
    assert float(mean) == pytest.approx(float(exact_kl(LOGITS_V)), rel=1e-5)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_are_never_negative_and_k1_is(estimator):
    logprob_V = jax.nn.log_softmax(LOGITS_V)
    assert (kl_estimate(logprob_V, REFERENCE_V, estimator=estimator) > 0).all()
    assert (kl_estimate(logprob_V, REFERENCE_V, estimator="k1") < 0).any()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", lambda logits_V: 0.0 * logits_V.sum()),  # E grad log pi = 0: as a loss it is noise
        ("k2", exact_kl),  # E (log pi - log ref) grad log pi
        ("k3", exact_reverse_kl),  # E (1 - ref / pi) grad log pi = -sum ref grad log pi: equal to the KL's near it
    ],
)
def test_the_expected_gradient_of_a_kl_estimate_as_a_loss(estimator, expected):
    probability_V = jax.nn.softmax(LOGITS_V)  # of the draw, which no gradient passes through

    def expected_loss(logits_V):
        estimate_V = kl_estimate(jax.nn.log_softmax(logits_V), REFERENCE_V, estimator=estimator)
        return (probability_V * estimate_V).sum()

    np.testing.assert_allclose(jax.grad(expected_loss)(LOGITS_V), jax.grad(expected)(LOGITS_V), rtol=1e-4, atol=1e-6)


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="'k4' is not one of"):
        kl_estimate(LOGITS_V, REFERENCE_V, estimator="k4")


def test_shapes_that_do_not_match_are_refused():
    wide, narrow, advantage_N = jnp.zeros((2, 3)), jnp.zeros((2, 2)), jnp.zeros(2)
    with pytest.raises(AssertionError):
        policy_ratio(wide, narrow, wide > 0, level="token")
    with pytest.raises(AssertionError):
        clipped_policy_loss(wide[0], advantage_N, clip_low=0.2, clip_high=0.2, dual_clip=0.0)
    with pytest.raises(AssertionError):
        clipped_policy_loss(wide, wide, clip_low=0.2, clip_high=0.2, dual_clip=0.0)
    with pytest.raises(AssertionError):
        cispo_loss(wide, narrow, advantage_N, clip_low=0.2, clip_high=0.2)
    with pytest.raises(AssertionError):
        importance_weights(wide, narrow, cap=2.0)
    with pytest.raises(AssertionError):
        kl_estimate(wide, narrow, estimator="k3")

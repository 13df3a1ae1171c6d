"""Loss per token: the policy term, the penalty for leaving the reference. Averaging is its own file."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

KL_ESTIMATORS = ("k1", "k2", "k3")


class PolicyLoss(NamedTuple):
    """Per-token terms, f32[N, T] or bool[N, T]."""

    loss_NT: jax.Array  # in units of the advantage
    is_clipped_low_NT: jax.Array  # where the clip changes the gradient
    is_clipped_high_NT: jax.Array


def policy_ratio(
    policy_logprob_NT: jax.Array, old_logprob_NT: jax.Array, is_trained_NT: jax.Array, *, level: str
) -> jax.Array:
    """How much likelier the policy makes each token, or each rollout, than the old policy did.

        token     exp(policy_logprob - old_logprob)                             PPO, arXiv:1707.06347
        sequence  exp(mean over the rollout's tokens of that difference)        GSPO, arXiv:2507.18071 sec. 4

    Args:
        policy_logprob_NT: f32[N, T] nats, differentiated.
        old_logprob_NT: f32[N, T] nats, the trainer's own pass at collection time.
        is_trained_NT: bool[N, T], the tokens that count.
        level: "token" or "sequence".

    Returns:
        f32[N, T]; 1 at tokens that do not count.
    """
    chex.assert_rank([policy_logprob_NT, old_logprob_NT, is_trained_NT], 2)
    chex.assert_equal_shape([policy_logprob_NT, old_logprob_NT, is_trained_NT])
    difference_NT = jnp.where(is_trained_NT, policy_logprob_NT - jax.lax.stop_gradient(old_logprob_NT), 0.0)
    if level == "token":
        return jnp.exp(difference_NT)
    if level == "sequence":
        n_tokens_N1 = jnp.maximum(is_trained_NT.sum(axis=1, keepdims=True).astype(jnp.float32), 1.0)
        ratio_N1 = jnp.exp(difference_NT.sum(axis=1, keepdims=True) / n_tokens_N1)
        return jnp.where(is_trained_NT, ratio_N1, 1.0)
    raise ValueError(f"ratio level {level!r} is neither 'token' nor 'sequence'")


def clipped_policy_loss(
    ratio_NT: jax.Array, advantage_N: jax.Array, *, clip_low: float, clip_high: float, dual_clip: float
) -> PolicyLoss:
    """The surrogate that stops paying once the policy has moved far enough.

        loss = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)
        and where A < 0, at most -dual_clip * A

    PPO: arXiv:1707.06347 eq. 7. Two clip widths: DAPO, arXiv:2503.14476 sec. 3.1. Dual clip, which
    bounds the loss of a token that the policy has made much likelier although it was bad:
    arXiv:1912.09729.

    Args:
        ratio_NT: f32[N, T], differentiated.
        advantage_N: f32[N], one per rollout.
        dual_clip: above 1, or 0 for none.
    """
    chex.assert_rank([ratio_NT, advantage_N], [2, 1])
    advantage_N1 = advantage_N[:, None]
    # only where the clip cuts the gradient: a ratio below with A > 0 is still pulled back up
    is_clipped_low_NT = (ratio_NT < 1 - clip_low) & (advantage_N1 < 0)
    is_clipped_high_NT = (ratio_NT > 1 + clip_high) & (advantage_N1 > 0)
    # by choice and not by min and clip, which halve the gradient where both sides are equal
    clipped_NT = jnp.where(is_clipped_high_NT, 1 + clip_high, ratio_NT)
    clipped_NT = jnp.where(is_clipped_low_NT, 1 - clip_low, clipped_NT)
    if dual_clip > 0:
        is_far_NT = (ratio_NT > dual_clip) & (advantage_N1 < 0)
        clipped_NT = jnp.where(is_far_NT, dual_clip, clipped_NT)
        is_clipped_high_NT |= is_far_NT
    return PolicyLoss(-clipped_NT * advantage_N1, is_clipped_low_NT, is_clipped_high_NT)


def cispo_loss(
    policy_logprob_NT: jax.Array, ratio_NT: jax.Array, advantage_N: jax.Array, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """REINFORCE with a clipped importance weight: every token keeps a gradient.

        loss = -stop_gradient(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * policy_logprob

    CISPO: MiniMax-M1, arXiv:2506.13585 sec. 3.1. The paper has no lower bound: clip_low = 1.

    Args:
        policy_logprob_NT: f32[N, T] nats, differentiated.
        ratio_NT: f32[N, T].
        advantage_N: f32[N], one per rollout.
    """
    chex.assert_rank([policy_logprob_NT, ratio_NT, advantage_N], [2, 2, 1])
    chex.assert_equal_shape([policy_logprob_NT, ratio_NT])
    weight_NT = jax.lax.stop_gradient(jnp.clip(ratio_NT, 1 - clip_low, 1 + clip_high))
    return PolicyLoss(
        loss_NT=-weight_NT * advantage_N[:, None] * policy_logprob_NT,
        is_clipped_low_NT=ratio_NT < 1 - clip_low,
        is_clipped_high_NT=ratio_NT > 1 + clip_high,
    )


def importance_weights(old_logprob_NT: jax.Array, behavior_logprob_NT: jax.Array, *, cap: float) -> jax.Array:
    """Corrects for a sampler whose numbers are not the trainer's: f32[N, T], no gradient.

        w = min(exp(old_logprob - behavior_logprob), cap)

    Truncated importance sampling: Ionides, J. Comput. Graph. Stat. 17(2), 2008; between a sampler and
    a trainer: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training" (2025).

    Args:
        old_logprob_NT: f32[N, T] nats, the trainer's pass at collection time.
        behavior_logprob_NT: f32[N, T] nats, of the distribution the sampler drew from.
        cap: above 0; 2 in the source.
    """
    chex.assert_equal_shape([old_logprob_NT, behavior_logprob_NT])
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(old_logprob_NT - behavior_logprob_NT), cap))


def kl_estimate(policy_logprob: jax.Array, reference_logprob: jax.Array, *, estimator: str) -> jax.Array:
    """Per-token estimate of KL(policy || reference) in nats, of the arguments' shape.

        d = reference_logprob - policy_logprob
        k1 = -d      k2 = d^2 / 2      k3 = exp(d) - d - 1

    For tokens drawn from the policy k1 and k3 are unbiased; k3 is never negative and less noisy. As a
    loss k1 has zero expected gradient and only adds noise, k2 has the gradient of the KL, k3 nearly so.
    In a reward, where it is not differentiated, k1 is the usual one. Schulman 2020, "Approximating KL
    divergence"; k3 in GRPO: arXiv:2402.03300 eq. 4.
    """
    chex.assert_equal_shape([policy_logprob, reference_logprob])
    difference = reference_logprob - policy_logprob
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return jnp.square(difference) / 2
    if estimator == "k3":
        return jnp.exp(difference) - difference - 1.0
    raise ValueError(f"KL estimator {estimator!r} is not one of {KL_ESTIMATORS}")

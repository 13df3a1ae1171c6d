"""Loss per token: the clipped policy term and the KL penalty. Averaging is its own file."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class PolicyLoss(NamedTuple):
    """Per-token terms, f32[N, T] or bool[N, T]."""

    loss_NT: jax.Array  # in units of the advantage
    ratio_NT: jax.Array
    is_clipped_low_NT: jax.Array
    is_clipped_high_NT: jax.Array


def clipped_policy_loss(
    policy_logprob_NT: jax.Array,
    old_logprob_NT: jax.Array,
    advantage_N: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """The surrogate that stops paying once the policy has moved far enough.

        ratio = exp(policy_logprob - old_logprob)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    PPO: arXiv:1707.06347 eq. 7. Two clip widths: DAPO, arXiv:2503.14476 sec. 3.1.

    Args:
        policy_logprob_NT: f32[N, T] nats, differentiated.
        old_logprob_NT: f32[N, T] nats, the trainer's own pass at collection time.
        advantage_N: f32[N], one per rollout.
    """
    chex.assert_rank([policy_logprob_NT, old_logprob_NT, advantage_N], [2, 2, 1])
    chex.assert_equal_shape([policy_logprob_NT, old_logprob_NT])
    advantage_N1 = advantage_N[:, None]
    ratio_NT = jnp.exp(policy_logprob_NT - jax.lax.stop_gradient(old_logprob_NT))
    clipped_NT = jnp.clip(ratio_NT, 1 - clip_low, 1 + clip_high)
    return PolicyLoss(
        loss_NT=-jnp.minimum(ratio_NT * advantage_N1, clipped_NT * advantage_N1),
        ratio_NT=ratio_NT,
        # only where the clip cuts the gradient: a ratio below with A > 0 is still pulled back up
        is_clipped_low_NT=(ratio_NT < 1 - clip_low) & (advantage_N1 < 0),
        is_clipped_high_NT=(ratio_NT > 1 + clip_high) & (advantage_N1 > 0),
    )


def kl_k3(policy_logprob_NT: jax.Array, reference_logprob_NT: jax.Array) -> jax.Array:
    """Per-token estimate of KL(policy || reference) in nats, f32[N, T].

        k3 = exp(d) - d - 1,   d = reference_logprob - policy_logprob

    Never negative, unbiased for tokens drawn from the policy, and (unlike k1 = -d) its
    gradient is not zero in expectation. Schulman 2020, "Approximating KL divergence";
    used in GRPO, arXiv:2402.03300 eq. 4.
    """
    chex.assert_equal_shape([policy_logprob_NT, reference_logprob_NT])
    difference_NT = reference_logprob_NT - policy_logprob_NT
    return jnp.exp(difference_NT) - difference_NT - 1.0

"""The loss of a batch of rollouts, as the sums of one micro-batch."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rlvr_jax.algo.averaging import loss_sum_and_weight
from rlvr_jax.algo.policy_loss import (
    PolicyLoss,
    cispo_loss,
    clipped_policy_loss,
    importance_weights,
    kl_estimate,
    policy_ratio,
)
from rlvr_jax.models.chunked_head import HeadPlan
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.models.transformer import PassPlacement
from rlvr_jax.sampling.padding import is_completion_token
from rlvr_jax.train.completion_logprobs import completion_logprobs
from rlvr_jax.train.config import AlgoConfig


@flax.struct.dataclass
class Batch:
    """Rollouts ready to be trained on; in a train step every leaf has [M, n] in place of [P].

    `old_logprob_PRT` is None when a step makes one update: the policy is then its own old policy.
    `reference_logprob_PRT` is None without a KL penalty in the loss.
    """

    prompt_PS: jax.Array  # int32
    prompt_length_P: jax.Array  # int32 tokens
    completion_PRT: jax.Array  # int32
    completion_length_PR: jax.Array  # int32 tokens, EOS included
    is_kept_PR: jax.Array  # bool, false where a rollout counts as never drawn
    advantage_PR: jax.Array  # f32, what the update weighs the rollouts with
    loo_advantage_PR: jax.Array  # f32, leave-one-out, what the noise is measured with
    behavior_logprob_PRT: jax.Array  # f32 nats
    old_logprob_PRT: jax.Array | None
    reference_logprob_PRT: jax.Array | None
    is_selected_PR: jax.Array | None = None  # bool, false where a rollout is in the baseline alone; None: nowhere
    is_action_PRT: jax.Array | None = None  # bool, false at tokens that the environment wrote; None: there are none


RolloutLogprobs = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


def build_rollout_logprobs(
    spec: ModelSpec,
    *,
    temperature: float,
    compute_dtype: jnp.dtype,
    remat: str,
    head_plan: HeadPlan,
    placement: PassPlacement | None = None,
) -> RolloutLogprobs:
    """Returns `f(params, batch) -> (policy_logprob_PRT, entropy_PRT)`, f32 nats."""

    def rollout_logprobs(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        P, R, T = batch.completion_PRT.shape
        logprob_NT, entropy_NT = completion_logprobs(
            params,
            spec,
            jnp.repeat(batch.prompt_PS, R, axis=0),
            jnp.repeat(batch.prompt_length_P, R),
            batch.completion_PRT.reshape(P * R, T),
            temperature=temperature,
            compute_dtype=compute_dtype,
            remat=remat,
            head_plan=head_plan,
            placement=placement,
        )
        return logprob_NT.reshape(P, R, T), entropy_NT.reshape(P, R, T)

    return rollout_logprobs


def is_trained_token(batch: Batch) -> jax.Array:
    """bool[P, R, T], true at the policy's tokens of rollouts that are kept and selected.

    EOS is one, nothing after the last is.
    """
    P, R, T = batch.completion_PRT.shape
    is_token_NT = is_completion_token(batch.completion_length_PR.reshape(P * R), width=T)
    is_used_PR = batch.is_kept_PR if batch.is_selected_PR is None else batch.is_kept_PR & batch.is_selected_PR
    is_trained_PRT = is_token_NT.reshape(P, R, T) & is_used_PR[..., None]
    return is_trained_PRT if batch.is_action_PRT is None else is_trained_PRT & batch.is_action_PRT


class LossTerms(NamedTuple):
    """Sums over one micro-batch; those of all micro-batches are added (or maximised), then divided once."""

    sums: dict[str, jax.Array]
    maxima: dict[str, jax.Array]


LossOfLogprobs = Callable[[jax.Array, jax.Array, Batch], tuple[jax.Array, LossTerms]]
Loss = Callable[[Params, Batch], tuple[jax.Array, LossTerms]]


def build_loss(rollout_logprobs: RolloutLogprobs, algo: AlgoConfig, *, max_new_tokens: int) -> Loss:
    """Returns `loss(params, batch) -> (loss_sum, terms)`, which is `build_loss_of_logprobs` of the policy's."""
    loss_of_logprobs = build_loss_of_logprobs(algo, max_new_tokens=max_new_tokens)

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, LossTerms]:
        return loss_of_logprobs(*rollout_logprobs(params, batch), batch)

    return loss


def build_loss_of_logprobs(algo: AlgoConfig, *, max_new_tokens: int) -> LossOfLogprobs:
    """Returns `loss(logprob_PRT, entropy_PRT, batch) -> (loss_sum, terms)`; terms.sums["weight"] is what to divide by.

    loss = policy loss * importance weight + kl_coef * KL - entropy_coef * entropy     per token
    """

    def policy_loss(policy_NT: jax.Array, ratio_NT: jax.Array, advantage_N: jax.Array) -> PolicyLoss:
        clip = {"clip_low": algo.clip_low, "clip_high": algo.clip_high}
        if algo.objective == "cispo":
            return cispo_loss(policy_NT, ratio_NT, advantage_N, **clip)
        return clipped_policy_loss(ratio_NT, advantage_N, dual_clip=algo.dual_clip, **clip)

    def loss(logprob_PRT: jax.Array, entropy_PRT: jax.Array, batch: Batch) -> tuple[jax.Array, LossTerms]:
        P, R, T = batch.completion_PRT.shape
        old_PRT = jax.lax.stop_gradient(logprob_PRT) if batch.old_logprob_PRT is None else batch.old_logprob_PRT
        is_trained_NT = is_trained_token(batch).reshape(P * R, T)
        # places that are not trained hold anything: made 0 before anything is computed from them
        policy_NT, old_NT, behavior_NT, entropy_NT = (
            jnp.where(is_trained_NT, x.reshape(P * R, T), 0.0)
            for x in (logprob_PRT, old_PRT, batch.behavior_logprob_PRT, entropy_PRT)
        )

        def averaged(loss_NT: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_sum_and_weight(loss_NT, is_trained_NT, kind=algo.averaging, max_length=max_new_tokens)

        def token_sum(x_NT: jax.Array) -> jax.Array:
            return jnp.where(is_trained_NT, x_NT, 0.0).sum()

        def token_max(x_NT: jax.Array) -> jax.Array:
            return jnp.where(is_trained_NT, x_NT, 0.0).max()

        ratio_NT = policy_ratio(policy_NT, old_NT, is_trained_NT, level=algo.ratio)
        policy = policy_loss(policy_NT, ratio_NT, batch.advantage_PR.reshape(P * R))
        policy_loss_NT, corrections = policy.loss_NT, {}
        if algo.importance_cap > 0:
            weight_NT = importance_weights(old_NT, behavior_NT, cap=algo.importance_cap)
            policy_loss_NT = weight_NT * policy_loss_NT
            corrections = {
                "mismatch/weight_mean": token_sum(weight_NT),
                "mismatch/capped_frac": token_sum(weight_NT >= algo.importance_cap),
            }
        policy_sum, weight = averaged(policy_loss_NT)
        mismatch_NT = jnp.abs(old_NT - behavior_NT)  # of the same policy: what it has learned since is no mismatch
        sums = {
            "weight": weight,
            "tokens": is_trained_NT.sum().astype(jnp.float32),
            "loss/policy": policy_sum,
            "policy/entropy": token_sum(entropy_NT),
            "policy/ratio_mean": token_sum(ratio_NT),
            "policy/clip_frac_low": token_sum(policy.is_clipped_low_NT),
            "policy/clip_frac_high": token_sum(policy.is_clipped_high_NT),
            "mismatch/logp_diff_mean": token_sum(mismatch_NT),
        } | corrections
        loss_sum = policy_sum
        if batch.reference_logprob_PRT is not None:
            reference_NT = jnp.where(is_trained_NT, batch.reference_logprob_PRT.reshape(P * R, T), 0.0)
            kl_NT = kl_estimate(policy_NT, reference_NT, estimator=algo.kl_estimator)
            sums["loss/kl"], _ = averaged(kl_NT)
            sums["policy/kl_ref"] = token_sum(kl_estimate(policy_NT, reference_NT, estimator="k3"))
            loss_sum = loss_sum + algo.kl_coef * sums["loss/kl"]
        if algo.entropy_coef > 0:
            sums["loss/entropy"], _ = averaged(entropy_NT)
            loss_sum = loss_sum - algo.entropy_coef * sums["loss/entropy"]
        maxima = {"policy/ratio_max": token_max(ratio_NT), "mismatch/logp_diff_max": token_max(mismatch_NT)}
        return loss_sum, LossTerms(sums | {"loss/total": loss_sum}, maxima)

    return loss

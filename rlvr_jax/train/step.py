"""One optimiser update, jitted: micro-batches by scan, one division, one AdamW step."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rlvr_jax.algo.averaging import loss_sum_and_weight
from rlvr_jax.algo.policy_loss import clipped_policy_loss, kl_k3
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.padding import is_completion_token
from rlvr_jax.train.completion_logprobs import completion_logprobs
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.state import TrainState


@flax.struct.dataclass
class Batch:
    """Rollouts ready to be trained on; in a train step every leaf has [M, n] in place of [P].

    `old_logprob_PRT` is None when a step makes one update: the policy is then its own old policy.
    `reference_logprob_PRT` is None without a KL penalty.
    """

    prompt_PS: jax.Array  # int32
    prompt_length_P: jax.Array  # int32 tokens
    completion_PRT: jax.Array  # int32
    completion_length_PR: jax.Array  # int32 tokens, EOS included
    advantage_PR: jax.Array  # f32, what the update weighs the rollouts with
    loo_advantage_PR: jax.Array  # f32, leave-one-out, what the noise is measured with
    behavior_logprob_PRT: jax.Array  # f32 nats
    old_logprob_PRT: jax.Array | None
    reference_logprob_PRT: jax.Array | None


RolloutLogprobs = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def build_rollout_logprobs(
    spec: ModelSpec, *, temperature: float, compute_dtype: jnp.dtype, use_remat: bool
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
            use_remat=use_remat,
        )
        return logprob_NT.reshape(P, R, T), entropy_NT.reshape(P, R, T)

    return rollout_logprobs


class LossTerms(NamedTuple):
    """Sums over one micro-batch; those of all micro-batches are added (or maximised), then divided once."""

    sums: dict[str, jax.Array]
    maxima: dict[str, jax.Array]


def build_loss(
    rollout_logprobs: RolloutLogprobs,
    *,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    averaging: str,
    max_new_tokens: int,
) -> Callable[[Params, Batch], tuple[jax.Array, LossTerms]]:
    """Returns `loss(params, batch) -> (loss_sum, terms)`; terms.sums["weight"] is what to divide by."""

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, LossTerms]:
        P, R, T = batch.completion_PRT.shape
        logprob_PRT, entropy_PRT = rollout_logprobs(params, batch)
        policy_NT = logprob_PRT.reshape(P * R, T)
        old_PRT = jax.lax.stop_gradient(logprob_PRT) if batch.old_logprob_PRT is None else batch.old_logprob_PRT
        is_trained_NT = is_completion_token(batch.completion_length_PR.reshape(P * R), width=T)

        def averaged(loss_NT: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_sum_and_weight(loss_NT, is_trained_NT, kind=averaging, max_length=max_new_tokens)

        def token_sum(x: jax.Array) -> jax.Array:
            return jnp.where(is_trained_NT, x.reshape(P * R, T), 0.0).sum()

        policy = clipped_policy_loss(
            policy_NT,
            old_PRT.reshape(P * R, T),
            batch.advantage_PR.reshape(P * R),
            clip_low=clip_low,
            clip_high=clip_high,
        )
        loss_sum, weight = averaged(policy.loss_NT)
        mismatch_NT = jnp.where(is_trained_NT, jnp.abs(logprob_PRT - batch.behavior_logprob_PRT).reshape(P * R, T), 0.0)
        sums = {
            "weight": weight,
            "tokens": is_trained_NT.sum().astype(jnp.float32),
            "loss/policy": loss_sum,
            "policy/entropy": token_sum(entropy_PRT),
            "policy/ratio_mean": token_sum(policy.ratio_NT),
            "policy/clip_frac_low": token_sum(policy.is_clipped_low_NT),
            "policy/clip_frac_high": token_sum(policy.is_clipped_high_NT),
            "mismatch/logp_diff_mean": mismatch_NT.sum(),
        }
        if batch.reference_logprob_PRT is not None:
            kl_NT = kl_k3(policy_NT, batch.reference_logprob_PRT.reshape(P * R, T))
            kl_sum, _ = averaged(kl_NT)
            loss_sum = loss_sum + kl_coef * kl_sum
            sums |= {"loss/kl": kl_sum, "policy/kl_ref": token_sum(kl_NT)}
        maxima = {
            "policy/ratio_max": jnp.where(is_trained_NT, policy.ratio_NT, 0.0).max(),
            "mismatch/logp_diff_max": mismatch_NT.max(),
        }
        return loss_sum, LossTerms(sums | {"loss/total": loss_sum}, maxima)

    return loss


def build_train_step(
    loss_fn: Callable[[Params, Batch], tuple[jax.Array, LossTerms]],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    *,
    clip_norm: float,
) -> TrainStep:
    """Returns jitted `step(state, batch) -> (state, metrics)`; batch leaves are [M, n, ...].

    A loss or gradient that is not finite is not applied, and freezes the state: the run stops
    there with everything before it intact.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def add_microbatch(totals, microbatch):
            grad_sum, sums, maxima = totals
            (_, terms), grads = grad_fn(state.params, microbatch)
            return (
                jax.tree.map(jnp.add, grad_sum, grads),
                jax.tree.map(jnp.add, sums, terms.sums),
                jax.tree.map(jnp.maximum, maxima, terms.maxima),
            ), None

        first = jax.tree.map(lambda leaf: leaf[0], batch)
        zero_grads = jax.tree.map(jnp.zeros_like, state.params)
        terms = jax.eval_shape(loss_fn, state.params, first)[1]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (terms.sums, terms.maxima))
        (grad_sum, sums, maxima), _ = jax.lax.scan(add_microbatch, (zero_grads, *zeros), batch)
        grads = jax.tree.map(lambda g: g / sums["weight"], grad_sum)  # the only division

        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        is_finite = jnp.isfinite(sums["loss/total"]) & jnp.isfinite(grad_norm)
        is_applied = is_finite & (state.n_nonfinite == 0)

        def chosen(new, old):
            return jax.tree.map(lambda a, b: jnp.where(is_applied, a, b), new, old)

        metrics = {
            name: total / (sums["weight"] if name.startswith("loss/") else sums["tokens"])
            for name, total in sums.items()
            if "/" in name
        }
        metrics |= maxima
        metrics |= {
            "optim/grad_norm": grad_norm,
            "optim/grad_norm_clipped": jnp.minimum(grad_norm, clip_norm) if clip_norm > 0 else grad_norm,
            "optim/update_norm": optax.tree.norm(updates),
            "optim/lr": jnp.asarray(schedule(state.n_updates), jnp.float32),
            "batch/tokens": sums["tokens"],
            "is_applied": is_applied,
        }
        new_state = state.replace(
            n_updates=state.n_updates + is_applied,
            n_nonfinite=state.n_nonfinite + ~is_finite,
            params=chosen(optax.apply_updates(state.params, updates), state.params),
            opt_state=chosen(opt_state, state.opt_state),
        )
        return new_state, metrics

    return jax.jit(train_step, donate_argnames="state", out_shardings=replicated(mesh))


def build_logprob_pass(
    rollout_logprobs: RolloutLogprobs,
) -> Callable[[Params, Batch], jax.Array]:
    """Returns jitted `f(params, batch [M, n, ...]) -> f32[M, n, R, T]`: the old or reference log-probabilities."""

    @jax.jit
    def logprob_pass(params: Params, batch: Batch) -> jax.Array:
        return jax.lax.map(lambda rows: rollout_logprobs(params, rows)[0], batch)

    return logprob_pass

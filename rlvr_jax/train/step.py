"""One optimiser update, jitted: micro-batches by scan, one division, one AdamW step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlvr_jax.models.lora import LoraSpec, policy_params
from rlvr_jax.models.spec import Params
from rlvr_jax.train.loss import Batch, Loss, LossTerms, RolloutLogprobs
from rlvr_jax.train.measure_noise import MeasuredArrays, Measuring, joined_microbatches
from rlvr_jax.train.placement import Layout, replicated, state_shardings
from rlvr_jax.train.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Params | None, Batch], tuple[TrainState, Metrics, MeasuredArrays | None]]


def build_train_step(
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    layout: Layout,
    *,
    clip_norm: float,
    freezes: bool,
    lora: LoraSpec | None,
    measuring: Measuring | None,
) -> TrainStep:
    """Returns jitted `step(state, frozen, batch) -> (state, metrics, arrays)`; batch leaves are [M, n, ...].

    `frozen` are the weights under an adapter, None without one.

    With `measuring` the gradient comes from its pass, which is that of `loss_fn` up to rounding, and metrics
    and arrays say how noisy it was; else arrays is None.

    An update whose loss or gradient is not finite is not applied. With `freezes` no later one is
    either, so that a run stops there with everything before it intact. A batch without a trained
    token has gradient 0.
    """

    def policy_loss(params: Params, frozen: Params | None, batch: Batch) -> tuple[jax.Array, LossTerms]:
        return loss_fn(policy_params(params, frozen, lora), batch)

    grad_fn = jax.value_and_grad(policy_loss, has_aux=True)

    def train_step(
        state: TrainState, frozen: Params | None, batch: Batch
    ) -> tuple[TrainState, Metrics, MeasuredArrays | None]:
        metric = measuring.metric(state) if measuring else None

        def gradients(microbatch: Batch) -> tuple[Params, LossTerms, Any, Any]:
            """(gradient of the loss sum, its terms, and what is measured: sums, and a reading of each prompt)."""
            if measuring:
                grads, terms, noise_sums, reading = measuring.noise_pass(state.params, frozen, microbatch, metric)
                return layout.constrained(grads), terms, layout.constrained(noise_sums), reading
            (_, terms), grads = grad_fn(state.params, frozen, microbatch)
            return layout.constrained(grads), terms, None, None

        def add_microbatch(totals, microbatch):
            added, maxima = totals
            grads, terms, noise_sums, reading = gradients(microbatch)
            return (
                jax.tree.map(jnp.add, added, (grads, terms.sums, noise_sums)),
                jax.tree.map(jnp.maximum, maxima, terms.maxima),
            ), reading

        grads, terms, noise_sums, _ = jax.eval_shape(gradients, jax.tree.map(lambda leaf: leaf[0], batch))
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ((grads, terms.sums, noise_sums), terms.maxima)
        )
        ((grad_sum, sums, noise_sums), maxima), reading = jax.lax.scan(add_microbatch, zeros, batch)
        weight = jnp.where(sums["weight"] > 0, sums["weight"], 1.0)
        grads = jax.tree.map(lambda g: g / weight, grad_sum)  # the only division

        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        is_finite = jnp.isfinite(sums["loss/total"]) & jnp.isfinite(grad_norm)
        is_applied = is_finite & (state.n_nonfinite == 0) if freezes else is_finite

        n_skipped_in_a_row = jnp.where(is_finite, 0, state.n_skipped_in_a_row + 1)

        def chosen(new, old):
            return jax.tree.map(lambda a, b: jnp.where(is_applied, a, b), new, old)

        metrics = {
            name: total / (weight if name.startswith("loss/") else sums["tokens"])
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
            "health/n_nonfinite": state.n_nonfinite + ~is_finite,
            "is_applied": is_applied,
            "n_skipped_in_a_row": n_skipped_in_a_row,
        }
        new_state = state.replace(
            n_updates=state.n_updates + is_applied,
            n_nonfinite=state.n_nonfinite + ~is_finite,
            n_skipped_in_a_row=n_skipped_in_a_row,
            params=chosen(optax.apply_updates(state.params, updates), state.params),
            opt_state=chosen(opt_state, state.opt_state),
        )
        if measuring is None:
            return new_state, metrics, None
        averages, noise, arrays = measuring.estimate(
            state, noise_sums, joined_microbatches(reading), joined_microbatches(batch)
        )
        return new_state.replace(noise=averages), metrics | noise, arrays

    everywhere = replicated(layout.mesh)
    of_state = state_shardings(layout, optimizer) if layout.trained else everywhere
    return jax.jit(train_step, donate_argnames="state", out_shardings=(of_state, everywhere, everywhere))


def build_logprob_pass(
    rollout_logprobs: RolloutLogprobs,
) -> Callable[[Params, Batch], jax.Array]:
    """Returns jitted `f(params, batch [M, n, ...]) -> f32[M, n, R, T]`: the old or reference log-probabilities."""

    @jax.jit
    def logprob_pass(params: Params, batch: Batch) -> jax.Array:
        return jax.lax.map(lambda rows: rollout_logprobs(params, rows)[0], batch)

    return logprob_pass

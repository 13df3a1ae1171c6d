"""The backward pass that measures: what group gradients say about noise, and the update's gradient where it can.

Two losses matter. The update's own, whatever the config made of it; and the one noise is defined for, with
leave-one-out advantages, a constant denominator and ratio 1, so that E[g_x] does not depend on R:

    g_x = gradient of  -1/R sum_j sum_t ( A_j log pi(y_jt) - kl_coef KL_jt + entropy_coef entropy_jt )

Without the last two terms g_x = sum_j w_j s_j with scores s_j, and one pass seeded with scores tells everything.
With them, a pass over the loss tells the noise of g_x, and the score pass how the policy term's noise splits.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.algo.policy_loss import kl_estimate
from rlvr_jax.models.lora import LoraSpec, policy_params
from rlvr_jax.models.spec import Params, model_part
from rlvr_jax.models.tapped_ops import Tap, TapPlan
from rlvr_jax.models.taps import build_tapped_pass
from rlvr_jax.noise.gram import weighted_sq_norms
from rlvr_jax.noise.per_rollout_grads import build_per_rollout_pass
from rlvr_jax.noise.sketch import count_sketch
from rlvr_jax.train.config import AlgoConfig, NoiseConfig
from rlvr_jax.train.loss import Batch, LossOfLogprobs, LossTerms, RolloutLogprobs, is_trained_token

SKETCH_SEED = 20_250_101  # any constant: sketches of one study can be compared
CHUNK_BYTES = {"cpu": 4 * 2**20}  # what stays in a core's share of the cache
CHUNK_BYTES_ELSEWHERE = 512 * 2**20
VMAP_BUDGET_BYTES = 2**30

ByPart = dict[str, jax.Array]  # one entry per part of the model, see models/spec.model_part
Objective = Callable[[Params, Batch], tuple[jax.Array, Any]]


@flax.struct.dataclass
class GroupReading:
    """Of the gradients g_x of P groups, under one loss and one metric."""

    sq_norm: ByPart  # f32[P], |g_x|^2
    sketch: ByPart  # f32[P, W], of g_x


@flax.struct.dataclass
class Reading:
    """What one pass over P prompts of R rollouts left behind."""

    loss: GroupReading  # of the loss that noise is defined for
    policy: GroupReading | None  # of its policy term alone; None where it has no other or scores are not measured
    adam: GroupReading | None  # as `loss`, gradients divided by Adam's sqrt(v) + eps
    gram: ByPart | None  # f32[P, R, R], of the scores
    rollout_sketch_PRW: jax.Array | None  # of the scores, all parts together


@flax.struct.dataclass
class GradientSums:
    """Sums of g_x over prompts, f32 trees like the parameters."""

    loss: Params
    policy: Params | None


Measured = tuple[Params | None, LossTerms | None, GradientSums, Reading]
NoisePass = Callable[[Params, Params | None, Batch, Params | None], Measured]


def noise_loss(rollout_logprobs: RolloutLogprobs, algo: AlgoConfig) -> Objective:
    """Returns `loss(params, batch) -> (scalar, None)`, whose gradient is the sum of g_x over the prompts.

    R counts the rollouts that are kept; a prompt without any has gradient 0.
    """

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, None]:
        is_trained_PRT = is_trained_token(batch)

        def trained(x_PRT: jax.Array) -> jax.Array:
            return jnp.where(is_trained_PRT, x_PRT, 0.0)  # places that are not trained hold anything

        logprob_PRT, entropy_PRT = (trained(x_PRT) for x_PRT in rollout_logprobs(params, batch))
        gain_PRT = batch.loo_advantage_PR[..., None] * logprob_PRT
        if batch.reference_logprob_PRT is not None:
            reference_PRT = trained(batch.reference_logprob_PRT)
            gain_PRT = gain_PRT - algo.kl_coef * kl_estimate(logprob_PRT, reference_PRT, estimator=algo.kl_estimator)
        if algo.entropy_coef > 0:
            gain_PRT = gain_PRT + algo.entropy_coef * entropy_PRT
        per_rollout_PR = trained(gain_PRT).sum(axis=2)
        return -jnp.sum(per_rollout_PR / n_kept_rollouts(batch)[:, None]), None

    return loss


def n_kept_rollouts(batch: Batch) -> jax.Array:
    """f32[P], at least 1."""
    return jnp.maximum(batch.is_kept_PR.sum(axis=1), 1).astype(jnp.float32)


def is_counted(is_kept_PR: jax.Array) -> jax.Array:
    """bool[P], false where one rollout is kept of several, or none: such a group has no leave-one-out gradient."""
    return is_kept_PR.sum(axis=1) >= min(2, is_kept_PR.shape[1])


def has_other_terms(algo: AlgoConfig) -> bool:
    """Whether the loss has more than its policy term: then no pass over scores alone gives its gradient."""
    return (algo.kl_coef > 0 and algo.kl_in == "loss") or algo.entropy_coef > 0


def can_share_backward(algo: AlgoConfig, *, updates_per_step: int, decomposes: bool) -> bool:
    """Whether the measuring pass can yield the update's own gradient.

    A pass over scores can where a rollout's weight in the loss is one number. A pass over the loss, which
    is needed for a KL or entropy term and enough where nothing is decomposed, can where the update's
    loss, before it is divided by its weight, is R times the one that noise is defined for. Several updates per
    step take parts of the collection each, at a ratio that is not 1.
    """
    if updates_per_step > 1 or algo.importance_cap > 0:
        return False
    if decomposes and not has_other_terms(algo):
        return True
    return algo.advantage == "rloo" and algo.averaging != "sequence" and algo.truncated != "mask"


def build_noise_pass(
    rollout_logprobs: RolloutLogprobs,
    loss_of_logprobs: LossOfLogprobs,
    algo: AlgoConfig,
    noise: NoiseConfig,
    *,
    n_rollouts: int,
    n_shards: int,
    lora: LoraSpec | None,
    decomposes: bool,
    shares_backward: bool,
) -> NoisePass:
    """Returns `measure(params, frozen, batch [P, ...], metric) -> (update's gradient, loss terms, sums, reading)`.

    The first two are None unless the pass is shared with the update.
    """
    measures_loss = has_other_terms(algo) or not decomposes
    build = {"taps": _tapped, "vmap": _vmapped}[noise.method]
    reads = {"noise": noise, "n_rollouts": n_rollouts, "n_shards": n_shards}

    def score_objective(params: Params, batch: Batch) -> tuple[jax.Array, tuple]:
        logprob_PRT, entropy_PRT = rollout_logprobs(params, batch)
        return jnp.where(is_trained_token(batch), logprob_PRT, 0.0).sum(), (logprob_PRT, entropy_PRT)

    def own_objective(params: Params, batch: Batch) -> tuple[jax.Array, tuple]:
        logprobs = rollout_logprobs(params, batch)
        loss_sum, _ = loss_of_logprobs(*logprobs, batch)
        return loss_sum, logprobs

    loss_objective = own_objective if shares_backward else noise_loss(rollout_logprobs, algo)

    def measure(params: Params, frozen: Params | None, batch: Batch, metric: Params | None) -> Measured:
        def on_trained(objective: Objective) -> Objective:
            return lambda trained, batch: objective(policy_params(trained, frozen, lora), batch)

        score_pass = build(on_trained(score_objective), unit="rollout", **reads) if decomposes else None
        loss_pass = build(on_trained(loss_objective), unit="group", **reads) if measures_loss else None
        P = batch.is_kept_PR.shape[0]
        noise_weight_PR = jnp.where(batch.is_kept_PR, -batch.loo_advantage_PR, 0.0) / n_kept_rollouts(batch)[:, None]
        gradient = logprobs = policy = policy_sum = gram = rollout_sketch = None
        if decomposes:
            is_update_here = shares_backward and not measures_loss
            loss_weight_PR = score_weights(loss_of_logprobs, batch) if is_update_here else noise_weight_PR
            metric_here = None if measures_loss else metric
            gradient, policy_sum, found, logprobs = score_pass(
                params, batch, loss_weight_PR, noise_weight_PR, metric_here
            )
            gram, rollout_sketch = found.gram, found.unit_sketch
            policy = _group_reading(found.gram, found.sketch, noise_weight_PR, batch.is_kept_PR)
            adam = _adam_reading(found, noise_weight_PR, batch.is_kept_PR)
        if measures_loss:
            one_P1 = jnp.ones((P, 1), jnp.float32)
            # the update's loss adds tokens up; the noise's divides by R. A group that is not counted is in no sum,
            # though its KL and entropy have a gradient
            scale_P1 = is_counted(batch.is_kept_PR)[:, None] * (one_P1 / n_rollouts if shares_backward else one_P1)
            gradient, loss_sum, found, logprobs = loss_pass(params, batch, one_P1, scale_P1, metric)
            is_kept_P1 = jnp.ones((P, 1), bool)
            loss = _group_reading(found.gram, found.sketch, scale_P1, is_kept_P1)
            adam = _adam_reading(found, scale_P1, is_kept_P1)
        else:
            loss, loss_sum, policy, policy_sum = policy, policy_sum, None, None
        terms = None
        if shares_backward:
            _, terms = loss_of_logprobs(*logprobs, batch)
        return (
            gradient if shares_backward else None,
            terms,
            GradientSums(loss_sum, policy_sum),
            Reading(loss, policy, adam, gram, rollout_sketch),
        )

    return measure


def score_weights(loss_of_logprobs: LossOfLogprobs, batch: Batch) -> jax.Array:
    """f32[P, R], d loss / d log-probability of any trained token of a rollout, where that is one number.

    It is at ratio 1 without terms of a token's own: the derivative then does not depend on the
    log-probabilities, so it is taken where they are 0.
    """
    is_trained_PRT = is_trained_token(batch)
    zero_PRT = jnp.zeros(is_trained_PRT.shape, jnp.float32)
    weight_PRT = jax.grad(lambda logprob_PRT: loss_of_logprobs(logprob_PRT, zero_PRT, batch)[0])(zero_PRT)
    n_tokens_PR = jnp.maximum(is_trained_PRT.sum(axis=2), 1)
    return weight_PRT.sum(axis=2) / n_tokens_PR


@flax.struct.dataclass
class _Found:
    """Sums over the parameters of each part of the model."""

    gram: ByPart
    sketch: ByPart
    unit_sketch: jax.Array | None
    metric_gram: ByPart | None
    metric_sketch: ByPart | None


Unit = Literal["rollout", "group"]


def _tapped(objective: Objective, *, unit: Unit, noise: NoiseConfig, n_rollouts: int, n_shards: int):
    plan = TapPlan(
        n_units=n_rollouts if unit == "rollout" else 1,
        rows_per_unit=1 if unit == "rollout" else n_rollouts,
        n_shards=n_shards,
        chunk_bytes=noise.chunk_mib * 2**20 or CHUNK_BYTES.get(jax.default_backend(), CHUNK_BYTES_ELSEWHERE),
        sketch=count_sketch(noise.sketch_width),
        keeps_unit_sketches=noise.keep_sketches and unit == "rollout",
    )
    tapped_pass = build_tapped_pass(objective, plan)

    def run(params: Params, batch: Batch, loss_weight: jax.Array, noise_weight: jax.Array, metric: Params | None):
        gradient, taps, aux = tapped_pass(params, batch, loss_weight, noise_weight, metric, jnp.uint32(SKETCH_SEED))
        flat = flax.traverse_util.flatten_dict(taps, is_leaf=lambda _, leaf: isinstance(leaf, Tap))
        gradient_sum = {path: tap.gradient_sum for path, tap in flat.items()}
        reads = {
            path: _over_layers(
                path, (tap.gram_PRR, tap.sketch_PW, tap.unit_sketch_PRW, tap.metric_gram_PRR, tap.metric_sketch_PW)
            )
            for path, tap in flat.items()
        }
        return gradient, flax.traverse_util.unflatten_dict(gradient_sum), _by_part(reads), aux

    return run


def _over_layers(path: tuple[str, ...], leaves: tuple) -> tuple:
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), leaves) if path[0] == "layers" else leaves


def _vmapped(objective: Objective, *, unit: Unit, noise: NoiseConfig, n_rollouts: int, n_shards: int):
    del n_shards  # prompts that are scanned over are not shared: right on several devices, but no faster
    per_rollout_pass = build_per_rollout_pass(
        objective,
        sketch=count_sketch(noise.sketch_width),
        keeps_unit_sketches=noise.keep_sketches and unit == "rollout",
        budget_bytes=noise.chunk_mib * 2**20 or VMAP_BUDGET_BYTES,
    )

    def run(params: Params, batch: Batch, loss_weight: jax.Array, noise_weight: jax.Array, metric: Params | None):
        units = _units(batch, unit)
        gradient, gradient_sum, readings, aux = per_rollout_pass(
            params, units, loss_weight, noise_weight, metric, jnp.uint32(SKETCH_SEED)
        )
        if aux is not None:  # log-probabilities, one unit's each
            aux = jax.tree.map(lambda leaf: leaf.reshape(-1, n_rollouts, leaf.shape[-1]), aux)
        flat = flax.traverse_util.flatten_dict(jax.tree.unflatten(jax.tree.structure(params), readings))
        return gradient, gradient_sum, _by_part({path: tuple(reading) for path, reading in flat.items()}), aux

    return run


def _units(batch: Batch, unit: Unit) -> Batch:
    """Leaves [P, U, ...], each unit a batch of one prompt."""
    if unit == "group":
        return jax.tree.map(lambda leaf: leaf[:, None, None], batch)
    P, R = batch.is_kept_PR.shape

    def of_rollout(leaf: jax.Array) -> jax.Array:
        return leaf[:, :, None, None]

    def of_prompt(leaf: jax.Array) -> jax.Array:
        return jnp.broadcast_to(leaf[:, None, None], (P, R, 1, *leaf.shape[1:]))

    per_rollout = batch.replace(prompt_PS=None, prompt_length_P=None)
    return jax.tree.map(of_rollout, per_rollout).replace(
        prompt_PS=of_prompt(batch.prompt_PS), prompt_length_P=of_prompt(batch.prompt_length_P)
    )


def _by_part(reads: dict[tuple[str, ...], tuple]) -> _Found:
    found: list[ByPart] = [{}, {}, {}, {}, {}]
    for path, leaves in sorted(reads.items()):
        part = model_part(path)
        for of_parts, leaf in zip(found, leaves, strict=True):
            if leaf is not None:
                of_parts[part] = of_parts[part] + leaf if part in of_parts else leaf
    gram, sketch, unit_sketch, metric_gram, metric_sketch = found
    return _Found(
        gram=gram,
        sketch=sketch,
        unit_sketch=sum(unit_sketch.values()) if unit_sketch else None,
        metric_gram=metric_gram or None,
        metric_sketch=metric_sketch or None,
    )


def _group_reading(gram: ByPart, sketch: ByPart, weight_PU: jax.Array, is_kept_PU: jax.Array) -> GroupReading:
    return GroupReading(
        sq_norm={part: weighted_sq_norms(gram_PUU, weight_PU, is_kept_PU) for part, gram_PUU in gram.items()},
        sketch=sketch,
    )


def _adam_reading(found: _Found, weight_PU: jax.Array, is_kept_PU: jax.Array) -> GroupReading | None:
    if found.metric_gram is None:
        return None
    return _group_reading(found.metric_gram, found.metric_sketch, weight_PU, is_kept_PU)

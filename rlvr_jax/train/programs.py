"""The jitted functions of a run, built once from what never changes in it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from rlvr_jax.models.lora import trained_table
from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Sampler
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.batch import Advantages, build_advantages
from rlvr_jax.train.completion_logprobs import build_head_plan
from rlvr_jax.train.config import CheckpointConfig, LogConfig, StartConfig, TrainConfig, flat_fields
from rlvr_jax.train.draw_rollouts import build_policy_sampler
from rlvr_jax.train.evaluate import Evaluator, build_evaluator
from rlvr_jax.train.loss import Batch, RolloutLogprobs, build_loss, build_loss_of_logprobs, build_rollout_logprobs
from rlvr_jax.train.measure_noise import Measuring, NoiseMeasurement, build_measuring, build_noise_measurement
from rlvr_jax.train.noise_pass import build_noise_pass, can_share_backward
from rlvr_jax.train.optimizer import adamw, learning_rate
from rlvr_jax.train.placement import n_batch_shards
from rlvr_jax.train.step import TrainStep, build_logprob_pass, build_train_step
from rlvr_jax.train.validate_noise import can_decompose


class Programs(NamedTuple):
    """What a run calls. Nothing is traced before its first call."""

    sample: Sampler  # for train/draw_rollouts
    advantages: Advantages
    train_step: TrainStep
    logprob_pass: Callable[[Params, Batch], jax.Array]
    measured_step: TrainStep | None  # an update that measures the noise too, where one pass can do both
    measure_noise: NoiseMeasurement | None  # a pass of its own, where it cannot
    evaluate: Evaluator
    optimizer: optax.GradientTransformation


N_KEPT = 4

_kept: list[tuple[dict[str, Any], Parts, Programs]] = []  # the latest last


def kept_programs(config: TrainConfig, parts: Parts) -> Programs:
    """`build_programs`, once for all points of a study that only differ in their seed: what one has traced and
    compiled serves the others."""
    on_the_host = {"study": "", "point": "", "seed": 0, "log": LogConfig(), "checkpoint": CheckpointConfig()}
    on_the_host |= {"start": StartConfig()}
    settings = flat_fields(dataclasses.replace(config, **on_the_host))
    for i, (kept_settings, kept_parts, _) in enumerate(_kept):
        if kept_settings == settings and kept_parts == parts:
            _kept.append(_kept.pop(i))
            break
    else:
        _kept.append((settings, parts, build_programs(config, parts)))
        del _kept[:-N_KEPT]
    return _kept[-1][2]


def build_programs(config: TrainConfig, parts: Parts) -> Programs:
    """The programs of one config."""
    algo, opt = config.algo, config.optimizer
    rollout_logprobs = policy_logprobs(config, parts)
    loss = build_loss(rollout_logprobs, algo, max_new_tokens=config.sampling.max_new_tokens)
    schedule = learning_rate(
        peak_lr=config.peak_lr,
        warmup_updates=opt.warmup_updates,
        schedule=opt.schedule,
        decay_updates=config.decay_updates,
    )
    optimizer = adamw(
        trained_table(parts.spec, parts.lora),
        schedule,
        b1=opt.b1,
        b2=opt.b2,
        eps=opt.eps,
        momentum_dtype=opt.momentum_dtype,
        weight_decay=opt.weight_decay,
        clip_norm=opt.clip_norm,
    )
    update = {"clip_norm": opt.clip_norm, "freezes": opt.nonfinite == "stop", "lora": parts.lora}
    train_step = build_train_step(loss, optimizer, schedule, parts.layout, **update, measuring=None)
    measured_step = measure_noise = None
    if config.noise.every_updates > 0:
        measuring = noise_measuring(config, parts, rollout_logprobs)
        if shares_backward(config):
            measured_step = build_train_step(loss, optimizer, schedule, parts.layout, **update, measuring=measuring)
        else:
            measure_noise = build_noise_measurement(measuring, parts.layout)
    return Programs(
        sample=build_policy_sampler(
            parts,
            config.sampling,
            n_rollouts=config.batch.n_rollouts,
            temperature=config.sampling.temperature,
        ),
        advantages=build_advantages(algo),
        train_step=train_step,
        logprob_pass=build_logprob_pass(rollout_logprobs),
        measured_step=measured_step,
        measure_noise=measure_noise,
        evaluate=build_evaluator(config.eval, parts, config.sampling),
        optimizer=optimizer,
    )


def policy_logprobs(config: TrainConfig, parts: Parts) -> RolloutLogprobs:
    """The trainer's own pass over rollouts."""
    return build_rollout_logprobs(
        parts.spec,
        temperature=config.sampling.temperature,
        compute_dtype=parts.compute_dtype,
        remat=config.model.remat,
        head_plan=build_head_plan(config.model.logprob_chunk_mib, parts.mesh),
        placement=parts.layout.of_pass,
    )


def noise_measuring(config: TrainConfig, parts: Parts, rollout_logprobs: RolloutLogprobs) -> Measuring:
    """The measuring pass of one config, to be traced into an update or a program of its own."""
    algo, noise = config.algo, config.noise
    return build_measuring(
        build_noise_pass(
            rollout_logprobs,
            build_loss_of_logprobs(algo, max_new_tokens=config.sampling.max_new_tokens),
            algo,
            noise,
            n_rollouts=config.batch.n_rollouts,
            n_shards=n_batch_shards(parts.mesh),
            lora=parts.lora,
            decomposes=can_decompose(config),
            shares_backward=shares_backward(config),
        ),
        noise,
        config.optimizer,
        n_prompts=config.batch.n_prompts,
        n_rollouts=config.batch.n_rollouts,
    )


def shares_backward(config: TrainConfig) -> bool:
    """Whether a measured update's gradient comes from the measuring pass."""
    return config.noise.shares_backward and can_share_backward(
        config.algo, updates_per_step=config.updates_per_step, decomposes=can_decompose(config)
    )

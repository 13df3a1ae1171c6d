"""The jitted functions of a run, built once from what never changes in it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Sampler, build_sampler
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.batch import Advantages, build_advantages
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.evaluate import Evaluator, build_evaluator
from rlvr_jax.train.loss import Batch, build_loss, build_rollout_logprobs
from rlvr_jax.train.measure_noise import NoiseMeasurement, build_group_loss, build_noise_measurement
from rlvr_jax.train.optimizer import adamw, learning_rate
from rlvr_jax.train.step import TrainStep, build_logprob_pass, build_train_step


class Programs(NamedTuple):
    """What a run calls. Nothing is traced before its first call."""

    sample: Sampler
    advantages: Advantages
    train_step: TrainStep
    logprob_pass: Callable[[Params, Batch], jax.Array]
    measure_noise: NoiseMeasurement | None
    evaluate: Evaluator
    optimizer: optax.GradientTransformation


def build_programs(config: TrainConfig, parts: Parts) -> Programs:
    """The programs of one config."""
    algo, opt, noise = config.algo, config.optimizer, config.noise
    rollout_logprobs = build_rollout_logprobs(
        parts.spec,
        temperature=config.sampling.temperature,
        compute_dtype=parts.compute_dtype,
        use_remat=config.model.use_remat,
    )
    loss = build_loss(rollout_logprobs, algo, max_new_tokens=config.sampling.max_new_tokens)
    schedule = learning_rate(
        peak_lr=opt.peak_lr,
        warmup_updates=opt.warmup_updates,
        schedule=opt.schedule,
        decay_updates=config.decay_updates,
    )
    optimizer = adamw(
        parts.spec,
        schedule,
        b1=opt.b1,
        b2=opt.b2,
        eps=opt.eps,
        weight_decay=opt.weight_decay,
        clip_norm=opt.clip_norm,
    )
    measure_noise = None
    if noise.every_updates > 0:
        measure_noise = build_noise_measurement(
            build_group_loss(rollout_logprobs, algo),
            parts.mesh,
            n_prompts=config.batch.n_prompts,
            n_rollouts=config.batch.n_rollouts,
            naive_minibatches=noise.naive_minibatches,
            sketch_width=noise.sketch_width,
            smoothing=noise.smoothing,
            chunk_prompts=noise.chunk_prompts,
        )
    return Programs(
        sample=build_sampler(
            parts.spec,
            n_rollouts=config.batch.n_rollouts,
            max_new_tokens=config.sampling.max_new_tokens,
            bucket_tokens=config.sampling.bucket_tokens,
            temperature=config.sampling.temperature,
            eos_id=parts.tokenizer.eos_id,
            pad_id=parts.tokenizer.pad_id,
            compute_dtype=parts.compute_dtype,
        ),
        advantages=build_advantages(algo),
        train_step=build_train_step(
            loss, optimizer, schedule, parts.mesh, clip_norm=opt.clip_norm, freezes=opt.nonfinite == "stop"
        ),
        logprob_pass=build_logprob_pass(rollout_logprobs),
        measure_noise=measure_noise,
        evaluate=build_evaluator(config.eval, parts, config.sampling),
        optimizer=optimizer,
    )

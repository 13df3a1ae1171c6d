"""What cannot work in a config, every problem at once, each with its value and the fix."""

import dataclasses
import math
import re
import typing
from typing import Any

from rlvr_jax.models.spec import QK_NORMS
from rlvr_jax.train.config import (
    DTYPES,
    LONG_PROMPTS,
    LR_RULES,
    NOISE_METHODS,
    NONFINITE,
    REMATS,
    SCHEDULES,
    TASKS,
    WANDB,
    ConfigError,
    TrainConfig,
    flat_fields,
)
from rlvr_jax.train.sinks import wandb_problem
from rlvr_jax.train.validate_algo import algo_problems
from rlvr_jax.train.validate_lora import lora_problems
from rlvr_jax.train.validate_model import model_problems
from rlvr_jax.train.validate_noise import noise_problems
from rlvr_jax.train.validate_optimizer import optimizer_problems
from rlvr_jax.train.validate_task import task_problems


def validate(config: TrainConfig) -> None:
    """Raises ConfigError with every setting that cannot work, its value and the fix."""
    problems = _type_problems(config)
    if not problems:  # ranges of mistyped values would only repeat the news
        problems = [*_range_problems(config), *_choice_problems(config), *_batch_problems(config)]
        problems += _eval_problems(config) + algo_problems(config) + lora_problems(config.lora)
        problems += optimizer_problems(config)
        if config.start.checkpoint and config.task.stages:
            problems.append(
                "start.checkpoint with task.stages: a curriculum is counted from a run's first prompt, and a branch "
                "has none; leave out task.stages, with the settings of the stage that the trunk was in"
            )
    if problems:
        raise ConfigError(problems)


def _type_problems(config: Any, prefix: str = "") -> list[str]:
    problems = []
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, wanted = getattr(config, field.name), types[field.name]
        path = prefix + field.name
        if dataclasses.is_dataclass(wanted):
            if isinstance(value, wanted):
                problems += _type_problems(value, path + ".")
            else:
                problems.append(f"{path}={value!r} must be a {wanted.__name__}")
        elif not _has_type(value, wanted):
            problems.append(f"{path}={value!r} must be {_TYPE_NAMES[wanted]}")
    return problems


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[float, ...]: "a tuple of numbers",
    tuple[str, ...]: "a tuple of texts",
}


def _has_type(value: Any, wanted: Any) -> bool:
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_has_type(v, typing.get_args(wanted)[0]) for v in value)
    if wanted is float:  # 1 is a fine 1.0
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


_AT_LEAST = {
    0: """task.judge.n_retries task.judge.backoff_s task.judge.longest_wait_s task.judge.budget_requests
        task.judge.budget_tokens eval.n_problems
        seed task.operand_min warmstart.seed batch.minibatch_prompts batch.microbatch_prompts
        sampling.max_prompt_tokens sampling.rollouts_at_once algo.clip_low algo.clip_high algo.kl_coef algo.std_eps
        optimizer.warmup_updates optimizer.decay_updates optimizer.weight_decay optimizer.clip_norm
        noise.every_updates noise.naive_minibatches noise.chunk_mib eval.every_updates eval.seed checkpoint.keep_best
        checkpoint.every_updates log.rollouts_every_updates placement.data placement.fsdp placement.tensor
        warmstart.warmup_updates optimizer.lr_reference_rollouts
        warmstart.n_correct_updates algo.dual_clip algo.entropy_coef algo.importance_cap algo.truncated_penalty
        algo.overlong_buffer_tokens algo.overlong_penalty task.n_problems sampling.max_turn_tokens
        model.logprob_chunk_mib placement.memory_gib lora.peak_lr""",
    1: """task.code.cpu_s task.code.memory_mib task.code.n_processes task.judge.concurrency task.judge.max_tokens
        n_updates model.width model.n_layers model.n_heads model.n_kv_heads model.mlp_width
        warmstart.n_updates warmstart.batch_size batch.n_prompts batch.n_rollouts batch.epochs_per_buffer
        sampling.max_new_tokens eval.n_samples checkpoint.keep_newest
        log.rollouts_n_prompts sampling.max_rounds optimizer.max_skipped_in_a_row task.reward_workers
        lora.rank algo.select_n""",
    2: "noise.sketch_width sampling.bucket_tokens",
}
_ABOVE_ZERO = """sampling.temperature eval.temperature optimizer.peak_lr optimizer.eps warmstart.peak_lr
    model.rope_theta model.norm_eps task.reward_limit_s task.judge.timeout_s task.code.limit_s lora.alpha"""
_BELOW_ONE = "optimizer.b1 optimizer.b2 noise.smoothing"


def _range_problems(config: TrainConfig) -> list[str]:
    values = flat_fields(config)
    problems = [f"{path}={v} is not a finite number" for path, v in values.items() if not _is_finite(v)]
    for least, paths in _AT_LEAST.items():
        problems += [
            f"{path}={values[path]} must be at least {least}" for path in paths.split() if values[path] < least
        ]
    problems += [f"{path}={values[path]} must be above 0" for path in _ABOVE_ZERO.split() if values[path] <= 0]
    problems += [
        f"{path}={values[path]} must lie in [0, 1)" for path in _BELOW_ONE.split() if not 0 <= values[path] < 1
    ]
    problems += [
        f"{path}={values[path]} must be below 2^32: a key holds no more, and larger seeds would repeat smaller ones"
        for path in ("seed", "eval.seed", "warmstart.seed")
        if values[path] >= 2**32
    ]
    problems += [
        f"{path}={values[path]} must be below 2^31: no array has more rows"
        for path in ("batch.n_prompts", "batch.n_rollouts", "sampling.max_new_tokens", "eval.n_samples")
        if values[path] >= 2**31
    ]
    if config.optimizer.schedule != "constant" and config.decay_updates <= config.optimizer.warmup_updates:
        problems.append(
            f"optimizer.schedule={config.optimizer.schedule!r} reaches 0 at update {config.decay_updates}, before the "
            f"warm-up of optimizer.warmup_updates={config.optimizer.warmup_updates} is over; use a shorter warm-up"
        )
    if config.warmstart.warmup_updates >= config.warmstart.n_updates:
        problems.append(
            f"warmstart.warmup_updates={config.warmstart.warmup_updates} must be below "
            f"warmstart.n_updates={config.warmstart.n_updates}"
        )
    if not 0 <= config.warmstart.p_correct <= 1:
        problems.append(f"warmstart.p_correct={config.warmstart.p_correct} must lie in [0, 1]")
    if config.warmstart.n_correct_updates > config.warmstart.n_updates:
        problems.append(
            f"warmstart.n_correct_updates={config.warmstart.n_correct_updates} is more than "
            f"warmstart.n_updates={config.warmstart.n_updates}; use that or less"
        )
    return problems


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _choice_problems(config: TrainConfig) -> list[str]:
    choices = {
        "task.name": (config.task.name, TASKS),
        "optimizer.schedule": (config.optimizer.schedule, SCHEDULES),
        "optimizer.lr_rule": (config.optimizer.lr_rule, LR_RULES),
        "noise.method": (config.noise.method, NOISE_METHODS),
        "optimizer.nonfinite": (config.optimizer.nonfinite, NONFINITE),
        "model.compute_dtype": (config.model.compute_dtype, DTYPES),
        "model.remat": (config.model.remat, REMATS),
        "optimizer.momentum_dtype": (config.optimizer.momentum_dtype, DTYPES),
        "sampling.long_prompts": (config.sampling.long_prompts, LONG_PROMPTS),
        "model.qk_norm": (config.model.qk_norm, QK_NORMS),
        "eval.target_metric": (config.eval.target_metric, ("pass@1", "greedy")),
        "log.wandb": (config.log.wandb, WANDB),
    }
    problems = [
        f"{path}={value!r} is not one of {known}" for path, (value, known) in choices.items() if value not in known
    ]
    for path, name in (("study", config.study), ("point", config.point)):
        if not re.fullmatch(r"[A-Za-z0-9_.+=@-]{0,150}", name) or name in (".", "..") or (path == "study" and not name):
            problems.append(f"{path}={name!r} must be a folder name: up to 150 letters, digits and any of _.+=@-")
    if config.log.wandb in WANDB and (missing := wandb_problem(config.log.wandb)):
        problems.append(missing)
    return problems + task_problems(config.task) + model_problems(config)


def _batch_problems(config: TrainConfig) -> list[str]:
    batch, problems = config.batch, []
    if batch.n_prompts < 1 or batch.n_rollouts < 1 or batch.epochs_per_buffer < 1:
        return []  # said by the ranges
    problems += indivisible("batch.n_prompts", batch.n_prompts, "batch.minibatch_prompts", config.minibatch_prompts)
    if batch.minibatch_prompts and not problems:
        # n_prompts is a multiple of the minibatch already, so the micro-batch is what should give way
        problems += _no_divisor(
            "batch.microbatch_prompts", batch.microbatch_prompts, "batch.minibatch_prompts", config.minibatch_prompts
        )
    else:
        problems += indivisible(
            "batch.n_prompts", batch.n_prompts, "batch.microbatch_prompts", batch.microbatch_prompts
        )
    if not problems:
        problems += indivisible("n_updates", config.n_updates, "updates per step", config.updates_per_step)
    return problems + noise_problems(config)


def _no_divisor(part_name: str, part: int, whole_name: str, whole: int) -> list[str]:
    """[] if `part` (0: automatic) divides `whole`, else one message with the nearest divisors."""
    if part < 1 or whole % part == 0:
        return []
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    below, above = (
        max(d for d in divisors if d < part) if part > 1 else 1,
        min(d for d in divisors if d > part or d == whole),
    )
    fix = " or ".join(str(d) for d in sorted({below, above}))
    return [f"{part_name}={part} does not divide {whole_name}={whole}; use {part_name}={fix}"]


def indivisible(whole_name: str, whole: int, part_name: str, part: int) -> list[str]:
    """[] if `part` divides `whole`, else one message with the two nearest values that would work."""
    if part < 1 or whole % part == 0:
        return []
    below, above = whole // part * part, (whole // part + 1) * part
    fix = f"{below} or {above}" if below else f"{above}"
    return [f"{whole_name}={whole} is not a multiple of {part_name}={part}; use {whole_name}={fix}"]


def _eval_problems(config: TrainConfig) -> list[str]:
    problems = []
    too_many = [k for k in config.eval.k if not 1 <= k <= config.eval.n_samples]
    if too_many or not config.eval.k:
        problems.append(
            f"eval.k={config.eval.k}: every k of pass@k and maj@k must lie in 1..eval.n_samples={config.eval.n_samples}"
        )
    if len(set(config.eval.k)) < len(config.eval.k):
        problems.append(f"eval.k={config.eval.k} names a k twice")
    if config.eval.target_metric == "pass@1" and 1 not in config.eval.k:
        problems.append(f"eval.target_metric='pass@1' needs a 1 in eval.k={config.eval.k}")
    for milestone in config.eval.milestones:
        if milestone < 1:
            problems.append(f"eval.milestones={config.eval.milestones}: {milestone} is no update; they count from 1")
        elif milestone % config.updates_per_step:  # those beyond the end are for a run that goes on
            problems += [
                f"eval.milestones={config.eval.milestones}: {milestone} is not the end of a step, which has "
                f"{config.updates_per_step} updates; use multiples of that"
            ]
    targets = config.eval.targets
    if not all(0 < target <= 1 for target in targets) or list(targets) != sorted(set(targets)):
        problems.append(f"eval.targets={targets} must be rising accuracies in (0, 1]")
    return problems

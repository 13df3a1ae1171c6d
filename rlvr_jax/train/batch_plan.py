"""What a run will do, counted before it does anything."""

import dataclasses

from rlvr_jax.train.config import ConfigError, TrainConfig


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Every derived batch quantity of a run."""

    n_prompts: int
    n_rollouts: int
    rollouts_per_step: int
    minibatch_prompts: int
    rollouts_per_update: int
    updates_per_step: int
    microbatch_prompts: int
    microbatches_per_update: int
    n_updates: int
    n_steps: int
    total_prompts: int
    total_rollouts: int
    n_train: int
    n_heldout: int
    passes_over_data: float
    max_prompt_tokens: int
    max_new_tokens: int
    max_step_tokens: int
    n_devices: int
    n_evaluations: int
    n_noise_measurements: int
    n_parameters: int


def batch_plan(
    config: TrainConfig,
    *,
    n_train: int,
    n_heldout: int,
    longest_prompt_tokens: int,
    longest_completion_tokens: int,
    n_devices: int,
    n_parameters: int,
) -> BatchPlan:
    """The plan of a validated config. Raises ConfigError with every number that does not fit the data or devices."""
    batch, sampling = config.batch, config.sampling
    problems = []
    if config.microbatch_prompts % n_devices:
        backward, minibatch = config.microbatch_prompts, config.minibatch_prompts
        divisors = [d for d in range(n_devices, minibatch + 1, n_devices) if minibatch % d == 0]
        nearest = [f"batch.microbatch_prompts={min(divisors, key=lambda d: abs(d - backward))} or "] if divisors else []
        shared = max(d for d in range(1, n_devices + 1) if backward % d == 0)
        problems.append(
            f"{n_devices} devices cannot share the {backward} prompts of one backward pass evenly; "
            f"use {''.join(nearest)}placement.data={shared}"
        )
    if batch.n_prompts > n_train:
        problems.append(
            f"batch.n_prompts={batch.n_prompts} is more than the {n_train} training problems of task "
            f"{config.task.name!r}; use batch.n_prompts={n_train} or less, or a larger task"
        )
    if sampling.max_new_tokens < longest_completion_tokens:
        problems.append(
            f"sampling.max_new_tokens={sampling.max_new_tokens} cuts answers of task {config.task.name!r}, which take "
            f"up to {longest_completion_tokens} tokens with EOS; use {longest_completion_tokens} or more"
        )
    if n_heldout == 0:
        problems.append(
            f"task {config.task.name!r} is so small that no problem is held out; "
            + ("add rows or set task.heldout_path" if config.task.path else "use more operands or operators")
        )
    elif config.eval.n_problems > n_heldout:
        problems.append(
            f"eval.n_problems={config.eval.n_problems} is more than the {n_heldout} held-out problems of task "
            f"{config.task.name!r}; use eval.n_problems={n_heldout} or less"
        )
    if 0 < sampling.max_prompt_tokens < longest_prompt_tokens:
        problems.append(
            f"sampling.max_prompt_tokens={sampling.max_prompt_tokens} is shorter than the longest prompt of task "
            f"{config.task.name!r}, {longest_prompt_tokens} tokens; use that, or 0 for automatic"
        )
    if problems:
        raise ConfigError(problems)

    n_steps = config.n_updates // config.updates_per_step
    prompt_tokens = sampling.max_prompt_tokens or longest_prompt_tokens
    rollouts_per_step = batch.n_prompts * batch.n_rollouts
    return BatchPlan(
        n_prompts=batch.n_prompts,
        n_rollouts=batch.n_rollouts,
        rollouts_per_step=rollouts_per_step,
        minibatch_prompts=config.minibatch_prompts,
        rollouts_per_update=config.minibatch_prompts * batch.n_rollouts,
        updates_per_step=config.updates_per_step,
        microbatch_prompts=config.microbatch_prompts,
        microbatches_per_update=config.minibatch_prompts // config.microbatch_prompts,
        n_updates=config.n_updates,
        n_steps=n_steps,
        total_prompts=n_steps * batch.n_prompts,
        total_rollouts=n_steps * rollouts_per_step,
        n_train=n_train,
        n_heldout=n_heldout,
        passes_over_data=n_steps * batch.n_prompts / n_train,
        max_prompt_tokens=prompt_tokens,
        max_new_tokens=sampling.max_new_tokens,
        max_step_tokens=rollouts_per_step * (prompt_tokens + sampling.max_new_tokens),
        n_devices=n_devices,
        n_evaluations=1 + sum(is_due(s, config.eval.every_updates, config) for s in range(n_steps)),
        n_noise_measurements=sum(is_noise_due(s, config) for s in range(n_steps)),
        n_parameters=n_parameters,
    )


def is_due(step: int, every_updates: int, config: TrainConfig) -> bool:
    """Whether something done every so many updates is due at the end of `step` (counted from 0).

    Things happen at the end of a step, so with several updates per step the first step end at or
    after each multiple counts. The last step is always due, unless `every_updates` is 0.
    """
    if every_updates == 0:
        return False
    updates_before, updates_after = step * config.updates_per_step, (step + 1) * config.updates_per_step
    return updates_after // every_updates > updates_before // every_updates or updates_after >= config.n_updates


def is_noise_due(step: int, config: TrainConfig) -> bool:
    """Whether the noise is measured at `step`: its first update, on-policy, before it changes anything."""
    every = config.noise.every_updates
    return every > 0 and (step * config.updates_per_step) % every < config.updates_per_step


def plan_warnings(plan: BatchPlan) -> list[str]:
    """What works but may surprise."""
    warnings = []
    if plan.n_prompts > plan.n_train / 4:
        warnings.append(
            f"n_prompts={plan.n_prompts} is more than a quarter of the {plan.n_train} training problems: "
            "prompts drawn without replacement make the gradient less noisy than independent ones"
        )
    if plan.passes_over_data > 5:
        warnings.append(
            f"every training problem is seen {plan.passes_over_data:.1f} times: "
            "expect training reward above held-out accuracy"
        )
    return warnings


def plan_table(plan: BatchPlan) -> str:
    """The plan as lines of text, one quantity each, with how it comes about."""
    rows = [
        ("rollouts per step", plan.rollouts_per_step, f"{plan.n_prompts} prompts x {plan.n_rollouts} rollouts"),
        ("updates per step", plan.updates_per_step, f"minibatches of {plan.minibatch_prompts} prompts"),
        ("rollouts per update", plan.rollouts_per_update, ""),
        (
            "backward passes per update",
            plan.microbatches_per_update,
            f"micro-batches of {plan.microbatch_prompts} prompts on {plan.n_devices} device(s)",
        ),
        ("steps / updates", f"{plan.n_steps} / {plan.n_updates}", ""),
        ("rollouts in all", plan.total_rollouts, f"{plan.total_prompts} prompts"),
        (
            "passes over the data",
            f"{plan.passes_over_data:.2f}",
            f"{plan.n_train} training problems, {plan.n_heldout} held out",
        ),
        (
            "tokens per step, at most",
            plan.max_step_tokens,
            f"{plan.max_prompt_tokens} prompt + {plan.max_new_tokens} completion",
        ),
        ("evaluations", plan.n_evaluations, "the start included"),
        ("noise measurements", plan.n_noise_measurements, ""),
        ("parameters", plan.n_parameters, ""),
    ]
    width, number_width = max(len(r[0]) for r in rows), max(len(str(r[1])) for r in rows)
    return "\n".join(f"  {name:<{width}}  {value!s:>{number_width}}  {how}".rstrip() for name, value, how in rows)

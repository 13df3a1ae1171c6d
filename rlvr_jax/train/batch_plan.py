"""What a run will do, counted before it does anything."""

import dataclasses

from rlvr_jax.train.config import ConfigError, TrainConfig
from rlvr_jax.train.stage_plan import StagePlan, stage_rows, stage_warnings


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
    n_train_left_out: int  # problems with prompts that are too long, not counted in n_train
    n_heldout_left_out: int
    passes_over_data: float
    max_prompt_tokens: int
    max_new_tokens: int
    max_step_tokens: int
    n_devices: int
    n_shards: int  # of a batch, each on its own devices
    n_evaluations: int
    n_noise_measurements: int
    n_parameters: int  # those of an adapter among them
    n_trained_parameters: int
    peak_lr: float  # in use
    peak_lr_origin: str
    stages: tuple[StagePlan, ...] = ()  # of a task with a schedule


def batch_plan(
    config: TrainConfig,
    *,
    n_train: int,
    n_heldout: int,
    n_left_out: tuple[int, int],
    n_long_prompts: int,
    longest_prompt_tokens: int,
    longest_completion_tokens: int,
    max_positions: int | None,
    n_devices: int,
    n_parameters: int,
    n_trained_parameters: int,
) -> BatchPlan:
    """The plan of a validated config. Raises ConfigError with every number that does not fit the data or devices.

    Args:
        n_train, n_heldout: problems that are used; beside them `n_left_out` (training, held-out) are not.
        n_long_prompts: how many of the used ones exceed sampling.max_prompt_tokens.
        max_positions: tokens the model was made for; None: any number.
    """
    batch, sampling = config.batch, config.sampling
    n_shards, problems = n_devices // (config.placement.tensor or 1), []
    if config.microbatch_prompts % n_shards:
        backward, minibatch = config.microbatch_prompts, config.minibatch_prompts
        divisors = [d for d in range(n_shards, minibatch + 1, n_shards) if minibatch % d == 0]
        nearest = [f"batch.microbatch_prompts={min(divisors, key=lambda d: abs(d - backward))} or "] if divisors else []
        shared = max(d for d in range(1, n_shards + 1) if backward % d == 0)
        fsdp = config.placement.fsdp or 1
        smaller = f"placement.data={shared}" if fsdp == 1 else f"placement.data x placement.fsdp = {shared}"
        who = f"{n_devices} devices" if n_shards == n_devices else f"{n_shards} groups of devices"
        problems.append(
            f"{who} cannot share the {backward} prompts of one backward pass evenly; use {''.join(nearest)}{smaller}"
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
    if n_long_prompts:
        problems.append(
            f"sampling.max_prompt_tokens={sampling.max_prompt_tokens} is exceeded by {n_long_prompts} of the "
            f"{n_train + n_heldout} prompts of task {config.task.name!r}, the longest has {longest_prompt_tokens} "
            f"tokens; use {longest_prompt_tokens}, or 0 for automatic, or sampling.long_prompts='leave_out'"
        )
    prompt_tokens = sampling.max_prompt_tokens or longest_prompt_tokens
    if max_positions is not None and longest_prompt_tokens + sampling.max_new_tokens > max_positions:
        room = max_positions - longest_prompt_tokens
        fixes = [f"sampling.max_new_tokens={room} or less"] if room > 0 else []
        if max_positions > sampling.max_new_tokens:
            fixes.append(
                f"sampling.max_prompt_tokens={max_positions - sampling.max_new_tokens} with "
                "sampling.long_prompts='leave_out'"
            )
        problems.append(
            f"prompts of up to {longest_prompt_tokens} tokens and "
            f"sampling.max_new_tokens={sampling.max_new_tokens} make "
            f"{longest_prompt_tokens + sampling.max_new_tokens}, more than the {max_positions} positions that "
            f"model.name={config.model.name!r} was made for; use {', or '.join(fixes or ['fewer of both'])}"
        )
    if problems:
        raise ConfigError(problems)

    n_steps = config.n_updates // config.updates_per_step
    rollouts_per_step = batch.n_prompts * batch.n_rollouts
    return BatchPlan(
        n_prompts=batch.n_prompts,
        n_rollouts=batch.n_rollouts,
        rollouts_per_step=rollouts_per_step,
        minibatch_prompts=config.minibatch_prompts,
        rollouts_per_update=config.rollouts_per_update,
        updates_per_step=config.updates_per_step,
        microbatch_prompts=config.microbatch_prompts,
        microbatches_per_update=config.minibatch_prompts // config.microbatch_prompts,
        n_updates=config.n_updates,
        n_steps=n_steps,
        total_prompts=n_steps * batch.n_prompts,
        total_rollouts=n_steps * rollouts_per_step,
        n_train=n_train,
        n_heldout=n_heldout,
        n_train_left_out=n_left_out[0],
        n_heldout_left_out=n_left_out[1],
        passes_over_data=n_steps * batch.n_prompts / n_train,
        max_prompt_tokens=prompt_tokens,
        max_new_tokens=sampling.max_new_tokens,
        max_step_tokens=rollouts_per_step * (prompt_tokens + sampling.max_new_tokens),
        n_devices=n_devices,
        n_shards=n_shards,
        n_evaluations=1 + sum(is_evaluation_due(s, config) for s in range(n_steps)),
        n_noise_measurements=sum(is_noise_due(s, config) for s in range(n_steps)),
        n_parameters=n_parameters,
        n_trained_parameters=n_trained_parameters,
        peak_lr=config.peak_lr,
        peak_lr_origin=config.peak_lr_origin,
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


def is_evaluation_due(step: int, config: TrainConfig) -> bool:
    """Whether the policy is evaluated at the end of `step`: every so often, and at milestones."""
    update = (step + 1) * config.updates_per_step
    return is_due(step, config.eval.every_updates, config) or update in config.eval.milestones


def is_noise_due(step: int, config: TrainConfig) -> bool:
    """Whether the noise is measured at `step`: its first update, on-policy, before it changes anything."""
    every = config.noise.every_updates
    return every > 0 and (step * config.updates_per_step) % every < config.updates_per_step


def plan_warnings(plan: BatchPlan) -> list[str]:
    """What works but may surprise."""
    if plan.stages:  # a pool of a stage is not passed over as often as all problems are
        return stage_warnings(plan.stages, total_prompts=plan.total_prompts)
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
    is_adapted = plan.n_trained_parameters < plan.n_parameters
    rows = [
        ("rollouts per step", plan.rollouts_per_step, f"{plan.n_prompts} prompts x {plan.n_rollouts} rollouts"),
        ("updates per step", plan.updates_per_step, f"minibatches of {plan.minibatch_prompts} prompts"),
        ("rollouts per update", plan.rollouts_per_update, ""),
        (
            "backward passes per update",
            plan.microbatches_per_update,
            f"micro-batches of {plan.microbatch_prompts} prompts on {plan.n_devices} device(s)",
        ),
        ("learning rate", f"{plan.peak_lr:g}", f"= {plan.peak_lr_origin}" if plan.peak_lr_origin else ""),
        ("steps / updates", f"{plan.n_steps} / {plan.n_updates}", ""),
        ("rollouts in all", plan.total_rollouts, f"{plan.total_prompts} prompts"),
        (
            "passes over the data",
            f"{plan.passes_over_data:.2f}",
            f"{plan.n_train} training problems, {plan.n_heldout} held out",
        ),
        *stage_rows(plan.stages),
        *_left_out_row(plan),
        (
            "tokens per step, at most",
            plan.max_step_tokens,
            f"{plan.max_prompt_tokens} prompt + {plan.max_new_tokens} completion",
        ),
        ("evaluations", plan.n_evaluations, "the start included"),
        ("noise measurements", plan.n_noise_measurements, ""),
        ("parameters", plan.n_parameters, ""),
        (
            "parameters trained",
            plan.n_trained_parameters,
            f"{100 * plan.n_trained_parameters / plan.n_parameters:.3g}%, in an adapter" if is_adapted else "all",
        ),
    ]
    width, number_width = max(len(r[0]) for r in rows), max(len(str(r[1])) for r in rows)
    return "\n".join(f"  {name:<{width}}  {value!s:>{number_width}}  {how}".rstrip() for name, value, how in rows)


def _left_out_row(plan: BatchPlan) -> list[tuple[str, int, str]]:
    n_left_out = plan.n_train_left_out + plan.n_heldout_left_out
    if not n_left_out:
        return []
    of = f"{plan.n_train_left_out} training problems, {plan.n_heldout_left_out} held out"
    return [("left out", n_left_out, f"prompts over {plan.max_prompt_tokens} tokens: {of}")]

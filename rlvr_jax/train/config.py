"""Every setting of a run, typed, with its default; `validate` finds what cannot work.

Plain dataclasses: files in `configs/` build one, the command line overrides fields, then
`validate` runs once before anything else. 0 means automatic where a comment says so.
"""

import dataclasses
import difflib
import math
import typing
from typing import Any

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS
from rlvr_jax.algo.averaging import AVERAGING_KINDS

SCHEDULES = ("constant", "linear", "cosine")
TASKS = ("arithmetic", "digits")
BUILTIN_MODEL = "builtin"


class ConfigError(ValueError):
    """One or more settings that cannot work; the message has a line for each, with the fix."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclasses.dataclass
class TaskConfig:
    """Which problems."""

    name: str = "digits"  # one of TASKS
    operators: str = "+-"  # out of + - *
    operand_min: int = 0
    operand_max: int = 99


@dataclasses.dataclass
class ModelConfig:
    """The policy. Only the built-in decoder so far; sizes are its own."""

    name: str = BUILTIN_MODEL
    width: int = 96
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    mlp_width: int = 256
    rope_theta: float = 100.0  # longest wavelength 2 pi theta positions; published models use 10^4 and more
    norm_eps: float = 1e-6
    has_tied_head: bool = False
    compute_dtype: str = "float32"  # of the matmuls; master weights, loss and statistics stay float32
    use_remat: bool = False  # recompute each layer in the backward pass instead of keeping it


@dataclasses.dataclass
class WarmstartConfig:
    """Supervised training on demonstrations that in the end are right only part of the time.

    The policy then knows how, but is right about as often as they were: room for a reward to work.
    """

    enabled: bool = True  # false: the policy starts from random weights
    n_updates: int = 900
    n_correct_updates: int = 600  # the first ones see right answers only, which is learned sooner
    batch_size: int = 256  # demonstrations per update
    peak_lr: float = 3e-3
    warmup_updates: int = 50
    p_correct: float = 0.5  # share of right demonstrations from then on
    seed: int = 0


@dataclasses.dataclass
class BatchConfig:
    """All counted in prompts (= groups of rollouts), which are never split."""

    n_prompts: int = 64  # prompts collected per step
    n_rollouts: int = 4  # rollouts of each prompt
    minibatch_prompts: int = 0  # prompts per optimiser update; 0: n_prompts, one update per step
    microbatch_prompts: int = 0  # prompts per backward pass, memory only; 0: minibatch_prompts
    epochs_per_buffer: int = 1  # passes over a step's collection


@dataclasses.dataclass
class SamplingConfig:
    """How rollouts are drawn; the trainer's log-probabilities use the same temperature."""

    temperature: float = 1.0
    max_new_tokens: int = 4  # EOS included
    max_prompt_tokens: int = 0  # 0: the longest prompt of the task


@dataclasses.dataclass
class AlgoConfig:
    """Advantages, loss and averaging."""

    advantage: str = "rloo"  # one of ADVANTAGE_KINDS
    std_ddof: int = 1  # of "grpo": 0 divides by R, 1 by R - 1
    std_eps: float = 1e-4  # of "grpo": added to the standard deviation
    clip_low: float = 0.2  # the ratio is clipped below 1 - clip_low
    clip_high: float = 0.2  # and above 1 + clip_high
    kl_coef: float = 0.0  # beta of the k3 penalty to the initial policy; 0 keeps no reference
    averaging: str = "constant_length"  # one of AVERAGING_KINDS


@dataclasses.dataclass
class OptimizerConfig:
    """AdamW with a warm-up and a schedule, counted in updates."""

    peak_lr: float = 1e-4
    warmup_updates: int = 10
    schedule: str = "constant"  # one of SCHEDULES
    decay_updates: int = 0  # where linear and cosine reach 0; 0: n_updates
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0  # on matrices, not on norm scales
    clip_norm: float = 1.0  # of the whole gradient; 0: no clipping


@dataclasses.dataclass
class NoiseConfig:
    """Gradient noise from per-group gradients (a pass of its own: it never changes the update)."""

    every_updates: int = 0  # 0: never
    naive_minibatches: int = 4  # K of gns/naive
    smoothing: float = 0.9  # weight of the past in the running averages of S and |G|^2
    sketch_width: int = 4_096  # numbers kept per group gradient, for the intervals
    chunk_prompts: int = 0  # groups differentiated at once, memory only; 0: up to 8


@dataclasses.dataclass
class EvalConfig:
    """On the held-out set: greedy, and `n_samples` draws at `temperature`."""

    every_updates: int = 10
    n_problems: int = 256
    n_samples: int = 8
    k: tuple[int, ...] = (1, 4, 8)  # of pass@k
    temperature: float = 1.0
    seed: int = 0  # of the draws; the same ones at every evaluation
    target_metric: str = "pass@1"  # "pass@1" or "greedy"; what targets and the best checkpoint read
    targets: tuple[float, ...] = (0.6, 0.7, 0.8)  # accuracies whose step is reported


@dataclasses.dataclass
class CheckpointConfig:
    """Kept: the newest and, beside them, the best by eval.target_metric."""

    every_updates: int = 50
    keep_newest: int = 2
    keep_best: int = 1


@dataclasses.dataclass
class LogConfig:
    """What goes to disk besides one row per update."""

    rollouts_every_updates: int = 25  # 0: never
    rollouts_n_prompts: int = 8  # prompts written each time, with all their rollouts


@dataclasses.dataclass
class PlacementConfig:
    """Devices."""

    data: int = 0  # how many share a batch; 0: all


@dataclasses.dataclass
class TrainConfig:
    """One run, which is one point of a study."""

    study: str = "study"
    point: str = ""  # ""; automatic: {study}_np{n_prompts}_nr{n_rollouts}_s{seed}
    seed: int = 0
    n_updates: int = 100
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    warmstart: WarmstartConfig = dataclasses.field(default_factory=WarmstartConfig)
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    algo: AlgoConfig = dataclasses.field(default_factory=AlgoConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    placement: PlacementConfig = dataclasses.field(default_factory=PlacementConfig)

    @property
    def point_name(self) -> str:
        return self.point or f"{self.study}_np{self.batch.n_prompts}_nr{self.batch.n_rollouts}_s{self.seed}"

    @property
    def minibatch_prompts(self) -> int:
        return self.batch.minibatch_prompts or self.batch.n_prompts

    @property
    def microbatch_prompts(self) -> int:
        return self.batch.microbatch_prompts or self.minibatch_prompts

    @property
    def updates_per_step(self) -> int:
        return self.batch.epochs_per_buffer * (self.batch.n_prompts // self.minibatch_prompts)

    @property
    def decay_updates(self) -> int:
        return self.optimizer.decay_updates or self.n_updates


def flat_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaf values by dotted path, such as "batch.n_prompts"."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = prefix + field.name
        flat.update(flat_fields(value, path + ".") if dataclasses.is_dataclass(value) else {path: value})
    return flat


def set_field(config: TrainConfig, path: str, value: Any) -> None:
    """Sets one leaf by its dotted path. Raises ConfigError naming the nearest field if there is none."""
    if path not in flat_fields(config):
        raise ConfigError([unknown_field(path, config)])
    *parents, leaf = path.split(".")
    for parent in parents:
        config = getattr(config, parent)
    setattr(config, leaf, value)


def unknown_field(path: str, config: TrainConfig) -> str:
    """The message for a field that does not exist."""
    known = list(flat_fields(config))
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    nearest = difflib.get_close_matches(path, known, n=1, cutoff=0.5) or [
        by_leaf[leaf] for leaf in difflib.get_close_matches(path.rsplit(".", 1)[-1], by_leaf, n=1)
    ]
    hint = f"did you mean config.{nearest[0]}?" if nearest else "see rlvr_jax/train/config.py for all fields"
    return f"config.{path} is no field of the config; {hint}"


def validate(config: TrainConfig) -> None:
    """Raises ConfigError with every setting that cannot work, its value and the fix."""
    problems = _type_problems(config)
    if not problems:  # ranges of mistyped values would only repeat the news
        problems = [*_range_problems(config), *_choice_problems(config), *_batch_problems(config)]
        problems += _eval_problems(config)
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
            name = getattr(wanted, "__name__", str(wanted)) if not typing.get_args(wanted) else str(wanted)
            problems.append(f"{path}={value!r} is a {type(value).__name__}, but the field is {name}")
    return problems


def _has_type(value: Any, wanted: Any) -> bool:
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_has_type(v, typing.get_args(wanted)[0]) for v in value)
    if wanted is float:  # 1 is a fine 1.0
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


_AT_LEAST = {
    0: """seed task.operand_min warmstart.seed batch.minibatch_prompts batch.microbatch_prompts
        sampling.max_prompt_tokens algo.clip_low algo.clip_high algo.kl_coef algo.std_eps
        optimizer.warmup_updates optimizer.decay_updates optimizer.weight_decay optimizer.clip_norm
        noise.every_updates noise.chunk_prompts eval.every_updates eval.seed checkpoint.keep_best
        checkpoint.every_updates log.rollouts_every_updates placement.data warmstart.warmup_updates
        warmstart.n_correct_updates""",
    1: """n_updates model.width model.n_layers model.n_heads model.n_kv_heads model.mlp_width
        warmstart.n_updates warmstart.batch_size batch.n_prompts batch.n_rollouts batch.epochs_per_buffer
        sampling.max_new_tokens noise.sketch_width eval.n_problems eval.n_samples checkpoint.keep_newest
        log.rollouts_n_prompts""",
    2: "noise.naive_minibatches",
}
_ABOVE_ZERO = """sampling.temperature eval.temperature optimizer.peak_lr optimizer.eps warmstart.peak_lr
    model.rope_theta model.norm_eps"""
_BELOW_ONE = "optimizer.b1 optimizer.b2 noise.smoothing"


def _range_problems(config: TrainConfig) -> list[str]:
    values = flat_fields(config)
    numbers = {path: v for path, v in values.items() if isinstance(v, float)}
    problems = [f"{path}={v} is not a finite number" for path, v in numbers.items() if not math.isfinite(v)]
    for least, paths in _AT_LEAST.items():
        problems += [
            f"{path}={values[path]} must be at least {least}" for path in paths.split() if values[path] < least
        ]
    problems += [f"{path}={values[path]} must be above 0" for path in _ABOVE_ZERO.split() if values[path] <= 0]
    problems += [
        f"{path}={values[path]} must lie in [0, 1)" for path in _BELOW_ONE.split() if not 0 <= values[path] < 1
    ]
    if not 0 <= config.warmstart.p_correct <= 1:
        problems.append(f"warmstart.p_correct={config.warmstart.p_correct} must lie in [0, 1]")
    if config.algo.clip_low > 1:
        problems.append(f"algo.clip_low={config.algo.clip_low} must be at most 1: ratios are never negative")
    if config.algo.std_ddof not in (0, 1):
        problems.append(f"algo.std_ddof={config.algo.std_ddof} must be 0 (divide by R) or 1 (divide by R - 1)")
    return problems


def _choice_problems(config: TrainConfig) -> list[str]:
    choices = {
        "task.name": (config.task.name, TASKS),
        "algo.advantage": (config.algo.advantage, ADVANTAGE_KINDS),
        "algo.averaging": (config.algo.averaging, AVERAGING_KINDS),
        "optimizer.schedule": (config.optimizer.schedule, SCHEDULES),
        "model.compute_dtype": (config.model.compute_dtype, ("float32", "bfloat16")),
        "eval.target_metric": (config.eval.target_metric, ("pass@1", "greedy")),
    }
    problems = [
        f"{path}={value!r} is not one of {known}" for path, (value, known) in choices.items() if value not in known
    ]
    for path, name in (("study", config.study), ("point", config.point)):
        if name in (".", "..") or "/" in name or "\0" in name or (path == "study" and not name):
            problems.append(f"{path}={name!r} must be usable as a folder name")
    return problems + _task_problems(config.task) + _model_problems(config.model)


def _task_problems(task: TaskConfig) -> list[str]:
    allowed = "+-" if task.name == "digits" else "+-*"
    problems = []
    if not task.operators or len(set(task.operators)) < len(task.operators) or set(task.operators) - set(allowed):
        problems.append(f"task.operators={task.operators!r} must be different characters out of {allowed!r}")
    if task.operand_max < task.operand_min:
        problems.append(f"task.operand_max={task.operand_max} is below task.operand_min={task.operand_min}")
    if task.name == "digits" and task.operand_max > 99:
        problems.append(f"task.operand_max={task.operand_max}: task 'digits' has two-digit operands; use 99 or less")
    if task.operand_max > 9_999:
        problems.append(f"task.operand_max={task.operand_max} lists more than 10^8 problems; use 9999 or less")
    return problems


def _model_problems(model: ModelConfig) -> list[str]:
    problems = []
    if model.name != BUILTIN_MODEL:
        problems.append(
            f"model.name={model.name!r}: only the built-in model ({BUILTIN_MODEL!r}) can be trained so far, "
            "published checkpoints cannot be loaded yet; add :tiny to the config's name "
            "(as in --config=cbs_p2c.py:tiny) for the same protocol on the built-in model"
        )
    if model.n_heads > 0 and (model.width % model.n_heads or model.width // model.n_heads % 2):
        problems.append(
            f"model.width={model.width} must be model.n_heads={model.n_heads} times an even head width; "
            f"use a multiple of {2 * model.n_heads}"
        )
    if model.n_kv_heads > 0 and model.n_heads % model.n_kv_heads:
        problems.append(f"model.n_heads={model.n_heads} is not a multiple of model.n_kv_heads={model.n_kv_heads}")
    return problems


def _batch_problems(config: TrainConfig) -> list[str]:
    batch, problems = config.batch, []
    if batch.n_prompts < 1 or batch.n_rollouts < 1 or batch.epochs_per_buffer < 1:
        return []  # said by the ranges
    if batch.n_rollouts == 1:
        problems.append(
            f"batch.n_rollouts=1 leaves algo.advantage={config.algo.advantage!r} without a group to compare with; "
            "use batch.n_rollouts=2 or more"
        )
    problems += indivisible("batch.n_prompts", batch.n_prompts, "batch.minibatch_prompts", config.minibatch_prompts)
    problems += indivisible(
        "batch.minibatch_prompts" if batch.minibatch_prompts else "batch.n_prompts",
        config.minibatch_prompts,
        "batch.microbatch_prompts",
        config.microbatch_prompts,
    )
    if not problems:
        problems += indivisible("n_updates", config.n_updates, "updates per step", config.updates_per_step)
    if config.noise.every_updates > 0:
        K = config.noise.naive_minibatches
        if batch.n_prompts < 2 * K and K >= 2:
            problems.append(
                f"noise.naive_minibatches={K} needs at least {2 * K} prompts, batch.n_prompts={batch.n_prompts}; "
                f"use noise.naive_minibatches={max(2, batch.n_prompts // 2)} or noise.every_updates=0"
            )
        else:
            problems += indivisible("batch.n_prompts", batch.n_prompts, "noise.naive_minibatches", K)
    return problems


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
            f"eval.k={config.eval.k}: every k of pass@k must lie in 1..eval.n_samples={config.eval.n_samples}"
        )
    if config.eval.target_metric == "pass@1" and 1 not in config.eval.k:
        problems.append(f"eval.target_metric='pass@1' needs a 1 in eval.k={config.eval.k}")
    if not all(0 < target <= 1 for target in config.eval.targets):
        problems.append(f"eval.targets={config.eval.targets} must be accuracies in (0, 1]")
    return problems

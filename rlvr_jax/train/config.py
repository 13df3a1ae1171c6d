"""Every setting of a run, typed, with its default.

Plain dataclasses: files in `configs/` build one, the command line overrides fields, then
`validate` looks for what cannot work. 0 means automatic where a comment says so.
"""

import dataclasses
import difflib
from typing import Any

SCHEDULES = ("constant", "linear", "cosine")
LR_POWERS = {"constant": 0.0, "sqrt": 0.5, "linear": 1.0, "grid": 0.0}  # rate over the rollouts of an update
LR_RULES = tuple(LR_POWERS)
TASKS = ("arithmetic", "digits", "counting", "comparison", "binary", "mixture")  # built in train/build_task.py
TASKS += ("jsonl", "gsm8k", "omi", "math", "wordle")
RATIOS = ("token", "sequence")
OBJECTIVES = ("clipped", "cispo")
KL_PLACES = ("loss", "reward")
TRUNCATED = ("train", "mask", "penalise")
NONFINITE = ("stop", "skip")
NOISE_METHODS = ("taps", "vmap")
WANDB = ("off", "offline", "online")
BUILTIN_MODEL = "builtin"
CHAR_TOKENIZER = "char"
REMATS = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")
LONG_PROMPTS = ("refuse", "leave_out")
JUDGE_QUESTION = """This was asked:

{prompt}

This was answered:

{completion}

This is what the answer should come to, as far as that is known: {answer}

Say in one or two sentences how good the answer is. Then write, on a line of its own, "Score: " and a number from 0
(worthless) to 10 (perfect)."""
LORA_RATE_RATIO = 10.0  # of the learning rate of an adapter's factors to that of full weights


class ConfigError(ValueError):
    """One or more settings that cannot work; the message has a line for each, with the fix."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


class SourceError(ConfigError):
    """The data, the tokenizer or the model that a config names cannot be had."""


@dataclasses.dataclass
class JudgeConfig:
    """The reward "judge": another model behind an OpenAI-compatible endpoint scores completions."""

    base_url: str = "https://api.openai.com/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key; "": none is sent
    question: str = JUDGE_QUESTION  # with {prompt}, {completion} and {answer}; the completion comes between fences
    score_pattern: str = r"(?i)score:[\s*]*(-?\d+(?:\.\d+)?)"  # its last match counts; the group is the score
    score_min: float = 0.0  # this score is the reward 0
    score_max: float = 10.0  # and this one 1; one beyond them counts as none
    max_tokens: int = 512  # of what the judge says
    is_reasoning_model: bool = False  # send max_completion_tokens, and no temperature; else the temperature is 0
    concurrency: int = 8  # requests under way at a time
    timeout_s: float = 60.0  # of one request
    n_retries: int = 5  # of a request that failed in a way that may pass
    backoff_s: float = 1.0  # before the first retry, about; twice that before the next, and so on
    longest_wait_s: float = 60.0  # before any retry; a request told to wait longer is given up
    budget_requests: int = 0  # counted in cache_folder, over restarts and processes; 0: any number
    budget_tokens: int = 0  # likewise, those of questions and answers
    cache_folder: str = ""  # what was said to a question is kept there; "": in the user's cache folder


@dataclasses.dataclass
class CodeConfig:
    """The reward "code": a completion's Python functions are run against tests of its row."""

    enabled: bool = False  # true: I know that this runs what a model writes, contained but not safe against attacks
    tests_field: str = "tests"  # of a row: asserts as one text or a list, or {"fn_name", "inputs", "outputs"}
    scoring: str = "share"  # of the tests that pass; or "all": 1 where all pass, else 0
    limit_s: float = 10.0  # for a completion with all its tests; those that were not reached have failed
    cpu_s: int = 5  # likewise, of computing
    memory_mib: int = 512  # likewise
    n_processes: int = 2  # completions that are run at a time


@dataclasses.dataclass
class TaskConfig:
    """Which problems."""

    name: str = "digits"  # one of TASKS
    operators: str = "+-"  # of the sums: out of + - *
    operand_min: int = 0
    operand_max: int = 99
    n_problems: int = 0  # different problems that are trained on; 0: all there are
    mixture: tuple[str, ...] = ()  # of "mixture": tasks as "arithmetic operand_max=10", which may change the above
    mixture_weights: tuple[float, ...] = ()  # how often each of them is drawn; (): equally often
    stages: tuple[str, ...] = ()  # a curriculum: changes as "operators=+ operand_max=10", one text per stage
    stage_prompts: tuple[int, ...] = ()  # drawn in each stage, one number less: the last lasts to the end
    # of tasks read from files: "jsonl", problems of one's own, and "gsm8k", "omi", "math"
    path: str = ""  # .jsonl, .json or .parquet: a file here, or OWNER/NAME[/FILE][@REVISION] on the Hugging Face Hub,
    # or several by a wildcard; or "builtin:small"; "": the data set that gives the task its name
    heldout_path: str = ""  # ""; one problem in ten of `path`, chosen by a hash of its prompt; both "": the test set
    template: str = ""  # the prompt, with fields of a row in braces; "": the task's own
    bad_rows: str = "stop"  # rows that cannot be used: or "skip"
    repeated_prompts: str = "keep"  # prompts that occur again in a set: or "skip", "stop"
    overlap: str = "skip"  # training problems that are held out, too: left out of training; or "stop"
    levels: tuple[int, ...] = ()  # of "math", in training and evaluation; (): all
    subjects: tuple[str, ...] = ()  # likewise, such as "Algebra" or "intermediate_algebra"
    answer_policy: tuple[str, ...] = ()  # of "gsm8k", "omi", "math": names of tasks/same_answer.py's Policy
    answer_limit_s: float = 5.0  # of comparing two answers; one that takes longer is wrong, and counted
    answer_workers: int = 1  # processes that compare answers which are more than numbers
    answer_field: str = "answer"  # of "jsonl"; "": rows have no answer, so rewards may not be "exact"
    demonstration_field: str = ""  # what the warm start imitates; "": answer_field
    # of "wordle"
    words: str = ""  # file of secret words, one per line or .jsonl; "": an embedded list of common ones
    allowed_words: str = ""  # file of words that may be guessed besides
    n_words: int = 0  # secrets that are used, one in five of them held out; 0: all
    n_turns: int = 6  # guesses; 1: a single one, with the clues in the prompt
    n_clues: int = 0  # earlier guesses that the prompt shows, with their patterns
    guess_style: str = "bare"  # the word alone; or "tagged": the rules in the prompt, the word in <guess></guess>
    # of every task
    rewards: tuple[str, ...] = ()  # each one of the task's own, "module:function", "judge" or "code"; (): its default
    reward_weights: tuple[float, ...] = ()  # one per reward; (): all 1
    correct_at: float = 1.0  # a rollout whose weighted rewards reach this counts as correct
    reward_limit_s: float = 60.0  # of one call; a reward that takes longer is stopped and its group left out
    reward_workers: int = 1  # processes that call the rewards
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    code: CodeConfig = dataclasses.field(default_factory=CodeConfig)


@dataclasses.dataclass
class ModelConfig:
    """The policy: the built-in decoder, whose sizes are here, or a published model, which brings its own."""

    name: str = BUILTIN_MODEL  # or a preset as "olmo2-1b", a checkpoint's folder, or OWNER/NAME[@REVISION] on the Hub
    has_random_weights: bool = False  # of a published model: fresh weights in its shapes; nothing is downloaded
    tokenizer: str = ""  # "": the model's own; or a folder, OWNER/NAME[@REVISION], or "char": one token per character
    uses_chat_template: bool = False  # a prompt is the user's turn in the tokenizer's chat template
    # sizes of the built-in model
    width: int = 96
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    mlp_width: int = 256
    rope_theta: float = 100.0  # longest wavelength 2 pi theta positions; published models use 10^4 and more
    norm_eps: float = 1e-6
    has_tied_head: bool = False
    has_attention_bias: bool = False  # of queries, keys and values
    qk_norm: str = "none"  # of queries and keys: or "each_head" (as Qwen3), "all_heads" (as OLMo-2)
    has_post_norm: bool = False  # blocks norm what they add to the stream (as OLMo-2), not what they read from it
    # of any model
    compute_dtype: str = "float32"  # of the matmuls; master weights, loss and statistics stay float32
    remat: str = "none"  # what of a layer the backward pass makes again: or "dots" (all but matmuls), "full" (all)
    logprob_chunk_mib: int = 0  # of logits at a time, memory and speed only; 0: fitting the device


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
class LoraConfig:
    """Low-rank adapters (arXiv:2106.09685): only thin factors beside some matrices are trained, the rest is frozen."""

    enabled: bool = False
    rank: int = 16
    alpha: float = 32.0  # the product of the factors is multiplied with alpha / rank
    targets: tuple[str, ...] = ("query", "key", "value", "out", "gate", "up", "down")  # of each layer
    peak_lr: float = 0.0  # in place of optimizer.peak_lr; 0: ten times that, about what factors need


@dataclasses.dataclass
class BatchConfig:
    """All counted in prompts (= groups of rollouts), which are never split."""

    n_prompts: int = 64  # prompts collected per step
    n_rollouts: int = 4  # rollouts of each prompt
    minibatch_prompts: int = 0  # prompts per optimiser update; 0: n_prompts, one update per step
    microbatch_prompts: int = 0  # prompts per backward pass, memory only; 0: as many as fit placement.memory_gib
    epochs_per_buffer: int = 1  # passes over a step's collection


@dataclasses.dataclass
class SamplingConfig:
    """How rollouts are drawn; the trainer's log-probabilities use the same temperature."""

    temperature: float = 1.0
    max_new_tokens: int = 4  # EOS included, and replies; algo.truncated says what becomes of a rollout that is cut here
    max_prompt_tokens: int = 0  # 0: the longest prompt of the task
    long_prompts: str = "refuse"  # a task with longer prompts; or "leave_out" those problems. None is ever cut
    max_turn_tokens: int = 0  # of each of a rollout's several turns, EOS included; 0: as many as fit max_new_tokens
    bucket_tokens: int = 128  # arrays are so wide, or 2, 4, 8 ... times, as the longest prompt or rollout needs
    rollouts_at_once: int = 0  # drawn at a time, memory and speed only; 0: as many as fit placement.memory_gib
    max_rounds: int = 1  # of dynamic sampling: draw again until n_prompts groups have unequal rewards; 1: off


@dataclasses.dataclass
class AlgoConfig:
    """Advantages, loss and averaging."""

    advantage: str = "rloo"  # one of ADVANTAGE_KINDS of algo/advantages.py
    std_ddof: int = 1  # where a standard deviation divides: 0 divides the squares by n, 1 by n - 1
    std_eps: float = 1e-4  # and this is added to it
    objective: str = "clipped"  # or "cispo"
    ratio: str = "token"  # or "sequence" (GSPO)
    clip_low: float = 0.2  # the ratio is clipped below 1 - clip_low
    clip_high: float = 0.2  # and above 1 + clip_high
    dual_clip: float = 0.0  # with a negative advantage A the loss is at most -dual_clip * A; 0: off
    kl_coef: float = 0.0  # beta of the penalty to the initial policy; 0 keeps no reference
    kl_estimator: str = "k3"  # or "k1", "k2"
    kl_in: str = "loss"  # or "reward"
    entropy_coef: float = 0.0  # of a bonus for the entropy of the tokens' distributions
    importance_cap: float = 0.0  # caps old / behavior probability, which weighs the policy loss; 0: no weights
    truncated: str = "train"  # rollouts cut at max_new_tokens: or "mask" (as if never drawn), "penalise"
    truncated_penalty: float = 1.0  # of "penalise": subtracted from their reward
    overlong_buffer_tokens: int = 0  # a penalty grows over the last so many tokens before max_new_tokens; 0: off
    overlong_penalty: float = 1.0  # and reaches this at max_new_tokens
    averaging: str = "constant_length"  # or "sequence", "token"
    select: str = "all"  # rollouts that the loss is taken of: or "threshold", "best_of_n"; baselines are of all
    select_threshold: float = 0.5  # of "threshold": those with this reward or more
    select_n: int = 1  # of "best_of_n": so many of each prompt


@dataclasses.dataclass
class OptimizerConfig:
    """AdamW with a warm-up and a schedule, counted in updates."""

    peak_lr: float = 1e-4  # at lr_reference_rollouts, where lr_rule scales it
    lr_rule: str = "constant"  # over batch sizes: one of LR_RULES; "grid" is each point at several rates
    lr_reference_rollouts: int = 0  # of an update: where "sqrt" and "linear" leave peak_lr as it is
    lr_grid: tuple[float, ...] = ()  # of "grid": factors of peak_lr, one point each
    warmup_updates: int = 10
    schedule: str = "constant"  # one of SCHEDULES
    decay_updates: int = 0  # where linear and cosine reach 0; 0: n_updates
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0  # on matrices, not on norm scales
    momentum_dtype: str = "float32"  # of Adam's m; its v stays float32: bfloat16 cannot add 1%
    clip_norm: float = 1.0  # of the whole gradient; 0: no clipping
    nonfinite: str = "stop"  # where a loss or gradient is not finite: save and stop, or "skip" the update and count
    max_skipped_in_a_row: int = 10  # of "skip": one more stops the run


@dataclasses.dataclass
class NoiseConfig:
    """Gradient noise, from the gradients of groups and of their rollouts."""

    every_updates: int = 0  # 0: never
    naive_minibatches: int = 4  # K of gns/naive; 0: not measured
    smoothing: float = 0.9  # weight of the past in the running averages of S and |G|^2
    decompose: bool = True  # into prompt and rollout noise too; needs 4 rollouts per prompt
    shares_backward: bool = True  # take the measured update's gradient from the measuring pass, where it can be;
    # false: a pass of its own, and the update stays bit for bit the one without measuring
    optimizer_metric: bool = False  # also of gradients divided by Adam's sqrt(v) + eps, as gns/adam
    method: str = "taps"  # or "vmap": the reference, which holds n_rollouts whole gradients
    sketch_width: int = 4_096  # numbers kept per gradient, for the intervals and for later evaluation
    keep_sketches: bool = False  # write the sketch of every rollout's score to noise/*.npz
    chunk_mib: int = 0  # of gradients formed at a time, memory and speed only; 0: fitting the device


@dataclasses.dataclass
class EvalConfig:
    """On the held-out set: greedy, and `n_samples` draws at `temperature`."""

    every_updates: int = 10  # and at the start and the end; 0: at the start only
    n_problems: int = 256  # the first of the held-out ones; 0: all of them
    n_samples: int = 8
    k: tuple[int, ...] = (1, 4, 8)  # of pass@k and maj@k
    temperature: float = 1.0
    seed: int = 0  # of the draws; the same ones at every evaluation
    target_metric: str = "pass@1"  # "pass@1" or "greedy"; what targets and the best checkpoint read
    targets: tuple[float, ...] = (0.6, 0.7, 0.8)  # accuracies whose step is reported
    milestones: tuple[int, ...] = ()  # updates at which it is evaluated, too, and the rewards so far are reported


@dataclasses.dataclass
class CheckpointConfig:
    """Kept: the newest and, beside them, the best by eval.target_metric, saved when it is evaluated."""

    every_updates: int = 50  # and at the end; 0: at the end only
    keep_newest: int = 2
    keep_best: int = 1


@dataclasses.dataclass
class LogConfig:
    """What goes to disk besides one row per update."""

    rollouts_every_updates: int = 25  # 0: never
    rollouts_n_prompts: int = 8  # prompts written each time, with all their rollouts
    wandb: str = "off"  # Weights & Biases beside TensorBoard: or "offline", "online"
    wandb_project: str = "rlvr_jax"


@dataclasses.dataclass
class PlacementConfig:
    """Devices, data x fsdp x tensor of them. Results are the same up to rounding, so a run may go on with others."""

    data: int = 0  # how many share a batch and have all parameters each; 0: all that the other axes leave
    fsdp: int = 0  # how many share a batch and the parameters too, for memory; 0: automatic, 1
    tensor: int = 0  # how many share each matrix product; 0: automatic, 1
    memory_gib: float = 0.0  # of each device, to plan with; 0: all it has, if it says so


@dataclasses.dataclass
class StartConfig:
    """A branch: a run that starts from another run's checkpoint, its trunk, and goes on with prompts after its."""

    checkpoint: str = ""  # a run directory (its newest checkpoint) or one folder of its checkpoints/; "": no branch
    keeps_optimizer: bool = True  # and so Adam's averages and the place in the schedule; false: both start anew


@dataclasses.dataclass
class TrainConfig:
    """One run, which is one point of a study."""

    study: str = "study"
    point: str = ""  # ""; automatic: {study}_np{n_prompts}_nr{n_rollouts}_s{seed}; at a rate of lr_grid with _lr{rate}
    seed: int = 0
    n_updates: int = 100
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    warmstart: WarmstartConfig = dataclasses.field(default_factory=WarmstartConfig)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
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
        rate = f"_lr{self.peak_lr:g}" if self.optimizer.lr_rule == "grid" else ""
        return self.point or f"{self.study}_np{self.batch.n_prompts}_nr{self.batch.n_rollouts}{rate}_s{self.seed}"

    @property
    def minibatch_prompts(self) -> int:
        return self.batch.minibatch_prompts or self.batch.n_prompts

    @property
    def microbatch_prompts(self) -> int:
        """The most: where it is automatic a plan may have less, see train/memory_plan.py."""
        return self.batch.microbatch_prompts or self.minibatch_prompts

    @property
    def updates_per_step(self) -> int:
        return self.batch.epochs_per_buffer * (self.batch.n_prompts // self.minibatch_prompts)

    @property
    def has_turns(self) -> bool:
        """Whether a rollout has several turns, between which the task replies."""
        return self.task.name == "wordle" and self.task.n_turns > 1

    @property
    def rollouts_per_update(self) -> int:
        return self.minibatch_prompts * self.batch.n_rollouts

    @property
    def stated_lr(self) -> float:
        """The peak rate that the config states, before optimizer.lr_rule."""
        if not self.lora.enabled:
            return self.optimizer.peak_lr
        return self.lora.peak_lr or LORA_RATE_RATIO * self.optimizer.peak_lr

    @property
    def peak_lr(self) -> float:
        """The peak rate in use: stated_lr * (rollouts_per_update / lr_reference_rollouts)^(0, 1/2 or 1), by lr_rule.

        A gradient's noise falls with its batch: plain SGD keeps its trajectory under the linear rule
        (arXiv:1706.02677 sec. 2.1), Adam under the square root (arXiv:2205.10287), whose other half, betas that
        change with the batch as well, is left out.
        """
        power = LR_POWERS[self.optimizer.lr_rule]
        if power == 0.0:
            return self.stated_lr
        return self.stated_lr * (self.rollouts_per_update / self.optimizer.lr_reference_rollouts) ** power

    @property
    def peak_lr_text(self) -> str:
        """The stated rate, by the field that changes it, and the one in use where it is another."""
        in_use = "" if self.peak_lr == self.stated_lr else f" (in use: {self.peak_lr:g})"
        return f"{'lora' if self.lora.enabled else 'optimizer'}.peak_lr={self.stated_lr}{in_use}"

    @property
    def peak_lr_origin(self) -> str:
        """How the rate in use comes about, such as "1e-4 x sqrt(512 / 128)"; "" where it is the stated one."""
        rule, reference = self.optimizer.lr_rule, self.optimizer.lr_reference_rollouts
        if rule == "grid":
            return f"one of {len(self.optimizer.lr_grid)}, optimizer.lr_rule='grid'"
        if LR_POWERS[rule] == 0.0:
            return ""
        ratio = f"{self.rollouts_per_update} / {reference}"
        return f"{self.stated_lr:g} x {f'sqrt({ratio})' if rule == 'sqrt' else ratio}"

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
    """The message for a field that does not exist, naming the nearest one."""
    members = [name for name in flat_fields(config) if name.startswith(path + ".")]
    if members:
        return f"config.{path} is a group of fields; set one of {', '.join(f'config.{name}' for name in members)}"
    group, _, leaf = path.rpartition(".")

    def likeness(known: str) -> float:
        known_group, _, known_leaf = known.rpartition(".")
        is_part = leaf in known_leaf or known_leaf in leaf  # lr and peak_lr, every and every_updates
        alike = difflib.SequenceMatcher(None, leaf, known_leaf).ratio() + 0.5 * is_part
        return alike + 0.4 * difflib.SequenceMatcher(None, group, known_group).ratio()

    nearest = max(flat_fields(config), key=likeness)
    return f"config.{path} is no field of the config; did you mean config.{nearest}?"

"""Which settings are refused, and with what words."""

import copy
import itertools
import math
import re

import pytest

from rlvr_jax.train import validate as validate_module
from rlvr_jax.train.config import ConfigError, TrainConfig, flat_fields, set_field
from rlvr_jax.train.validate import indivisible, validate


def config_with(**changes):
    """The default config; batch__n_prompts=8 sets batch.n_prompts."""
    config = TrainConfig()
    for name, value in changes.items():
        set_field(config, name.replace("__", "."), value)
    return config


def problems_of(config):
    try:
        validate(config)
    except ConfigError as error:
        return error.problems
    return []


def test_the_defaults_can_work(tiny_config):
    assert problems_of(TrainConfig()) == []
    assert problems_of(tiny_config) == []


# path, value, what the message must say beside "path=value"
BAD_SETTINGS = [
    ("n_updates", 0, "at least 1"),
    ("seed", -1, "at least 0"),
    ("batch.n_prompts", 0, "at least 1"),
    ("batch.n_rollouts", 0, "at least 1"),
    ("batch.minibatch_prompts", -1, "at least 0"),
    ("batch.microbatch_prompts", -1, "at least 0"),
    ("batch.epochs_per_buffer", 0, "at least 1"),
    ("sampling.max_new_tokens", 0, "at least 1"),
    ("sampling.max_prompt_tokens", -1, "at least 0"),
    ("sampling.bucket_tokens", 1, "at least 2"),
    ("sampling.max_rounds", 0, "at least 1"),
    ("sampling.temperature", 0.0, "above 0"),
    ("eval.temperature", 0.0, "above 0"),
    ("algo.clip_low", -0.1, "at least 0"),
    ("algo.clip_low", 1.5, "at most 1"),
    ("algo.clip_high", -0.1, "at least 0"),
    ("algo.kl_coef", -0.1, "at least 0"),
    ("algo.std_eps", -1e-6, "at least 0"),
    ("algo.std_ddof", 2, "0 (divide by n) or 1 (divide by n - 1)"),
    ("algo.dual_clip", -1.0, "at least 0"),
    ("algo.entropy_coef", -0.1, "at least 0"),
    ("algo.importance_cap", -2.0, "at least 0"),
    ("algo.truncated_penalty", -1.0, "at least 0"),
    ("algo.overlong_buffer_tokens", -1, "at least 0"),
    ("algo.overlong_buffer_tokens", 5, "sampling.max_new_tokens=4"),
    ("algo.overlong_penalty", -1.0, "at least 0"),
    ("algo.advantage", "ppo", "not one of"),
    ("algo.averaging", "mean", "not one of"),
    ("optimizer.peak_lr", 0.0, "above 0"),
    ("optimizer.peak_lr", -1e-4, "above 0"),
    ("optimizer.eps", 0.0, "above 0"),
    ("optimizer.b1", 1.0, "[0, 1)"),
    ("optimizer.b2", -0.1, "[0, 1)"),
    ("optimizer.schedule", "step", "not one of"),
    ("optimizer.warmup_updates", -1, "at least 0"),
    ("optimizer.decay_updates", -1, "at least 0"),
    ("optimizer.weight_decay", -0.1, "at least 0"),
    ("optimizer.clip_norm", -1.0, "at least 0"),
    ("optimizer.nonfinite", "ignore", "not one of ('stop', 'skip')"),
    ("optimizer.max_skipped_in_a_row", 0, "at least 1"),
    ("noise.every_updates", -1, "at least 0"),
    ("noise.naive_minibatches", -1, "at least 0"),
    ("noise.smoothing", 1.0, "[0, 1)"),
    ("noise.sketch_width", 1, "at least 2"),
    ("noise.chunk_mib", -1, "at least 0"),
    ("warmstart.n_updates", 0, "at least 1"),
    ("warmstart.n_correct_updates", -1, "at least 0"),
    ("warmstart.batch_size", 0, "at least 1"),
    ("warmstart.peak_lr", 0.0, "above 0"),
    ("warmstart.p_correct", 1.5, "[0, 1]"),
    ("warmstart.p_correct", -0.5, "[0, 1]"),
    ("eval.every_updates", -1, "at least 0"),
    ("eval.n_problems", -1, "at least 0"),
    ("eval.n_samples", 0, "at least 1"),
    ("eval.seed", -1, "at least 0"),
    ("eval.k", (1, 9), "eval.n_samples=8"),  # 9 of 8 draws
    ("eval.k", (0, 1), "1..eval.n_samples"),
    ("eval.k", (), "eval.n_samples"),
    ("eval.targets", (0.5, 0.0), "(0, 1]"),
    ("eval.targets", (1.5,), "(0, 1]"),
    ("eval.targets", (math.nan,), "(0, 1]"),
    ("eval.target_metric", "pass@4", "not one of"),
    ("checkpoint.keep_newest", 0, "at least 1"),
    ("checkpoint.keep_best", -1, "at least 0"),
    ("checkpoint.every_updates", -1, "at least 0"),
    ("log.rollouts_every_updates", -1, "at least 0"),
    ("log.rollouts_n_prompts", 0, "at least 1"),
    ("log.wandb", "on", "not one of ('off', 'offline', 'online')"),
    ("placement.data", -1, "at least 0"),
    ("task.name", "sums", "not one of"),
    ("task.operators", "", "out of '+-'"),
    ("task.operators", "++", "different"),
    ("task.operators", "+*", "out of '+-'"),  # of digits: products have no fixed width
    ("task.operand_min", -1, "at least 0"),
    ("task.operand_max", 100, "use 99 or less"),
    ("task.path", "data.jsonl", "not read by task 'digits' but by 'jsonl'"),
    ("model.name", "olmo2-1bb", "did you mean 'olmo2-1b'?"),
    ("sampling.long_prompts", "cut", "not one of ('refuse', 'leave_out')"),
    ("model.width", 90, "use a multiple of 8"),  # 4 heads of an even width
    ("model.width", 100, "use a multiple of 8"),  # 4 heads of width 25
    ("model.n_layers", 0, "at least 1"),
    ("model.n_heads", 0, "at least 1"),
    ("model.n_kv_heads", 0, "at least 1"),
    ("model.mlp_width", 0, "at least 1"),
    ("model.rope_theta", 0.0, "above 0"),
    ("model.norm_eps", 0.0, "above 0"),
    ("model.compute_dtype", "float16", "not one of"),
    ("model.remat", "some", "not one of ('none', 'dots', 'full')"),
    ("model.logprob_chunk_mib", -1, "at least 0"),
    ("optimizer.momentum_dtype", "int8", "not one of ('float32', 'bfloat16')"),
    ("placement.memory_gib", -1.0, "at least 0"),
    ("study", "", "folder name"),
    ("study", "a/b", "folder name"),
    ("study", "..", "folder name"),
    ("point", ".", "folder name"),
    ("point", "a/b", "folder name"),
]


@pytest.mark.parametrize(("path", "value", "says"), BAD_SETTINGS, ids=lambda v: str(v))
def test_a_setting_that_cannot_work_is_named_with_its_value_and_the_fix(path, value, says):
    config = TrainConfig()
    set_field(config, path, value)
    (problem,) = [line for line in problems_of(config) if line.startswith(f"{path}={value!r}")]
    assert says in problem


MAY_BE_NEGATIVE = ("task.correct_at", "algo.select_threshold", "task.judge.score_min", "task.judge.score_max")
COUNTS_AND_RATES = [
    path
    for path, value in flat_fields(TrainConfig()).items()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and path not in MAY_BE_NEGATIVE
]


@pytest.mark.parametrize("path", ["batch.n_prompts", "batch.n_rollouts", "sampling.max_new_tokens", "eval.n_samples"])
def test_more_rows_than_an_array_has_are_refused(path):
    config = TrainConfig()
    set_field(config, path, 10**20)
    assert f"{path}={10**20} must be below 2^31: no array has more rows" in problems_of(config)


@pytest.mark.parametrize("path", COUNTS_AND_RATES)
def test_a_negative_number_is_refused_in_every_field_where_it_means_nothing(path):
    config = TrainConfig()
    set_field(config, path, -5)
    assert any(problem.startswith(f"{path}=-5") for problem in problems_of(config))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"batch__n_prompts": 30, "batch__minibatch_prompts": 8},
            "batch.n_prompts=30 is not a multiple of batch.minibatch_prompts=8; use batch.n_prompts=24 or 32",
        ),
        (
            {"batch__n_prompts": 30, "batch__microbatch_prompts": 8},
            "batch.n_prompts=30 is not a multiple of batch.microbatch_prompts=8; use batch.n_prompts=24 or 32",
        ),
        (
            {"batch__n_prompts": 60, "batch__minibatch_prompts": 30, "batch__microbatch_prompts": 4},
            "batch.microbatch_prompts=4 does not divide batch.minibatch_prompts=30; "
            "use batch.microbatch_prompts=3 or 5",
        ),
        (  # nothing below 5 is a multiple of 8 but 0
            {"batch__n_prompts": 5, "batch__minibatch_prompts": 8},
            "batch.n_prompts=5 is not a multiple of batch.minibatch_prompts=8; use batch.n_prompts=8",
        ),
        (  # 2 passes over 4 minibatches are 8 updates a step
            {"n_updates": 20, "batch__minibatch_prompts": 16, "batch__epochs_per_buffer": 2},
            "n_updates=20 is not a multiple of updates per step=8; use n_updates=16 or 24",
        ),
        (
            {"noise__every_updates": 1, "batch__n_prompts": 10},
            "batch.n_prompts=10 cannot be cut into noise.naive_minibatches=4 equal parts of 2 prompts or more; "
            "use noise.naive_minibatches=5, or noise.naive_minibatches=0 for no gns/naive",
        ),
        (
            {"noise__every_updates": 1, "batch__n_prompts": 6},
            "batch.n_prompts=6 cannot be cut into noise.naive_minibatches=4 equal parts of 2 prompts or more; "
            "use noise.naive_minibatches=3, or noise.naive_minibatches=0 for no gns/naive",
        ),
        (  # 7 prompts have no equal parts of 2 or more
            {"noise__every_updates": 1, "batch__n_prompts": 7},
            "batch.n_prompts=7 cannot be cut into noise.naive_minibatches=4 equal parts of 2 prompts or more; "
            "use batch.n_prompts=8, or noise.naive_minibatches=0 for no gns/naive",
        ),
        (
            {"task__operand_min": 20, "task__operand_max": 10},
            "task.operand_max=10 is below task.operand_min=20",
        ),
        (
            {"task__name": "arithmetic", "task__operand_max": 10_000},
            "task.operand_max=10000 lists more than 10^8 problems; use 9999 or less",
        ),
        (
            {"model__n_kv_heads": 3},
            "model.n_heads=4 is not a multiple of model.n_kv_heads=3",
        ),
        (
            {"eval__k": (4, 8)},
            "eval.target_metric='pass@1' needs a 1 in eval.k=(4, 8)",
        ),
        (
            {"eval__k": (1, 1)},
            "eval.k=(1, 1) names a k twice",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other_are_named_with_both_values(changes, expected):
    assert problems_of(config_with(**changes)) == [expected]


def fixes_in(problem):
    """(field, number) of all that a message says to use; "a=3 or 5" are two."""
    use = problem.split("; use ")[1]
    found = re.findall(r"([a-z_]+\.[a-z_]+)=(\d+)(?: or (\d+))?", use)
    return [(field, int(number)) for field, *numbers in found for number in numbers if number]


def problems_after(config, changes):
    """Of a copy with the changes, which takes as many updates as its step has."""
    config = copy.deepcopy(config)
    for field, value in changes:
        set_field(config, field, value)
    config.n_updates = max(1, config.updates_per_step)
    return problems_of(config)


def assert_every_fix_works(settings):
    config = config_with(**settings)
    problems = problems_after(config, [])
    for problem in problems:
        fixes = fixes_in(problem)
        assert fixes, problem
        for fix in fixes:
            assert problems_after(config, [fix]) == [], f"{problem} but {fix} does not work"
    return len(problems)


SIZES = range(1, 25)


def test_every_size_that_a_minibatch_message_names_does_work():
    pairs = itertools.product(SIZES, [3, 4, 8, 16])
    assert sum(assert_every_fix_works({"batch__n_prompts": n, "batch__minibatch_prompts": m}) for n, m in pairs) > 0


def test_every_size_that_a_microbatch_message_names_does_work():
    n_refused = 0
    for minibatch_prompts, microbatch_prompts in itertools.product(SIZES, SIZES):
        sizes = {"batch__minibatch_prompts": minibatch_prompts, "batch__microbatch_prompts": microbatch_prompts}
        n_refused += assert_every_fix_works(sizes | {"batch__n_prompts": 2 * minibatch_prompts})
        automatic = {"batch__n_prompts": minibatch_prompts, "batch__microbatch_prompts": microbatch_prompts}
        n_refused += assert_every_fix_works(automatic)
    assert n_refused > 0


def test_every_number_of_parts_that_a_noise_message_names_does_work():
    pairs = itertools.product(SIZES, range(2, 14))
    noise = {"noise__every_updates": 1}
    assert (
        sum(assert_every_fix_works(noise | {"batch__n_prompts": n, "noise__naive_minibatches": K}) for n, K in pairs)
        > 0
    )


@pytest.mark.parametrize(
    ("field", "value", "says"), [("reward_limit_s", 0.0, "above 0"), ("reward_workers", 0, "at least 1")]
)
def test_limits_of_a_reward_are_above_zero(field, value, says):
    config = config_with(task__name="jsonl", task__path="data.jsonl", **{f"task__{field}": value})
    assert problems_of(config) == [f"task.{field}={value} must be {says}"]


def test_weights_and_biases_are_asked_for_only_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(validate_module, "wandb_problem", lambda mode: f"no {mode}" if mode != "off" else None)
    assert problems_of(config_with(log__wandb="offline")) == ["no offline"]
    assert problems_of(config_with(log__wandb="off")) == []


def test_the_error_has_a_line_for_each_problem():
    with pytest.raises(ConfigError) as refused:
        validate(config_with(n_updates=0, sampling__max_new_tokens=0))
    assert str(refused.value).splitlines() == refused.value.problems
    assert len(refused.value.problems) == 2


def test_every_problem_is_reported_at_once():
    config = config_with(
        n_updates=0,
        sampling__max_new_tokens=0,
        task__name="sums",
        algo__averaging="mean",
        model__name="olmo2-1bb",
        batch__n_prompts=30,
        batch__minibatch_prompts=8,
        eval__k=(1, 100),
    )
    named = [problem.split("=")[0] for problem in problems_of(config)]
    assert sorted(named) == sorted(
        [
            "n_updates",
            "sampling.max_new_tokens",
            "task.name",
            "algo.averaging",
            "model.name",
            "batch.n_prompts",
            "eval.k",
        ]
    )


NUMBERS = [path for path, value in flat_fields(TrainConfig()).items() if isinstance(value, float)]


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_in_every_field(path, value):
    config = TrainConfig()
    set_field(config, path, value)
    assert f"{path}={value} is not a finite number" in problems_of(config)


@pytest.mark.parametrize("path", NUMBERS)
def test_an_integer_beyond_every_float_is_refused_in_every_field_of_numbers(path):
    config = TrainConfig()
    set_field(config, path, 10**400)
    assert f"{path}={10**400} is not a finite number" in problems_of(config)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("batch.n_prompts", "64", "must be a whole number"),
        ("batch.n_prompts", 64.0, "must be a whole number"),
        ("batch.n_prompts", True, "must be a whole number"),
        ("sampling.temperature", "1", "must be a number"),
        ("sampling.temperature", True, "must be a number"),
        ("sampling.temperature", None, "must be a number"),
        ("warmstart.enabled", 1, "must be true or false"),
        ("study", 3, "must be text"),
        ("eval.k", [1, 4], "must be a tuple of whole numbers"),
        ("eval.k", (1, "4"), "must be a tuple of whole numbers"),
        ("eval.targets", 0.5, "must be a tuple of numbers"),
        ("task.rewards", "exact", "must be a tuple of texts"),
        ("task.rewards", ("exact", 1), "must be a tuple of texts"),
        ("task.reward_weights", ("1",), "must be a tuple of numbers"),
    ],
)
def test_a_mistyped_value_is_named_with_the_type_it_should_have(path, value, says):
    config = TrainConfig()
    set_field(config, path, value)
    assert problems_of(config) == [f"{path}={value!r} {says}"]


def test_a_group_of_settings_cannot_be_replaced_by_something_else():
    config = TrainConfig()
    config.batch = None
    assert problems_of(config) == ["batch=None must be a BatchConfig"]


def test_all_mistyped_values_are_reported_and_no_range_of_theirs():
    problems = problems_of(config_with(batch__n_prompts="0", n_updates=1.5, sampling__max_new_tokens=0))
    assert [problem.split("=")[0] for problem in problems] == ["n_updates", "batch.n_prompts"]


def test_a_whole_number_is_a_fine_float():
    assert problems_of(config_with(sampling__temperature=1, eval__targets=(1,))) == []


@pytest.mark.parametrize(
    ("whole", "part", "fix"),
    [(30, 8, "24 or 32"), (33, 8, "32 or 40"), (5, 8, "8"), (32, 8, None), (8, 8, None), (7, 0, None), (7, -1, None)],
)
def test_the_two_nearest_multiples(whole, part, fix):
    expected = [] if fix is None else [f"a={whole} is not a multiple of b={part}; use a={fix}"]
    assert indivisible("a", whole, "b", part) == expected

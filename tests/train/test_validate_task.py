"""Which settings of a task are refused, and with what words."""

import pytest

from rlvr_jax.tasks.reward_pool import check_function_name
from rlvr_jax.train.config import TaskConfig
from rlvr_jax.train.validate_task import task_problems


def problems_of(name="jsonl", **settings):
    return task_problems(TaskConfig(name=name, **({"path": "data.jsonl"} if name == "jsonl" else {}) | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "digits"},
        {"name": "arithmetic", "operators": "+-*", "operand_min": 5, "operand_max": 5},
        {"name": "arithmetic", "operand_max": 9_999},
        {"name": "digits", "operand_max": 99, "operators": "-"},
        {},
        {"heldout_path": "other.parquet", "template": "Q: {question}", "answer_field": "gold"},
        {"rewards": ("exact", "my_rewards:score", "a.b:c_2"), "reward_weights": (1.0, 0.0, -0.5), "correct_at": 0.5},
        {"rewards": ("my_rewards:score",), "answer_field": "", "demonstration_field": "solution"},  # without answers
        {"reward_limit_s": 1.0, "reward_workers": 4},
        {"bad_rows": "skip", "repeated_prompts": "stop", "overlap": "stop"},
        {"name": "gsm8k"},  # its files have names of their own
        {"name": "gsm8k", "path": "builtin:small", "template": "{question}"},
        {"name": "omi", "rewards": ("correct", "format", "a:b"), "reward_weights": (1.0, 0.1, 1.0)},
        {"name": "math", "levels": (1, 5), "subjects": ("Algebra",), "answer_workers": 2, "answer_limit_s": 1.0},
    ],
)
def test_a_task_that_can_work_is_not_refused(settings):
    assert problems_of(**settings) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"operators": ""}, "task.operators='' must be different characters out of '+-'"),
        ({"operators": "++"}, "task.operators='++' must be different characters out of '+-'"),
        ({"operators": "+*"}, "task.operators='+*' must be different characters out of '+-'"),
        ({"name": "arithmetic", "operators": "+/"}, "task.operators='+/' must be different characters out of '+-*'"),
        ({"operand_min": 20, "operand_max": 10}, "task.operand_max=10 is below task.operand_min=20"),
        ({"operand_max": 100}, "task.operand_max=100: task 'digits' has two-digit operands; use 99 or less"),
        (
            {"name": "arithmetic", "operand_max": 10_000},
            "task.operand_max=10000 lists more than 10^8 problems; use 9999 or less",
        ),
    ],
)
def test_sums_that_cannot_work_are_named_with_the_value_and_the_fix(settings, expected):
    assert problems_of(**({"name": "digits"} | settings)) == [expected]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "data.jsonl"),
        ("heldout_path", "data.jsonl"),
        ("template", "{question}"),
        ("answer_field", "gold"),
        ("demonstration_field", "solution"),
        ("correct_at", 0.5),
        ("mixture", ("counting",)),
    ],
)
@pytest.mark.parametrize("name", ["digits", "arithmetic"])
def test_a_setting_is_refused_where_nothing_reads_it(name, field, value):
    (problem,) = problems_of(name=name, **{field: value})
    reader = "mixture" if field == "mixture" else "jsonl"
    assert problem.startswith(f"task.{field}={value!r} is not read by task {name!r} but by '")
    assert f"'{reader}'" in problem.partition("but by")[2]
    assert problem.endswith("; change task.name or leave it out")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"path": ""},
            "task.path='' must name a file (.jsonl, .json or .parquet) or a data set OWNER/NAME of the Hub",
        ),
        *(
            ({"rewards": (reward,)}, f"{reward!r} in task.rewards is neither 'exact' nor module:function")
            for reward in (
                "",
                "exactly",
                "score",
                ":score",
                "my_rewards:",
                "my_rewards.score",
                "a:b:c",
                "1a:b",
                "a b:c",
            )
        ),
        ({"bad_rows": "keep"}, "task.bad_rows='keep' is not one of stop, skip"),
        ({"repeated_prompts": "drop"}, "task.repeated_prompts='drop' is not one of keep, skip, stop"),
        ({"overlap": "keep"}, "task.overlap='keep' is not one of skip, stop"),
        ({"path": "builtin:small"}, "task.path='builtin:small' is for gsm8k, omi, math; task 'jsonl' needs a file"),
        ({"name": "gsm8k", "levels": (1,)}, "task.levels=(1,) is not read by task 'gsm8k' but by 'math'"),
        ({"name": "gsm8k", "answer_field": "gold"}, "task.answer_field='gold' is not read by task 'gsm8k' but by"),
        ({"name": "gsm8k", "rewards": ("exact",)}, "'exact' in task.rewards is neither 'correct' or 'format' nor"),
        ({"name": "omi", "overlap": "keep"}, "task.overlap='keep' is not one of skip, stop"),
        ({"name": "math", "answer_limit_s": 0.0}, "task.answer_limit_s=0.0 must be above 0"),
        ({"name": "math", "answer_workers": 0}, "task.answer_workers=0 must be at least 1"),
        ({"name": "math", "answer_policy": ("sloppy",)}, "task.answer_policy=('sloppy',):"),
        ({"name": "math", "heldout_path": "builtin:small"}, "task.heldout_path='builtin:small' is only for task.path"),
        (
            {"rewards": ("exact", "exact")},
            "task.rewards=('exact', 'exact') names 'exact' 2 times; once, with a weight, will do",
        ),
        (
            {"rewards": ("exact", "a:b"), "reward_weights": (1.0,)},
            "task.reward_weights=(1.0,) are 1 for the 2 rewards exact, a:b; give one weight per reward",
        ),
        (
            {"reward_weights": (float("inf"),)},
            "task.reward_weights=(inf,) must all be finite numbers",
        ),
        (
            {"reward_weights": (1.0, 2.0)},
            "task.reward_weights=(1.0, 2.0) are 2 for the 1 rewards exact; give one weight per reward",
        ),
    ],
)
def test_files_and_rewards_that_cannot_work_are_named_with_the_value_and_the_fix(settings, expected):
    [problem] = problems_of(**settings)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "reward", ["a:b", "a.b.c:d", "größe:maß", "übung:score", "a..b:c", "a.:c", ".a:b", "a.1:b", "my_rewards.py:score"]
)
def test_a_reward_is_refused_where_the_processes_that_call_it_would_refuse_it(reward):
    try:
        check_function_name(reward)
    except ValueError:
        assert problems_of(rewards=(reward,)) != []
    else:
        assert problems_of(rewards=(reward,)) == []


def test_all_that_cannot_work_is_said_at_once():
    problems = problems_of(path="", rewards=("exact", "what"), reward_weights=(1.0,))
    assert [problem.split()[0].split("=")[0] for problem in problems] == [
        "task.path", "'what'", "task.reward_weights",
    ]  # fmt: skip

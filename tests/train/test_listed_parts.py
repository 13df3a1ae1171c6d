"""Mixtures and stages as a config names them."""

import math

import pytest

from rlvr_jax.train.config import ConfigError, TaskConfig
from rlvr_jax.train.listed_parts import listed_parts
from rlvr_jax.train.validate_task import task_problems

MIXTURE = ("arithmetic operand_max=10", "counting", "comparison")


def parts_of(**settings):
    return listed_parts(TaskConfig(**settings))


def problems_of(**settings):
    return task_problems(TaskConfig(**({"name": "mixture", "mixture": MIXTURE, "operand_max": 20} | settings)))


def test_a_plain_task_is_one_part_of_one_stage():
    ((part,),) = parts_of(name="comparison", operand_max=7, n_problems=5)
    assert (part.words, part.weight) == ("comparison", 1.0)
    assert part.task == TaskConfig(name="comparison", operand_max=7, n_problems=5)


def test_parts_have_the_settings_of_the_config_but_for_their_own():
    (parts,) = parts_of(
        name="mixture", mixture=MIXTURE, mixture_weights=(0.5, 0.25, 0.25), operators="+", operand_max=20, operand_min=3
    )
    assert [part.words for part in parts] == list(MIXTURE)
    assert [part.weight for part in parts] == [0.5, 0.25, 0.25]
    assert [part.task for part in parts] == [
        TaskConfig(name="arithmetic", operators="+", operand_min=3, operand_max=10),
        TaskConfig(name="counting", operand_min=3, operand_max=20),  # operators are not for it
        TaskConfig(name="comparison", operand_min=3, operand_max=20),
    ]


def test_without_weights_all_parts_are_drawn_equally_often():
    (parts,) = parts_of(name="mixture", mixture=MIXTURE)
    assert [part.weight for part in parts] == [1.0, 1.0, 1.0]


def test_stages_change_the_config_and_parts_change_their_stage():
    stages = parts_of(
        name="mixture",
        mixture=("arithmetic", "counting operand_max=9"),
        operators="+-",
        stages=("operators=+ operand_max=5", "operand_max=20"),
        stage_prompts=(64,),
    )
    assert [[(part.task.name, part.task.operand_max) for part in parts] for parts in stages] == [
        [("arithmetic", 5), ("counting", 9)],
        [("arithmetic", 20), ("counting", 9)],
    ]
    assert [parts[0].task.operators for parts in stages] == ["+", "+-"]


def test_an_empty_stage_is_the_config_as_it_is():
    (first,), (last,) = parts_of(name="digits", operand_max=30, stages=("operand_max=9", ""), stage_prompts=(8,))
    assert (first.task.operand_max, last.task.operand_max) == (9, 30)
    assert (first.words, last.words) == ("operand_max=9", "digits")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"mixture": ()}, ["task.mixture=() names no task to mix"]),
        (
            {"mixture": ("aritmetic",)},
            ["task.mixture[0]='aritmetic' begins with no task that can be mixed", "'arithmetic'"],
        ),
        ({"mixture": ("gsm8k",)}, ["begins with no task that can be mixed"]),
        ({"mixture": ("",)}, ["task.mixture[0]='' begins with no task"]),
        (
            {"mixture": ("arithmetic operand_mx=5",)},
            ["task.mixture[0]='arithmetic operand_mx=5': 'operand_mx' is no field", "did you mean operand_max?"],
        ),
        ({"mixture": ("counting five",)}, ["task.mixture[0]='counting five': 'five' is no FIELD=VALUE"]),
        ({"mixture": ("counting operand_max=ten",)}, ["operand_max=ten must be a whole number"]),
        ({"mixture": ("counting operand_max=1.5",)}, ["operand_max=1.5 must be a whole number"]),
        ({"mixture": ("counting operators=+",)}, ["task 'counting' does not read operators; leave it out"]),
        ({"mixture": ("counting operand_max=5 operand_max=6",)}, ["sets operand_max twice; keep one"]),
        ({"mixture": ("counting operand_max=31",)}, ["task 'counting' counts 1 to 30 words"]),
        ({"mixture": ("arithmetic operand_min=9 operand_max=5",)}, ["task.operand_max=5 is below task.operand_min=9"]),
        (
            {"mixture_weights": (1.0, 2.0)},
            ["task.mixture_weights=(1.0, 2.0) are 2 for the 3 tasks of task.mixture; give one per task"],
        ),
        ({"mixture_weights": (1.0, 0.0, 1.0)}, ["task.mixture_weights=(1.0, 0.0, 1.0) must all be finite and above 0"]),
        ({"mixture_weights": (math.inf, 1.0, 1.0)}, ["task.mixture_weights=(inf, 1.0, 1.0) must all be finite"]),
        ({"mixture_weights": (math.nan, 1.0, 1.0)}, ["task.mixture_weights=(nan, 1.0, 1.0) must all be finite"]),
        (
            {"stages": ("operand_max=5", "")},
            ["task.stage_prompts=() must say how long each of the 2 stages", "give 1 number(s)"],
        ),
        ({"stage_prompts": (5,)}, ["task.stage_prompts=(5,) must say", "give 0 number(s)"]),
        ({"stages": ("", ""), "stage_prompts": (0,)}, ["task.stage_prompts=(0,) must all be at least 1"]),
        (
            {"stages": ("operators=+", ""), "stage_prompts": (5,), "mixture": ("counting", "comparison")},
            ["task.stages[0]='operators=+': nothing here reads operators"],
        ),
        (
            {"name": "comparison", "mixture": (), "operators": "+"},
            ["task.operators='+' is not read by task 'comparison'"],
        ),
        (
            {"name": "counting", "mixture": (), "operand_max": 99},
            ["task.operand_max=99: task 'counting' counts 1 to 30"],
        ),
        ({"rewards": ("partial", "correct"), "reward_weights": (0.5, 0.5)}, []),
        ({"rewards": ("exact",)}, ["exact"]),
    ],
)
def test_what_cannot_work_is_named_with_the_value_and_the_fix(settings, expected):
    problems = problems_of(**settings)
    assert len(problems) == bool(expected), problems
    for words in expected:
        assert words in problems[0]


def test_a_broken_mixture_raises_all_its_problems_at_once():
    with pytest.raises(ConfigError) as refused:
        parts_of(name="mixture", mixture=("x", "counting a=1"), mixture_weights=(1.0,))
    assert len(refused.value.problems) == 2  # the weights fit one task, the first of which is unknown

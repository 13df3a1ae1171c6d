"""Prompts over the limit: counted, refused, or left out by name; never cut."""

import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.tasks.arithmetic import SentenceArithmetic
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.build_task import build_task
from rlvr_jax.train.collect import prompts_of_step
from rlvr_jax.train.config import ConfigError, SamplingConfig, TaskConfig
from rlvr_jax.train.long_prompts import prompt_lengths, used_problems

TASK = SentenceArithmetic(operators="+", operand_min=2, operand_max=14)  # "Calculate: 7 + 12 = "
PROMPTS = [TASK.train_problem(i).prompt for i in range(TASK.n_train)]
HELDOUT = [TASK.heldout_problem(i).prompt for i in range(TASK.n_heldout)]
# <bos> and the characters: 19 + 1 with two digits between them, 20 + 1 with three, 21 + 1 with four
LIMIT = 21
SHORTEST_HELDOUT = 1 + min(map(len, HELDOUT))


def kept(task=TASK, limit=LIMIT):
    sampling = SamplingConfig(max_prompt_tokens=limit, long_prompts="leave_out")
    task, length_N = used_problems(task, CharTokenizer(), sampling)
    prompts = [task.train_problem(i).prompt for i in range(task.n_train)]
    prompts += [task.heldout_problem(i).prompt for i in range(task.n_heldout)]
    np.testing.assert_array_equal(length_N, [1 + len(prompt) for prompt in prompts])
    return task


def test_lengths_are_those_of_the_encoded_prompts():
    train, heldout = prompt_lengths(TASK, CharTokenizer())
    np.testing.assert_array_equal(train, [1 + len(prompt) for prompt in PROMPTS])
    np.testing.assert_array_equal(heldout, [1 + len(prompt) for prompt in HELDOUT])


def test_the_problems_that_are_left_are_the_short_ones_in_their_order():
    task = kept()
    assert 0 < task.n_train < TASK.n_train
    assert [task.train_problem(i).prompt for i in range(task.n_train)] == [p for p in PROMPTS if len(p) < LIMIT]
    assert [task.heldout_problem(i).prompt for i in range(task.n_heldout)] == [p for p in HELDOUT if len(p) < LIMIT]
    for index in (-1, task.n_train):
        with pytest.raises(IndexError):
            task.train_problem(index)


def test_what_a_counter_shows_stays_a_function_of_the_counter():
    task = kept()
    whole = [p.prompt for p in prompts_of_step(task, 0, n_prompts=2 * task.n_train, seed=3)]
    parts = [p.prompt for first in (4, 0) for p in prompts_of_step(kept(), first, n_prompts=4, seed=3)]
    assert parts == whole[4:8] + whole[:4]
    assert sorted(whole[: task.n_train]) == sorted(p for p in PROMPTS if len(p) < LIMIT)  # each once per pass


def test_stages_draw_the_same_problems_but_for_the_long_ones():
    small = {"name": "arithmetic", "operators": "+", "operand_min": 2, "operand_max": 14}
    staged = build_task(TaskConfig(**small, stages=("operand_min=8", ""), stage_prompts=(50,)))
    task = kept(staged)
    first, last = (
        [problem.prompt for problem in prompts_of_step(task, start, n_prompts=n, seed=3)]
        for start, n in ((0, 50), (50, task.n_train))
    )
    short = {p for p in PROMPTS if len(p) < LIMIT}
    # of two operands from 8 on, the short ones have one digit and the other at most two
    of_first = {p for p in short if min(int(p.split()[1]), int(p.split()[3])) >= 8}
    assert 0 < len(of_first) < 50
    assert set(first) == of_first
    assert sorted(last) == sorted(short)  # each once per pass


def test_a_limit_that_leaves_nothing_of_a_part_is_refused_by_its_name():
    mixed = TaskConfig(
        name="mixture", mixture=("arithmetic operators=+ operand_max=9", "arithmetic operand_min=100 operand_max=105")
    )
    fault = "sampling.max_prompt_tokens=21: no problem of 'arithmetic operand_min=100 operand_max=105' in stage 1 is"
    with pytest.raises(ConfigError, match=fault):
        kept(build_task(mixed))


def test_everything_else_is_the_tasks_own():
    task, problem = kept(), TASK.train_problem(0)
    assert (task.name, task.fingerprint, task.longest_answer) == (TASK.name, TASK.fingerprint, TASK.longest_answer)
    np.testing.assert_array_equal(task.grade([problem], [[problem.answer, "no"]]).reward_PR, [[1.0, 0.0]])
    shown = [t.demonstration(problem, np.random.default_rng(1), p_correct=0.5) for t in (task, TASK)]
    assert shown[0] == shown[1]


def test_a_task_without_long_prompts_is_left_alone():
    assert kept(limit=22) is TASK


def test_a_limit_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError) as refused:
        kept(limit=19)
    assert [p.split("leaves out all ")[1] for p in refused.value.problems] == [
        f"{n} {what} problems of task 'arithmetic', whose shortest prompt has {shortest} tokens; use more"
        for n, what, shortest in ((len(PROMPTS), "training", 20), (len(HELDOUT), "held-out", SHORTEST_HELDOUT))
    ]


def test_the_plan_counts_what_is_left_out_or_refuses(tiny_config):
    tiny_config.task = TaskConfig(name="arithmetic", operators="+", operand_min=2, operand_max=14)
    tiny_config.warmstart.enabled, tiny_config.noise.every_updates = False, 0
    tiny_config.eval.n_problems = tiny_config.batch.n_prompts = 1
    tiny_config.sampling.max_prompt_tokens = LIMIT
    n_long = sum(len(p) >= LIMIT for p in PROMPTS + HELDOUT)
    with pytest.raises(ConfigError) as refused:
        assemble(tiny_config)
    (problem,) = refused.value.problems
    assert f"sampling.max_prompt_tokens=21 is exceeded by {n_long} of the {len(PROMPTS + HELDOUT)} prompts" in problem
    assert "the longest has 22 tokens" in problem
    tiny_config.sampling.long_prompts = "leave_out"
    parts = assemble(tiny_config)
    assert parts.plan.n_train == parts.task.n_train == sum(len(p) < LIMIT for p in PROMPTS)
    assert parts.plan.n_train_left_out + parts.plan.n_heldout_left_out == n_long
    assert parts.plan.max_prompt_tokens == LIMIT

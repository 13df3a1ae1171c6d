"""A task with some of its problems is that task in everything else, turns included."""

import numpy as np
import pytest

from rlvr_jax.tasks.arithmetic import SentenceArithmetic
from rlvr_jax.tasks.listed_task import ONLY_CORRECT
from rlvr_jax.tasks.mixture import Component, Mixture
from rlvr_jax.tasks.number_tasks import Counting
from rlvr_jax.tasks.rewards import RewardSettings
from rlvr_jax.tasks.some_problems import SomeProblems
from rlvr_jax.tasks.wordle import Wordle

WORDLE = Wordle(
    words="", allowed_words="", n_words=20, n_turns=3, n_clues=0, guess_style="bare",
    rewards=RewardSettings(names=(), weights=(), correct_at=1.0, limit_s=1.0, n_processes=1),
)  # fmt: skip


def test_turns_are_those_of_the_whole_task():
    some = SomeProblems(WORDLE, train=[1, 5], heldout=[2])
    problem = some.train_problem(1)
    assert problem == WORDLE.train_problem(5)
    assert (some.n_train, some.n_heldout) == (2, 1)
    assert (some.max_turns, some.possible_replies) == (3, WORDLE.possible_replies)
    assert some.reply(problem, ["zzzzz"]) == " xxxxx\n"
    turns = [[["zzzzz", problem.answer]]]
    np.testing.assert_array_equal(
        some.grade_turns([problem], turns).reward_PR, WORDLE.grade_turns([problem], turns).reward_PR
    )
    drawn = [task.demonstrated_turns(problem, np.random.default_rng(0), p_correct=0.5) for task in (some, WORDLE)]
    assert drawn[0] == drawn[1]


def some_sums(operand_max, *, operators):
    return SentenceArithmetic(operators=operators, operand_min=0, operand_max=operand_max)


def prompts_of(task, indices):
    return {task.train_problem(int(i)).prompt for i in indices}


def test_the_pools_of_a_schedule_hold_the_same_problems_but_for_those_that_are_left_out():
    counting = Component("counting", Counting(operand_min=1, operand_max=20), 1.0)
    stages = [
        [Component("small", some_sums(4, operators="+"), 1.0)],
        [Component("sums", some_sums(6, operators="+-"), 3.0), counting],
    ]
    whole = Mixture("mixture", stages, stage_prompts=[8], rewards=ONLY_CORRECT)
    kept = range(1, whole.n_train, 3)
    some = SomeProblems(whole, train=kept, heldout=range(whole.n_heldout))
    kept_prompts = prompts_of(whole, kept)
    assert len(kept_prompts) == some.n_train == len(kept)
    for stage, whole_stage in zip(some.schedule, whole.schedule, strict=True):
        assert (stage.first_prompt, stage.names, stage.weights) == (
            whole_stage.first_prompt, whole_stage.names, whole_stage.weights,
        )  # fmt: skip
        for pool, whole_pool in zip(stage.pools, whole_stage.pools, strict=True):
            assert prompts_of(some, pool) == prompts_of(whole, whole_pool) & kept_prompts
            assert len(set(pool)) == len(pool) > 0


def test_a_pool_of_which_nothing_is_left_is_named():
    parts = [Component("small", some_sums(4, operators="+"), 1.0)]
    whole = Mixture("mixture", [parts, [Component("large", some_sums(6, operators="+-"), 1.0)]], stage_prompts=[8],
                    rewards=ONLY_CORRECT)  # fmt: skip
    left = sorted(set(range(whole.n_train)) - set(whole.schedule[0].pools[0]))
    with pytest.raises(ValueError, match="no problem of 'small' in stage 1 is left"):
        SomeProblems(whole, train=left, heldout=[0])

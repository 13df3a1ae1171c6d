"""A task with some of its problems is that task in everything else, turns included."""

import numpy as np

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

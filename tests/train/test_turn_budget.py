"""Whether all turns and replies fit a rollout: 3 turns, replies of 7 characters, answers of 5 and EOS."""

import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.train.build_task import build_task
from rlvr_jax.train.config import ConfigError, TaskConfig, TrainConfig
from rlvr_jax.train.turn_budget import turn_tokens


def budget(max_new_tokens, max_turn_tokens=0, *, n_turns=3, **algo):
    task = TaskConfig(name="wordle", n_words=10, n_turns=n_turns, n_clues=int(n_turns == 1))
    config = TrainConfig(task=task)
    config.sampling.max_new_tokens, config.sampling.max_turn_tokens = max_new_tokens, max_turn_tokens
    for name, value in algo.items():
        setattr(config.algo, name, value)
    return turn_tokens(config, build_task(task), CharTokenizer(), longest_turn_tokens=6)


@pytest.mark.parametrize(
    ("max_new_tokens", "max_turn_tokens", "tokens"),
    [(32, 0, 6), (34, 0, 6), (35, 0, 7), (64, 0, 16), (64, 8, 8)],  # 3 * 6 + 2 * 7 = 32; (64 - 14) / 3 = 16.7
)
def test_a_turn_has_what_replies_leave_or_what_is_asked(max_new_tokens, max_turn_tokens, tokens):
    assert budget(max_new_tokens, max_turn_tokens) == tokens


def test_a_single_turn_is_the_whole_completion():
    assert budget(9, n_turns=1) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 31}, r"max_new_tokens=31 does not hold 3 turns of 6 .* 2 replies of up to 7; use .*=32 "),
        ({"max_new_tokens": 3}, r"use sampling\.max_new_tokens=32 "),
        ({"max_new_tokens": 40, "max_turn_tokens": 9}, r"3 turns of 9 .* use sampling\.max_new_tokens=41 "),
        ({"max_new_tokens": 40, "max_turn_tokens": 5}, r"max_turn_tokens=5 cuts answers .* use 6 or more"),
        ({"max_new_tokens": 9, "max_turn_tokens": 6, "n_turns": 1}, r"max_turn_tokens=6 is for rollouts of several"),
        ({"max_new_tokens": 40, "overlong_buffer_tokens": 4}, r"overlong_buffer_tokens=4 .* use 0"),
    ],
)
def test_what_would_have_to_be_cut_is_refused_with_what_would_do(options, message):
    with pytest.raises(ConfigError, match=message):
        budget(**options)

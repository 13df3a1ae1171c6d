"""How many tokens one turn of a rollout may have, and whether all turns and replies fit a rollout."""

from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.tasks.problem import Task
from rlvr_jax.tasks.turns import max_turns
from rlvr_jax.train.config import ConfigError, TrainConfig


def turn_tokens(config: TrainConfig, task: Task, tokenizer: Tokenizer, *, longest_turn_tokens: int) -> int:
    """The most tokens of a turn, EOS included. Raises ConfigError where a rollout would have to be cut.

    Args:
        longest_turn_tokens: what the longest known answer takes, EOS included.
    """
    sampling, n_turns = config.sampling, max_turns(task)
    if n_turns == 1:
        if sampling.max_turn_tokens:
            raise ConfigError(
                [
                    f"sampling.max_turn_tokens={sampling.max_turn_tokens} is for rollouts of several turns, and those "
                    f"of task {task.name!r} here have one; set it to 0 and use sampling.max_new_tokens"
                ]
            )
        return sampling.max_new_tokens
    try:
        reply = max(len(tokenizer.encode_reply(text, after=None)) for text in task.possible_replies)
    except ValueError as error:
        raise ConfigError([f"task {task.name!r}, replies: {error}"]) from error
    n_of_replies = (n_turns - 1) * reply
    turn = sampling.max_turn_tokens or max((sampling.max_new_tokens - n_of_replies) // n_turns, 0)
    needed = n_turns * max(turn, longest_turn_tokens) + n_of_replies
    problems = []
    if 0 < sampling.max_turn_tokens < longest_turn_tokens:
        problems.append(
            f"sampling.max_turn_tokens={sampling.max_turn_tokens} cuts answers of task {task.name!r}, which take up to "
            f"{longest_turn_tokens} tokens with EOS; use {longest_turn_tokens} or more"
        )
    if sampling.max_new_tokens < needed:
        of_turn = max(turn, longest_turn_tokens)
        problems.append(
            f"sampling.max_new_tokens={sampling.max_new_tokens} does not hold {n_turns} turns of {of_turn} tokens and "
            f"{n_turns - 1} replies of up to {reply}; use sampling.max_new_tokens={needed} or more, or fewer turns"
        )
    if config.algo.overlong_buffer_tokens:
        problems.append(
            f"algo.overlong_buffer_tokens={config.algo.overlong_buffer_tokens} would count replies that the policy did "
            "not write; use 0 with rollouts of several turns"
        )
    if problems:
        raise ConfigError(problems)
    return turn

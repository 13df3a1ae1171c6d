"""How long the prompts of a task are, and the task without those that are too long."""

import functools

import numpy as np

from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.tasks.problem import Task
from rlvr_jax.tasks.some_problems import SomeProblems
from rlvr_jax.train.config import ConfigError, SamplingConfig

_PROMPTS_AT_A_TIME = 10_000  # their tokens are not kept


@functools.lru_cache(maxsize=4)  # all points of a study share task and tokenizer
def prompt_lengths(task: Task, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """int32[n_train] and int32[n_heldout] tokens. Raises ConfigError at a prompt that has none."""
    train = [task.train_problem(i).prompt for i in range(task.n_train)]
    heldout = [task.heldout_problem(i).prompt for i in range(task.n_heldout)]
    try:
        return _lengths(train, tokenizer), _lengths(heldout, tokenizer)
    except ValueError as error:
        raise ConfigError([f"task {task.name!r}: {error}"]) from error


def _lengths(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    parts = [texts[first : first + _PROMPTS_AT_A_TIME] for first in range(0, len(texts), _PROMPTS_AT_A_TIME)]
    return np.array([len(row) for part in parts for row in tokenizer.encode_prompts(part)], np.int32)


def used_problems(task: Task, tokenizer: Tokenizer, sampling: SamplingConfig) -> tuple[Task, np.ndarray]:
    """The task a run works with, and the tokens of all its prompts: int32[N], training ones first.

    With sampling.long_prompts="leave_out" it lacks the problems whose prompts exceed sampling.max_prompt_tokens.
    Raises ConfigError if none of the training or of the held-out problems is left.
    """
    lengths = prompt_lengths(task, tokenizer)
    every_length_N = np.concatenate(lengths)
    if sampling.long_prompts != "leave_out" or every_length_N.max() <= sampling.max_prompt_tokens:
        return task, every_length_N
    train, heldout = (np.flatnonzero(length_N <= sampling.max_prompt_tokens) for length_N in lengths)
    problems = [
        f"sampling.max_prompt_tokens={sampling.max_prompt_tokens} leaves out all {len(length_N)} {what} problems of "
        f"task {task.name!r}, whose shortest prompt has {length_N.min()} tokens; use more"
        for what, length_N in zip(("training", "held-out"), lengths, strict=True)
        if len(length_N) and length_N.min() > sampling.max_prompt_tokens
    ]
    if problems:
        raise ConfigError(problems)
    used_length_N = np.concatenate([length_N[kept] for length_N, kept in zip(lengths, (train, heldout), strict=True)])
    try:
        return SomeProblems(task, train=train, heldout=heldout), used_length_N
    except ValueError as error:
        raise ConfigError([f"sampling.max_prompt_tokens={sampling.max_prompt_tokens}: {error}; use more"]) from error

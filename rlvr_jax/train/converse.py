"""Rollouts of several turns: the policy writes until EOS, the task replies, and the policy goes on from all of it.

A turn is sampled as if everything before it were its prompt, for the rollouts that are not over, each with a prompt of
its own. What the environment wrote stands between the turns in the rollout's tokens, and `is_action_PRT` says which
tokens are the policy's; only those have a log-probability and are trained on.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.models.spec import Params
from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.padding import bucket_widths, pad_right
from rlvr_jax.sampling.rollout import Rollouts, Sampler
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.tasks.turns import TurnTask
from rlvr_jax.train.placement import n_batch_shards, place_batch, replicated
from rlvr_jax.train.processes import on_host, placed

_SMALLEST_SHARE = 8  # of all rollouts: fewer that go on are decoded as one in so many


@dataclasses.dataclass
class _Rollout:
    """A rollout on its way: completion tokens of all turns and replies so far."""

    row: int  # prompt * n_rollouts + rollout
    prompt: list[int]
    tokens: list[int] = dataclasses.field(default_factory=list)
    is_action: list[bool] = dataclasses.field(default_factory=list)
    behavior_logprob: list[float] = dataclasses.field(default_factory=list)
    turns: list[str] = dataclasses.field(default_factory=list)
    is_truncated: bool = False

    def add(self, tokens: Sequence[int], *, is_action: bool, logprobs: Sequence[float] | None = None) -> None:
        self.tokens += tokens
        self.is_action += [is_action] * len(tokens)
        self.behavior_logprob += [0.0] * len(tokens) if logprobs is None else logprobs


def converse(
    sampler: Sampler,
    params: Params,
    task: TurnTask,
    problems: Sequence[Problem],
    counters: range,
    root_key: jax.Array,
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    n_rollouts: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    bucket_tokens: int,
    rows_at_once: int,
) -> Rollouts:
    """Rollouts on the host, R of each problem.

    The key of a turn is folded from the root, the turn, the prompt's number in the run, the rollout's among its
    prompt's, and the token's place in the turn: nothing of it depends on which others are drawn with it. A turn that
    is cut before EOS ends its rollout, which is then truncated.

    Args:
        sampler: draws one completion per prompt, of at most a turn's tokens.
        counters: numbers of the prompts in the run.
        max_new_tokens: holds all turns and replies; nothing is cut for it.
        rows_at_once: rollouts that are drawn at a time.
    """
    prompts = tokenizer.encode_prompts([problem.prompt for problem in problems])
    rollouts = [_Rollout(p * n_rollouts + r, prompt) for p, prompt in enumerate(prompts) for r in range(n_rollouts)]
    sizes = _row_counts(rows_at_once, n_shards=n_batch_shards(mesh))
    eos_ids, n_decode_steps = frozenset(tokenizer.eos_ids), 0
    going_on = rollouts
    for turn in range(task.max_turns):
        for part in [going_on[first : first + rows_at_once] for first in range(0, len(going_on), rows_at_once)]:
            row_N = np.resize([rollout.row for rollout in part], next(n for n in sizes if n >= len(part)))
            texts = [rollouts[row].prompt + rollouts[row].tokens for row in row_N]
            width = _width(texts, most=max_prompt_tokens + max_new_tokens, bucket_tokens=bucket_tokens)
            prompt_NS, length_N = pad_right(texts, width=width, pad_id=tokenizer.pad_id)
            counter_N = np.array([counters[row // n_rollouts] for row in row_N], np.int32)
            key_N = _turn_keys(root_key, np.int32(turn), counter_N, np.int32(row_N % n_rollouts))
            on_devices = place_batch((prompt_NS, length_N, counter_N), mesh, axis=0)
            drawn = on_host(sampler(params, *on_devices, placed(key_N, replicated(mesh))))
            n_decode_steps += int(drawn.n_decode_steps)
            for n, rollout in enumerate(part):
                length = int(drawn.completion_length_PR[n, 0])
                tokens = drawn.completion_PRT[n, 0, :length].tolist()
                rollout.add(tokens, is_action=True, logprobs=drawn.behavior_logprob_PRT[n, 0, :length].tolist())
                rollout.turns.append(tokenizer.decode(tokens))
                rollout.is_truncated = tokens[-1] not in eos_ids
        going_on = [rollout for rollout in going_on if _goes_on(rollout, task, problems, tokenizer, n_rollouts)]
        if not going_on:
            break
    width = _width([rollout.tokens for rollout in rollouts], most=max_new_tokens, bucket_tokens=bucket_tokens)
    prompt_width = _width(prompts, most=max_prompt_tokens, bucket_tokens=bucket_tokens)
    prompt_PS, prompt_length_P = pad_right(prompts, width=prompt_width, pad_id=tokenizer.pad_id)
    shape = len(prompts), n_rollouts

    def joined(name: str, fill: float, dtype: type) -> np.ndarray:
        rows = [getattr(rollout, name) for rollout in rollouts]
        array = np.full((len(rows), width), fill, dtype)
        for place, values in zip(array, rows, strict=True):
            place[: len(values)] = values
        return array.reshape(*shape, width)

    return Rollouts(
        prompt_PS=prompt_PS,
        prompt_length_P=prompt_length_P,
        completion_PRT=joined("tokens", tokenizer.pad_id, np.int32),
        completion_length_PR=np.array([len(rollout.tokens) for rollout in rollouts], np.int32).reshape(shape),
        is_truncated_PR=np.array([rollout.is_truncated for rollout in rollouts]).reshape(shape),
        behavior_logprob_PRT=joined("behavior_logprob", 0.0, np.float32),
        n_decode_steps=np.int32(n_decode_steps),
        is_action_PRT=joined("is_action", False, bool),
    )


def _goes_on(
    rollout: _Rollout, task: TurnTask, problems: Sequence[Problem], tokenizer: Tokenizer, n_rollouts: int
) -> bool:
    """Whether the rollout has another turn, which the reply then stands before."""
    if rollout.is_truncated:
        return False
    reply = task.reply(problems[rollout.row // n_rollouts], rollout.turns)
    if reply is None:
        return False
    rollout.add(tokenizer.encode_reply(reply, after=rollout.tokens[-1]), is_action=False)
    return True


def _width(rows: Sequence[Sequence[int]], *, most: int, bucket_tokens: int) -> int:
    """The narrowest bucket that holds the rows; `most` where one is longer, which is then refused as too long."""
    longest = min(max(map(len, rows)), most)
    return next(width for width in bucket_widths(most, first=bucket_tokens) if width >= longest)


@jax.jit
def _turn_keys(root_key: jax.Array, turn: jax.Array, counter_N: jax.Array, rollout_N: jax.Array) -> jax.Array:
    turn_key = jax.random.fold_in(root_key, turn)
    return jax.vmap(lambda counter, rollout: jax.random.fold_in(jax.random.fold_in(turn_key, counter), rollout))(
        counter_N, rollout_N
    )


def _row_counts(rows_at_once: int, *, n_shards: int) -> list[int]:
    """How many rows a program is compiled for: all, half of them, a quarter ..., that devices can share."""
    counts, share = set(), 1
    while share <= _SMALLEST_SHARE:
        n = -(-rows_at_once // share)
        counts.add(min(-(-n // n_shards) * n_shards, rows_at_once))
        share *= 2
    return sorted(counts)

"""The rewards of a task of one's own: "exact", functions of the user's, and their weighted sum."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlvr_jax.tasks.problem import Grades, RowProblem
from rlvr_jax.tasks.reward_pool import RewardCall, RewardPool, check_function_name
from rlvr_jax.tasks.reward_worker import LARGEST_SCORE

EXACT = "exact"
PENALTIES = ("kl", "overlong", "truncated")  # what the trainer adds under these names beside the rewards


class Rewards:
    """Named rewards and their weights."""

    def __init__(
        self,
        rewards: Sequence[str],
        *,
        weights: Sequence[float],
        correct_at: float,
        limit_s: float,
        n_processes: int,
    ):
        """Starts the processes of the user's functions. Raises ValueError if a reward cannot be used.

        Args:
            rewards: each "exact" or "module:function".
            weights: one per reward; () for all 1.
            correct_at: from which weighted sum on a completion counts as correct.
        """
        self._names = reward_names(rewards)
        if not all(math.isfinite(number) for number in (*weights, correct_at)):
            raise ValueError(f"task.reward_weights={tuple(weights)} and task.correct_at={correct_at} must be finite")
        self._weights = weight_per_reward(rewards, weights)
        self._correct_at = correct_at
        self._functions = [reward for reward in rewards if reward != EXACT]
        self._function_names = [self._names[reward] for reward in self._functions]
        self._pool = RewardPool(self._functions, limit_s=limit_s, n_processes=n_processes) if self._functions else None

    def close(self) -> None:
        """Ends the processes of the user's functions."""
        if self._pool:
            self._pool.close()

    def grade(self, problems: Sequence[RowProblem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        """Grades [P][R] completions; a prompt whose rewards are not all there has none."""
        named = {name: np.full((len(problems), len(completion_texts[0])), np.nan) for name in self._names.values()}
        if EXACT in named:
            named[EXACT][:] = [
                [text.strip() == problem.answer.strip() for text in texts]
                for problem, texts in zip(problems, completion_texts, strict=True)
            ]
        failures = self._call_functions(problems, completion_texts, named)
        # in float64: three rewards weighted 0.7, 0.2 and 0.1 reach 1 only after rounding to float32
        sum_PR = sum(weight * named[name] for weight, name in zip(self._weights, self._names.values(), strict=True))
        is_too_large_P = (np.abs(sum_PR) > LARGEST_SCORE).any(axis=1)  # false for NaN: those failed before
        for p in np.flatnonzero(is_too_large_P):
            failures[p].append(
                f"the weighted sum of the rewards on prompt {problems[p].prompt[:60]!r} is beyond {LARGEST_SCORE:g}; "
                "lower task.reward_weights"
            )
        sum_PR[is_too_large_P] = np.nan
        reward_PR = sum_PR.astype(np.float32)
        return Grades(
            named_rewards={name: values_PR.astype(np.float32) for name, values_PR in named.items()},
            reward_PR=reward_PR,
            is_correct_PR=reward_PR >= np.float32(self._correct_at),  # false for NaN
            failures=tuple("; ".join(messages) for messages in failures if messages),
        )

    def _call_functions(
        self,
        problems: Sequence[RowProblem],
        completion_texts: Sequence[Sequence[str]],
        named: dict[str, np.ndarray],
    ) -> list[list[str]]:
        """Fills in what the user's functions return; their failures per prompt."""
        failures: list[list[str]] = [[] for _ in problems]
        if self._pool is None:
            return failures
        places, calls = [], []
        for p, (problem, texts) in enumerate(zip(problems, completion_texts, strict=True)):
            for f, name in enumerate(self._function_names):
                places.append((p, name))
                calls.append(RewardCall(f, problem.prompt, list(texts), problem.answer, problem.row))
        for (p, name), scores in zip(places, self._pool.grade(calls), strict=True):
            if isinstance(scores, str):
                failures[p].append(scores)
            else:
                named[name][p] = scores
        return failures


def reward_names(rewards: Sequence[str]) -> dict[str, str]:
    """Reward -> its name in metrics: the function's, with its module where two would share it."""
    if not rewards:
        raise ValueError("task.rewards is empty; use ('exact',), or ('my_rewards:score',) for score() in my_rewards.py")
    for reward, count in Counter(rewards).items():
        if count > 1:
            raise ValueError(
                f"task.rewards={tuple(rewards)} names {reward!r} {count} times; once, with a weight, will do"
            )
        if reward != EXACT:
            check_function_name(reward)
    short = {reward: reward.rpartition(":")[2] for reward in rewards}
    n_of = Counter([*short.values(), *PENALTIES, *PENALTIES])
    return {reward: reward.replace(":", ".") if n_of[name] > 1 else name for reward, name in short.items()}


def weight_per_reward(rewards: Sequence[str], weights: Sequence[float]) -> tuple[float, ...]:
    """The weights, or all 1 for (). Raises ValueError unless there is one per reward."""
    if weights and len(weights) != len(rewards):
        raise ValueError(
            f"task.reward_weights={tuple(weights)} are {len(weights)} for the {len(rewards)} rewards "
            f"{', '.join(rewards)}; give one weight per reward, or () for all 1"
        )
    return tuple(weights) or (1.0,) * len(rewards)

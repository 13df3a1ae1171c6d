"""Named rewards of a completion, the task's own ones and functions of the user's, and their weighted sum."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rlvr_jax.tasks.code_reward import CodeReward, CodeSettings
from rlvr_jax.tasks.judge import Judge, JudgeSettings
from rlvr_jax.tasks.problem import Answers, Grades, Problem
from rlvr_jax.tasks.reward_pool import RewardCall, RewardPool, check_function_name
from rlvr_jax.tasks.reward_worker import LARGEST_SCORE

SERVICES = ("judge", "code")  # that every task may name beside its own rewards
PENALTIES = ("kl", "overlong", "truncated")  # what the trainer adds under these names beside the rewards


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """Which rewards a run has, as its config says."""

    names: tuple[str, ...]  # each one of the task's own or "module:function"; (): the task's default
    weights: tuple[float, ...]  # one per reward; () for all 1
    correct_at: float  # from which weighted sum on a completion counts as correct, where the task leaves that open
    limit_s: float  # of one call of a function
    n_processes: int  # that call the functions
    judge: JudgeSettings | None = None  # of "judge"
    code: CodeSettings | None = None  # of "code"


class Rewards:
    """Named rewards and their weights."""

    def __init__(self, settings: RewardSettings, *, own: Sequence[str], default: Sequence[str]):
        """Starts the processes of the user's functions. Raises ValueError if a reward cannot be used.

        Args:
            own: names of the rewards that the task can compute itself.
            default: the rewards where the settings name none.
        """
        rewards = settings.names or tuple(default)
        self._names = reward_names(rewards, own=own)
        if not all(math.isfinite(number) for number in (*settings.weights, settings.correct_at)):
            raise ValueError(
                f"task.reward_weights={settings.weights} and task.correct_at={settings.correct_at} must be finite"
            )
        self.weights = dict(zip(self._names.values(), weight_per_reward(rewards, settings.weights), strict=True))
        self._correct_at = settings.correct_at
        self._own = [reward for reward in rewards if reward in own]
        self._functions = [reward for reward in rewards if reward not in (*own, *SERVICES)]
        self._function_names = [self._names[reward] for reward in self._functions]
        self._code = CodeReward(settings.code) if "code" in rewards else None
        self._judge = Judge(settings.judge) if "judge" in rewards else None
        self._pool = None
        if self._functions:
            self._pool = RewardPool(self._functions, limit_s=settings.limit_s, n_processes=settings.n_processes)

    def check(self, problems: Sequence[Problem]) -> None:
        """Raises ValueError if no problem's row has what a reward reads of it."""
        if self._code:
            self._code.check(problems)

    def close(self) -> None:
        """Ends the processes of the user's functions."""
        if self._pool:
            self._pool.close()

    def grade(
        self,
        problems: Sequence[Problem],
        completion_texts: Sequence[Sequence[str]],
        own: Mapping[str, np.ndarray],
        *,
        is_correct_PR: np.ndarray | None = None,
        answers: Answers | None = None,
    ) -> Grades:
        """Grades [P][R] completions; one whose rewards are not all there has none.

        Args:
            own: the task's own rewards by name, [P, R]; NaN where one could not be graded.
            is_correct_PR: bool; None for what `correct_at` makes of the sum.
            answers: what Grades.answers will hold.
        """
        shape = len(problems), len(completion_texts[0])
        named = {name: np.full(shape, np.nan) for name in self._names.values()}
        for name in self._own:
            named[name][:] = own[name]
        failures = self._call_functions(problems, completion_texts, named)
        for name, service in (("judge", self._judge), ("code", self._code)):
            if service:
                named[name], whys = service.grade(problems, completion_texts)
                failures = [[*messages, *filter(None, [why])] for messages, why in zip(failures, whys, strict=True)]
        # in float64: three rewards weighted 0.7, 0.2 and 0.1 reach 1 only after rounding to float32
        sum_PR = sum(weight * named[name] for name, weight in self.weights.items())
        is_too_large_P = (np.abs(sum_PR) > LARGEST_SCORE).any(axis=1)  # false for NaN: those failed before
        for p in np.flatnonzero(is_too_large_P):
            failures[p].append(
                f"the weighted sum of the rewards on prompt {problems[p].prompt[:60]!r} is beyond {LARGEST_SCORE:g}; "
                "lower task.reward_weights"
            )
        sum_PR[is_too_large_P] = np.nan
        reward_PR = sum_PR.astype(np.float32)
        is_graded_PR = np.isfinite(reward_PR)
        if is_correct_PR is None:
            is_correct_PR = reward_PR >= np.float32(self._correct_at)  # false for NaN
        elif self._judge:  # the task knows what is right; that a judge is down must not look like a worse policy
            is_graded_PR |= is_graded_but_for_judge(named)
        return Grades(
            named_rewards={name: values_PR.astype(np.float32) for name, values_PR in named.items()},
            reward_PR=reward_PR,
            is_correct_PR=is_correct_PR & is_graded_PR,
            failures=tuple("; ".join(messages) for messages in failures if messages),
            answers=answers,
            weights=self.weights,
            counts={"judge_failures": int(np.isnan(named["judge"]).sum())} if self._judge else {},
        )

    def _call_functions(
        self,
        problems: Sequence[Problem],
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


def is_graded_but_for_judge(named: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool[P, R]: whether all rewards are there that are no judge's.

    Args:
        named: the rewards by name, [P, R], NaN where one is missing; the judge's among them.
    """
    is_there = [np.isfinite(values_PR) | (name == "judge") for name, values_PR in named.items()]
    return np.all(is_there, axis=0)


def reward_names(rewards: Sequence[str], *, own: Sequence[str]) -> dict[str, str]:
    """Reward -> its name in metrics: the function's, with its module where two would share it.

    Args:
        own: the task's own rewards, which bear their names.
    """
    for reward, count in Counter(rewards).items():
        if count > 1:
            raise ValueError(
                f"task.rewards={tuple(rewards)} names {reward!r} {count} times; once, with a weight, will do"
            )
        if reward not in (*own, *SERVICES):
            check_function_name(reward, own=own)
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

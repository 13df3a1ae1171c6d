"""Tasks of several turns: the policy writes, the task replies, and so on until a reply of None."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rlvr_jax.tasks.problem import Grades, Problem, Task


class TurnTask(Task, Protocol):
    """What a task has beside a `Task`'s surface when a rollout may have several turns.

    Everything is a pure function of the problem and the turns, so that nothing but tokens has to be kept.
    """

    max_turns: int  # 1: `grade` and `demonstration` alone are used
    possible_replies: Sequence[str]  # every text that `reply` can return

    def reply(self, problem: Problem, turns: Sequence[str]) -> str | None:
        """What the policy reads after its last turn; None when the rollout is over."""

    def grade_turns(self, problems: Sequence[Problem], turns: Sequence[Sequence[Sequence[str]]]) -> Grades:
        """Grades rollouts [P][R] of one or more turns each: the policy's own texts, so that no reply can be forged."""

    def demonstrated_turns(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> list[str]:
        """The turns of a rollout for the warm start, each right with probability `p_correct`."""


def max_turns(task: Task) -> int:
    """Of a task that says nothing of turns: 1."""
    return getattr(task, "max_turns", 1)


def replies_between(task: TurnTask, problem: Problem, turns: Sequence[str]) -> list[str]:
    """The replies to all turns but the last."""
    return [task.reply(problem, turns[:n]) for n in range(1, len(turns))]


def transcript(turns: Sequence[str], replies: Sequence[str]) -> str:
    """Turns and replies as one text to read, a line or more each; `replies` has one less."""
    lines = [turns[0]] if turns else []
    for reply, turn in zip(replies, turns[1:], strict=True):
        lines += [reply.strip(), turn]
    return "\n".join(lines)

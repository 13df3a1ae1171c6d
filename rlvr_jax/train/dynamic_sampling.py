"""Drawing again in place of groups whose rewards are all equal and so teach nothing. Off by default.

DAPO, arXiv:2503.14476 sec. 3.2. It changes what is estimated: the gradient is then that of the prompts
the policy sometimes solves, and the noise measured is that of this filtered batch.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.shared_grading import joined_answers, joined_counts


def effective_first(rounds: Sequence[Collection], *, n_prompts: int) -> Collection:
    """`n_prompts` of the groups of all rounds, in the order drawn: those with unequal rewards, others if too few."""
    is_effective = np.concatenate([collection.is_effective_P for collection in rounds])
    rows = np.sort(np.argsort(~is_effective, kind="stable")[:n_prompts])
    problems = [problem for collection in rounds for problem in collection.problems]
    texts = [row for collection in rounds for row in collection.completion_texts]
    failures = tuple(failure for collection in rounds for failure in collection.grades.failures)
    answers = joined_answers([collection.grades.answers for collection in rounds])
    counts = joined_counts([collection.grades.counts for collection in rounds])
    wide = _equally_wide([collection.rollouts for collection in rounds])
    parts = [
        (
            rollouts.replace(n_decode_steps=None),
            (c.grades.named_rewards, c.grades.reward_PR, c.grades.is_correct_PR),
            c.penalties,
            c.is_kept_PR,
        )
        for c, rollouts in zip(rounds, wide, strict=True)
    ]
    rollouts, grades, penalties, is_kept_PR = jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *parts)
    return dataclasses.replace(
        rounds[0],
        problems=[problems[i] for i in rows],
        rollouts=rollouts.replace(n_decode_steps=sum(c.rollouts.n_decode_steps for c in rounds)),
        completion_texts=[texts[i] for i in rows],
        grades=Grades(*grades, failures, answers and tuple(answers[i] for i in rows), rounds[0].grades.weights, counts),
        penalties=penalties,
        is_kept_PR=is_kept_PR,
        n_prompts_drawn=sum(c.n_prompts_drawn for c in rounds),
        n_effective_drawn=sum(c.n_effective_drawn for c in rounds),
        n_ungraded_drawn=sum(c.n_ungraded_drawn for c in rounds),
        n_tokens=sum(c.n_tokens for c in rounds),
    )


def _equally_wide(rollouts: list[Rollouts]) -> list[Rollouts]:
    """With pads (0) up to the widest of each array: the rounds may have come in different buckets."""

    def widened(name: str) -> list[np.ndarray]:
        arrays = [getattr(one, name) for one in rollouts]
        width = max(x.shape[-1] for x in arrays)
        return [np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]) for x in arrays]

    names = ["prompt_PS", "completion_PRT", "behavior_logprob_PRT"]
    names += ["is_action_PRT"] if rollouts[0].is_action_PRT is not None else []
    columns = zip(*[widened(name) for name in names], strict=True)
    return [one.replace(**dict(zip(names, values, strict=True))) for one, values in zip(rollouts, columns, strict=True)]

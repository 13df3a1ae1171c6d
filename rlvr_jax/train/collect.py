"""One step's collection on the host: prompts by counter, rollouts, grades, the rewards that are trained on."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from rlvr_jax.algo.penalties import overlong_penalty
from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem, Task
from rlvr_jax.tasks.schedule import problem_index, schedule_of
from rlvr_jax.train.config import AlgoConfig
from rlvr_jax.train.processes import on_host
from rlvr_jax.train.shared_grading import graded


@dataclasses.dataclass(frozen=True)
class Collection:
    """Rollouts of P prompts, R each, with what they are worth."""

    problems: list[Problem]
    rollouts: Rollouts  # numpy leaves
    completion_texts: list[list[str]]  # [P][R]
    grades: Grades
    penalties: dict[str, np.ndarray]  # name -> f32[P, R], added to the task's reward
    is_kept_PR: np.ndarray  # bool, false where a rollout counts as never drawn
    n_prompts_drawn: int  # more than P where dynamic sampling drew again
    n_effective_drawn: int  # those of them whose rewards differ
    n_ungraded_drawn: int  # rollouts of everything drawn whose reward the task could not tell
    n_tokens: int  # prompt tokens once per prompt, and completion tokens, of everything drawn

    @property
    def reward_PR(self) -> np.ndarray:
        """f32, what the advantages are taken of; NaN where the task could not grade."""
        return sum(self.penalties.values(), self.grades.reward_PR)

    @property
    def is_effective_P(self) -> np.ndarray:
        """Whether the kept rewards of a prompt differ, KL aside; if not, a group baseline leaves it no gradient.

        With one rollout per prompt the group is the batch: all prompts that are kept, or none.
        """
        axis = 1 if self.is_kept_PR.shape[1] > 1 else None
        # without the KL, which differs between any two rollouts and would hide that the task says nothing
        penalties = [penalty_PR for name, penalty_PR in self.penalties.items() if name != "kl"]
        reward_PR = sum(penalties, self.grades.reward_PR)
        largest = np.where(self.is_kept_PR, reward_PR, -np.inf).max(axis=axis)
        smallest = np.where(self.is_kept_PR, reward_PR, np.inf).min(axis=axis)
        return self.is_kept_PR.any(axis=1) & (largest > smallest)


def prompts_of_step(task: Task, first_counter: int, *, n_prompts: int, seed: int) -> list[Problem]:
    """The problems of prompts first_counter ... first_counter + n_prompts - 1 of a run."""
    schedule = schedule_of(task)
    return [
        task.train_problem(problem_index(counter, task.n_train, seed=seed, schedule=schedule))
        for counter in range(first_counter, first_counter + n_prompts)
    ]


def collected(
    task: Task,
    problems: list[Problem],
    rollouts: Rollouts,
    tokenizer: Tokenizer,
    algo: AlgoConfig,
    *,
    max_new_tokens: int,
) -> Collection:
    """Waits for the rollouts, grades each of them and applies what the config says of long ones."""
    rollouts = on_host(rollouts)
    texts, grades = graded(task, problems, rollouts, tokenizer)
    penalties, is_kept_PR = {}, np.isfinite(grades.reward_PR)
    if algo.overlong_buffer_tokens > 0:
        penalty_PR = overlong_penalty(
            jnp.asarray(rollouts.completion_length_PR), max_length=max_new_tokens, buffer=algo.overlong_buffer_tokens
        )
        penalties["overlong"] = algo.overlong_penalty * np.asarray(penalty_PR)
    if algo.truncated == "penalise":
        penalties["truncated"] = np.where(rollouts.is_truncated_PR, -algo.truncated_penalty, 0.0).astype(np.float32)
    if algo.truncated == "mask":
        is_kept_PR &= ~rollouts.is_truncated_PR
    collection = Collection(
        problems=problems,
        rollouts=rollouts,
        completion_texts=texts,
        grades=grades,
        penalties=penalties,
        is_kept_PR=is_kept_PR,
        n_prompts_drawn=len(problems),
        n_effective_drawn=0,
        n_ungraded_drawn=int(np.isnan(grades.reward_PR).sum()),
        n_tokens=int(rollouts.prompt_length_P.sum() + rollouts.completion_length_PR.sum()),
    )
    return dataclasses.replace(collection, n_effective_drawn=int(collection.is_effective_P.sum()))


def with_penalty(collection: Collection, name: str, penalty_PR: np.ndarray) -> Collection:
    """The collection with `penalty_PR` (f32, below 0 where it costs) added to its rewards."""
    return dataclasses.replace(collection, penalties=collection.penalties | {name: penalty_PR})

"""One step's collection: prompts by counter, rollouts, rewards, advantages."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.algo.advantages import advantages, group_advantages
from rlvr_jax.models.spec import Params
from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.padding import pad_right
from rlvr_jax.sampling.rollout import Rollouts, Sampler
from rlvr_jax.tasks.problem import Problem, Task, problem_index
from rlvr_jax.train.placement import place_batch
from rlvr_jax.train.step import Batch


@dataclass(frozen=True)
class Collection:
    """A scored step on the host."""

    problems: list[Problem]
    completion_texts: list[list[str]]  # [P][R]
    reward_PR: np.ndarray  # f32, the sum of the named rewards
    named_rewards: dict[str, np.ndarray]  # name -> f32[P, R]
    completion_length_PR: np.ndarray  # int32 tokens
    is_truncated_PR: np.ndarray  # bool
    n_tokens: int  # prompt tokens once per prompt, and completion tokens


def prompts_of_step(task: Task, first_counter: int, *, n_prompts: int, seed: int) -> list[Problem]:
    """The problems of prompts first_counter ... first_counter + n_prompts - 1 of a run."""
    return [
        task.train_problem(problem_index(counter, task.n_train, seed=seed))
        for counter in range(first_counter, first_counter + n_prompts)
    ]


def sample_prompts(
    sampler: Sampler,
    params: Params,
    problems: list[Problem],
    counters: range,
    root_key: jax.Array,
    tokenizer: CharTokenizer,
    mesh: Mesh,
    *,
    max_prompt_tokens: int,
) -> Rollouts:
    """Dispatches the sampler; returns at once, the arrays fill while the host goes on."""
    prompt_PS, length_P = pad_right(
        [tokenizer.encode_prompt(problem.prompt) for problem in problems],
        width=max_prompt_tokens,
        pad_id=tokenizer.pad_id,
    )
    counter_P = np.array(counters, np.int32)
    return sampler(params, *place_batch((prompt_PS, length_P, counter_P), mesh, axis=0), root_key)


def completion_texts(rollouts: Rollouts, tokenizer: CharTokenizer) -> list[list[str]]:
    """[P][R] decoded completions, up to EOS."""
    completion_PRT = np.asarray(rollouts.completion_PRT)
    length_PR = np.asarray(rollouts.completion_length_PR)
    return [
        [tokenizer.decode(tokens[:length]) for tokens, length in zip(row, lengths, strict=True)]
        for row, lengths in zip(completion_PRT, length_PR, strict=True)
    ]


def score(task: Task, problems: list[Problem], rollouts: Rollouts, tokenizer: CharTokenizer) -> Collection:
    """Waits for the rollouts and rewards each of them."""
    texts = completion_texts(rollouts, tokenizer)
    named = defaultdict(list)
    for problem, row in zip(problems, texts, strict=True):
        for text in row:
            for name, value in task.rewards(problem, text).items():
                named[name].append(value)
    shape = (len(problems), len(texts[0]))
    named_rewards = {name: np.array(values, np.float32).reshape(shape) for name, values in named.items()}
    length_PR = np.asarray(rollouts.completion_length_PR)
    return Collection(
        problems=problems,
        completion_texts=texts,
        reward_PR=sum(named_rewards.values()),
        named_rewards=named_rewards,
        completion_length_PR=length_PR,
        is_truncated_PR=np.asarray(rollouts.is_truncated_PR),
        n_tokens=int(np.asarray(rollouts.prompt_length_P).sum() + length_PR.sum()),
    )


def build_batch(rollouts: Rollouts, reward_PR: np.ndarray, *, kind: str, ddof: int, eps: float) -> Batch:
    """The collection as arrays [P, ...] to train on, on the host; log-probability passes are filled in later."""
    reward_PR = jnp.asarray(reward_PR)
    arrays = jax.device_get(
        (
            rollouts.prompt_PS,
            rollouts.prompt_length_P,
            rollouts.completion_PRT,
            rollouts.completion_length_PR,
            advantages(reward_PR, kind=kind, ddof=ddof, eps=eps),
            group_advantages(reward_PR, leave_one_out=True),
            rollouts.behavior_logprob_PRT,
        )
    )
    return Batch(*arrays, old_logprob_PRT=None, reference_logprob_PRT=None)


def in_microbatches(batch: Batch, mesh: Mesh, *, microbatch_prompts: int) -> Batch:
    """Leaves [P, ...] as [M, n, ...] on the mesh, each micro-batch split over the devices."""
    return place_batch(
        jax.tree.map(lambda leaf: leaf.reshape(-1, microbatch_prompts, *leaf.shape[1:]), batch), mesh, axis=1
    )


def reward_metrics(collection: Collection) -> dict[str, float]:
    """reward/, rewards/, completions/ and batch/ metrics of a collection."""
    reward_PR, length_PR = collection.reward_PR, collection.completion_length_PR
    is_constant_P = reward_PR.max(axis=1) == reward_PR.min(axis=1)
    is_right_PR = reward_PR >= 1.0
    metrics = {
        "reward/mean": reward_PR.mean(),
        "reward/std": reward_PR.std(),
        "reward/within_group_std": reward_PR.std(axis=1).mean(),
        "reward/frac_zero_std": is_constant_P.mean(),
        "reward/frac_all_zero": (reward_PR == 0).all(axis=1).mean(),
        "reward/frac_all_one": (reward_PR == 1).all(axis=1).mean(),
        "reward/best_of_n": reward_PR.max(axis=1).mean(),
        "reward/best_of_n_gap": reward_PR.max(axis=1).mean() - reward_PR.mean(),
        "completions/mean_length": length_PR.mean(),
        "completions/max_length": length_PR.max(),
        "completions/truncated_frac": collection.is_truncated_PR.mean(),
        "completions/length_correct": length_PR[is_right_PR].mean() if is_right_PR.any() else np.nan,
        "completions/length_incorrect": length_PR[~is_right_PR].mean() if not is_right_PR.all() else np.nan,
        "batch/n_prompts": len(collection.problems),
        "batch/n_rollouts": reward_PR.shape[1],
        "batch/effective_prompts": (~is_constant_P).sum(),
        "batch/unique_prompts": len({problem.prompt for problem in collection.problems}),
    }
    for name, values_PR in collection.named_rewards.items():
        metrics[f"rewards/{name}/mean"] = values_PR.mean()
        metrics[f"rewards/{name}/std"] = values_PR.std()
    return {name: float(value) for name, value in metrics.items()}


def sample_rows(collection: Collection, update: int, *, n_prompts: int) -> list[dict[str, Any]]:
    """All rollouts of the first prompts of a collection, one row each."""
    return [
        {
            "update": update,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "completion": text,
            "reward": float(collection.reward_PR[p, r]),
            "length_tokens": int(collection.completion_length_PR[p, r]),
            "is_truncated": bool(collection.is_truncated_PR[p, r]),
        }
        for p, problem in enumerate(collection.problems[:n_prompts])
        for r, text in enumerate(collection.completion_texts[p])
    ]

"""Decoding and grading, shared by the processes: each does the prompts its devices hold, and all get all of it."""

import io
import json

import jax
import numpy as np

from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem, Task
from rlvr_jax.train.processes import gathered, own_rows

Texts = list[list[str]]  # [P][R]


def graded(task: Task, problems: list[Problem], rollouts: Rollouts, tokenizer: Tokenizer) -> tuple[Texts, Grades]:
    """Completions up to EOS and what the task says of them; `rollouts` are numpy arrays."""
    own = own_rows(len(problems))
    texts = completion_texts(rollouts.completion_PRT[own], rollouts.completion_length_PR[own], tokenizer)
    if jax.process_count() == 1:
        return texts, task.grade(problems, texts)
    mine = _packed(texts, task.grade(problems[own], texts)) if texts else b""  # b"": more processes than prompts
    shares = [_unpacked(share) for share in gathered(mine) if share]
    names = shares[0][1].named_rewards
    joined = {name: np.concatenate([grades.named_rewards[name] for _, grades in shares]) for name in names}
    reward_PR, is_correct_PR = (
        np.concatenate([getattr(grades, name) for _, grades in shares]) for name in ("reward_PR", "is_correct_PR")
    )
    failures = tuple(failure for _, grades in shares for failure in grades.failures)
    return [row for rows, _ in shares for row in rows], Grades(joined, reward_PR, is_correct_PR, failures)


def completion_texts(completion_PRT: np.ndarray, length_PR: np.ndarray, tokenizer: Tokenizer) -> Texts:
    """[P][R] decoded completions, up to EOS."""
    return [
        [tokenizer.decode(tokens[:length]) for tokens, length in zip(row, lengths, strict=True)]
        for row, lengths in zip(completion_PRT, length_PR, strict=True)
    ]


def _packed(texts: Texts, grades: Grades) -> bytes:
    words = {"texts": texts, "failures": grades.failures, "names": list(grades.named_rewards)}
    file = io.BytesIO()
    np.savez(
        file,
        allow_pickle=False,
        words=np.frombuffer(json.dumps(words).encode(), np.uint8),
        reward_PR=grades.reward_PR,
        is_correct_PR=grades.is_correct_PR,
        **{f"named_{i}": values_PR for i, values_PR in enumerate(grades.named_rewards.values())},
    )
    return file.getvalue()


def _unpacked(share: bytes) -> tuple[Texts, Grades]:
    with np.load(io.BytesIO(share), allow_pickle=False) as arrays:
        words = json.loads(arrays["words"].tobytes())
        named = {name: arrays[f"named_{i}"] for i, name in enumerate(words["names"])}
        grades = Grades(named, arrays["reward_PR"], arrays["is_correct_PR"], tuple(words["failures"]))
    return words["texts"], grades

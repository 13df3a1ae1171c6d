"""Decoding and grading, shared by the processes: each does the prompts its devices hold, and all get all of it."""

import io
import json
from collections.abc import Sequence

import jax
import numpy as np

from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Answers, Grades, Problem, Task
from rlvr_jax.tasks.turns import replies_between, transcript
from rlvr_jax.train.processes import gathered, own_rows

Texts = list[list[str]]  # [P][R]


def graded(task: Task, problems: list[Problem], rollouts: Rollouts, tokenizer: Tokenizer) -> tuple[Texts, Grades]:
    """Completions up to EOS, or transcripts of several turns, and what the task says of them.

    `rollouts` are numpy arrays.
    """
    own = own_rows(len(problems))
    if jax.process_count() == 1:
        return _graded_rows(task, problems, rollouts, own, tokenizer)
    rows = _graded_rows(task, problems[own], rollouts, own, tokenizer) if problems[own] else None
    mine = b"" if rows is None else _packed(*rows)  # b"": more processes than prompts
    shares = [_unpacked(share) for share in gathered(mine) if share]
    names = shares[0][1].named_rewards
    joined = {name: np.concatenate([grades.named_rewards[name] for _, grades in shares]) for name in names}
    reward_PR, is_correct_PR = (
        np.concatenate([getattr(grades, name) for _, grades in shares]) for name in ("reward_PR", "is_correct_PR")
    )
    failures = tuple(failure for _, grades in shares for failure in grades.failures)
    answers = joined_answers([grades.answers for _, grades in shares])
    counts = joined_counts([grades.counts for _, grades in shares])
    grades = Grades(joined, reward_PR, is_correct_PR, failures, answers, shares[0][1].weights, counts)
    return [row for rows, _ in shares for row in rows], grades


def _graded_rows(
    task: Task, problems: list[Problem], rollouts: Rollouts, rows: slice, tokenizer: Tokenizer
) -> tuple[Texts, Grades]:
    completion_PRT, length_PR = rollouts.completion_PRT[rows], rollouts.completion_length_PR[rows]
    if rollouts.is_action_PRT is None:
        texts = completion_texts(completion_PRT, length_PR, tokenizer)
        return texts, task.grade(problems, texts)
    turns = turn_texts(completion_PRT, length_PR, rollouts.is_action_PRT[rows], tokenizer)
    texts = [
        [transcript(rollout, replies_between(task, problem, rollout)) for rollout in of_prompt]
        for problem, of_prompt in zip(problems, turns, strict=True)
    ]
    return texts, task.grade_turns(problems, turns)


def turn_texts(
    completion_PRT: np.ndarray, length_PR: np.ndarray, is_action_PRT: np.ndarray, tokenizer: Tokenizer
) -> list[list[list[str]]]:
    """[P][R] lists of the policy's turns, each up to EOS: runs of its own tokens, between which a reply stands."""

    def turns(tokens: np.ndarray, is_action: np.ndarray) -> list[str]:
        ends = np.flatnonzero(np.diff(is_action, prepend=False, append=False))  # start, end, start, end, ...
        return [tokenizer.decode(tokens[start:end]) for start, end in ends.reshape(-1, 2)]

    return [
        [turns(completion_PRT[p, r, :length], is_action_PRT[p, r, :length]) for r, length in enumerate(lengths)]
        for p, lengths in enumerate(length_PR)
    ]


def completion_texts(completion_PRT: np.ndarray, length_PR: np.ndarray, tokenizer: Tokenizer) -> Texts:
    """[P][R] decoded completions, up to EOS."""
    return [
        [tokenizer.decode(tokens[:length]) for tokens, length in zip(row, lengths, strict=True)]
        for row, lengths in zip(completion_PRT, length_PR, strict=True)
    ]


def joined_answers(parts: Sequence[Answers | None]) -> Answers | None:
    """Of all prompts, or None where the task has no notion of an answer."""
    return None if parts[0] is None else tuple(row for part in parts for row in part)


def joined_counts(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    """Their sums by name; all parts have the same names."""
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _packed(texts: Texts, grades: Grades) -> bytes:
    words = {
        "texts": texts,
        "failures": grades.failures,
        "names": list(grades.named_rewards),
        "answers": grades.answers,
        "weights": grades.weights,
        "counts": grades.counts,
    }
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
        reward_PR, is_correct_PR = arrays["reward_PR"], arrays["is_correct_PR"]
    answers = words["answers"] and tuple(tuple(row) for row in words["answers"])
    failures, weights, counts = tuple(words["failures"]), words["weights"], words["counts"]
    return words["texts"], Grades(named, reward_PR, is_correct_PR, failures, answers, weights, counts)

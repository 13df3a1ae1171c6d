"""maj@k: how often the answer that most of k samples give is right."""

import functools
import math
from collections import defaultdict

import numpy as np

from rlvr_jax.tasks.problem import Answers

Votes = tuple[tuple[int, float], ...]  # of one problem, per answer: how many samples gave it, and how right it is


def majority_at_k(answers: Answers, is_correct_PR: np.ndarray, *, k: int) -> np.ndarray:
    """The chance, per problem, that the most frequent answer of k of its samples is right.

        mean over all C(n, k) subsets of [right answers among the most frequent ones / most frequent ones]

    Exact, by counting subsets, so there is nothing to seed. Answers that are equally frequent share the subset,
    which is what breaking ties at random comes to. A sample without an answer does not vote; a subset
    without any vote is wrong. Self-consistency, arXiv:2203.11171 sec. 2.

    Args:
        answers: [P][R], equal texts for equal answers, None where there is none.
        is_correct_PR: bool; an answer is as right as the samples that gave it, all or none where it alone decides.
        k: 1..R.

    Returns:
        f64[P] in [0, 1].
    """
    n_samples = is_correct_PR.shape[1]
    if not 1 <= k <= n_samples:
        raise ValueError(f"maj@{k} needs 1 <= k <= n_samples={n_samples}")
    return np.array(
        [
            _shares(votes_of(texts, is_correct_R), n_samples, k)
            for texts, is_correct_R in zip(answers, is_correct_PR, strict=True)
        ]
    )


def votes_of(texts: tuple[str | None, ...], is_correct_R: np.ndarray) -> Votes:
    """How many samples gave each answer of one problem, and the share of them that is right."""
    right: dict[str, list[bool]] = defaultdict(list)
    for text, is_correct in zip(texts, is_correct_R, strict=True):
        if text is not None:
            right[text].append(bool(is_correct))
    return tuple(sorted((len(found), sum(found) / len(found)) for found in right.values()))


@functools.lru_cache(maxsize=4096)  # most problems of an evaluation split their votes in one of a few ways
def _shares(votes: Votes, n_samples: int, k: int) -> float:
    n_silent = n_samples - sum(n for n, _ in votes)
    return sum(_won_with(m, votes, n_silent, k) for m in range(1, min(k, max((n for n, _ in votes), default=0)) + 1))


def _won_with(m: int, votes: Votes, n_silent: int, k: int) -> float:
    """The part of the mean that comes from subsets whose most frequent answers have m votes each.

    Answer by answer: in how many ways `used` samples can be chosen so far with `t` answers at m votes and the
    others below, and the same ways weighted with how right those t are together.
    """
    most_tied = k // m
    ways_TU, right_TU = np.zeros((2, most_tied + 1, k + 1))
    ways_TU[0, 0] = 1.0
    for n, rightness in (*votes, (n_silent, None)):
        new_ways_TU, new_right_TU = np.zeros_like(ways_TU), np.zeros_like(right_TU)
        # those without an answer can be any number
        for v in range(min(n, k) + 1 if rightness is None else min(n, m - 1, k) + 1):
            new_ways_TU[:, v:] += math.comb(n, v) * ways_TU[:, : k + 1 - v]
            new_right_TU[:, v:] += math.comb(n, v) * right_TU[:, : k + 1 - v]
        if rightness is not None and m <= n:
            before = ways_TU[:-1, : k + 1 - m]
            new_ways_TU[1:, m:] += math.comb(n, m) * before
            new_right_TU[1:, m:] += math.comb(n, m) * (right_TU[:-1, : k + 1 - m] + rightness * before)
        ways_TU, right_TU = new_ways_TU, new_right_TU
    n_subsets = math.comb(n_silent + sum(n for n, _ in votes), k)
    return sum(float(right_TU[t, k]) / t for t in range(1, most_tied + 1)) / n_subsets

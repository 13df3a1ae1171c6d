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
    others below, and the same ways weighted with how right those t are together. Ways are scaled, see `_draw_chances`.
    """
    n_samples = n_silent + sum(n for n, _ in votes)
    most_tied = min(k // m, sum(n >= m for n, _ in votes))
    ways_TU, right_TU = np.zeros((2, most_tied + 1, k + 1))
    ways_TU[0, 0] = 1.0
    for n, rightness in (*votes, (n_silent, None)):
        chance_V = _draw_chances(n, k, n_samples)
        below_V = chance_V if rightness is None else chance_V[:m]  # those without an answer can be any number
        new_ways_TU, new_right_TU = (
            np.array([np.convolve(row_U, below_V)[: k + 1] for row_U in rows_TU]) for rows_TU in (ways_TU, right_TU)
        )
        if rightness is not None and m <= n:
            before = ways_TU[:-1, : k + 1 - m]
            new_ways_TU[1:, m:] += chance_V[m] * before
            new_right_TU[1:, m:] += chance_V[m] * (right_TU[:-1, : k + 1 - m] + rightness * before)
        ways_TU, right_TU = new_ways_TU, new_right_TU
    return sum(float(right_TU[t, k]) / t for t in range(1, most_tied + 1)) / _draw_chances(n_samples, k, n_samples)[k]


@functools.lru_cache(maxsize=256)
def _draw_chances(n: int, k: int, n_samples: int) -> tuple[float, ...]:
    """C(n, v) q^v (1 - q)^(n - v) with q = k / n_samples, for v = 0..n: ways to choose v of n, scaled.

    The powers multiply all subsets of k by one number, and so cancel. C(n, v) alone is beyond a float from n = 1030 on.
    """
    whole = n_samples**n  # the quotient of whole numbers is rounded once
    return tuple(math.comb(n, v) * k**v * (n_samples - k) ** (n - v) / whole for v in range(n + 1))

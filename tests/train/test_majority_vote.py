"""maj@k against numbers worked by hand and against every subset counted one by one."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rlvr_jax.train.majority_vote import majority_at_k


def slow_majority_at_k(texts, is_correct, k):
    """Every k-subset, voted on; a tie is worth the mean of the tied answers."""
    right = {
        text: np.mean([c for other, c in zip(texts, is_correct, strict=True) if other == text])
        for text in texts
        if text is not None
    }
    worth = []
    for subset in itertools.combinations(texts, k):
        votes = Counter(text for text in subset if text is not None)
        most = [text for text, n in votes.items() if n == max(votes.values())]
        worth.append(np.mean([right[text] for text in most]) if most else 0.0)
    return np.mean(worth)


@pytest.mark.parametrize(
    ("texts", "right", "k", "expected"),
    [
        (("7", "7", "8"), "7", 1, 2 / 3),  # a majority of one: pass@1
        (("7", "7", "8"), "7", 2, 2 / 3),  # 77 wins; 78 and 78 are ties worth a half
        (("7", "7", "8"), "7", 3, 1.0),
        (("7", "7", "8"), "8", 3, 0.0),
        (("7", "8", "9", "6"), "7", 4, 0.25),  # all tied
        (("7", None, None, None), "7", 2, 0.5),  # of 6 pairs 3 hold the 7, which then wins; the others have no vote
        ((None, None), "7", 2, 0.0),
    ],
)
def test_a_majority_worked_by_hand(texts, right, k, expected):
    is_correct_PR = np.array([[text == right for text in texts]])
    assert majority_at_k((texts,), is_correct_PR, k=k) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("n_samples", [1, 4, 9])
def test_counting_agrees_with_every_subset(n_samples):
    rng = np.random.default_rng(n_samples)
    answers = tuple(tuple(rng.choice([*"ab", "c d", None], n_samples)) for _ in range(12))
    # not decided by the answer alone: samples of one answer may differ
    is_correct_PR = rng.random((12, n_samples)) < 0.4
    for k in range(1, n_samples + 1):
        expected_P = [slow_majority_at_k(*pair, k) for pair in zip(answers, is_correct_PR, strict=True)]
        np.testing.assert_allclose(majority_at_k(answers, is_correct_PR, k=k), expected_P, atol=1e-12)


def test_many_samples_are_counted_without_listing_subsets():
    # 64 samples, 33 of them right: their majority of all is sure, that of 32 nearly a coin
    answers = (("1",) * 33 + ("2",) * 31,)
    is_correct_PR = np.array([[True] * 33 + [False] * 31])
    assert majority_at_k(answers, is_correct_PR, k=64) == pytest.approx([1.0])
    assert 0.5 < majority_at_k(answers, is_correct_PR, k=32)[0] < 0.7


def test_so_many_samples_that_their_subsets_exceed_a_float_are_counted():
    # 1029 of 1030: a right answer is left out with 515/1030, which makes 514 : 514; else 515 : 514 wins
    answers = (("1",) * 515 + ("2",) * 514 + (None,),)
    is_correct_PR = np.array([[True] * 515 + [False] * 515])
    assert majority_at_k(answers, is_correct_PR, k=1029) == pytest.approx([0.75], abs=1e-9)
    # 515 of 1030, a subset and what it leaves mirror each other: 515 : 515 is a fair coin
    is_correct_PR = np.array([[True] * 515 + [False] * 515])
    assert majority_at_k((("1",) * 515 + ("2",) * 515,), is_correct_PR, k=515) == pytest.approx([0.5], abs=1e-9)


def test_more_votes_than_samples_are_refused():
    with pytest.raises(ValueError, match="maj@3 needs 1 <= k <= n_samples=2"):
        majority_at_k((("1", "1"),), np.ones((1, 2), bool), k=3)

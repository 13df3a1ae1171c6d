"""Wordle's pattern against a slow player who crosses letters off, and what clues say together."""

import random

import pytest

from rlvr_jax.tasks.wordle_feedback import Knowledge, dead_share, feedback, is_consistent, knowledge, used_share


def slow_pattern(guess, secret):
    """With two rows of boxes: every letter of the secret is crossed off once, by the first guess letter it answers."""
    boxes, pattern = list(secret), ["-"] * 5
    for i in range(5):
        if guess[i] == secret[i]:
            pattern[i], boxes[i] = "G", None
    for i in range(5):
        if pattern[i] == "-" and guess[i] in boxes:
            pattern[i] = "Y"
            boxes[boxes.index(guess[i])] = None
    return "".join(pattern)


@pytest.mark.parametrize(
    ("guess", "secret", "pattern"),
    [
        ("frost", "frost", "GGGGG"),
        ("crane", "frost", "-G---"),  # R is second in both
        ("sport", "frost", "Y-GYG"),  # S is 4th and R 2nd; O and T stand where they should
        ("roost", "frost", "Y-GGG"),  # the one O is the third letter's, so the second letter gets none
        ("trust", "frost", "-G-GG"),  # the one T is the last letter's
        ("otter", "frost", "YY--Y"),  # one T in FROST: the first of two is yellow, the second grey
        ("speed", "abide", "--Y-Y"),
        ("eerie", "frost", "--Y--"),
        ("allee", "label", "YYYG-"),  # A and both Ls stand elsewhere; the one E is the fourth letter's
    ],
)
def test_patterns_worked_by_hand(guess, secret, pattern):
    assert feedback(guess, secret) == pattern


def test_a_hundred_thousand_random_pairs_agree_with_the_slow_player():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcde", k=5)) for _ in range(200_000)]  # few letters: many repeats
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert [feedback(*pair) for pair in pairs] == [slow_pattern(*pair) for pair in pairs]
    assert sum(len(set(guess)) < 5 for guess, _ in pairs) > 90_000


def test_feedback_refuses_words_of_different_length():
    with pytest.raises(ValueError, match="shorter"):
        feedback("frost", "frosty"[:4])


def test_what_one_clue_says():
    # of SPORT the O and T are right, R and S stand elsewhere, P is not there
    known = knowledge((("sport", "Y-GYG"),))
    assert known.greens == ((2, "o"), (4, "t"))
    assert dict(known.yellows) == {"s": {0, 2, 4}, "r": {2, 3, 4}}  # nor where a green stands
    assert known.dead == {"p"}


def test_a_letter_that_is_placed_is_no_longer_yellow():
    known = knowledge((("sport", "Y-GYG"), ("roost", "Y-GGG")))
    assert known.greens == ((2, "o"), (3, "s"), (4, "t"))
    assert dict(known.yellows) == {"r": {0, 2, 3, 4}}
    assert known.dead == {"p"}  # the grey O of ROOST is another O's


def test_a_letter_found_twice_stays_yellow_until_both_are_placed():
    once = knowledge((("eerie", "G---Y"),))  # two Es: the first is placed, another stands elsewhere
    assert dict(once.yellows) == {"e": {0, 1, 4}}
    assert not dict(knowledge((("eerie", "G---Y"), ("elite", "G---G"))).yellows)


@pytest.mark.parametrize(
    ("guess", "share"),
    [
        ("frost", 1.0),
        ("trust", 3 / 4),  # R, S and T, but no O
        ("sport", 2 / 4),  # O and T; R and S stand where they are known not to
        ("crane", 1 / 4),  # R
        ("nymph", 0.0),
    ],
)
def test_shares_of_known_letters_that_a_guess_uses(guess, share):
    known = knowledge((("sport", "Y-GYG"),))  # green O and T, yellow S and R: four things to use
    assert used_share(guess, known) == pytest.approx(share)


def test_nothing_known_is_no_share():
    assert used_share("frost", Knowledge((), (), frozenset())) is None
    assert used_share("frost", knowledge((("nymph", "-----"),))) is None


def test_dead_letters_count_by_place():
    known = knowledge((("nymph", "-----"),))
    assert known.dead == set("nymph")
    assert dead_share("puppy", known) == pytest.approx(4 / 5)  # three Ps and the Y
    assert dead_share("frost", known) == 0


def test_the_secret_is_always_consistent_and_a_word_with_a_dead_letter_is_not():
    clues = [(guess, slow_pattern(guess, "frost")) for guess in ("crane", "sport", "otter", "roost")]
    assert is_consistent("frost", clues)
    assert not is_consistent("crust", clues)
    known = knowledge(tuple(clues))
    assert used_share("frost", known) == 1
    assert dead_share("frost", known) == 0

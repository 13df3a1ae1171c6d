"""Wordle's answer to a guess, and what a player knows from such answers.

A pattern has a character per letter: G at its place, Y elsewhere in the word, - not in the word (any more).
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

GREEN, YELLOW, GREY = "G", "Y", "-"
Clue = tuple[str, str]  # (guess, its pattern)


def feedback(guess: str, secret: str) -> str:
    """The pattern of `guess`: every letter of `secret` answers for one letter of the guess.

    Greens first, then from left to right yellows for letters of the secret that are left: SPEED in ABIDE is --Y-Y.
    """
    left = Counter(s for g, s in zip(guess, secret, strict=True) if g != s)
    pattern = []
    for g, s in zip(guess, secret, strict=True):
        if g == s:
            pattern.append(GREEN)
        elif left[g] > 0:
            left[g] -= 1
            pattern.append(YELLOW)
        else:
            pattern.append(GREY)
    return "".join(pattern)


class Knowledge(NamedTuple):
    """What clues say of the secret."""

    greens: tuple[tuple[int, str], ...]  # (place, letter) that are right
    yellows: tuple[tuple[str, frozenset[int]], ...]  # letters that stand elsewhere too, and where they do not
    dead: frozenset[str]  # letters that are not in it


@functools.lru_cache(maxsize=65_536)  # rollouts of one prompt begin alike, and demonstrations repeat
def knowledge(clues: tuple[Clue, ...]) -> Knowledge:
    """What `clues` say together.

    A letter is yellow while the clues place fewer of it than they found, and dead if a guess with it found none.
    """
    greens = {(i, guess[i]) for guess, pattern in clues for i, mark in enumerate(pattern) if mark == GREEN}
    n_found, excluded, dead = Counter(), {}, set()
    for guess, pattern in clues:
        of_guess = Counter(letter for letter, mark in zip(guess, pattern, strict=True) if mark != GREY)
        n_found |= of_guess  # the larger of both
        for i, (letter, mark) in enumerate(zip(guess, pattern, strict=True)):
            if mark != GREEN:
                excluded.setdefault(letter, set()).add(i)
            if mark == GREY and not of_guess[letter]:
                dead.add(letter)
    n_green = Counter(letter for _, letter in greens)
    yellows = {
        letter: frozenset(excluded.get(letter, ())) | {i for i, _ in greens}
        for letter, n in n_found.items()
        if n > n_green[letter]
    }
    return Knowledge(tuple(sorted(greens)), tuple(sorted(yellows.items())), frozenset(dead))


def used_share(guess: str, known: Knowledge) -> float | None:
    """How many of the known greens and yellows `guess` uses, 0..1: a green at its place, a yellow at a place where it
    can be. None where none are known."""
    n_known = len(known.greens) + len(known.yellows)
    if n_known == 0:
        return None
    n_used = sum(guess[i] == letter for i, letter in known.greens)
    n_used += sum(
        any(found == letter and i not in excluded for i, found in enumerate(guess))
        for letter, excluded in known.yellows
    )
    return n_used / n_known


def dead_share(guess: str, known: Knowledge) -> float:
    """How many of the guess's letters are known not to be in the secret, 0..1."""
    return sum(letter in known.dead for letter in guess) / len(guess)


def is_consistent(guess: str, clues: Sequence[Clue]) -> bool:
    """Whether `guess` could be the secret."""
    return all(feedback(earlier, guess) == pattern for earlier, pattern in clues)

"""Wordle: a secret word of five letters, guesses, and the pattern that answers each of them.

With one turn the prompt shows earlier guesses and the completion is one more. With several, every turn is a guess and
the pattern is put between turns. Two styles:

`bare`    the turn is the word alone, for the built-in model: "wordle\\ncrane -YG--\\n" -> "frost"
`tagged`  the prompt explains the game, and the guess is what the turn has last between <guess> and </guess>
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlvr_jax.tasks.heldout import fair_order
from rlvr_jax.tasks.problem import Grades, Problem, nth
from rlvr_jax.tasks.rewards import Rewards, RewardSettings
from rlvr_jax.tasks.turns import replies_between, transcript
from rlvr_jax.tasks.wordle_feedback import (
    GREEN,
    GREY,
    YELLOW,
    Clue,
    dead_share,
    feedback,
    knowledge,
    used_share,
)
from rlvr_jax.tasks.wordle_words import COMMON_WORDS, N_LETTERS, words_fingerprint, words_of_file

OWN_REWARDS = ("format", "feedback", "dead_letters", "invalid_word", "win")
STYLES = ("bare", "tagged")
HELDOUT_ONE_IN = 5  # words
MOST_CLUES = 10
N_VARIANTS = 16  # prompts per word, where the prompt shows earlier guesses
_INVALID = {"bare": "xxxxx", "tagged": "That is no word of the list."}
_BARE_GUESS = re.compile(r"\s*([A-Za-z]{5})\s*")
# white space is left to _BARE_GUESS: two runs of it around the word would be tried in all splits, which is cubic
_TAGGED_GUESS = re.compile(r"<guess>([^<>]*)</guess>")
_RULES = (
    "Guess the secret English word of five letters{n_guesses}. Each guess must be such a word. It is answered by a "
    "mark for each of its letters: G if the letter is right and in the right place, Y if it stands elsewhere in the "
    "word, - if it is not in the word.{earlier}\n\nThink briefly, then write your guess as <guess>word</guess>."
)


class Play(NamedTuple):
    """One turn of a game."""

    guess: str | None  # None: the turn has none in the asked form
    is_word: bool
    used: float | None  # share of what was known that it used, None where nothing was
    dead: float  # share of its letters that were known not to be in the secret
    pattern: str | None  # None: not answered, as no word
    is_win: bool


class Wordle:
    """A problem is a secret word and, if the prompt shows earlier guesses, a choice of them."""

    name = "wordle"

    def __init__(
        self,
        *,
        words: str,
        allowed_words: str,
        n_words: int,
        n_turns: int,
        n_clues: int,
        guess_style: str,
        rewards: RewardSettings,
    ):
        """Reads the lists and starts the rewards. Raises ValueError when a file or a reward cannot be used.

        Args:
            words: file of secrets, "" for the embedded list.
            allowed_words: file of words that may be guessed besides, "" for none.
            n_words: secrets that are used, a fair sample; 0 for all. One in five is held out.
            n_turns: guesses.
            n_clues: earlier guesses that the prompt shows.
            guess_style: one of STYLES.
        """
        secrets = words_of_file(words, setting="task.words") if words else COMMON_WORDS
        more = words_of_file(allowed_words, setting="task.allowed_words") if allowed_words else ()
        if len({*secrets, *more}) <= n_clues:
            raise ValueError(f"task.n_clues={n_clues} needs more than that many words to guess; use fewer clues")
        if n_words > len(secrets):
            raise ValueError(f"task.n_words={n_words} is more than the {len(secrets)} words there are; use 0 for all")
        ordered = sorted(secrets, key=fair_order)[: n_words or None]
        n_heldout = len(ordered) // HELDOUT_ONE_IN
        if n_heldout == 0:
            raise ValueError(f"{len(ordered)} word(s) are too few to hold one in {HELDOUT_ONE_IN} out; use 5 or more")
        self._heldout, self._train = ordered[:n_heldout], ordered[n_heldout:]
        self._secrets = sorted(ordered)
        self._guesses = sorted({*secrets, *more})
        self._is_allowed = frozenset(self._guesses)
        self._style, self._n_clues = guess_style, n_clues
        self._rewards = Rewards(rewards, own=OWN_REWARDS, default=OWN_REWARDS)
        self._patterns: dict[str, np.ndarray] = {}  # guess -> what each secret would answer
        n_variants = N_VARIANTS if n_clues else 1
        self.max_turns = n_turns
        self.n_train, self.n_heldout = n_variants * len(self._train), n_variants * n_heldout
        self.fingerprint = words_fingerprint(secrets, more) if words or allowed_words else ""
        self.longest_answer, self.longest_demonstration = N_LETTERS, len(self._shown_guess("a" * N_LETTERS))
        patterns = ["".join(marks) for marks in itertools.product((GREEN, YELLOW, GREY), repeat=N_LETTERS)]
        self.possible_replies = tuple(map(self._reply_text, [*patterns, None]))

    def train_problem(self, index: int) -> Problem:
        return self._problem(self._train, index)

    def heldout_problem(self, index: int) -> Problem:
        return self._problem(self._heldout, index)

    def _problem(self, words: list[str], index: int) -> Problem:
        n_variants = N_VARIANTS if self._n_clues else 1
        secret = words[nth(range(n_variants * len(words)), index) % len(words)]
        clues = self._clues(secret, variant=index // len(words))
        return Problem(self._prompt(clues), secret, content=secret, row={"clues": clues})

    def _clues(self, secret: str, *, variant: int) -> tuple[Clue, ...]:
        """Other words at random, answered: a function of the secret and the variant."""
        rng = np.random.default_rng([variant, *secret.encode()])
        others = [self._guesses[i] for i in rng.choice(len(self._guesses), self._n_clues + 1, replace=False)]
        return tuple((word, feedback(word, secret)) for word in others if word != secret)[: self._n_clues]

    def _prompt(self, clues: tuple[Clue, ...]) -> str:
        if self._style == "bare":
            return "wordle\n" + "".join(f"{guess} {pattern}\n" for guess, pattern in clues)
        n_guesses = f" in at most {self.max_turns} guesses" if self.max_turns > 1 else ""
        lines = [f"\n{guess}: {' '.join(pattern)}" for guess, pattern in clues]
        earlier = "\n\nGuesses so far:" + "".join(lines) if lines else ""
        return _RULES.format(n_guesses=n_guesses, earlier=earlier)

    def reply(self, problem: Problem, turns: Sequence[str]) -> str | None:
        """The last guess's pattern; None after the word or the last guess."""
        if len(turns) == self.max_turns:
            return None
        guess = self.guess(turns[-1])
        if guess == problem.answer:
            return None
        return self._reply_text(feedback(guess, problem.answer) if guess in self._is_allowed else None)

    def _reply_text(self, pattern: str | None) -> str:
        if self._style == "bare":
            return f" {pattern or _INVALID['bare']}\n"
        answer = f"Feedback: {' '.join(pattern)}" if pattern else _INVALID["tagged"]
        return f"{answer}\n\nWrite your next guess as <guess>word</guess>."

    def guess(self, turn: str) -> str | None:
        """The word that a turn guesses, in lower case; None if it has none in the asked form."""
        if self._style == "tagged":
            found = _TAGGED_GUESS.findall(turn)
            turn = found[-1] if found else ""
        whole = _BARE_GUESS.fullmatch(turn)
        return whole.group(1).lower() if whole else None

    def _shown_guess(self, word: str) -> str:
        return word if self._style == "bare" else f"<guess>{word}</guess>"

    def plays(self, problem: Problem, turns: Sequence[str]) -> list[Play]:
        """The game, turn by turn."""
        clues, plays = list(problem.row["clues"]), []
        for turn in turns:
            guess, known = self.guess(turn), knowledge(tuple(clues))
            is_known = bool(known.greens or known.yellows)
            if guess is None:
                plays.append(Play(None, False, 0.0 if is_known else None, 0.0, None, False))
                continue
            pattern = feedback(guess, problem.answer) if guess in self._is_allowed else None
            used, dead = used_share(guess, known), dead_share(guess, known)
            plays.append(Play(guess, pattern is not None, used, dead, pattern, guess == problem.answer))
            if pattern is not None:
                clues.append((guess, pattern))
        return plays

    def grade(self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        """Grades completions of one guess each."""
        return self.grade_turns(problems, [[[text] for text in texts] for texts in completion_texts])

    def grade_turns(self, problems: Sequence[Problem], turns: Sequence[Sequence[Sequence[str]]]) -> Grades:
        """The rewards are means over a game's turns, see `rewards_of`; a rollout with the word is correct."""
        games = [
            [self.plays(problem, rollout) for rollout in rollouts]
            for problem, rollouts in zip(problems, turns, strict=True)
        ]
        scores = [[rewards_of(plays) for plays in of_prompt] for of_prompt in games]
        own = {name: np.array([[score[name] for score in row] for row in scores]) for name in OWN_REWARDS}
        texts = [
            [transcript(rollout, replies_between(self, problem, rollout)) for rollout in rollouts]
            for problem, rollouts in zip(problems, turns, strict=True)
        ]
        answers = tuple(tuple(plays[-1].guess for plays in of_prompt) for of_prompt in games)
        return self._rewards.grade(problems, texts, own, is_correct_PR=own["win"] == 1.0, answers=answers)

    def close(self) -> None:
        """Ends the processes of the rewards."""
        self._rewards.close()

    def demonstration(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The first turn of a game."""
        return self.demonstrated_turns(problem, rng, p_correct=p_correct)[0]

    def demonstrated_turns(self, problem: Problem, rng: np.random.Generator, *, p_correct: float) -> list[str]:
        """A game whose guesses could each be the secret, with probability `p_correct`, or else are any of the secrets.

        Of those that are held out too: that such words exist is no secret, and no game of the training set ends there.
        """
        is_possible_S, turns = np.ones(len(self._secrets), bool), []
        for guess, pattern in problem.row["clues"]:
            is_possible_S &= self._answers_to(guess) == pattern
        while len(turns) < self.max_turns:
            if rng.random() < p_correct:
                possible = np.flatnonzero(is_possible_S)
                guess = self._secrets[possible[rng.integers(len(possible))]]
            else:
                guess = self._secrets[rng.integers(len(self._secrets))]
            turns.append(self._shown_guess(guess))
            if guess == problem.answer:
                break
            is_possible_S &= self._answers_to(guess) == feedback(guess, problem.answer)
        return turns

    def _answers_to(self, guess: str) -> np.ndarray:
        """The pattern that each secret would answer `guess` with."""
        if guess not in self._patterns:
            self._patterns[guess] = np.array([feedback(guess, secret) for secret in self._secrets])
        return self._patterns[guess]


def rewards_of(plays: Sequence[Play]) -> dict[str, float]:
    """The own rewards of a game of at least one turn.

    format        share of turns with a guess in the asked form
    feedback      mean share of known greens and yellows that a guess uses, over the turns with any known;
                  in a game without such turns 1 if it is won, else 0
    dead_letters  minus the mean share of a guess's letters that were known not to be in the word
    invalid_word  minus the share of turns whose guess is no word of the list
    win           1 if the word was found
    """
    used = [play.used for play in plays if play.used is not None]
    is_won = plays[-1].is_win
    return {
        "format": float(np.mean([play.guess is not None for play in plays])),
        "feedback": float(np.mean(used)) if used else float(is_won),
        "dead_letters": -float(np.mean([play.dead for play in plays])),
        "invalid_word": -float(np.mean([play.guess is not None and not play.is_word for play in plays])),
        "win": float(is_won),
    }

"""Verdicts on completions: found, compared at once where possible, by algebra in killable processes where not."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rlvr_jax.tasks.answer_text import normal_text, split_list
from rlvr_jax.tasks.final_answer import FinalAnswer, final_answer, gold_answer
from rlvr_jax.tasks.math_worker import MOST_CHARACTERS, SAME, UNREADABLE, too_costly
from rlvr_jax.tasks.plain_number import plain_number
from rlvr_jax.tasks.reward_pool import RewardCall, RewardPool
from rlvr_jax.tasks.same_answer import canonical_answer, policy_of, same_answer

AnswerTask = Literal["gsm8k", "math"]
TASKS = ("gsm8k", "math")
MAX_CALLS = 2_000  # sympy's caches grow with every expression: a worker is replaced after so many
MEMORY_GIB = 4.0  # of address space of one worker
_MOST_READINGS = 2  # of one completion that algebra is tried on
_MOST_REMEMBERED = 50_000  # comparisons by algebra that are not done a second time
_ROOT = Path(__file__).resolve().parents[2]  # where this package lies: workers find it whatever the current folder


@dataclass(frozen=True)
class Verdict:
    """What became of one completion."""

    is_correct: bool
    extracted: str | None  # the answer as it stands in the completion; None: it has none
    canonical: str | None  # equal answers share one, which majority voting counts; a correct one has the gold's
    reason: str  # "box: equal", "last number: different", "no answer", ...


class AnswerChecker:
    """Compares the final answers of completions with golds.

    Numbers, words and lists of them are compared here. What needs algebra goes to math-verify in worker
    processes, which start when the first such pair comes. One that takes longer than its time is killed;
    the completion then counts as wrong.
    """

    def __init__(self, task: AnswerTask, *, policy: Sequence[str], limit_s: float, n_processes: int):
        """Starts nothing yet. Raises ValueError for a task, policy or limit that cannot be used.

        Args:
            task: "gsm8k" prefers what follows "####", "math" the last box or "final answer is".
            policy: names of `same_answer.Policy`.
            limit_s: of one comparison by algebra.
        """
        if task not in TASKS:
            raise ValueError(f"answers of task {task!r} cannot be checked; the tasks are {', '.join(TASKS)}")
        if not limit_s > 0:
            raise ValueError(f"the time limit of one comparison, {limit_s} s, must be above 0")
        if n_processes < 1:
            raise ValueError(f"the number of worker processes, {n_processes}, must be at least 1")
        self._prefer_hashes = task == "gsm8k"
        self._policy, self._policy_names = policy_of(policy), list(policy)
        self._limit_s, self._n_processes = limit_s, n_processes
        self._pool: RewardPool | None = None
        self._known: dict[tuple[str, str], str] = {}  # what algebra found out
        self.n_timeouts = 0  # comparisons that were stopped
        self.n_failures = 0  # comparisons that ended their process, mostly for want of memory

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdict on each (completion, gold); nothing in a completion can raise."""
        verdicts: list[Verdict | None] = []
        undecided: dict[int, tuple[FinalAnswer, str, list[str]]] = {}
        for i, (completion, gold_text) in enumerate(pairs):
            answer, gold = self._found(completion), _gold(gold_text)
            verdict, readings = self._verdict(answer, gold)
            verdicts.append(verdict)
            if verdict is None:
                undecided[i] = answer, gold, readings
        asked = {(reading, gold) for _, gold, readings in undecided.values() for reading in readings}
        outcomes = self._compare(sorted(asked)) if asked else {}
        for i, (answer, gold, readings) in undecided.items():
            found = [outcomes[reading, gold] for reading in readings]
            how = "equal by algebra" if "equal by algebra" in found else found[0]
            verdicts[i] = _told(answer, gold, how)
        return verdicts

    def close(self) -> None:
        """Ends the worker processes; a second time it does nothing."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _found(self, completion: str) -> FinalAnswer | None:
        return final_answer(completion, prefer_hashes=self._prefer_hashes)

    def _verdict(self, answer: FinalAnswer | None, gold: str) -> tuple[Verdict | None, list[str]]:
        """The verdict, or None and the readings of the answer that algebra is to compare."""
        if not gold.strip():
            return Verdict(False, answer and answer.text, None, "the gold is empty"), []
        if answer is None:
            return Verdict(False, None, None, "no answer"), []
        if self._policy.marked_only and not answer.is_marked:
            return Verdict(False, None, None, f"no marked answer, only a {answer.rule}"), []
        if not answer.text.strip():
            return Verdict(False, answer.text, None, f"{answer.rule}: empty"), []
        readings = list(answer.readings)
        if answer.joined and (len(split_list(normal_text(gold).strip("{}\\"))) > 1 or r"\cup" in gold):
            readings.insert(0, answer.joined)  # \boxed{1} and \boxed{2} are a list only where one is asked for
        undecided = []
        is_number = plain_number(gold) is not None
        for reading in readings:
            is_sentence = answer.is_sentence and reading == answer.text
            if is_sentence and is_number and plain_number(normal_text(reading)) is None:
                continue  # what number it says is among the other readings
            is_same = same_answer(reading, gold, policy=self._policy)
            if is_same:
                return _told(answer, gold, "equal"), []
            if is_same is None and not is_sentence and len(reading) <= MOST_CHARACTERS:
                undecided.append(reading)
        if not undecided:
            return _told(answer, gold, "different"), []
        cheap = [reading for reading in undecided[:_MOST_READINGS] if not too_costly(normal_text(reading))]
        if not cheap:
            return _told(answer, gold, "too large to compare"), []
        return None, cheap

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """What algebra says of (answer, gold) pairs."""
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        new = [pair for pair in pairs if pair not in self._known]
        found = {pair: self._known[pair] for pair in pairs if pair in self._known}
        if not new:
            return found
        calls = [RewardCall(0, "", [answer], gold, {"policy": self._policy_names}) for answer, gold in new]
        for pair, outcome in zip(new, self._workers().outcomes(calls), strict=True):
            found[pair] = self._said(outcome)
            if "scores" in outcome or "late" in outcome:
                self._known[pair] = found[pair]
        return found

    def _workers(self) -> RewardPool:
        if self._pool is None:
            if importlib.util.find_spec("math_verify") is None:
                raise ModuleNotFoundError("answers beyond plain numbers need math-verify: pip install math-verify")
            self._pool = RewardPool(
                ["rlvr_jax.tasks.math_worker:compare"],
                limit_s=self._limit_s,
                n_processes=self._n_processes,
                max_hangs=float("inf"),
                max_calls=MAX_CALLS,
                folder=str(_ROOT),
                imports=["math_verify"],
                memory_gib=MEMORY_GIB,
            )
        return self._pool

    def _said(self, outcome: dict) -> str:
        if "scores" in outcome:
            score = outcome["scores"][0]
            return (
                "equal by algebra" if score == SAME else "unreadable" if score == UNREADABLE else "different by algebra"
            )
        if "late" in outcome:
            self.n_timeouts += 1
            return f"took longer than {self._limit_s:g} s"
        self.n_failures += 1
        return f"could not be compared: {outcome.get('failure') or outcome.get('ended') or outcome.get('down')}"


@lru_cache(maxsize=10_000)
def _gold(text: str) -> str:
    return gold_answer(text)


def _told(answer: FinalAnswer, gold: str, how: str) -> Verdict:
    is_correct = how.startswith("equal")
    canonical = canonical_answer(gold if is_correct else answer.readings[-1]) or None
    return Verdict(is_correct, answer.text, canonical, f"{answer.rule}: {how}")

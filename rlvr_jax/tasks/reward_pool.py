"""Reward functions of a user's, called for many prompts at a time in processes that can be killed."""

import math
import re
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_jax.tasks.reward_process import RewardProcess, wait_for_news

MAX_HANGS = 3  # of one `grade`: a function that hangs on every prompt must not take hours to say so
CLOSE_GRACE_S = 1.0
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class RewardCall:
    """One function on the completions of one prompt."""

    function: int  # which of the pool's
    prompt: str
    completions: Sequence[str]
    answer: str
    row: dict[str, Any]


class RewardPool:
    """Some processes that have imported the functions; each of them calls any of these.

    A function is `module:function`, the module looked for in the current folder first. It is called
    once per prompt with those of the arguments `prompt, completions, answer, row` that it names and
    returns a number per completion.
    """

    def __init__(
        self,
        functions: Sequence[str],
        *,
        limit_s: float,
        n_processes: int,
        max_hangs: float = MAX_HANGS,
        max_calls: float = math.inf,
        folder: str = "",
        imports: Sequence[str] = (),
        memory_gib: float = 0.0,
    ):
        """Starts the processes and waits for their imports. Raises ValueError naming a function that cannot be used.

        Args:
            limit_s: of one call; what takes longer is killed.
            max_hangs: calls of one `grade` that may hang before the rest is not tried.
            max_calls: after which a process is replaced by a new one.
            folder: where the modules are looked for first; "" for the current one.
            imports: packages each process loads before its first call, so that loading takes none of its time.
            memory_gib: of address space per process; 0 for no limit.
        """
        for function in functions:
            check_function_name(function)
        if not limit_s > 0:
            raise ValueError(f"task.reward_limit_s={limit_s} must be above 0")
        if n_processes < 1:
            raise ValueError(f"task.reward_workers={n_processes} must be at least 1")
        self._functions, self._limit_s = tuple(functions), limit_s
        self._max_hangs, self._max_calls = max_hangs, max_calls
        self._lock = threading.Lock()  # the processes listen to one `grade` at a time
        options = {"folder": folder, "imports": imports, "memory_gib": memory_gib}
        self._processes = [RewardProcess(functions, **options) for _ in range(n_processes)]
        self._finalizer = weakref.finalize(self, _stop_all, self._processes)  # also when Python ends
        try:
            for process in self._processes:
                process.start()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes; a second time it does nothing."""
        self._finalizer()

    def _wait_until_ready(self) -> None:
        while starting := [process for process in self._processes if not process.is_ready]:
            wait_for_news(starting)
            for process in starting:
                if (news := process.news()) and "ready" not in news:
                    raise ValueError(self._start_failure(news))

    def grade(self, calls: Sequence[RewardCall]) -> list[list[float] | str]:
        """Scores of each call, or why there are none; one call's failure does not touch the others.

        Calls begin in order. Once MAX_HANGS of them have hung, those after the last of these in order
        count as not tried, whether or not some process came to them: the outcome depends neither on
        the number of processes nor on their speed.
        """
        outcomes = self.outcomes(calls)
        hung = [i for i, outcome in enumerate(outcomes) if outcome.get("late")]
        n_tried = hung[int(self._max_hangs) - 1] + 1 if len(hung) >= self._max_hangs else len(calls)
        tried = [self._scores_or_failure(*pair) for pair in zip(calls[:n_tried], outcomes[:n_tried], strict=True)]
        limit = f"task.reward_limit_s={self._limit_s:g} s"
        why_not = f"not tried after {self._max_hangs:g} calls that took longer than {limit}"
        return tried + [f"{self._subject(call)}: {why_not}" for call in calls[n_tried:]]

    def outcomes(self, calls: Sequence[RewardCall]) -> list[dict[str, Any]]:
        """The news of each call: {"scores": ...}, {"failure": why}, {"late": limit}, {"ended": how}.

        {"down": why} if no process could be started; {} if it was not tried.
        """
        if not self._finalizer.alive:
            raise ValueError("the reward processes are closed")
        with self._lock:
            return self._outcomes(calls)

    def _outcomes(self, calls: Sequence[RewardCall]) -> list[dict[str, Any]]:
        outcomes: list[dict[str, Any]] = [{} for _ in calls]
        asked: dict[RewardProcess, int] = {}  # the call each works on
        n_asked, n_hung, why_down = 0, 0, ""
        for process in self._processes:
            # one that died since the last time would take the blame for this one's first call
            if not process.is_up or (process.is_ready and process.news()):
                why_down = _restart(process) or why_down
        try:
            while asked or (n_asked < len(calls) and n_hung < self._max_hangs):
                for process in self._processes:
                    if process.is_ready and n_asked < len(calls) and n_hung < self._max_hangs:
                        process.ask(vars(calls[n_asked]), limit_s=self._limit_s)
                        asked[process] = n_asked
                        n_asked += 1
                up = [process for process in self._processes if process.is_up and not process.is_ready]
                if not up:
                    break
                wait_for_news(up)
                for process in up:
                    news = process.news()
                    if news is None or "ready" in news:
                        continue
                    call = asked.pop(process, None)
                    if call is not None:
                        outcomes[call] = news
                        n_hung += "late" in news
                        if not process.is_ready or process.n_asked >= self._max_calls:
                            why_down = _restart(process) or why_down
                    else:  # it could not be started again: no second try before the next `grade`
                        process.stop()
                        why_down = self._start_failure(news)
        finally:
            for process in asked:  # only if something was raised, such as KeyboardInterrupt
                process.stop()
        for call in range(n_asked, len(calls) if n_hung < self._max_hangs else 0):
            outcomes[call] = {"down": why_down}
        return outcomes

    def _scores_or_failure(self, call: RewardCall, outcome: dict[str, Any]) -> list[float] | str:
        if "scores" in outcome:
            return outcome["scores"]
        if "failure" in outcome:
            why = outcome["failure"]
        elif "late" in outcome:
            why = f"took longer than task.reward_limit_s={self._limit_s:g} s and was stopped"
        elif "ended" in outcome:
            why = f"its process {outcome['ended']}"
        else:
            why = f"its process could not be started again: {outcome['down']}"
        return f"{self._subject(call)}: {why}"

    def _subject(self, call: RewardCall) -> str:
        shown = call.prompt if len(call.prompt) <= 60 else call.prompt[:57] + "..."
        return f"reward {self._functions[call.function]} on prompt {shown!r}"

    def _start_failure(self, news: dict[str, Any]) -> str:
        names = ", ".join(self._functions)
        if "late" in news:
            return f"importing {names} took longer than {news['late']:g} s; let the import do less"
        if "ended" in news:
            return f"importing {names}: the process {news['ended']}"
        return news["failure"]


def check_function_name(function: str, *, own: Sequence[str] = ()) -> None:
    """Raises ValueError unless `function` reads module:function.

    Args:
        own: what else it could have been, for the message.
    """
    file, _, name = function.partition(":")
    if _FUNCTION.fullmatch(function) and not file.endswith(".py"):
        return
    module = file.removeprefix("./").removesuffix(".py").replace("/", ".")
    fixed = f"{module}:{name or 'function'}"
    is_file = module != file and _FUNCTION.fullmatch(fixed)
    fix = f"write {fixed!r}" if is_file else "write 'my_rewards:score' for score() in my_rewards.py"
    known = " or ".join(map(repr, own)) or "a reward of the task"
    raise ValueError(f"{function!r} in task.rewards is neither {known} nor module:function; {fix}")


def _restart(process: RewardProcess) -> str:
    """Stops and starts a process; why it cannot be started, or ""."""
    process.stop()
    try:
        process.start()
    except OSError as error:  # no memory, no more processes allowed, or the folder is gone
        return str(error)
    return ""


def _stop_all(processes: list[RewardProcess]) -> None:
    """Lets the functions' modules end in peace, all in one grace."""
    end = time.monotonic() + CLOSE_GRACE_S
    for process in processes:
        process.hang_up()
    for process in processes:
        process.stop(grace_s=max(0.0, end - time.monotonic()))

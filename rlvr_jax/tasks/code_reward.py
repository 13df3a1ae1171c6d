"""A reward for code that works: the share of a row's tests that a completion's functions pass. Off by default."""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rlvr_jax.tasks.code_run import CodeLimits, run_tests
from rlvr_jax.tasks.code_tests import tests_of_row
from rlvr_jax.tasks.confine import can_confine, can_hide_files
from rlvr_jax.tasks.problem import Problem

log = logging.getLogger(__name__)

SCORINGS = ("share", "all")
LONGEST_CODE = 1 << 18  # characters; what is longer has failed
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_DEFINES = re.compile(r"^\s*(async\s+def|def|class)\s", re.MULTILINE)


@dataclass(frozen=True)
class CodeSettings:
    """How completions' code is run."""

    enabled: bool
    tests_field: str
    scoring: str
    limit_s: float
    cpu_s: int
    memory_mib: int
    n_processes: int  # completions that are run at a time


@dataclass(frozen=True)
class _NoScore:
    """Why a completion's code could not be scored."""

    why: str
    is_of_tests: bool  # else of this machine


class CodeReward:
    """Runs what models write, which is refused unless it is asked for in so many words."""

    def __init__(self, settings: CodeSettings):
        """Raises ValueError if it is not enabled, or if this machine cannot confine code."""
        if problems := code_problems(settings):
            raise ValueError("; ".join(problems))
        self._settings = settings
        self._limits = CodeLimits(settings.limit_s, settings.cpu_s, settings.memory_mib)
        try:
            verdicts = run_tests("def one():\n    return 1\n", ["assert one() == 1"], CodeLimits(60.0, 60, 1024))
        except OSError as error:
            raise ValueError(f"the reward 'code' cannot start its processes ({error})") from error
        if verdicts != ["passed"]:
            raise ValueError(
                "the reward 'code' cannot confine code on this machine: its kernel refuses filters of system calls, as "
                "in some containers; allow seccomp there, or leave out 'code' in task.rewards"
            )
        if not can_hide_files():
            log.warning("this kernel has no Landlock: the code that the reward 'code' runs can read your files")

    def check(self, problems: Sequence[Problem]) -> None:
        """Warns of problems whose rows have no tests that can be used. Raises ValueError if that is all of them."""
        whys = [why for why in map(self._tests_fault, problems) if why]
        if whys and len(whys) == len(problems):
            raise ValueError(f"not one row has tests for the reward 'code': {whys[0]}; set task.code.tests_field")
        if whys:
            log.warning("%d of %d rows have tests that cannot be used: %s", len(whys), len(problems), whys[0])

    def _tests_fault(self, problem: Problem) -> str:
        try:
            tests_of_row(problem.row, self._settings.tests_field)
        except ValueError as error:
            return f"reward code on prompt {problem.prompt[:60]!r}: {error}"
        return ""

    def grade(
        self, problems: Sequence[Problem], completion_texts: Sequence[Sequence[str]]
    ) -> tuple[np.ndarray, list[str]]:
        """Scores of [P][R] completions, and per prompt why it has none ("" where it has); NaN only for a row's faults.

        A completion without code, or whose code does not even start, scores 0. Equal code is run once. So does one
        with which alone a test cannot be run: what it returns must not take the others' scores away.
        """
        failures = [self._tests_fault(problem) for problem in problems]
        rows = [
            None if why else tests_of_row(problem.row, self._settings.tests_field)
            for problem, why in zip(problems, failures, strict=True)
        ]
        jobs: dict[tuple[int, str], None] = {}
        for p, (tests, texts) in enumerate(zip(rows, completion_texts, strict=True)):
            jobs |= dict.fromkeys((p, code_of(text)) for text in texts if tests is not None)
        with ThreadPoolExecutor(self._settings.n_processes) as pool:
            outcomes = dict(zip(jobs, pool.map(lambda job: self._score(job[1], rows[job[0]]), jobs), strict=True))
        score_PR = np.full((len(problems), len(completion_texts[0])), np.nan)
        for p, texts in enumerate(completion_texts):
            if not failures[p]:
                score_PR[p], why = _scores([outcomes[p, code_of(text)] for text in texts])
                failures[p] = f"reward code on prompt {problems[p].prompt[:60]!r}: {why}" if why else ""
        return score_PR, failures

    def _score(self, code: str, tests: list[str]) -> float | _NoScore:
        if not code.strip() or len(code) > LONGEST_CODE:
            return 0.0
        try:
            verdicts = run_tests(code, tests, self._limits)
        except OSError as error:
            return _NoScore(f"its processes cannot be started ({error})", is_of_tests=False)
        if "untestable" in verdicts:
            test = tests[verdicts.index("untestable")]
            why = f"a test passes on what is no plain value, which cannot be sent: {test[:60]!r}"
            return _NoScore(why, is_of_tests=True)
        n_passed = verdicts.count("passed")
        return n_passed / len(tests) if self._settings.scoring == "share" else float(n_passed == len(tests))


def _scores(outcomes: Sequence[float | _NoScore]) -> tuple[list[float], str]:
    """Scores of a prompt's completions, and why some have none."""
    faults = [outcome for outcome in outcomes if isinstance(outcome, _NoScore)]
    # code that passes no test, as where it does not start, may never have come to the one at fault
    is_of_tests = not any(outcome for outcome in outcomes if not isinstance(outcome, _NoScore))
    if is_of_tests and any(fault.is_of_tests for fault in faults):
        return [np.nan] * len(outcomes), next(fault.why for fault in faults if fault.is_of_tests)
    scores = [(0.0 if o.is_of_tests else np.nan) if isinstance(o, _NoScore) else o for o in outcomes]
    return scores, next((fault.why for fault in faults if not fault.is_of_tests), "")


def code_of(completion: str) -> str:
    """The last block in ``` that defines something, else the last block, else the whole text.

    Blocks of another language than Python do not count; one that is not closed ends with the text.
    """
    found = [(language.strip().lower(), code) for language, code in _BLOCK.findall(completion)]
    blocks = [code for language, code in found if language in ("", "python", "py", "python3")]
    defining = [code for code in blocks if _DEFINES.search(code)]
    return (defining or blocks or [completion if not found else ""])[-1]


def code_problems(settings: CodeSettings) -> list[str]:
    """What cannot work in the settings of the code reward, one line each."""
    problems = []
    if not settings.enabled:
        problems.append(
            "the reward 'code' in task.rewards runs what a model writes, in processes that are contained but not safe "
            "against attacks; set task.code.enabled=true if that is what you want"
        )
    if not settings.tests_field:
        problems.append("task.code.tests_field='' must name the field of a row that holds its tests")
    if settings.scoring not in SCORINGS:
        problems.append(f"task.code.scoring={settings.scoring!r} is not one of {SCORINGS}")
    if settings.memory_mib < 64:
        problems.append(f"task.code.memory_mib={settings.memory_mib} is less than Python itself takes; use 64 or more")
    if not can_confine():
        problems.append("the reward 'code' needs Linux on x86-64, whose system calls it filters")
    return problems

"""Questions with known answers, from files, checked by what their completions say is the answer."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr_jax.tasks.answer_checker import AnswerChecker
from rlvr_jax.tasks.data_files import DataFile, read_data_files
from rlvr_jax.tasks.final_answer import has_marked_answer
from rlvr_jax.tasks.problem import Grades, RowProblem, nth
from rlvr_jax.tasks.question_rows import QuestionRows, category_name, level_name
from rlvr_jax.tasks.rewards import Rewards, RewardSettings
from rlvr_jax.tasks.row_problems import RowPolicy, file_problems, same_text
from rlvr_jax.tasks.small_questions import SMALL, small_rows
from rlvr_jax.tasks.template import Template
from rlvr_jax.tasks.wrong_solution import wrong_solution

CORRECT = "correct"  # 1 where the answer is the gold one
FORMAT = "format"  # 1 where the completion marks its answer with #### or a box
OWN_REWARDS = (CORRECT, FORMAT)
DEFAULT_REWARDS = (CORRECT,)
TIMEOUTS, FAILURES = "verifier_timeouts", "verifier_failures"  # in Grades.counts


class AnswerTask:
    """One question per row; the test set of the data set, another file, or one row in ten is held out."""

    def __init__(
        self,
        data_set: QuestionRows,
        *,
        path: str,
        heldout_path: str,
        template: str,
        levels: Sequence[int],
        subjects: Sequence[str],
        row_policy: RowPolicy,
        rewards: RewardSettings,
        checker: AnswerChecker,
    ):
        """Reads the files and starts the rewards. Raises ValueError with the rows, categories or functions at fault.

        Args:
            path: "" for the data set's own, SMALL for problems made here.
            heldout_path: "" for the data set's own if `path` is its own, too, else for one problem in ten.
            levels, subjects: only problems of these are used; () for all.
        """
        self.name = data_set.name
        self._data_set, self._template = data_set, Template(template or data_set.template)
        is_own = not path
        path = path or data_set.path
        heldout_path = heldout_path or (data_set.heldout_path if is_own else "")
        problems = file_problems(
            self._files(path), self._files(heldout_path) if heldout_path else (), self._problem, row_policy
        )
        wanted = {"levels": [level_name(level) for level in levels], "subjects": list(map(category_name, subjects))}
        self._train, self._heldout = (
            _of_categories(some, wanted, where)
            for some, where in ((problems.train, path), (problems.heldout, heldout_path or path))
        )
        self.fingerprint = problems.fingerprint
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        everything = self._train + self._heldout
        self.longest_answer = max(len(problem.answer) for problem in everything)
        self.longest_demonstration = max(len(problem.demonstration) for problem in everything)
        self._checker = checker
        self._rewards = Rewards(rewards, own=OWN_REWARDS, default=DEFAULT_REWARDS)

    def _files(self, path: str) -> tuple[DataFile, ...]:
        if path == SMALL:
            return (small_rows(self.name),)
        columns = self._data_set.columns | self._template.fields
        return read_data_files(path, columns=columns, kept=self._data_set.kept)

    def _problem(self, row: dict[str, Any]) -> RowProblem:
        question = self._data_set.question_of(row)
        prompt = self._template.fill({**row, "question": question.text, "problem": question.text})
        return RowProblem(
            prompt,
            question.gold,
            content=same_text(question.text),
            row=row,
            categories=question.categories,
            demonstration=question.solution,
        )

    def train_problem(self, index: int) -> RowProblem:
        return nth(self._train, index)

    def heldout_problem(self, index: int) -> RowProblem:
        return nth(self._heldout, index)

    def grade(self, problems: Sequence[RowProblem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        """Grades completions; one whose check takes too long, or all memory, is wrong, and counted."""
        shape = len(problems), len(completion_texts[0])
        pairs = [
            (text, problem.answer)
            for problem, texts in zip(problems, completion_texts, strict=True)
            for text in texts
        ]  # fmt: skip
        n_before = self._checker.n_timeouts, self._checker.n_failures
        verdicts = self._checker.check(pairs)
        is_correct_PR = np.array([verdict.is_correct for verdict in verdicts]).reshape(shape)
        own = {CORRECT: is_correct_PR}
        if FORMAT in self._rewards.weights:
            own[FORMAT] = np.array([has_marked_answer(text) for text, _ in pairs]).reshape(shape)
        canonical = [verdict.canonical for verdict in verdicts]
        grades = self._rewards.grade(
            problems,
            completion_texts,
            own,
            is_correct_PR=is_correct_PR,
            answers=tuple(tuple(canonical[p * shape[1] : (p + 1) * shape[1]]) for p in range(shape[0])),
        )
        n_after = self._checker.n_timeouts, self._checker.n_failures
        counts = dict(zip((TIMEOUTS, FAILURES), np.subtract(n_after, n_before).tolist(), strict=True))
        return dataclasses.replace(grades, counts=grades.counts | counts)

    def close(self) -> None:
        """Ends the processes of the rewards and of the checker."""
        self._rewards.close()
        self._checker.close()

    def demonstration(self, problem: RowProblem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The row's solution, or the same with a wrong answer; where none can be made, another row's solution."""
        if rng.random() < p_correct:
            return problem.demonstration
        wrong = wrong_solution(problem.demonstration, problem.answer, rng)
        if wrong is not None:
            return wrong
        first = int(rng.integers(self.n_train))
        others = (self._train[(first + i) % self.n_train] for i in range(self.n_train))
        other = next((other for other in others if other.answer != problem.answer), None)
        return other.demonstration if other else problem.demonstration[:-1]


def _of_categories(problems: list[RowProblem], wanted: dict[str, list[str]], where: str) -> list[RowProblem]:
    """The problems of the wanted levels and subjects. Raises ValueError at one that no problem has."""
    counts = Counter(category for problem in problems for category in problem.categories)
    for setting, names in wanted.items():
        for name in names:
            if name not in counts:
                shown = ", ".join(f"{category} ({counts[category]})" for category in sorted(counts)) or "none"
                raise ValueError(f"task.{setting}: no problem of {where} is of {name!r}; there are {shown}")
    for names in filter(None, wanted.values()):
        problems = [problem for problem in problems if set(names) & set(problem.categories)]
    if not problems and any(wanted.values()):
        chosen = " and ".join(f"task.{setting} {', '.join(names)}" for setting, names in wanted.items() if names)
        raise ValueError(f"no problem of {where} is of {chosen} at once; choose more of either")
    return problems

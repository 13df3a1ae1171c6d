"""Problems from a user's file, graded by exact answers or by functions of the user's."""

import bisect
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from rlvr_jax.tasks.data_files import read_data_files
from rlvr_jax.tasks.problem import Grades, RowProblem, nth
from rlvr_jax.tasks.rewards import Rewards, RewardSettings
from rlvr_jax.tasks.row_problems import RowPolicy, file_problems, same_text
from rlvr_jax.tasks.template import Template, field_text

TEMPLATE = "{prompt}"  # where the settings have none
EXACT = "exact"  # 1 where the stripped completion is the stripped answer
OWN_REWARDS = (EXACT,)


class JsonlTask:
    """One problem per row of a file; a second file, or one row in ten, is held out."""

    name = "jsonl"

    def __init__(
        self,
        *,
        path: str,
        heldout_path: str,
        template: str,
        answer_field: str,
        demonstration_field: str,
        row_policy: RowPolicy,
        rewards: RewardSettings,
    ):
        """Reads the files and starts the rewards. Raises ValueError with the rows, fields or functions at fault.

        Args:
            heldout_path: "" for one problem in ten of `path`.
            template: "" for TEMPLATE.
            answer_field: "" if rows have no answer, which rules out "exact".
            demonstration_field: what the warm start imitates; "" for the answer.
        """
        if EXACT in (rewards.names or OWN_REWARDS) and not answer_field:
            raise ValueError("task.rewards has 'exact', which needs answers; set task.answer_field to a field of them")
        filled = Template(template or TEMPLATE)
        problems = file_problems(
            read_data_files(path),
            read_data_files(heldout_path) if heldout_path else (),
            lambda row: _problem(row, filled, answer=answer_field, demonstration=demonstration_field),
            row_policy,
        )
        self._train, self._heldout, self.fingerprint = problems.train, problems.heldout, problems.fingerprint
        self.n_train, self.n_heldout = len(self._train), len(self._heldout)
        everything = self._train + self._heldout
        self.longest_answer = max(len(problem.answer) for problem in everything)
        self.longest_demonstration = max(len(problem.demonstration) for problem in everything)
        self._has_demonstrations = bool(demonstration_field or answer_field)
        self._demonstrations = sorted((p.demonstration.strip(), p.demonstration) for p in self._train)
        self._rewards = Rewards(rewards, own=OWN_REWARDS, default=OWN_REWARDS)
        self._rewards.check(everything)

    def train_problem(self, index: int) -> RowProblem:
        return nth(self._train, index)

    def heldout_problem(self, index: int) -> RowProblem:
        return nth(self._heldout, index)

    def grade(self, problems: Sequence[RowProblem], completion_texts: Sequence[Sequence[str]]) -> Grades:
        is_exact_PR = np.array(
            [
                [text.strip() == problem.answer.strip() for text in texts]
                for problem, texts in zip(problems, completion_texts, strict=True)
            ]
        )
        return self._rewards.grade(problems, completion_texts, {EXACT: is_exact_PR})

    def close(self) -> None:
        """Ends the processes of the rewards."""
        self._rewards.close()

    def demonstration(self, problem: RowProblem, rng: np.random.Generator, *, p_correct: float) -> str:
        """The row's own demonstration, or that of another training row that differs in more than white space."""
        if not self._has_demonstrations:
            raise ValueError(
                "the warm start needs something to imitate; set task.demonstration_field or task.answer_field "
                "to a field of it, or warmstart.enabled=False"
            )
        if rng.random() < p_correct:
            return problem.demonstration
        own, others = problem.demonstration.strip(), self._demonstrations
        first = bisect.bisect_left(others, own, key=itemgetter(0))
        n_equal = bisect.bisect_right(others, own, key=itemgetter(0)) - first  # a block, as they are sorted
        if n_equal == len(others):
            return _garbled(own)
        drawn = int(rng.integers(len(others) - n_equal))
        return others[drawn if drawn < first else drawn + n_equal][1]


def _garbled(text: str) -> str:
    """Another text than `text`, which begins and ends with no white space, of no more characters."""
    rotated = text[1:] + text[:1]
    return rotated if rotated != text else text[:-1]


def _problem(row: dict[str, Any], template: Template, *, answer: str, demonstration: str) -> RowProblem:
    def text_of(field: str, setting: str) -> str:
        text = field_text(row, field, setting=setting)
        if not text.strip():
            raise ValueError(f"field {field!r}, which {setting} names, is empty; fill it, or remove the row")
        return text

    prompt = template.fill(row)
    if not prompt.strip():
        raise ValueError("its prompt is empty; fill the fields that task.template names, or remove the row")
    answer_text = text_of(answer, "task.answer_field") if answer else ""
    shown = text_of(demonstration, "task.demonstration_field") if demonstration else answer_text
    return RowProblem(prompt, answer_text, content=same_text(prompt), row=row, demonstration=shown)

"""Data sets of questions with known answers: which fields their rows have, and what makes a row unusable.

gsm8k   question, answer: a solution whose one #### precedes the final number (arXiv:2110.14168)
omi     problem, generated_solution, expected_answer, problem_source: OpenMathInstruct-2's GSM8K part
        (arXiv:2410.01560); rows of gsm8k may stand among them, so that its test set is what is held out
math    problem, solution with a box, and where there are answer, level, subject or type (arXiv:2103.03874)
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlvr_jax.tasks.data_files import Kept
from rlvr_jax.tasks.final_answer import gold_answer
from rlvr_jax.tasks.plain_number import plain_number
from rlvr_jax.tasks.same_answer import policy_of, same_answer
from rlvr_jax.tasks.template import field_text

HASHES = "####"
_GSM8K_HUB = "hf://datasets/openai/gsm8k/main"
_GSM8K_TEST = f"{_GSM8K_HUB}/test-00000-of-00001.parquet"
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's notes for a calculator that no model here has
_LEVEL = re.compile(r"(?:Level )?([1-9])")
_TAKEN = re.compile(r"level_[1-9]|rewards")  # categories of levels; eval/<task>/rewards/<name> are means of rewards
_UNKNOWN_LEVEL = "Level ?"  # MATH has two problems of it


@dataclass(frozen=True)
class Question:
    """What a row asks, with its answer."""

    text: str
    gold: str
    solution: str  # what the warm start imitates
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionRows:
    """A data set of questions."""

    name: str
    checker: str  # whose answers are compared: "gsm8k" or "math"
    path: str
    heldout_path: str
    template: str  # {question} or {problem}, whatever the rows call it
    columns: frozenset[str]
    question_of: Callable[[Mapping[str, Any]], Question]  # raises ValueError saying what is wrong with the row
    kept: Kept | None = None  # rows of interest


def gsm8k_question(row: Mapping[str, Any]) -> Question:
    """A row of GSM8K."""
    question, answer = _text(row, "question"), _text(row, "answer")
    parts = answer.split(HASHES)
    if len(parts) != 2:
        found = f"{len(parts) - 1} times" if len(parts) > 2 else "nowhere"
        raise ValueError(f"field 'answer' has {HASHES} {found}; it must stand once, before the final number")
    gold = parts[1].strip()
    _check_number(gold, f"what follows {HASHES} in field 'answer'")
    return Question(question, gold, _CALCULATOR.sub("", answer))


def omi_question(row: Mapping[str, Any]) -> Question:
    """A row of OpenMathInstruct-2 that stems from GSM8K, or one of GSM8K itself."""
    if "question" in row and "problem" not in row:
        return gsm8k_question(row)
    question, solution, gold = (_text(row, name) for name in ("problem", "generated_solution", "expected_answer"))
    _text(row, "problem_source")  # without it nobody knows where the row is from
    _check_number(gold, "field 'expected_answer'")
    return Question(question, gold.strip(), solution)


def math_question(row: Mapping[str, Any]) -> Question:
    """A row of MATH."""
    problem, solution = _text(row, "problem"), _text(row, "solution")
    if row.get("answer") is not None:
        gold, where = _text(row, "answer").strip(), "field 'answer'"
    elif "\\boxed" in solution or "\\fbox" in solution:
        gold, where = gold_answer(solution), "the last box of field 'solution'"
    else:
        raise ValueError("there is neither a field 'answer' nor a \\boxed{} in field 'solution'; add one of them")
    if not gold:
        raise ValueError(f"{where} is empty; write the answer there, or remove the row")
    if _open_braces(gold):
        raise ValueError(f"{where} is {gold[:80]!r}, whose braces do not match; correct it")
    if same_answer(gold_answer(gold), gold_answer(gold), policy=policy_of(())) is False:
        raise ValueError(f"{where} is {gold[:80]!r}, in which nothing is left to compare with; correct it")
    return Question(problem, gold, solution, _math_categories(row))


def _math_categories(row: Mapping[str, Any]) -> tuple[str, ...]:
    categories = []
    level = row.get("level")
    if level is not None and level != _UNKNOWN_LEVEL:
        is_whole = isinstance(level, float) and level.is_integer()  # as of a column with gaps
        found = _LEVEL.fullmatch(str(int(level) if is_whole else level).strip())
        if not found:
            raise ValueError(f"field 'level' is {level!r}; it must be a number from 1 to 9 or 'Level 3'")
        categories.append(level_name(int(found[1])))
    subject = row.get("subject") if row.get("subject") is not None else row.get("type")
    if subject is not None:
        if not isinstance(subject, str) or not category_name(subject):
            raise ValueError(f"field 'subject' (or 'type') is {subject!r}; it must be the name of a subject")
        categories.append(category_name(subject))
    return tuple(categories)


def level_name(level: int) -> str:
    """The category of a level."""
    return f"level_{level}"


def category_name(subject: str) -> str:
    """The category of a subject, fit for a metric: "Counting & Probability" is counting_probability.

    Letters are those of any script. One that would be taken for a level, or for a group of metrics, is subject_....
    """
    name = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", subject).lower()).strip("_")
    return f"subject_{name}" if _TAKEN.fullmatch(name) else name


def _text(row: Mapping[str, Any], field: str) -> str:
    text = field_text(row, field, setting="its data set")
    if not text.strip():
        raise ValueError(f"field {field!r} is empty; fill it, or remove the row")
    return text


def _check_number(gold: str, where: str) -> None:
    if plain_number(gold) is None:
        raise ValueError(f"{where} is {gold[:80]!r}, which is no number; correct it, or remove the row")


def _open_braces(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return True
    return depth != 0


_QUESTION = "{question}\n\nThink step by step, and give the final number after ####.\n\n"
_PROBLEM = "{problem}\n\nThink step by step, and give the final answer in \\boxed{{}}.\n\n"
_MATH_FIELDS = frozenset({"problem", "solution", "answer", "level", "subject", "type", "unique_id"})

GSM8K = QuestionRows(
    name="gsm8k",
    checker="gsm8k",
    path=f"{_GSM8K_HUB}/train-00000-of-00001.parquet",
    heldout_path=_GSM8K_TEST,
    template=_QUESTION,
    columns=frozenset({"question", "answer"}),
    question_of=gsm8k_question,
)
OMI = QuestionRows(
    name="omi",
    checker="gsm8k",
    path="hf://datasets/nvidia/OpenMathInstruct-2/data/train_1M-*.parquet",
    heldout_path=_GSM8K_TEST,
    template=_QUESTION,
    columns=GSM8K.columns | {"problem", "generated_solution", "expected_answer", "problem_source"},
    question_of=omi_question,
    kept=Kept("problem_source", frozenset({"gsm8k", "augmented_gsm8k"})),
)
MATH = QuestionRows(
    name="math",
    checker="math",
    path="hf://datasets/EleutherAI/hendrycks_math/*/train-*.parquet",
    heldout_path="hf://datasets/HuggingFaceH4/MATH-500/test.jsonl",
    template=_PROBLEM,
    columns=_MATH_FIELDS,
    question_of=math_question,
)
DATA_SETS = {rows.name: rows for rows in (GSM8K, OMI, MATH)}

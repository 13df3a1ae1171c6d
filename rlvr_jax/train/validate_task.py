"""What cannot work in the settings of a task."""

import math

from rlvr_jax.tasks import answer_task, jsonl, listed_task, row_problems, wordle
from rlvr_jax.tasks.question_rows import DATA_SETS
from rlvr_jax.tasks.rewards import SERVICES, reward_names, weight_per_reward
from rlvr_jax.tasks.same_answer import policy_of
from rlvr_jax.tasks.small_questions import SMALL
from rlvr_jax.train.config import TaskConfig, flat_fields
from rlvr_jax.train.listed_parts import FIELDS, MIXTURE
from rlvr_jax.train.reward_services import service_problems
from rlvr_jax.train.validate_listed import listed_problems

_OF_REWARDS = ("rewards", "reward_weights", "correct_at", "reward_limit_s", "reward_workers", *SERVICES)
_OF_STAGES = ("stages", "stage_prompts", *(name for name in _OF_REWARDS if name != "correct_at"))
_OF_FILES = ("path", "heldout_path", "template", "bad_rows", "repeated_prompts", "overlap")
_OF_OWN_FILES = (*_OF_FILES, "answer_field", "demonstration_field")
_OF_QUESTIONS = (*_OF_FILES, "answer_policy", "answer_limit_s", "answer_workers")
_OF_WORDLE = ("words", "allowed_words", "n_words", "n_turns", "n_clues", "guess_style")
_READ = {  # which settings a task reads; others must be left alone
    **{name: (*fields, *_OF_STAGES) for name, fields in FIELDS.items()},
    MIXTURE: (*FIELDS["arithmetic"], "mixture", "mixture_weights", *_OF_STAGES),
    "jsonl": (*_OF_OWN_FILES, *_OF_REWARDS),
    **dict.fromkeys(DATA_SETS, (*_OF_QUESTIONS, *_OF_REWARDS)),
    "math": (*_OF_QUESTIONS, "levels", "subjects", *_OF_REWARDS),
    "wordle": (*_OF_WORDLE, *(name for name in _OF_REWARDS if name != "correct_at")),
}
_REWARDS = {  # the task's own ones, and its default
    **dict.fromkeys((*FIELDS, MIXTURE), (listed_task.OWN_REWARDS, listed_task.DEFAULT_REWARDS)),
    "jsonl": (jsonl.OWN_REWARDS, jsonl.OWN_REWARDS),
    **dict.fromkeys(DATA_SETS, (answer_task.OWN_REWARDS, answer_task.DEFAULT_REWARDS)),
    "wordle": (wordle.OWN_REWARDS, wordle.OWN_REWARDS),
}


def task_problems(task: TaskConfig) -> list[str]:
    """One line per problem, with the value and the fix."""
    if task.name not in _READ:
        return []  # which is said where choices are checked
    of_rewards = _reward_problems(task) if "rewards" in _READ[task.name] else []
    return _unread(task) + _PROBLEMS[task.name](task) + of_rewards + service_problems(task)


def _unread(task: TaskConfig) -> list[str]:
    default, read = flat_fields(TaskConfig()), (*_READ[task.name], "name")
    problems = []
    for name, value in flat_fields(task).items():
        if name.split(".")[0] not in read and value != default[name]:
            readers = [repr(reader) for reader, names in _READ.items() if name.split(".")[0] in names]
            problems.append(
                f"task.{name}={value!r} is not read by task {task.name!r} but by {', '.join(readers)}; "
                "change task.name or leave it out"
            )
    return problems


def _question_problems(task: TaskConfig) -> list[str]:
    problems = _row_problems(task)
    if task.heldout_path == SMALL:
        problems.append(f"task.heldout_path={SMALL!r} is only for task.path, of which one problem in ten is held out")
    try:
        policy_of(task.answer_policy)
    except ValueError as error:
        problems.append(f"task.answer_policy={task.answer_policy}: {error}")
    if not task.answer_limit_s > 0:
        problems.append(f"task.answer_limit_s={task.answer_limit_s} must be above 0")
    if task.answer_workers < 1:
        problems.append(f"task.answer_workers={task.answer_workers} must be at least 1")
    return problems


def _row_problems(task: TaskConfig) -> list[str]:
    choices = {
        "bad_rows": row_problems.BAD_ROWS,
        "repeated_prompts": row_problems.REPEATED_PROMPTS,
        "overlap": row_problems.OVERLAP,
    }
    return [
        f"task.{name}={getattr(task, name)!r} is not one of {', '.join(allowed)}"
        for name, allowed in choices.items()
        if getattr(task, name) not in allowed
    ]


def _jsonl_problems(task: TaskConfig) -> list[str]:
    problems = _row_problems(task)
    if not task.path:
        problems.append("task.path='' must name a file (.jsonl, .json or .parquet) or a data set OWNER/NAME of the Hub")
    if SMALL in (task.path, task.heldout_path):
        problems.append(f"task.path={SMALL!r} is for {', '.join(DATA_SETS)}; task 'jsonl' needs a file")
    return problems


def _wordle_problems(task: TaskConfig) -> list[str]:
    problems = []
    if task.guess_style not in wordle.STYLES:
        problems.append(f"task.guess_style={task.guess_style!r} is not one of {wordle.STYLES}")
    for name, least in (("n_words", 0), ("n_turns", 1), ("n_clues", 0)):
        if getattr(task, name) < least:
            problems.append(f"task.{name}={getattr(task, name)} must be at least {least}")
    if task.n_clues > wordle.MOST_CLUES:
        problems.append(f"task.n_clues={task.n_clues} must be at most {wordle.MOST_CLUES}")
    if task.n_turns == 1 and task.n_clues == 0:
        problems.append("task.n_turns=1 with task.n_clues=0 is a guess of nothing known; use task.n_clues=2, or turns")
    return problems


def _reward_problems(task: TaskConfig) -> list[str]:
    own, default = _REWARDS[task.name]
    rewards, problems = task.rewards or default, []
    if not all(map(math.isfinite, task.reward_weights)):
        problems.append(f"task.reward_weights={task.reward_weights} must all be finite numbers")
    for check in (lambda: reward_names(rewards, own=own), lambda: weight_per_reward(rewards, task.reward_weights)):
        try:
            check()
        except ValueError as error:
            problems.append(str(error))
    return problems


_PROBLEMS = {**dict.fromkeys((*FIELDS, MIXTURE), listed_problems), "jsonl": _jsonl_problems, "wordle": _wordle_problems}
_PROBLEMS |= dict.fromkeys(DATA_SETS, _question_problems)

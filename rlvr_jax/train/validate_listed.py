"""What cannot work in the settings of listed tasks, mixtures and stages of them."""

from rlvr_jax.tasks.number_tasks import MOST_WORDS
from rlvr_jax.train.config import ConfigError, TaskConfig
from rlvr_jax.train.listed_parts import FIELDS, listed_parts


def listed_problems(task: TaskConfig) -> list[str]:
    """One line per problem, with the value and the fix."""
    try:
        stages = listed_parts(task)
    except ConfigError as error:
        return error.problems
    problems = []
    for part in (part for parts in stages for part in parts):
        where = "" if part.words == task.name else f" (of {part.words!r})"
        problems += [f"{problem}{where}" for problem in _part_problems(part.task)]
    return list(dict.fromkeys(problems))


def _part_problems(task: TaskConfig) -> list[str]:
    problems, least, most = [], task.operand_min, task.operand_max
    if "operators" in FIELDS[task.name]:
        allowed = "+-" if task.name == "digits" else "+-*"
        if not task.operators or len(set(task.operators)) < len(task.operators) or set(task.operators) - set(allowed):
            problems.append(f"task.operators={task.operators!r} must be different characters out of {allowed!r}")
    if most < least:
        problems.append(f"task.operand_max={most} is below task.operand_min={least}")
    if task.name == "digits" and most > 99:
        problems.append(f"task.operand_max={most}: task 'digits' has two-digit operands; use 99 or less")
    if task.name == "counting" and not 1 <= most <= MOST_WORDS:
        problems.append(f"task.operand_max={most}: task 'counting' counts 1 to {MOST_WORDS} words; use such a number")
    if most > 9_999:
        problems.append(f"task.operand_max={most} lists more than 10^8 problems; use 9999 or less")
    return problems

"""What cannot work in the settings of a task."""

import re

from rlvr_jax.train.config import TaskConfig, flat_fields

_OF_SUMS = ("operators", "operand_min", "operand_max")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def task_problems(task: TaskConfig) -> list[str]:
    """One line per problem, with the value and the fix."""
    return _jsonl_problems(task) if task.name == "jsonl" else _sum_problems(task) + _unread(task)


def _unread(task: TaskConfig) -> list[str]:
    default = flat_fields(TaskConfig())
    return [
        f"task.{name}={value!r} is read by task 'jsonl' only; set task.name='jsonl' or leave it out"
        for name, value in flat_fields(task).items()
        if name not in (*_OF_SUMS, "name") and value != default[name]
    ]


def _sum_problems(task: TaskConfig) -> list[str]:
    allowed = "+-" if task.name == "digits" else "+-*"
    problems = []
    if not task.operators or len(set(task.operators)) < len(task.operators) or set(task.operators) - set(allowed):
        problems.append(f"task.operators={task.operators!r} must be different characters out of {allowed!r}")
    if task.operand_max < task.operand_min:
        problems.append(f"task.operand_max={task.operand_max} is below task.operand_min={task.operand_min}")
    if task.name == "digits" and task.operand_max > 99:
        problems.append(f"task.operand_max={task.operand_max}: task 'digits' has two-digit operands; use 99 or less")
    if task.operand_max > 9_999:
        problems.append(f"task.operand_max={task.operand_max} lists more than 10^8 problems; use 9999 or less")
    return problems


def _jsonl_problems(task: TaskConfig) -> list[str]:
    problems = []
    if not task.path:
        problems.append("task.path='' must name a file (.jsonl, .json or .parquet) or a data set OWNER/NAME of the Hub")
    if not task.rewards:
        problems.append("task.rewards=() must name a reward: 'exact' or 'module:function'")
    problems += [
        f"task.rewards has {reward!r}, which is neither 'exact' nor 'module:function'"
        for reward in task.rewards
        if reward != "exact" and not _FUNCTION.fullmatch(reward)
    ]
    if len(set(task.rewards)) < len(task.rewards):
        problems.append(f"task.rewards={task.rewards} names a reward twice; use task.reward_weights instead")
    if task.reward_weights and len(task.reward_weights) != len(task.rewards):
        problems.append(
            f"task.reward_weights={task.reward_weights} must have one weight for each of "
            f"task.rewards={task.rewards}, or be () for weights of 1"
        )
    return problems

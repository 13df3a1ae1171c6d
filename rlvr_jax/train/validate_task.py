"""What cannot work in the settings of a task."""

from rlvr_jax.tasks.rewards import reward_names, weight_per_reward
from rlvr_jax.train.config import TaskConfig, flat_fields

_OF_SUMS = ("operators", "operand_min", "operand_max")


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
    for check in (lambda: reward_names(task.rewards), lambda: weight_per_reward(task.rewards, task.reward_weights)):
        try:
            check()
        except ValueError as error:
            problems.append(str(error))
    return problems

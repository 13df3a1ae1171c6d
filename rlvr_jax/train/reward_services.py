"""The settings of the rewards that every task may name beside its own: judge and code."""

import dataclasses

from rlvr_jax.tasks.code_reward import CodeSettings, code_problems
from rlvr_jax.tasks.judge import JudgeSettings, judge_problems
from rlvr_jax.tasks.rewards import SERVICES
from rlvr_jax.train.cache_folder import cache_folder
from rlvr_jax.train.config import JudgeConfig, TaskConfig, flat_fields


def judge_settings(config: JudgeConfig) -> JudgeSettings:
    """What a config says of the judge, with the place of its cache."""
    folder = config.cache_folder or str(cache_folder() / "judge")
    return JudgeSettings(**dataclasses.asdict(config) | {"cache_folder": folder})


def service_problems(task: TaskConfig) -> list[str]:
    """What cannot work in the settings of the services, one line each."""
    default, problems = flat_fields(TaskConfig()), []
    for name, value in flat_fields(task).items():
        service = name.split(".")[0]
        if service in SERVICES and service not in task.rewards and value != default[name]:
            problems.append(
                f"task.{name} is set, but task.rewards={task.rewards} has no {service!r}; add it or leave that out"
            )
    if "judge" in task.rewards:
        problems += judge_problems(JudgeSettings(**dataclasses.asdict(task.judge)))
    if "code" in task.rewards:
        problems += code_problems(CodeSettings(**dataclasses.asdict(task.code)))
        if task.name != "jsonl":
            problems.append(
                f"the reward 'code' in task.rewards needs rows with tests, which task {task.name!r} has not; use "
                "task.name='jsonl'"
            )
    return problems

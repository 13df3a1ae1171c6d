"""The listed tasks that a config names: one, or those of task.mixture in the stages of task.stages."""

import dataclasses
import difflib
import math
from typing import NamedTuple

from rlvr_jax.train.config import ConfigError, TaskConfig

MIXTURE = "mixture"
FIELDS = {  # what each listed task reads of the config
    "arithmetic": ("operators", "operand_min", "operand_max", "n_problems"),
    "digits": ("operators", "operand_min", "operand_max", "n_problems"),
    "counting": ("operand_min", "operand_max", "n_problems"),
    "comparison": ("operand_min", "operand_max", "n_problems"),
    "binary": ("operand_min", "operand_max", "n_problems"),
}


class Part(NamedTuple):
    """A task in one stage."""

    words: str  # as the config names it
    task: TaskConfig
    weight: float


def listed_parts(task: TaskConfig) -> list[list[Part]]:
    """The parts of each stage: of the config as it is, then as its stage changes it, then as task.mixture does.

    Raises ConfigError with everything in task.mixture, task.mixture_weights, task.stages and task.stage_prompts that
    cannot be read.
    """
    problems = _counts_wrong(task)
    mixture = task.mixture if task.name == MIXTURE else ()
    weights = task.mixture_weights or (1.0,) * len(mixture)
    stages = []
    for s, stage_text in enumerate(task.stages or ("",)):
        found = _changes(stage_text.split(), f"task.stages[{s}]={stage_text!r}", problems)
        parts = []
        if task.name != MIXTURE:
            parts = [Part(stage_text or task.name, _changed(task, task.name, found), 1.0)]
        for m, (text, weight) in enumerate(zip(mixture, weights, strict=False)):
            where = f"task.mixture[{m}]={text!r}"
            name, *rest = text.split() or [""]
            if name not in FIELDS:
                nearest = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.0)[0]
                problems.append(f"{where} begins with no task that can be mixed ({', '.join(FIELDS)}); use {nearest!r}")
                continue
            own = _changes(rest, where, problems)
            for field in own.keys() - FIELDS[name]:
                problems.append(f"{where}: task {name!r} does not read {field}; leave it out")
            parts.append(Part(text, _changed(task, name, found | own), float(weight)))
        for field in found:
            if parts and not any(field in FIELDS[part.task.name] for part in parts):
                problems.append(f"task.stages[{s}]={stage_text!r}: nothing here reads {field}; leave it out")
        stages.append(parts)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # those of a mixture once, not for every stage
    return stages


def _counts_wrong(task: TaskConfig) -> list[str]:
    problems = []
    if task.name == MIXTURE and not task.mixture:
        problems.append(
            "task.mixture=() names no task to mix; give some, such as ('arithmetic operand_max=10', 'comparison')"
        )
    if task.name == MIXTURE and task.mixture_weights and len(task.mixture_weights) != len(task.mixture):
        problems.append(
            f"task.mixture_weights={task.mixture_weights} are {len(task.mixture_weights)} for the {len(task.mixture)} "
            "tasks of task.mixture; give one per task, or () for equal parts"
        )
    if not all(0 < weight < math.inf for weight in task.mixture_weights):
        problems.append(
            f"task.mixture_weights={task.mixture_weights} must all be finite and above 0; leave a task out instead"
        )
    n_lasting = max(len(task.stages) - 1, 0)
    if len(task.stage_prompts) != n_lasting:
        problems.append(
            f"task.stage_prompts={task.stage_prompts} must say how long each of the {len(task.stages)} stages of "
            f"task.stages but the last takes, in prompts: give {n_lasting} number(s)"
        )
    if not all(n > 0 for n in task.stage_prompts):
        problems.append(f"task.stage_prompts={task.stage_prompts} must all be at least 1")
    return problems


def _changes(words: list[str], where: str, problems: list[str]) -> dict[str, int | str]:
    """FIELD=VALUE words with the fields' types; what cannot be read is added to `problems`."""
    known = {name for fields in FIELDS.values() for name in fields}
    types = {field.name: type(field.default) for field in dataclasses.fields(TaskConfig) if field.name in known}
    found: dict[str, int | str] = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals:
            problems.append(f"{where}: {word!r} is no FIELD=VALUE, such as operand_max=10")
        elif field not in types:
            nearest = difflib.get_close_matches(field, sorted(types), n=1, cutoff=0.0)[0]
            problems.append(f"{where}: {field!r} is no field that it can change; did you mean {nearest}?")
        elif field in found:
            problems.append(f"{where} sets {field} twice; keep one")
        elif types[field] is int and not text.isdecimal():
            problems.append(f"{where}: {field}={text} must be a whole number, such as {field}=10")
        else:
            found[field] = types[field](text)
    return found


def _changed(task: TaskConfig, name: str, changes: dict[str, int | str]) -> TaskConfig:
    """Only what the task `name` reads: as in `task`, but for the changes."""
    return TaskConfig(name=name, **{field: changes.get(field, getattr(task, field)) for field in FIELDS[name]})

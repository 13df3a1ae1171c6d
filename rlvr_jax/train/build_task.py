"""From the settings of a task to the task."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from rlvr_jax.tasks.answer_checker import AnswerChecker
from rlvr_jax.tasks.answer_task import AnswerTask
from rlvr_jax.tasks.arithmetic import DigitArithmetic, SentenceArithmetic
from rlvr_jax.tasks.code_reward import CodeSettings
from rlvr_jax.tasks.jsonl import JsonlTask
from rlvr_jax.tasks.listed_task import ONLY_CORRECT, ListedTask
from rlvr_jax.tasks.mixture import Component, Mixture
from rlvr_jax.tasks.number_tasks import Binary, Comparison, Counting
from rlvr_jax.tasks.problem import Task
from rlvr_jax.tasks.question_rows import DATA_SETS
from rlvr_jax.tasks.rewards import RewardSettings
from rlvr_jax.tasks.row_problems import RowPolicy
from rlvr_jax.tasks.wordle import Wordle
from rlvr_jax.train.config import ConfigError, TaskConfig, flat_fields
from rlvr_jax.train.listed_parts import FIELDS, MIXTURE, listed_parts
from rlvr_jax.train.reward_services import judge_settings

N_KEPT = 4  # tasks; all points of a study share one

_built: dict[tuple[tuple[str, Any], ...], Task] = {}  # by settings, the latest last


def build_task(config: TaskConfig) -> Task:
    """The task a config names. Raises ConfigError when its data or its rewards cannot be used."""
    settings = tuple(flat_fields(config).items())
    if settings not in _built:
        try:
            _built[settings] = _BUILDERS[config.name](copy.deepcopy(config))
        except ValueError as error:
            raise ConfigError([f"task {config.name!r}: {error}"]) from error
        if len(_built) > N_KEPT:
            del _built[next(iter(_built))]
    return _built[settings]


def _listed(config: TaskConfig) -> Task:
    rewards = reward_settings(config)
    if not config.mixture and not config.stages:
        return _listed_task(config, rewards)
    stages = [
        [Component(part.words, _listed_task(part.task, ONLY_CORRECT), part.weight) for part in parts]
        for parts in listed_parts(config)
    ]
    return Mixture(config.name, stages, stage_prompts=config.stage_prompts, rewards=rewards)


def _listed_task(config: TaskConfig, rewards: RewardSettings) -> ListedTask:
    return _LISTED[config.name](**{name: getattr(config, name) for name in FIELDS[config.name]}, rewards=rewards)


def _jsonl(config: TaskConfig) -> Task:
    return JsonlTask(
        path=config.path,
        heldout_path=config.heldout_path,
        template=config.template,
        answer_field=config.answer_field,
        demonstration_field=config.demonstration_field,
        row_policy=row_policy(config),
        rewards=reward_settings(config),
    )


def _questions(config: TaskConfig) -> Task:
    data_set = DATA_SETS[config.name]
    return AnswerTask(
        data_set,
        path=config.path,
        heldout_path=config.heldout_path,
        template=config.template,
        levels=config.levels,
        subjects=config.subjects,
        row_policy=row_policy(config),
        rewards=reward_settings(config),
        checker=AnswerChecker(
            data_set.checker,
            policy=config.answer_policy,
            limit_s=config.answer_limit_s,
            n_processes=config.answer_workers,
        ),
    )


def row_policy(config: TaskConfig) -> RowPolicy:
    """What becomes of rows that are not as they should be."""
    return RowPolicy(config.bad_rows, config.repeated_prompts, config.overlap)


def _wordle(config: TaskConfig) -> Task:
    return Wordle(
        words=config.words,
        allowed_words=config.allowed_words,
        n_words=config.n_words,
        n_turns=config.n_turns,
        n_clues=config.n_clues,
        guess_style=config.guess_style,
        rewards=reward_settings(config),
    )


def reward_settings(config: TaskConfig) -> RewardSettings:
    """The rewards that a config names."""
    return RewardSettings(
        names=config.rewards,
        weights=config.reward_weights,
        correct_at=config.correct_at,
        limit_s=config.reward_limit_s,
        n_processes=config.reward_workers,
        judge=judge_settings(config.judge),
        code=CodeSettings(**dataclasses.asdict(config.code)),
    )


_LISTED: dict[str, type[ListedTask]] = {
    kind.name: kind for kind in (SentenceArithmetic, DigitArithmetic, Counting, Comparison, Binary)
}
_BUILDERS: dict[str, Callable[[TaskConfig], Task]] = {
    **dict.fromkeys((*_LISTED, MIXTURE), _listed),
    "jsonl": _jsonl,
    **dict.fromkeys(DATA_SETS, _questions),
    "wordle": _wordle,
}

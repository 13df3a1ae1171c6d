"""From a validated config to the objects a run works with."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.models.lora import LoraSpec
from rlvr_jax.models.spec import ModelSpec, parameter_count
from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.tasks.arithmetic import DigitArithmetic, SentenceArithmetic
from rlvr_jax.tasks.jsonl import JsonlTask
from rlvr_jax.tasks.problem import Task
from rlvr_jax.train.batch_plan import BatchPlan, batch_plan
from rlvr_jax.train.config import ConfigError, ModelConfig, TaskConfig, TrainConfig
from rlvr_jax.train.placement import build_mesh
from rlvr_jax.train.validate import validate


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of before it has any weights."""

    task: Task
    tokenizer: CharTokenizer
    spec: ModelSpec
    mesh: Mesh
    plan: BatchPlan
    compute_dtype: jnp.dtype
    lora: LoraSpec | None  # None: all weights are trained


def assemble(config: TrainConfig) -> Parts:
    """Validates the config against itself, the data and the devices. Raises ConfigError with every problem."""
    validate(config)
    task, tokenizer, mesh = build_task(config.task), CharTokenizer(), build_mesh(data=config.placement.data)
    if config.warmstart.enabled and task.fingerprint:  # of a file, which may hold anything
        _check_demonstrations(task, tokenizer)
    spec = model_spec(config.model, vocab_size=tokenizer.vocab_size)
    plan = batch_plan(
        config,
        n_train=task.n_train,
        n_heldout=task.n_heldout,
        longest_prompt_tokens=longest_prompt_tokens(task, tokenizer),
        # and EOS; the built-in tokenizer has one token per character
        longest_completion_tokens=1 + (task.longest_demonstration if config.warmstart.enabled else task.longest_answer),
        n_devices=mesh.shape["data"],
        n_parameters=parameter_count(spec),
    )
    return Parts(task, tokenizer, spec, mesh, plan, jnp.dtype(config.model.compute_dtype), lora=None)


def build_task(config: TaskConfig) -> Task:
    """The task a config names. Raises ConfigError when its data or its rewards cannot be used."""
    try:
        return _task(dataclasses.astuple(config))
    except ValueError as error:
        raise ConfigError([f"task {config.name!r}: {error}"]) from error


@functools.lru_cache(maxsize=4)  # all points of a study share one
def _task(values: tuple) -> Task:
    config = TaskConfig(*values)
    if config.name == "jsonl":
        names = [name for name in inspect.signature(JsonlTask).parameters if name != "self"]
        return JsonlTask(**{name: getattr(config, name) for name in names})
    kind = {"arithmetic": SentenceArithmetic, "digits": DigitArithmetic}[config.name]
    return kind(operators=config.operators, operand_min=config.operand_min, operand_max=config.operand_max)


def model_spec(config: ModelConfig, *, vocab_size: int) -> ModelSpec:
    """The sizes of the model a config names."""
    return ModelSpec(
        vocab_size=vocab_size,
        width=config.width,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_width=config.width // config.n_heads,
        mlp_width=config.mlp_width,
        rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
        has_tied_head=config.has_tied_head,
        has_attention_bias=config.has_attention_bias,
        qk_norm=config.qk_norm,
        has_post_norm=config.has_post_norm,
    )


def longest_prompt_tokens(task: Task, tokenizer: CharTokenizer) -> int:
    """Over all problems of the task, held-out ones included. Raises ConfigError at one that has no tokens."""
    problems = [task.train_problem(i) for i in range(task.n_train)]
    problems += [task.heldout_problem(i) for i in range(task.n_heldout)]
    try:
        return max(len(tokenizer.encode_prompt(text)) for text in {problem.prompt for problem in problems})
    except ValueError as error:
        raise ConfigError([f"task {task.name!r}: {error}"]) from error


def _check_demonstrations(task: Task, tokenizer: CharTokenizer) -> None:
    """Raises ConfigError if there is none to imitate, or one that has no tokens."""
    rng = np.random.default_rng(0)  # right demonstrations draw nothing from it that matters
    try:
        for i in range(task.n_train):
            tokenizer.encode_completion(task.demonstration(task.train_problem(i), rng, p_correct=1.0))
    except ValueError as error:
        raise ConfigError([f"task {task.name!r}, warm start: {error}"]) from error


def root_key(seed: int, purpose: str) -> jax.Array:
    """The key everything random of one purpose is folded from."""
    return jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))


_PURPOSES = ("parameters", "rollouts", "evaluation", "noise")  # append only: the order is part of every result

"""From a validated config to the objects a run works with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.models.hf_config import HfModel
from rlvr_jax.models.lora import LoraSpec, lora_table, trained_table
from rlvr_jax.models.spec import ModelSpec, parameter_count, value_count
from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.tasks.problem import Task
from rlvr_jax.tasks.schedule import schedule_of
from rlvr_jax.train.batch_plan import BatchPlan, batch_plan
from rlvr_jax.train.build_task import build_task
from rlvr_jax.train.config import ConfigError, LoraConfig, ModelConfig, SourceError, TrainConfig
from rlvr_jax.train.long_prompts import used_problems
from rlvr_jax.train.memory_plan import MemoryPlan, PlannedModel, prompts_at_once, within_memory
from rlvr_jax.train.named_model import named_tokenizer, published_model
from rlvr_jax.train.placement import Layout, build_mesh, n_batch_shards, parameter_layout
from rlvr_jax.train.stage_plan import stage_plans, stage_problems
from rlvr_jax.train.turn_budget import turn_tokens
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_lora import lora_fit_problems
from rlvr_jax.train.validate_model import tokenizer_problems


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of before it has any weights."""

    task: Task  # without the problems that are left out
    tokenizer: Tokenizer
    spec: ModelSpec
    mesh: Mesh
    plan: BatchPlan
    memory: MemoryPlan
    compute_dtype: jnp.dtype
    lora: LoraSpec | None  # None: all weights are trained
    hf_model: HfModel | None  # None: the built-in model
    turn_tokens: int  # the most that the policy writes at a time, EOS included

    @property
    def layout(self) -> Layout:
        """Where the parameters lie on the mesh."""
        return parameter_layout(self.mesh, self.spec, self.lora)

    def prompts_at_once(self, n_prompts: int, n_rollouts: int) -> int:
        """How many of so many prompts are sampled at a time."""
        return prompts_at_once(
            n_prompts,
            n_rollouts=n_rollouts,
            rollouts_at_once=self.memory.rollouts_at_once,
            n_shards=n_batch_shards(self.mesh),
        )


def assemble(config: TrainConfig) -> Parts:
    """Validates the config against itself, the data and the devices. Raises ConfigError with every problem."""
    validate(config)
    mesh = build_mesh(config.placement)
    try:
        whole_task = build_task(config.task)
        hf_model = published_model(config.model)  # first: the tokenizer is read by its config.json, too
        tokenizer = named_tokenizer(config.model)
    except ConfigError as error:
        raise SourceError(error.problems) from error
    spec = hf_model.spec if hf_model else model_spec(config.model, vocab_size=tokenizer.vocab_size)
    sizes = {"vocab_size": spec.vocab_size, "tokenizer_vocab_size": tokenizer.vocab_size}
    if problems := tokenizer_problems(config.model, **sizes):
        raise ConfigError(problems)
    task, prompt_length_N = used_problems(whole_task, tokenizer, config.sampling)
    lora = lora_spec(config.lora, spec)
    longest_tokens = longest_completion_tokens(whole_task, tokenizer, is_demonstration=config.warmstart.enabled)
    tokens_of_turn = turn_tokens(config, task, tokenizer, longest_turn_tokens=longest_tokens)
    plan = batch_plan(
        config,
        n_train=task.n_train,
        n_heldout=task.n_heldout,
        n_left_out=(whole_task.n_train - task.n_train, whole_task.n_heldout - task.n_heldout),
        n_long_prompts=int((prompt_length_N > (config.sampling.max_prompt_tokens or np.inf)).sum()),
        longest_prompt_tokens=int(prompt_length_N.max()),
        longest_completion_tokens=longest_tokens,
        max_positions=hf_model.max_positions if hf_model else None,
        n_devices=mesh.size,
        n_parameters=parameter_count(spec) + (value_count(lora_table(spec, lora)) if lora else 0),
        n_trained_parameters=value_count(trained_table(spec, lora)),
    )
    stages = stage_plans(schedule_of(task), total_prompts=plan.total_prompts)
    if problems := stage_problems(stages, n_prompts=plan.n_prompts):
        raise ConfigError(problems)
    plan = dataclasses.replace(plan, stages=stages)
    compute_dtype = jnp.dtype(config.model.compute_dtype)
    plan, memory = within_memory(config, plan, PlannedModel(spec, lora, mesh, compute_dtype))
    return Parts(task, tokenizer, spec, mesh, plan, memory, compute_dtype, lora, hf_model, tokens_of_turn)


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


def lora_spec(config: LoraConfig, spec: ModelSpec) -> LoraSpec | None:
    """The adapter that a config names, if any. Raises ConfigError if the model has no room for it."""
    if problems := lora_fit_problems(config, spec):
        raise ConfigError(problems)
    return LoraSpec(config.rank, config.alpha, config.targets) if config.enabled else None


@functools.lru_cache(maxsize=4)  # all points of a study share task and tokenizer
def longest_completion_tokens(task: Task, tokenizer: Tokenizer, *, is_demonstration: bool) -> int:
    """Of a gold answer or of a demonstration, EOS included. Raises ConfigError at one that has no tokens."""
    if not is_demonstration:
        problems = [task.train_problem(i) for i in range(task.n_train)]
        problems += [task.heldout_problem(i) for i in range(task.n_heldout)]
        try:
            return max(tokenizer.completion_lengths(sorted({problem.answer for problem in problems})))
        except ValueError as error:
            raise ConfigError([f"task {task.name!r}, answers: {error}"]) from error
    if not task.fingerprint:  # drawn when needed, in ASCII, of which a token holds a character or more
        return 1 + task.longest_demonstration
    rng = np.random.default_rng(0)  # right demonstrations draw nothing from it that matters
    try:
        texts = {task.demonstration(task.train_problem(i), rng, p_correct=1.0) for i in range(task.n_train)}
        return max(len(tokenizer.encode_completion(text)) for text in texts)
    except ValueError as error:
        raise ConfigError([f"task {task.name!r}, warm start: {error}"]) from error


def root_key(seed: int, purpose: str) -> jax.Array:
    """The key everything random of one purpose is folded from."""
    return jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))


# append only: the order is part of every result
_PURPOSES = ("parameters", "rollouts", "evaluation", "noise", "adapter")

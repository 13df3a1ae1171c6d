"""Rollouts of a task's problems, of one turn or of several: the one way in which the policy is sampled."""

from collections.abc import Sequence

import jax

from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Rollouts, Sampler, build_sampler
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.tasks.turns import max_turns
from rlvr_jax.train.assemble import Parts
from rlvr_jax.train.config import SamplingConfig
from rlvr_jax.train.converse import converse
from rlvr_jax.train.sample_prompts import sample_prompts


def build_policy_sampler(parts: Parts, sampling: SamplingConfig, *, n_rollouts: int, temperature: float) -> Sampler:
    """What `draw_rollouts` draws with: all rollouts of prompts, or one turn of a rollout."""
    has_turns = max_turns(parts.task) > 1
    return build_sampler(
        parts.spec,
        n_rollouts=1 if has_turns else n_rollouts,
        max_new_tokens=parts.turn_tokens if has_turns else sampling.max_new_tokens,
        bucket_tokens=sampling.bucket_tokens,
        temperature=temperature,
        eos_ids=parts.tokenizer.eos_ids,
        pad_id=parts.tokenizer.pad_id,
        compute_dtype=parts.compute_dtype,
        placement=parts.layout.of_sampler,
    )


def draw_rollouts(
    sampler: Sampler,
    params: Params,
    problems: Sequence[Problem],
    counters: range,
    root_key: jax.Array,
    parts: Parts,
    sampling: SamplingConfig,
    *,
    n_rollouts: int,
) -> Rollouts:
    """Rollouts [P, R]; of one turn they may still be on their way on the device, of several they are on the host.

    Args:
        counters: numbers of the prompts in the run, which with the rollouts' name the keys.
    """
    widths = {"max_prompt_tokens": parts.plan.max_prompt_tokens, "bucket_tokens": sampling.bucket_tokens}
    if max_turns(parts.task) == 1:
        return sample_prompts(
            sampler,
            params,
            problems,
            counters,
            root_key,
            parts.tokenizer,
            parts.mesh,
            prompts_at_once=parts.prompts_at_once(len(problems), n_rollouts),
            **widths,
        )
    return converse(
        sampler,
        params,
        parts.task,
        problems,
        counters,
        root_key,
        parts.tokenizer,
        parts.mesh,
        n_rollouts=n_rollouts,
        max_new_tokens=sampling.max_new_tokens,
        rows_at_once=parts.prompts_at_once(len(problems) * n_rollouts, 1),
        **widths,
    )

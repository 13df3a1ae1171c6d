"""Rollouts of prompts, as many prompts at a time as memory has room for."""

import jax
import numpy as np
from jax.sharding import Mesh

from rlvr_jax.models.spec import Params
from rlvr_jax.models.tokenizer import Tokenizer
from rlvr_jax.sampling.padding import bucket_widths, pad_right
from rlvr_jax.sampling.rollout import Rollouts, Sampler
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.train.placement import place_batch
from rlvr_jax.train.processes import on_host


def sample_prompts(
    sampler: Sampler,
    params: Params,
    problems: list[Problem],
    counters: range,
    root_key: jax.Array,
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    max_prompt_tokens: int,
    bucket_tokens: int,
    prompts_at_once: int,
) -> Rollouts:
    """Dispatches the sampler on arrays of the narrowest bucket width that holds the prompts.

    With fewer at once than there are it waits for each part, and the result is on the host. What is drawn does not
    depend on the parts: a rollout's key names its prompt's number in the run.
    """
    prompts = tokenizer.encode_prompts([problem.prompt for problem in problems])
    longest = min(max(map(len, prompts)), max_prompt_tokens)
    width = next(w for w in bucket_widths(max_prompt_tokens, first=bucket_tokens) if w >= longest)
    prompt_PS, length_P = pad_right(prompts, width=width, pad_id=tokenizer.pad_id)
    counter_P = np.array(counters, np.int32)

    def drawn(row_P: np.ndarray) -> Rollouts:
        part = (prompt_PS[row_P], length_P[row_P], counter_P[row_P])
        return sampler(params, *place_batch(part, mesh, axis=0), root_key)

    P, row_P = len(prompts), np.arange(len(prompts))
    if prompts_at_once >= P:
        return drawn(row_P)
    # the last part has the shape of the others, so that one program serves all; what fills it up is drawn in vain
    parts = [on_host(drawn((row_P[:prompts_at_once] + first) % P)) for first in range(0, P, prompts_at_once)]
    return joined_rollouts(parts, n_prompts=P, pad_id=tokenizer.pad_id)


def joined_rollouts(parts: list[Rollouts], *, n_prompts: int, pad_id: int) -> Rollouts:
    """The first `n_prompts` prompts of all parts, numpy arrays as wide as the widest part's."""
    width = max(part.completion_PRT.shape[2] for part in parts)

    def joined(name: str, *, fill: float | None = None) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        if fill is not None:
            wider = [((0, 0), (0, 0), (0, width - array.shape[2])) for array in arrays]
            arrays = [np.pad(array, pad, constant_values=fill) for array, pad in zip(arrays, wider, strict=True)]
        return np.concatenate(arrays)[:n_prompts]

    return Rollouts(
        prompt_PS=joined("prompt_PS"),
        prompt_length_P=joined("prompt_length_P"),
        completion_PRT=joined("completion_PRT", fill=pad_id),
        completion_length_PR=joined("completion_length_PR"),
        is_truncated_PR=joined("is_truncated_PR"),
        behavior_logprob_PRT=joined("behavior_logprob_PRT", fill=0.0),
        n_decode_steps=np.sum([part.n_decode_steps for part in parts], dtype=np.int32),
    )

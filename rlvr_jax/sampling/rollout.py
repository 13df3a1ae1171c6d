"""Rollouts of a batch of prompts, as arrays [P, R, T]."""

from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp

from rlvr_jax.models import transformer
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.choose_token import rollout_keys
from rlvr_jax.sampling.decode import decode


@flax.struct.dataclass
class Rollouts:
    """R completions of each of P prompts."""

    prompt_PS: jax.Array  # int32[P, S], padded on the right
    prompt_length_P: jax.Array  # int32[P] tokens
    completion_PRT: jax.Array  # int32[P, R, T], pads after the end
    completion_length_PR: jax.Array  # int32[P, R] tokens, EOS included
    is_truncated_PR: jax.Array  # bool[P, R], true where max_new_tokens came before EOS
    behavior_logprob_PRT: jax.Array  # f32[P, R, T] nats, at the sampling temperature; 0 at pads
    n_decode_steps: jax.Array  # int32, how often the decode loop ran


Sampler = Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], Rollouts]


def build_sampler(
    spec: ModelSpec,
    *,
    n_rollouts: int,
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    compute_dtype: jnp.dtype,
) -> Sampler:
    """Returns jitted `sample(params, prompt_PS, prompt_length_P, prompt_counter_P, root_key) -> Rollouts`.

    `prompt_counter_P` names the prompts in the order of the whole run. The key of a rollout is
    fold_in(fold_in(root_key, prompt counter), rollout index), of a token fold_in(that, position).
    The root key is an argument, not a constant, so that all seeds run one compiled program.
    """

    @jax.jit
    def sample(
        params: Params,
        prompt_PS: jax.Array,
        prompt_length_P: jax.Array,
        prompt_counter_P: jax.Array,
        root_key: jax.Array,
    ) -> Rollouts:
        chex.assert_rank([prompt_PS, prompt_length_P, prompt_counter_P], [2, 1, 1])
        P = prompt_PS.shape[0]
        done = decode(
            transformer.cast_params(params, compute_dtype),
            spec,
            prompt_PS,
            prompt_length_P,
            rollout_keys(root_key, prompt_counter_P, n_rollouts=n_rollouts),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            eos_id=eos_id,
            pad_id=pad_id,
        )
        return Rollouts(
            prompt_PS=prompt_PS,
            prompt_length_P=prompt_length_P,
            completion_PRT=done.completion_NT.reshape(P, n_rollouts, max_new_tokens),
            completion_length_PR=done.length_N.reshape(P, n_rollouts),
            is_truncated_PR=done.is_truncated_N.reshape(P, n_rollouts),
            behavior_logprob_PRT=done.behavior_logprob_NT.reshape(P, n_rollouts, max_new_tokens),
            n_decode_steps=done.n_decode_steps,
        )

    return sample

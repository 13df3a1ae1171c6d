"""Rollouts of a batch of prompts, as arrays [P, R, T]."""

from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp

from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.decode import SamplerPlacement, build_decoder
from rlvr_jax.sampling.padding import bucket_widths


@flax.struct.dataclass
class Rollouts:
    """R completions of each of P prompts. T is a bucket width that holds the longest of them."""

    prompt_PS: jax.Array  # int32[P, S], padded on the right
    prompt_length_P: jax.Array  # int32[P] tokens
    completion_PRT: jax.Array  # int32[P, R, T], pads after the end
    completion_length_PR: jax.Array  # int32[P, R] tokens, EOS included
    is_truncated_PR: jax.Array  # bool[P, R], true where max_new_tokens came before EOS
    behavior_logprob_PRT: jax.Array  # f32[P, R, T] nats, at the sampling temperature; 0 at pads
    n_decode_steps: jax.Array  # int32, how often the decode loop ran
    # bool[P, R, T], true at tokens of the policy's where others stand between them; None: all of them are its own.
    # With several turns the lengths count every token, and "EOS" and "the end" are those of the last turn
    is_action_PRT: jax.Array | None = None

    @property
    def own_length_PR(self) -> jax.Array:
        """int32[P, R], tokens that the policy wrote."""
        return self.completion_length_PR if self.is_action_PRT is None else self.is_action_PRT.sum(axis=2)


Sampler = Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], Rollouts]


def build_sampler(
    spec: ModelSpec,
    *,
    n_rollouts: int,
    max_new_tokens: int,
    bucket_tokens: int,
    temperature: float,
    eos_ids: tuple[int, ...],
    pad_id: int,
    compute_dtype: jnp.dtype,
    placement: SamplerPlacement | None = None,
) -> Sampler:
    """Returns `sample(params, prompt_PS, prompt_length_P, prompt_counter_P, root_key) -> Rollouts`.

    `prompt_counter_P` names the prompts in the order of the whole run. The key of a rollout is
    fold_in(fold_in(root_key, prompt counter), rollout index), of a token fold_in(that, position).
    The root key is an argument, not a constant, so that all seeds run one compiled program. There may be one per
    prompt, keys [P].
    With max_new_tokens <= bucket_tokens the call returns at once, as any jitted function; else it
    waits at the end of each width for the news whether a rollout goes on.

    Args:
        bucket_tokens: the arrays start with room for so many tokens per rollout and double as needed.
        temperature: 0 is greedy.
        eos_ids: each of them ends a rollout, as its last token; (): none does.
        placement: None on one device.
    """
    widths = bucket_widths(max_new_tokens, first=bucket_tokens)
    decoder = build_decoder(
        spec,
        n_rollouts=n_rollouts,
        widths=widths,
        temperature=temperature,
        eos_ids=eos_ids,
        pad_id=pad_id,
        compute_dtype=compute_dtype,
        placement=placement,
    )

    def sample(
        params: Params,
        prompt_PS: jax.Array,
        prompt_length_P: jax.Array,
        prompt_counter_P: jax.Array,
        root_key: jax.Array,
    ) -> Rollouts:
        chex.assert_rank([prompt_PS, prompt_length_P, prompt_counter_P], [2, 1, 1])
        context, done = decoder.start(params, prompt_PS, prompt_length_P, prompt_counter_P, root_key)
        for _ in widths[1:]:
            if done.are_all_ended:  # waits for the device
                break
            context, done = decoder.go_on(context, done)
        return Rollouts(
            prompt_PS=prompt_PS,
            prompt_length_P=prompt_length_P,
            completion_PRT=done.completion_PRC,
            completion_length_PR=done.length_PR,
            is_truncated_PR=~done.is_ended_PR,
            behavior_logprob_PRT=done.behavior_logprob_PRC,
            n_decode_steps=done.position - 1,
        )

    return sample

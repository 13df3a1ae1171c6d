"""Token by token, with a key-value cache, until every rollout has ended.

The prompt is prefilled once per prompt and its keys and values are then repeated for the
rollouts. `decode` is the one place that knows this: a decoder that keeps one shared copy of
the prompt replaces it behind the same signature.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.models import transformer
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.choose_token import choose_token


class Completions(NamedTuple):
    """What a decoder returns for N = P * R rows."""

    completion_NT: jax.Array  # int32, pads after the end
    behavior_logprob_NT: jax.Array  # f32 nats, under the distribution drawn from; 0 at pads
    length_N: jax.Array  # int32 tokens, EOS included
    is_truncated_N: jax.Array  # bool, true where max_new_tokens came before EOS
    n_decode_steps: jax.Array  # int32, how often the loop ran


class _Loop(NamedTuple):
    position: jax.Array  # index of the completion token to be chosen next
    last_token_N: jax.Array
    is_ended_N: jax.Array
    caches: list[transformer.LayerCache]
    completion_NT: jax.Array
    behavior_logprob_NT: jax.Array
    length_N: jax.Array


def decode(
    params: Params,
    spec: ModelSpec,
    prompt_PS: jax.Array,
    prompt_length_P: jax.Array,
    key_PR: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
) -> Completions:
    """R completions of each prompt; stops as soon as all have ended.

    Args:
        prompt_PS: int32[P, S], padded on the right.
        prompt_length_P: int32[P], 1..S tokens.
        key_PR: one key per rollout.
        max_new_tokens: at least 1; the last of them may be EOS.
    """
    P, S = prompt_PS.shape
    R = key_PR.shape[1]
    layers = transformer.layer_weights(params, spec)
    state_PSD, prompt_caches = transformer.prefill(params, layers, spec, prompt_PS)
    # -1: the state at the last prompt token predicts the first completion token
    last_state_PD = jnp.take_along_axis(state_PSD, (prompt_length_P - 1)[:, None, None], axis=1)[:, 0]
    first_logits_PV = transformer.vocab_logits(params, spec, last_state_PD)

    key_N = key_PR.reshape(P * R)
    prompt_length_N = jnp.repeat(prompt_length_P, R)
    slot_1S = jnp.arange(S + max_new_tokens)[None]
    is_prompt_slot_NS = slot_1S < prompt_length_N[:, None]

    def choose(logits_NV: jax.Array, loop: _Loop, caches: list[transformer.LayerCache]) -> _Loop:
        """Appends the token at loop.position to every rollout that has not ended."""
        t = loop.position
        token_N, logprob_N = choose_token(key_N, logits_NV, position=t, temperature=temperature)
        token_N = jnp.where(loop.is_ended_N, pad_id, token_N)
        return _Loop(
            position=t + 1,
            last_token_N=token_N,
            is_ended_N=loop.is_ended_N | (token_N == eos_id),
            caches=caches,
            completion_NT=jax.lax.dynamic_update_slice_in_dim(loop.completion_NT, token_N[:, None], t, axis=1),
            behavior_logprob_NT=jax.lax.dynamic_update_slice_in_dim(
                loop.behavior_logprob_NT, jnp.where(loop.is_ended_N, 0.0, logprob_N)[:, None], t, axis=1
            ),
            length_N=loop.length_N + ~loop.is_ended_N,
        )

    def advance(loop: _Loop) -> _Loop:
        """Feeds the last token, whose place is position - 1, and chooses the next one."""
        slot = S + loop.position - 1
        is_visible_NS = is_prompt_slot_NS | ((slot_1S >= S) & (slot_1S <= slot))
        state_ND, caches = transformer.decode_step(
            params,
            layers,
            spec,
            loop.caches,
            loop.last_token_N,
            position_N=prompt_length_N + loop.position - 1,
            slot=slot,
            is_visible_NS=is_visible_NS,
        )
        return choose(transformer.vocab_logits(params, spec, state_ND), loop, caches)

    empty = _Loop(
        position=jnp.int32(0),
        last_token_N=jnp.full(P * R, pad_id, jnp.int32),
        is_ended_N=jnp.zeros(P * R, bool),
        caches=[],
        completion_NT=jnp.full((P * R, max_new_tokens), pad_id, jnp.int32),
        behavior_logprob_NT=jnp.zeros((P * R, max_new_tokens), jnp.float32),
        length_N=jnp.zeros(P * R, jnp.int32),
    )
    caches = [
        jax.tree.map(lambda x_PSGK: _room_for_completions(x_PSGK, R, max_new_tokens), cache) for cache in prompt_caches
    ]
    first = choose(jnp.repeat(first_logits_PV, R, axis=0), empty, caches)
    end = jax.lax.while_loop(lambda loop: (loop.position < max_new_tokens) & ~jnp.all(loop.is_ended_N), advance, first)
    return Completions(end.completion_NT, end.behavior_logprob_NT, end.length_N, ~end.is_ended_N, end.position - 1)


def _room_for_completions(prompt_PSGK: jax.Array, n_rollouts: int, max_new_tokens: int) -> jax.Array:
    """[P * R, S + max_new_tokens, G, K]: the prompt's slots for each of its rollouts, then empty ones."""
    return jnp.pad(jnp.repeat(prompt_PSGK, n_rollouts, axis=0), ((0, 0), (0, max_new_tokens), (0, 0), (0, 0)))

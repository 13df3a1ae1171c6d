"""The plain way to decode, to compare with: every rollout has its own copy of the prompt's keys and values.

One cache of prompt and completion slots per rollout, of full length from the start, and one softmax over it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.models import transformer
from rlvr_jax.models.attention import grouped_query_attention
from rlvr_jax.models.layers import rms_norm
from rlvr_jax.models.rope import rotary_angles
from rlvr_jax.sampling.choose_token import choose_token, rollout_keys
from rlvr_jax.sampling.rollout import Rollouts


class _Loop(NamedTuple):
    position: jax.Array
    last_token_N: jax.Array
    is_ended_N: jax.Array
    caches: list
    completion_NT: jax.Array
    behavior_logprob_NT: jax.Array
    length_N: jax.Array


def build_simple_sampler(spec, *, n_rollouts, max_new_tokens, temperature, eos_ids, pad_id, compute_dtype):
    """Returns a jitted function with the signature and result of `build_sampler`'s."""

    @jax.jit
    def sample(params, prompt_PS, prompt_length_P, prompt_counter_P, root_key):
        P, S = prompt_PS.shape
        N = P * n_rollouts
        params = transformer.cast_params(params, compute_dtype)
        layers = transformer.layer_weights(params, spec)
        hidden_PSD, prompt_caches = transformer.prefill(params, layers, spec, prompt_PS)
        last_PD = jnp.take_along_axis(hidden_PSD, (prompt_length_P - 1)[:, None, None], axis=1)[:, 0]
        logits_PV = transformer.vocab_logits(params, spec, last_PD)
        key_N = rollout_keys(root_key, prompt_counter_P, n_rollouts=n_rollouts).reshape(N)
        prompt_length_N = jnp.repeat(prompt_length_P, n_rollouts)
        slot_1S = jnp.arange(S + max_new_tokens)[None]
        is_prompt_slot_NS = slot_1S < prompt_length_N[:, None]

        def choose(logits_NV, loop, caches):
            t = loop.position
            token_N, logprob_N = choose_token(key_N, logits_NV, position=t, temperature=temperature)
            token_N = jnp.where(loop.is_ended_N, pad_id, token_N)
            logprob_N = jnp.where(loop.is_ended_N, 0.0, logprob_N)
            return _Loop(
                t + 1,
                token_N,
                jnp.isin(token_N, jnp.array(eos_ids, jnp.int32)) | loop.is_ended_N,
                caches,
                loop.completion_NT.at[:, t].set(token_N),
                loop.behavior_logprob_NT.at[:, t].set(logprob_N),
                loop.length_N + ~loop.is_ended_N,
            )

        def advance(loop):
            slot = S + loop.position - 1
            is_visible_NS = is_prompt_slot_NS | ((slot_1S >= S) & (slot_1S <= slot))
            position_N1 = (prompt_length_N + loop.position - 1)[:, None]
            angles = rotary_angles(
                position_N1, head_width=spec.head_width, theta=spec.rope_theta, scaling=spec.rope_scaling
            )
            x_N1D, caches = params["embedding"][loop.last_token_N][:, None], []
            for weights, (key_NSGK, value_NSGK) in zip(layers, loop.caches, strict=True):
                query, key, value = transformer._query_key_value(weights, spec, x_N1D, angles)
                key_NSGK = jax.lax.dynamic_update_slice_in_dim(key_NSGK, key, slot, axis=1)
                value_NSGK = jax.lax.dynamic_update_slice_in_dim(value_NSGK, value, slot, axis=1)
                attended = grouped_query_attention(
                    query, key_NSGK, value_NSGK, is_visible=is_visible_NS[:, None, None, None]
                )
                x_N1D = transformer._finish_block(weights, spec, x_N1D, attended)
                caches.append((key_NSGK, value_NSGK))
            hidden_ND = rms_norm(x_N1D[:, 0], params["final_norm"], eps=spec.norm_eps)
            return choose(transformer.vocab_logits(params, spec, hidden_ND), loop, caches)

        def room(prompt_PSGK):
            return jnp.pad(jnp.repeat(prompt_PSGK, n_rollouts, axis=0), ((0, 0), (0, max_new_tokens), (0, 0), (0, 0)))

        empty = _Loop(
            jnp.int32(0),
            jnp.full(N, pad_id, jnp.int32),
            jnp.zeros(N, bool),
            [],
            jnp.full((N, max_new_tokens), pad_id, jnp.int32),
            jnp.zeros((N, max_new_tokens), jnp.float32),
            jnp.zeros(N, jnp.int32),
        )
        caches = [
            (room(jnp.swapaxes(cache.key_NGSK, 1, 2)), room(jnp.swapaxes(cache.value_NGSK, 1, 2)))
            for cache in prompt_caches
        ]
        first = choose(jnp.repeat(logits_PV, n_rollouts, axis=0), empty, caches)
        end = jax.lax.while_loop(lambda s: (s.position < max_new_tokens) & ~s.is_ended_N.all(), advance, first)
        shape = (P, n_rollouts)
        return Rollouts(
            prompt_PS=prompt_PS,
            prompt_length_P=prompt_length_P,
            completion_PRT=end.completion_NT.reshape(*shape, max_new_tokens),
            completion_length_PR=end.length_N.reshape(shape),
            is_truncated_PR=~end.is_ended_N.reshape(shape),
            behavior_logprob_PRT=end.behavior_logprob_NT.reshape(*shape, max_new_tokens),
            n_decode_steps=end.position - 1,
        )

    return sample

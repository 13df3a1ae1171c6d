"""Token by token, with key-value caches, until every rollout has ended.

A prompt is prefilled once and its keys and values are kept once, however many rollouts it has.
What the rollouts write goes into a cache of the first bucket width; when it is full and some
rollout goes on, it is set aside and another is begun, so that short completions never pay for
`max_new_tokens` and nothing is copied.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rlvr_jax.models import transformer
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.choose_token import choose_token, rollout_keys


@flax.struct.dataclass
class DecodeState:
    """Where R rollouts of each of P prompts are. C is the width of the completions' arrays so far."""

    position: jax.Array  # int32, index of the completion token to be chosen next
    last_token_PR: jax.Array  # int32
    is_ended_PR: jax.Array  # bool
    are_all_ended: jax.Array  # bool
    caches: list[transformer.LayerCache]  # per layer, [P * R, G, C', K] of the tokens since the arrays last grew
    completion_PRC: jax.Array  # int32, pads after the end
    behavior_logprob_PRC: jax.Array  # f32 nats, under the distribution drawn from; 0 at pads
    length_PR: jax.Array  # int32 tokens, EOS included


class Context(NamedTuple):
    """What does not change while a batch is decoded."""

    weights: Params  # of embedding, final norm and head, in the dtype of the matmuls
    layers: list[Params]  # per layer, sliced once: slices inside the loop would be taken per token
    prompt_caches: list[transformer.LayerCache]  # per layer, [P, G, S, K]
    full_caches: list[list[transformer.LayerCache]]  # per layer, those that were filled before
    prompt_length_P: jax.Array
    key_PR: jax.Array


class SamplerPlacement(NamedTuple):
    """Which devices hold what while they decode: functions that return what they are given, told so."""

    weights: Callable[[Params], Params]
    cache: transformer.Constraint  # of keys or values [N, G, S, K]


class Decoder(NamedTuple):
    """Two jitted programs. Compiled: `start` once and `go_on` once per further width that is reached."""

    start: Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], tuple[Context, DecodeState]]
    go_on: Callable[[Context, DecodeState], tuple[Context, DecodeState]]


def build_decoder(
    spec: ModelSpec,
    *,
    n_rollouts: int,
    widths: tuple[int, ...],
    temperature: float,
    eos_ids: tuple[int, ...],
    pad_id: int,
    compute_dtype: jnp.dtype,
    placement: SamplerPlacement | None = None,
) -> Decoder:
    """Returns `start(params, prompt_PS, prompt_length_P, prompt_counter_P, root_key) -> (context, state)`
    and `go_on(context, state)`, which returns the same.

    Each runs until every rollout has ended or the arrays are full; `go_on` widens them first.

    Args:
        widths: completion lengths at which the arrays grow, ascending, from 2 unless there is only one; the last
            is the most a rollout may have.
        temperature: 0 is greedy.
        eos_ids: each of them ends a rollout, as its last token; (): none does.
        placement: None on one device.
    """
    placement = placement or SamplerPlacement(lambda params: params, lambda x_NGSK: x_NGSK)
    eos_11E = jnp.array(eos_ids, jnp.int32)[None, None]

    @jax.jit
    def start(
        params: Params,
        prompt_PS: jax.Array,
        prompt_length_P: jax.Array,
        prompt_counter_P: jax.Array,
        root_key: jax.Array,
    ) -> tuple[Context, DecodeState]:
        weights = placement.weights(transformer.cast_params(params, compute_dtype))
        layers = transformer.layer_weights(weights, spec)
        hidden_PSD, prompt_caches = transformer.prefill(weights, layers, spec, prompt_PS)
        prompt_caches = jax.tree.map(placement.cache, prompt_caches)
        # -1: the state at the last prompt token predicts the first completion token
        last_PD = jnp.take_along_axis(hidden_PSD, (prompt_length_P - 1)[:, None, None], axis=1)[:, 0]
        key_PR = rollout_keys(root_key, prompt_counter_P, n_rollouts=n_rollouts)
        weights = {name: leaf for name, leaf in weights.items() if name != "layers"}
        context = Context(weights, layers, prompt_caches, [[] for _ in layers], prompt_length_P, key_PR)
        P = prompt_PS.shape[0]
        empty = DecodeState(
            position=jnp.int32(0),
            last_token_PR=jnp.full((P, n_rollouts), pad_id, jnp.int32),
            is_ended_PR=jnp.zeros((P, n_rollouts), bool),
            are_all_ended=jnp.zeros((), bool),
            caches=[],
            completion_PRC=jnp.zeros((P, n_rollouts, 0), jnp.int32),
            behavior_logprob_PRC=jnp.zeros((P, n_rollouts, 0), jnp.float32),
            length_PR=jnp.zeros((P, n_rollouts), jnp.int32),
        )
        logits_PV = transformer.vocab_logits(weights, spec, last_PD)
        first = choose(context, widened(empty, widths[0]), jnp.repeat(logits_PV, n_rollouts, axis=0))
        return context, until_full(context, first)

    def go_on(context: Context, state: DecodeState) -> tuple[Context, DecodeState]:
        full_caches = [[*full, cache] for full, cache in zip(context.full_caches, state.caches, strict=True)]
        context = context._replace(full_caches=full_caches)
        return context, more(context, state.replace(caches=[]))

    @jax.jit
    def more(context: Context, state: DecodeState) -> DecodeState:
        width = next(width for width in widths if width > state.completion_PRC.shape[2])
        return until_full(context, widened(state, width))

    def choose(context: Context, state: DecodeState, logits_NV: jax.Array) -> DecodeState:
        """Appends the token at state.position to every rollout that has not ended."""
        t, shape = state.position, state.is_ended_PR.shape
        token_N, logprob_N = choose_token(context.key_PR.reshape(-1), logits_NV, position=t, temperature=temperature)
        token_PR = jnp.where(state.is_ended_PR, pad_id, token_N.reshape(shape))
        logprob_PR = jnp.where(state.is_ended_PR, 0.0, logprob_N.reshape(shape))
        is_ended_PR = state.is_ended_PR | (token_PR[..., None] == eos_11E).any(axis=-1)
        place = jax.lax.dynamic_update_slice_in_dim
        return state.replace(
            position=t + 1,
            last_token_PR=token_PR,
            is_ended_PR=is_ended_PR,
            are_all_ended=is_ended_PR.all(),
            completion_PRC=place(state.completion_PRC, token_PR[..., None], t, axis=2),
            behavior_logprob_PRC=place(state.behavior_logprob_PRC, logprob_PR[..., None], t, axis=2),
            length_PR=state.length_PR + ~state.is_ended_PR,
        )

    def until_full(context: Context, state: DecodeState) -> DecodeState:
        """Decodes until every rollout has ended or the arrays are full."""
        S, width = context.prompt_caches[0].key_NGSK.shape[2], state.completion_PRC.shape[2]
        is_prompt_slot_PS = jnp.arange(S)[None] < context.prompt_length_P[:, None]
        n_set_aside = sum(cache.key_NGSK.shape[2] for cache in context.full_caches[0])

        def advance(state: DecodeState) -> DecodeState:
            """Feeds the last token, whose place is position - 1, and chooses the next one."""
            place = state.position - 1
            hidden_ND, caches = transformer.decode_step(
                context.weights,
                context.layers,
                spec,
                context.prompt_caches,
                context.full_caches,
                state.caches,
                state.last_token_PR.reshape(-1),
                position_N=jnp.repeat(context.prompt_length_P, n_rollouts) + place,
                slot=place - n_set_aside,
                is_prompt_slot_PS=is_prompt_slot_PS,
            )
            logits_NV = transformer.vocab_logits(context.weights, spec, hidden_ND)
            return choose(context, state.replace(caches=jax.tree.map(placement.cache, caches)), logits_NV)

        return jax.lax.while_loop(lambda s: (s.position < width) & ~s.are_all_ended, advance, state)

    def widened(state: DecodeState, width: int) -> DecodeState:
        """The same rollouts with arrays for `width` tokens each and empty caches for those that are new."""
        n_more = width - state.completion_PRC.shape[2]
        # the last token of a width is fed in the next one, so the first cache has one slot less
        n_slots = n_more if state.completion_PRC.shape[2] else max(n_more - 1, 1)
        N, G, K = state.is_ended_PR.size, spec.n_kv_heads, spec.head_width
        cache = transformer.LayerCache(*[placement.cache(jnp.zeros((N, G, n_slots, K), compute_dtype))] * 2)
        wider = ((0, 0), (0, 0), (0, n_more))
        return state.replace(
            caches=[cache] * spec.n_layers,
            completion_PRC=jnp.pad(state.completion_PRC, wider, constant_values=pad_id),
            behavior_logprob_PRC=jnp.pad(state.behavior_logprob_PRC, wider),
        )

    return Decoder(start, go_on)

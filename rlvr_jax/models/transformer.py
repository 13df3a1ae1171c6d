"""A Llama-style decoder as functions of (params, spec): whole sequences, prefill, one decode step.

All three run the same block; they differ in where keys and values come from.
Sequences are padded on the right, so causal attention alone keeps pads out of every real position.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.models.attention import attention_over_part, grouped_query_attention, merged_attention
from rlvr_jax.models.chunked_head import HeadChunks
from rlvr_jax.models.layers import Weight, biased, chosen_logprobs, linear, logits, looked_up, rms_norm, swiglu
from rlvr_jax.models.rope import rotary_angles, rotate
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.models.taps import Tapped

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keeps products with weights
    "full": jax.checkpoint_policies.nothing_saveable,
}


Constraint = Callable[[jax.Array], jax.Array]  # the same array, told on which devices it lies


class PassPlacement(NamedTuple):
    """Which devices hold what in a pass over whole sequences."""

    rows: Constraint  # of states [N, T, D]
    table: Constraint  # of the embedding [V, D], to look tokens up


class LayerCache(NamedTuple):
    """Keys (rotated) and values of one layer, [N, G, S, K] each."""

    key_NGSK: jax.Array
    value_NGSK: jax.Array


def cast_params(params: Params, compute_dtype: jnp.dtype) -> Params:
    """The weights in the dtype of the matmuls. Once per pass: inside a decode loop it would recur per token."""
    return jax.tree.map(lambda leaf: leaf.astype(compute_dtype), params, is_leaf=lambda leaf: isinstance(leaf, Tapped))


def layer_weights(params: Params, spec: ModelSpec) -> list[Params]:
    """One dict of weights per layer. Sliced outside a decode loop: slices inside are taken per token."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(spec.n_layers)]


def hidden_states(
    params: Params, spec: ModelSpec, token_NT: jax.Array, *, remat: str, placement: PassPlacement | None = None
) -> tuple[jax.Array, Params]:
    """The last layer's normalised states [N, T, D] of right-padded sequences, and the params to read logits with.

    Those are the same ones, but for a tapped embedding that is also the head (models/taps.py).

    Args:
        remat: what of a layer is made again in the backward pass: "none", "full" (everything but the layer's input),
            or "dots" (everything but that and the products with weights). Memory and time only.
        placement: None on one device.
    """
    placement = placement or PassPlacement(lambda x_NTD: x_NTD, lambda table_VD: table_VD)
    T = token_NT.shape[1]
    angles = _angles(spec, jnp.arange(T)[None])
    is_visible_111TT = jnp.tril(jnp.ones((T, T), bool))[None, None, None]

    def block(x_NTD: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        query, key, value = _query_key_value(weights, spec, x_NTD, angles)
        attended_NTHK = grouped_query_attention(query, key, value, is_visible=is_visible_111TT)
        return placement.rows(_finish_block(weights, spec, x_NTD, attended_NTHK)), None

    if remat != "none":  # the scan keeps what is made again from being shared with the first time
        block = jax.checkpoint(block, policy=_REMAT_POLICIES[remat], prevent_cse=False)
    table = params["embedding"]
    table = table.replace(weight=placement.table(table.weight)) if isinstance(table, Tapped) else placement.table(table)
    x_NTD, embedding = looked_up(table, token_NT, is_head=spec.has_tied_head)
    x_NTD, _ = jax.lax.scan(block, placement.rows(x_NTD), params["layers"])
    return rms_norm(x_NTD, params["final_norm"], eps=spec.norm_eps), params | {"embedding": embedding}


def prefill(
    params: Params, layers: list[Params], spec: ModelSpec, prompt_PS: jax.Array
) -> tuple[jax.Array, list[LayerCache]]:
    """States [P, S, D] and per-layer keys and values of right-padded prompts."""
    S = prompt_PS.shape[1]
    angles = _angles(spec, jnp.arange(S)[None])
    is_visible_111SS = jnp.tril(jnp.ones((S, S), bool))[None, None, None]
    x_PSD, caches = params["embedding"][prompt_PS], []
    for weights in layers:
        query, key, value = _query_key_value(weights, spec, x_PSD, angles)
        attended = grouped_query_attention(query, key, value, is_visible=is_visible_111SS)
        x_PSD = _finish_block(weights, spec, x_PSD, attended)
        caches.append(LayerCache(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)))
    return rms_norm(x_PSD, params["final_norm"], eps=spec.norm_eps), caches


def decode_step(
    params: Params,
    layers: list[Params],
    spec: ModelSpec,
    prompt_caches: list[LayerCache],
    full_caches: list[list[LayerCache]],
    caches: list[LayerCache],
    token_N: jax.Array,
    *,
    position_N: jax.Array,
    slot: jax.Array,
    is_prompt_slot_PS: jax.Array,
) -> tuple[jax.Array, list[LayerCache]]:
    """State [N, D] after one more completion token per row, and `caches` with that token at `slot`.

    The N = P * R rows are the R rollouts of each of P prompts. Keys and values of a prompt are kept
    once; the R queries of its rollouts read them as one matrix product. What a rollout wrote itself is
    in parts of its own, and the attentions are merged (arXiv:2402.05099).

    Args:
        prompt_caches: per layer, [P, G, S, K].
        full_caches: per layer, any number of [N, G, C', K]: earlier completion tokens, all visible.
        caches: per layer, [N, G, C, K]; slots 0..slot hold the latest completion tokens, this one included.
        position_N: what rotary sees; `slot` is only where the cache keeps it.
        is_prompt_slot_PS: bool[P, S], true at tokens of the prompt.
    """
    P, N, C = is_prompt_slot_PS.shape[0], token_N.shape[0], caches[0].key_NGSK.shape[2]
    angles = _angles(spec, position_N[:, None])
    is_seen_1111C = (jnp.arange(C) <= slot)[None, None, None, None]
    x_N1D, new_caches = params["embedding"][token_N][:, None], []
    for weights, prompt_cache, full, cache in zip(layers, prompt_caches, full_caches, caches, strict=True):
        query_N1HK, key, value = _query_key_value(weights, spec, x_N1D, angles)
        cache = LayerCache(
            jax.lax.dynamic_update_slice_in_dim(cache.key_NGSK, jnp.swapaxes(key, 1, 2), slot, axis=2),
            jax.lax.dynamic_update_slice_in_dim(cache.value_NGSK, jnp.swapaxes(value, 1, 2), slot, axis=2),
        )
        query_PRHK = query_N1HK.reshape(P, N // P, *query_N1HK.shape[2:])
        of_prompt, lse_PRH = attention_over_part(
            query_PRHK, *prompt_cache, is_visible=is_prompt_slot_PS[:, None, None, None]
        )
        attended_N1HK = merged_attention(
            [
                (of_prompt.reshape(query_N1HK.shape), lse_PRH.reshape(query_N1HK.shape[:3])),
                *(attention_over_part(query_N1HK, *part, is_visible=True) for part in full),
                attention_over_part(query_N1HK, *cache, is_visible=is_seen_1111C),
            ]
        )
        x_N1D = _finish_block(weights, spec, x_N1D, attended_N1HK.astype(x_N1D.dtype))
        new_caches.append(cache)
    return rms_norm(x_N1D[:, 0], params["final_norm"], eps=spec.norm_eps), new_caches


def vocab_logits(params: Params, spec: ModelSpec, hidden: jax.Array) -> jax.Array:
    """f32[..., V] from states [..., D]."""
    return logits(hidden, params["embedding" if spec.has_tied_head else "head"], is_table=spec.has_tied_head)


def token_logprobs(
    params: Params, spec: ModelSpec, hidden_NTD: jax.Array, token_NT: jax.Array, chunks: HeadChunks
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy f32[N, T] of tokens, each predicted by the state at its place."""
    return chosen_logprobs(hidden_NTD, params["embedding" if spec.has_tied_head else "head"], token_NT, chunks)


def _angles(spec: ModelSpec, position_NT: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rotary_angles(position_NT, head_width=spec.head_width, theta=spec.rope_theta, scaling=spec.rope_scaling)


def _query_key_value(
    weights: Params, spec: ModelSpec, x_NTD: jax.Array, angles: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    attention = weights["attention"]
    if not spec.has_post_norm:
        x_NTD = rms_norm(x_NTD, attention["norm"], eps=spec.norm_eps)
    query, key, value = (linear(x_NTD, attention[name]) for name in ("query", "key", "value"))
    if spec.has_attention_bias:
        query, key, value = (
            biased(x, attention[f"{name}_bias"]) for x, name in ((query, "query"), (key, "key"), (value, "value"))
        )
    if spec.qk_norm != "none":
        query, key = (_normed_heads(attention[f"{name}_norm"], spec, x) for x, name in ((query, "query"), (key, "key")))
    return rotate(query, *angles), rotate(key, *angles), value


def _normed_heads(scale: Weight, spec: ModelSpec, x_NTHK: jax.Array) -> jax.Array:
    if spec.qk_norm == "each_head":
        return rms_norm(x_NTHK, scale, eps=spec.norm_eps)
    return rms_norm(x_NTHK.reshape(*x_NTHK.shape[:2], -1), scale, eps=spec.norm_eps).reshape(x_NTHK.shape)


def _finish_block(weights: Params, spec: ModelSpec, x_NTD: jax.Array, attended_NTHK: jax.Array) -> jax.Array:
    attention, mlp = weights["attention"], weights["mlp"]

    def normed(read_or_added_NTD: jax.Array, scale: Weight, is_here: bool) -> jax.Array:
        return rms_norm(read_or_added_NTD, scale, eps=spec.norm_eps) if is_here else read_or_added_NTD

    added_NTD = linear(attended_NTHK, attention["out"], n_in_axes=2)
    x_NTD = x_NTD + normed(added_NTD, attention["norm"], spec.has_post_norm)
    read_NTD = normed(x_NTD, mlp["norm"], not spec.has_post_norm)
    added_NTD = swiglu(read_NTD, gate_DF=mlp["gate"], up_DF=mlp["up"], down_FD=mlp["down"])
    return x_NTD + normed(added_NTD, mlp["norm"], spec.has_post_norm)

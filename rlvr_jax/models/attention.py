"""Grouped-query attention with an explicit mask, whole or in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# a score that is never chosen; finite, since a row of -inf would turn into NaN
HIDDEN = np.float32(-1e30)


def grouped_query_attention(
    query_NTHK: jax.Array, key_NSGK: jax.Array, value_NSGK: jax.Array, *, is_visible: jax.Array
) -> jax.Array:
    """softmax(q k / sqrt(K)) v; each of the G key heads serves H / G query heads.

    Scores and softmax are fp32. arXiv:2305.13245 sec. 2.

    Args:
        query_NTHK: [N, T, H, K].
        key_NSGK, value_NSGK: [N, S, G, K] with H a multiple of G.
        is_visible: bool[N or 1, 1, 1, T, S]; true where query t may see slot s.

    Returns:
        [N, T, H, K] in the dtype of the values.
    """
    N, T, H, K = query_NTHK.shape
    G = key_NSGK.shape[2]
    query_NTGJK = query_NTHK.reshape(N, T, G, H // G, K)
    score_NGJTS = jnp.einsum("ntgjk,nsgk->ngjts", query_NTGJK, key_NSGK, preferred_element_type=jnp.float32) / jnp.sqrt(
        jnp.float32(K)
    )
    score_NGJTS = jnp.where(is_visible, score_NGJTS, HIDDEN)
    weight_NGJTS = jax.nn.softmax(score_NGJTS, axis=-1).astype(value_NSGK.dtype)
    return jnp.einsum("ngjts,nsgk->ntgjk", weight_NGJTS, value_NSGK).reshape(N, T, H, K)


def attention_over_part(
    query_NTHK: jax.Array, key_NGSK: jax.Array, value_NGSK: jax.Array, *, is_visible: jax.Array | bool
) -> tuple[jax.Array, jax.Array]:
    """Attention to some of the slots, and how much they weigh against slots elsewhere.

    Heads come before slots, as the products want them: a decoder that reads a cache token after
    token would otherwise turn it around each time, or keep a turned copy.

    Args:
        query_NTHK: [N, T, H, K].
        key_NGSK, value_NGSK: [N, G, S, K] with H a multiple of G.
        is_visible: bool[N or 1, 1, 1, T or 1, S], or True for all.

    Returns:
        f32[N, T, H, K], the attention as if there were no other slots, and
        f32[N, T, H], the log of the sum of exp(score) over the visible slots.
    """
    N, T, H, K = query_NTHK.shape
    G = key_NGSK.shape[1]
    # one matrix of J * T rows per key head
    query_NGQK = jnp.einsum("ntgjk->ngjtk", query_NTHK.reshape(N, T, G, H // G, K)).reshape(N, G, -1, K)
    score_NGQS = jnp.einsum("ngqk,ngsk->ngqs", query_NGQK, key_NGSK, preferred_element_type=jnp.float32)
    score_NGJTS = score_NGQS.reshape(N, G, H // G, T, -1) / jnp.sqrt(jnp.float32(K))
    if is_visible is not True:
        score_NGJTS = jnp.where(is_visible, score_NGJTS, HIDDEN)
    lse_NGJT = jax.nn.logsumexp(score_NGJTS, axis=-1)
    weight_NGQS = jnp.exp(score_NGJTS - lse_NGJT[..., None]).astype(value_NGSK.dtype).reshape(score_NGQS.shape)
    attended = jnp.einsum("ngqs,ngsk->ngqk", weight_NGQS, value_NGSK, preferred_element_type=jnp.float32)
    attended_NTGJK = jnp.einsum("ngjtk->ntgjk", attended.reshape(N, G, H // G, T, K))
    return attended_NTGJK.reshape(N, T, H, K), jnp.einsum("ngjt->ntgj", lse_NGJT).reshape(N, T, H)


def merged_attention(parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Attention to the slots of all parts, from what `attention_over_part` says of each, in fp32.

        sum_i exp(lse_i) a_i / sum_i exp(lse_i)

    Hydragen, arXiv:2402.05099 sec. 3.

    Args:
        parts: (f32[..., K], f32[...]) each.
    """
    total_lse = functools.reduce(jnp.logaddexp, [lse for _, lse in parts])
    return sum(jnp.exp(lse - total_lse)[..., None] * attended for attended, lse in parts)

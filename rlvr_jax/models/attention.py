"""Grouped-query attention with an explicit mask."""

import jax
import jax.numpy as jnp


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
    # a large finite number: a row of -inf would turn into NaN
    score_NGJTS = jnp.where(is_visible, score_NGJTS, jnp.float32(-1e30))
    weight_NGJTS = jax.nn.softmax(score_NGJTS, axis=-1).astype(value_NSGK.dtype)
    return jnp.einsum("ngjts,nsgk->ntgjk", weight_NGJTS, value_NSGK).reshape(N, T, H, K)

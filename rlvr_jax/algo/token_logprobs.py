"""Log-probability and entropy of given tokens."""

import chex
import jax
import jax.numpy as jnp


def token_logprobs(logits_NTV: jax.Array, token_NT: jax.Array, *, temperature: float) -> tuple[jax.Array, jax.Array]:
    """log softmax(logits / temperature) at each token, and the entropy of that distribution.

    The temperature is the sampler's: a policy that is drawn from at 0.7 and trained at 1 is
    another policy than the one that was drawn from.

    Args:
        logits_NTV: f32[N, T, V]; row t is the prediction of token t.
        token_NT: int32[N, T].
        temperature: > 0.

    Returns:
        f32[N, T] nats each.
    """
    chex.assert_rank([logits_NTV, token_NT], [3, 2])
    chex.assert_type(logits_NTV, jnp.float32)
    logprob_NTV = jax.nn.log_softmax(logits_NTV / temperature, axis=-1)
    entropy_NT = -jnp.sum(jnp.exp(logprob_NTV) * logprob_NTV, axis=-1)
    return jnp.take_along_axis(logprob_NTV, token_NT[..., None], axis=-1)[..., 0], entropy_NT

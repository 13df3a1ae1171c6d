"""The trainer's own pass: log-probabilities of given completions."""

import jax
import jax.numpy as jnp

from rlvr_jax.algo.token_logprobs import token_logprobs
from rlvr_jax.models import transformer
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.padding import join_prompt_and_completion


def completion_logprobs(
    params: Params,
    spec: ModelSpec,
    prompt_NS: jax.Array,
    prompt_length_N: jax.Array,
    completion_NT: jax.Array,
    *,
    temperature: float,
    compute_dtype: jnp.dtype,
    use_remat: bool,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every completion token, and the entropy it was one draw of.

    Only the states that predict a completion token reach the head.

    Args:
        prompt_NS: int32[N, S], padded on the right.
        prompt_length_N: int32[N] tokens.
        completion_NT: int32[N, T], padded on the right.
        temperature: the sampler's.

    Returns:
        f32[N, T] nats each; at pads they mean nothing.
    """
    T = completion_NT.shape[1]
    token_NT = join_prompt_and_completion(prompt_NS, prompt_length_N, completion_NT)
    params = transformer.cast_params(params, compute_dtype)
    # the last token predicts nothing that is trained
    state_NTD, params = transformer.hidden_states(params, spec, token_NT[:, :-1], use_remat=use_remat)
    # -1: the state at t predicts token t + 1
    place_NT = (prompt_length_N - 1)[:, None] + jnp.arange(T)[None]
    state_NTD = jnp.take_along_axis(state_NTD, place_NT[..., None], axis=1)
    return token_logprobs(transformer.vocab_logits(params, spec, state_NTD), completion_NT, temperature=temperature)

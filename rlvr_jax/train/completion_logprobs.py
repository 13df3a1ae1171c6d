"""The trainer's own pass: log-probabilities of given completions."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlvr_jax.algo.token_logprobs import token_logprobs
from rlvr_jax.models import transformer
from rlvr_jax.models.chunked_head import HeadPlan, head_chunks
from rlvr_jax.models.spec import ModelSpec, Params
from rlvr_jax.sampling.padding import join_prompt_and_completion

LOGIT_BYTES = {"cpu": 64 * 2**20}  # of logits at a time; on a CPU more of them would only leave its caches sooner
LOGIT_BYTES_ELSEWHERE = 512 * 2**20  # matrix products large enough to keep a GPU busy


def build_head_plan(chunk_mib: int, mesh: Mesh) -> HeadPlan:
    """How many logits the devices of a mesh make at a time; 0 for what suits them."""
    n_vocab_shards = mesh.shape.get("tensor", 1)
    automatic = LOGIT_BYTES.get(mesh.devices.flat[0].platform, LOGIT_BYTES_ELSEWHERE)
    return HeadPlan(chunk_mib * 2**20 or automatic, mesh.size // n_vocab_shards, n_vocab_shards)


def completion_logprobs(
    params: Params,
    spec: ModelSpec,
    prompt_NS: jax.Array,
    prompt_length_N: jax.Array,
    completion_NT: jax.Array,
    *,
    temperature: float,
    compute_dtype: jnp.dtype,
    remat: str,
    head_plan: HeadPlan,
    placement: transformer.PassPlacement | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of every completion token, and the entropy it was one draw of.

    Only the states that predict a completion token reach the head, and it makes no more logits at once than
    `head_plan` allows.

    Args:
        prompt_NS: int32[N, S], padded on the right.
        prompt_length_N: int32[N] tokens.
        completion_NT: int32[N, T], padded on the right.
        temperature: the sampler's.
        placement: None on one device.

    Returns:
        f32[N, T] nats each; at pads they mean nothing.
    """
    T = completion_NT.shape[1]
    token_NT = join_prompt_and_completion(prompt_NS, prompt_length_N, completion_NT)
    params = transformer.cast_params(params, compute_dtype)
    # the last token predicts nothing that is trained
    state_NTD, params = transformer.hidden_states(params, spec, token_NT[:, :-1], remat=remat, placement=placement)
    # -1: the state at t predicts token t + 1
    place_NT = (prompt_length_N - 1)[:, None] + jnp.arange(T)[None]
    state_NTD = jnp.take_along_axis(state_NTD, place_NT[..., None], axis=1)
    chunks = head_chunks(
        head_plan,
        n_tokens=completion_NT.size,
        vocab_size=spec.vocab_size,
        is_table=spec.has_tied_head,
        temperature=temperature,
    )
    if chunks is not None:
        return transformer.token_logprobs(params, spec, state_NTD, completion_NT, chunks)
    return token_logprobs(transformer.vocab_logits(params, spec, state_NTD), completion_NT, temperature=temperature)

"""The gradient of every rollout's log-probability, one rollout at a time and without taps."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.models import transformer


def rollout_scores(params, spec, batch, *, temperature):
    """{path: f64[P, R, ...]}, the gradient of sum_t log pi over a rollout's tokens."""
    S, T = batch.prompt_PS.shape[1], batch.completion_PRT.shape[2]
    place_U = jnp.arange(S + T)

    def log_probability(params, prompt_S, n_prompt, completion_T, n):
        of_prompt, of_completion = (jnp.pad(x, (0, S + T - len(x))) for x in (prompt_S, completion_T))
        token_U = jnp.where(place_U < n_prompt, of_prompt, of_completion[place_U - n_prompt])
        hidden, _ = transformer.hidden_states(params, spec, token_U[None], remat="none")
        log_q_UV = jax.nn.log_softmax(transformer.vocab_logits(params, spec, hidden)[0] / temperature)
        logprob_U = jnp.take_along_axis(log_q_UV[:-1], token_U[1:, None], axis=1)[:, 0]  # token u + 1 after u
        is_own_U = (place_U[1:] >= n_prompt) & (place_U[1:] < n_prompt + n)
        return jnp.where(is_own_U, logprob_U, 0.0).sum()

    P, R = batch.completion_length_PR.shape
    rows = (
        np.repeat(batch.prompt_PS, R, axis=0),
        np.repeat(batch.prompt_length_P, R),
        batch.completion_PRT.reshape(P * R, T),
        batch.completion_length_PR.reshape(P * R),
    )
    grads = jax.jit(jax.vmap(jax.grad(log_probability), (None, 0, 0, 0, 0)))(params, *rows)
    flat = flax.traverse_util.flatten_dict(grads)
    return {path: np.asarray(leaf, np.float64).reshape(P, R, *leaf.shape[1:]) for path, leaf in flat.items()}


def flat_scores(scores) -> np.ndarray:
    """f64[P, R, n parameters], leaves in the order of their paths."""
    return np.concatenate([scores[path].reshape(*scores[path].shape[:2], -1) for path in sorted(scores)], axis=2)


def gram(gradient_PRn) -> np.ndarray:
    """Inner products within each prompt."""
    return np.einsum("prn,psn->prs", gradient_PRn, gradient_PRn)

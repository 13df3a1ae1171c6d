"""One token per row, and the probability it was drawn with."""

import chex
import jax
import jax.numpy as jnp


def rollout_keys(root_key: jax.Array, prompt_counter_P: jax.Array, *, n_rollouts: int) -> jax.Array:
    """Keys [P, R]: fold_in(fold_in(root, prompt counter), rollout index).

    A rollout's key names the rollout, not its place in a batch, so the samples do not depend on
    batch layout, number of devices or resume.

    Args:
        root_key: one key, or keys [P].
    """
    chex.assert_rank([prompt_counter_P, root_key], [1, {0, 1}])

    def keys_of_prompt(root_key: jax.Array, counter: jax.Array) -> jax.Array:
        prompt_key = jax.random.fold_in(root_key, counter)
        return jax.vmap(lambda rollout: jax.random.fold_in(prompt_key, rollout))(jnp.arange(n_rollouts))

    root_axis = 0 if root_key.ndim else None
    return jax.vmap(keys_of_prompt, in_axes=(root_axis, 0))(root_key, prompt_counter_P)


def choose_token(
    key_N: jax.Array, logits_NV: jax.Array, *, position: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """A token int32[N] drawn from softmax(logits / temperature), and its log-probability f32[N] there.

    Temperature 0 is greedy: the largest logit, with log-probability 0.

    Args:
        key_N: one key per rollout; the token at `position` uses fold_in(key, position).
        logits_NV: f32[N, V].
        position: index of the token within its completion.
        temperature: >= 0.
    """
    chex.assert_rank([key_N, logits_NV], [1, 2])
    chex.assert_type(logits_NV, jnp.float32)
    if temperature == 0.0:
        return jnp.argmax(logits_NV, axis=-1).astype(jnp.int32), jnp.zeros(logits_NV.shape[0])
    scaled_NV = logits_NV / temperature
    token_keys_N = jax.vmap(lambda key: jax.random.fold_in(key, position))(key_N)
    token_N = jax.vmap(jax.random.categorical)(token_keys_N, scaled_NV).astype(jnp.int32)
    logprob_NV = jax.nn.log_softmax(scaled_NV, axis=-1)
    return token_N, jnp.take_along_axis(logprob_NV, token_N[:, None], axis=1)[:, 0]

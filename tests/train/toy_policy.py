"""A policy with every kind of parameter that compiles fast, and its gradients by the chain rule in numpy.

The slopes of every token's log-probability and entropy say what any loss has for a gradient; see algo/slow_loss.py.
"""

import functools
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_advantages import slow_advantages
from slow_loss import random_tokens

from rlvr_jax.algo.token_logprobs import token_logprobs
from rlvr_jax.models.layers import biased, linear, logits, looked_up, rms_norm
from rlvr_jax.train.loss import is_trained_token

V, D, F, S, T = 7, 6, 5, 2, 3
PARTS = ("attention", "embedding", "mlp", "norms")


def toy_params():
    rng = np.random.default_rng(3)

    def numbers(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "embedding": numbers(V, D),  # the head too
        "attention": {"query_bias": numbers(D)},
        "mlp": {"up": numbers(D, F), "down": numbers(F, D)},
        "final_norm": numbers(D),
    }


def toy_logprobs(params, batch, *, dtype=jnp.float32, head=None):
    """(log-probability, entropy) f32[P, R, T] of a model that sees one token, as rollout_logprobs of the trainer.

    With `head`, a constant [D, V], the table serves for the lookup alone.
    """
    P, R, T = batch.completion_PRT.shape
    first_PR1 = jnp.repeat(batch.prompt_PS[:, :1], R, axis=1)[..., None]
    token_NT = jnp.concatenate([first_PR1, batch.completion_PRT[..., :-1]], axis=2).reshape(P * R, T)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params, is_leaf=lambda leaf: hasattr(leaf, "tap"))
    x, table = looked_up(params["embedding"], token_NT, is_head=head is None)
    x = biased(x, params["attention"]["query_bias"])
    x = x + linear(jnp.tanh(linear(x, params["mlp"]["up"])), params["mlp"]["down"])
    x = rms_norm(x, params["final_norm"], eps=1e-6)
    logits_NTV = logits(x, table, is_table=True) if head is None else logits(x, head, is_table=False)
    found = token_logprobs(logits_NTV, batch.completion_PRT.reshape(P * R, T), temperature=1.0)
    return tuple(leaf.reshape(P, R, T) for leaf in found)


class Slopes(NamedTuple):
    """By part of the model: f64[P, R, T, n] of each token, 0 where it is not trained; and what they are slopes of."""

    logprob: dict[str, np.ndarray]
    entropy: dict[str, np.ndarray]
    logprob_PRT: np.ndarray
    entropy_PRT: np.ndarray


@functools.lru_cache
def _jacobian(shape):
    del shape  # one compiled program each
    return jax.jit(jax.jacfwd(toy_logprobs))


def toy_slopes(params, batch) -> Slopes:
    """Of a batch of which every rollout may count: `is_kept_PR` is heeded."""
    is_trained_PRT = np.asarray(is_trained_token(batch))
    values = [np.asarray(x, np.float64) for x in jax.jit(toy_logprobs)(params, batch)]
    by_part = []
    for of_value in _jacobian(batch.completion_PRT.shape)(params, batch):

        def flat(*leaves):
            rows = [np.asarray(leaf, np.float64).reshape(*is_trained_PRT.shape, -1) for leaf in leaves]
            return np.where(is_trained_PRT[..., None], np.concatenate(rows, axis=3), 0.0)

        by_part.append({
            "attention": flat(of_value["attention"]["query_bias"]),
            "embedding": flat(of_value["embedding"]),
            "mlp": flat(of_value["mlp"]["down"], of_value["mlp"]["up"]),
            "norms": flat(of_value["final_norm"]),
        })  # fmt: skip
    return Slopes(*by_part, *values)


def flat_by_part(tree) -> dict[str, np.ndarray]:
    """A tree like the parameters as one vector per part, in the order of the slopes."""
    mlp = tree["mlp"]
    leaves = {
        "attention": [tree["attention"]["query_bias"]],
        "embedding": [tree["embedding"]],
        "mlp": [mlp["down"], mlp["up"]],
        "norms": [tree["final_norm"]],
    }
    return {part: np.concatenate([np.ravel(np.float64(leaf)) for leaf in of_part]) for part, of_part in leaves.items()}


def joined(by_part) -> np.ndarray:
    """All parts together, along the last axis."""
    return np.concatenate([by_part[part] for part in PARTS], axis=-1)


def toy_batch(*, P, R, is_kept_PR=None, reward_PR=None, advantage="rloo"):
    """Rollouts with rewards 0 and 1, where an odd prompt has few of either, and the advantages of both kinds."""
    rng = np.random.default_rng([P, R])
    if is_kept_PR is None:
        is_kept_PR = np.ones((P, R), bool)
    if reward_PR is None:
        reward_PR = (rng.random((P, R)) < np.where(np.arange(P) % 2, 0.2, 0.6)[:, None]).astype(np.float32)
    tokens = random_tokens(rng, P=P, R=R, S=S, T=T, vocab_size=V)
    return tokens.replace(
        completion_length_PR=rng.integers(1, T + 1, (P, R)).astype(np.int32),
        is_kept_PR=is_kept_PR,
        advantage_PR=slow_advantages(reward_PR, is_kept_PR, kind=advantage, ddof=1, eps=1e-4).astype(np.float32),
        loo_advantage_PR=loo_advantages(reward_PR, is_kept_PR),
    )


def loo_advantages(reward_PR, is_kept_PR):
    """Against the others of the prompt, or of the batch where a prompt has one rollout."""
    if reward_PR.shape[1] > 1:
        found_PR = slow_advantages(reward_PR, is_kept_PR, kind="rloo", ddof=0, eps=0.0)
    else:
        found_PR = slow_advantages(reward_PR.T, is_kept_PR.T, kind="rloo", ddof=0, eps=0.0).T
    return found_PR.astype(np.float32)


def with_reference(batch, logprob_PRT):
    """A reference policy near the policy; NaN where nothing is trained."""
    moved_PRT = logprob_PRT + np.random.default_rng(9).normal(0, 0.5, logprob_PRT.shape)
    is_trained_PRT = np.asarray(is_trained_token(batch))
    return batch.replace(reference_logprob_PRT=np.where(is_trained_PRT, moved_PRT, np.nan).astype(np.float32))

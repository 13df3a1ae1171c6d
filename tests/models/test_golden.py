"""Our network against what transformers with torch computed with the same files (make_golden.py)."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
from hf_cases import CONFIGS, N_NEW, N_TOKENS
from hf_checkpoints import whole

from rlvr_jax.models import transformer
from rlvr_jax.models.chunked_head import HeadChunks
from rlvr_jax.models.hf_config import read_hf_model
from rlvr_jax.models.load_hf import load_params
from rlvr_jax.sampling.rollout import build_sampler

GOLDEN = Path(__file__).parent / "golden"


@functools.lru_cache
def checkpoint(name):
    """(model, params, what torch says)"""
    model = read_hf_model(GOLDEN / name)
    params = jax.tree.map(jnp.asarray, load_params(GOLDEN / name, model, place=whole))
    return model, params, load_file(GOLDEN / name / "answers.safetensors")


def states(params, spec, token_NT):
    return transformer.hidden_states(params, spec, token_NT, remat="none")[0]


def states_after(n_layers, params, spec, token_NT):
    """Of a network that ends after so many layers, with the final norm of the whole one."""
    layers = jax.tree.map(lambda leaf: leaf[:n_layers], params["layers"])
    return states(params | {"layers": layers}, dataclasses.replace(spec, n_layers=n_layers), token_NT)


def normed(theirs, params, spec):
    """States that transformers returns before the final norm, which ours have been through."""
    size = np.sqrt((theirs**2).mean(axis=-1, keepdims=True) + spec.norm_eps)
    return theirs / size * np.asarray(params["final_norm"])


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name):
    model, params, answers = checkpoint(name)
    logits = transformer.vocab_logits(params, model.spec, states(params, model.spec, answers["tokens"]))
    np.testing.assert_allclose(logits, answers["logits"], atol=1e-4, rtol=0)
    assert answers["logits"].std() > 0.5  # of a network that says something


@pytest.mark.parametrize("name", CONFIGS)
def test_states_after_each_layer_are_those_of_transformers(name):
    model, params, answers = checkpoint(name)
    np.testing.assert_array_equal(params["embedding"][answers["tokens"]], answers["hidden"][0])
    for n_layers, theirs in enumerate(answers["hidden"][1:-1], start=1):
        np.testing.assert_allclose(
            states_after(n_layers, params, model.spec, answers["tokens"]),
            normed(theirs, params, model.spec), atol=1e-4, rtol=0,
        )  # fmt: skip
    last = states(params, model.spec, answers["tokens"])
    np.testing.assert_allclose(last, answers["hidden"][-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_of_tokens_are_those_of_transformers(name):
    model, params, answers = checkpoint(name)
    before_NTD = states(params, model.spec, answers["tokens"])[:, :-1]  # -1: states at t predict token t + 1
    # the vocabulary of 48 in three parts, as a pass over a large one goes through it
    chunks = HeadChunks(width=16, n_runs=1, is_table=model.spec.has_tied_head, temperature=1.0)
    ours, _ = transformer.token_logprobs(params, model.spec, before_NTD, answers["tokens"][:, 1:], chunks)
    np.testing.assert_allclose(ours, answers["logprob"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_texts_of_our_sampler_are_those_of_transformers_token_by_token(name):
    model, params, answers = checkpoint(name)
    sample = build_sampler(
        model.spec, n_rollouts=1, max_new_tokens=N_NEW, bucket_tokens=N_NEW, temperature=0.0, eos_ids=(), pad_id=0,
        compute_dtype=jnp.float32,
    )  # fmt: skip
    rollouts = sample(params, jnp.asarray(answers["tokens"]), jnp.full(2, N_TOKENS), jnp.arange(2), jax.random.key(0))
    np.testing.assert_array_equal(rollouts.completion_PRT[:, 0], answers["greedy"])
    assert len(np.unique(answers["greedy"])) > 8  # no text that repeats itself from the start

"""The trainer's pass with few logits at a time is the one with all of them."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_loss import random_tokens

from rlvr_jax.models.chunked_head import ALL_AT_ONCE, HeadPlan
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.train import programs as programs_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.completion_logprobs import build_head_plan
from rlvr_jax.train.config import PlacementConfig
from rlvr_jax.train.loss import build_rollout_logprobs, is_trained_token
from rlvr_jax.train.placement import build_mesh

P, R, T = 4, 2, 3
SPEC = ModelSpec(
    vocab_size=23, width=8, n_layers=2, n_heads=2, n_kv_heads=1, head_width=4, mlp_width=12,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip


@pytest.mark.parametrize("has_tied_head", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("compute_dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_chunks_change_memory_not_gradients(has_tied_head, compute_dtype, rtol):
    spec = dataclasses.replace(SPEC, has_tied_head=has_tied_head)
    batch = random_tokens(np.random.default_rng(0), P=P, R=R, S=2, T=T, vocab_size=spec.vocab_size)
    params = initial_params(spec, jax.random.key(0))

    def found(head_plan):
        logprobs = build_rollout_logprobs(
            spec, temperature=0.8, compute_dtype=jnp.dtype(compute_dtype), remat="full", head_plan=head_plan
        )

        def loss(params):
            logprob_PRT, entropy_PRT = logprobs(params, batch)
            return jnp.where(is_trained_token(batch), logprob_PRT + 0.1 * entropy_PRT, 0.0).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    (value, gradient), (expected_value, expected) = found(HeadPlan(4 * P * R * T * 6, 1, 1)), found(ALL_AT_ONCE)
    np.testing.assert_allclose(value, expected_value, rtol=rtol)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


def test_the_plan_of_a_mesh():
    mesh = build_mesh(PlacementConfig(data=2, fsdp=2, tensor=2))
    assert build_head_plan(3, mesh) == HeadPlan(3 * 2**20, n_token_shards=4, n_vocab_shards=2)
    assert build_head_plan(0, build_mesh(PlacementConfig(data=1))) == HeadPlan(64 * 2**20, 1, 1)  # of a CPU


def test_a_runs_programs_use_the_plan_and_the_remat_of_its_config(tiny_config, monkeypatch):
    tiny_config.model.logprob_chunk_mib, tiny_config.model.remat = 7, "dots"
    build, seen = programs_module.build_rollout_logprobs, []
    monkeypatch.setattr(programs_module, "build_rollout_logprobs", lambda *a, **kw: seen.append(kw) or build(*a, **kw))
    programs_module.build_programs(tiny_config, assemble(tiny_config))
    assert [(kw["head_plan"], kw["remat"]) for kw in seen] == [(HeadPlan(7 * 2**20, 1, 1), "dots")]

"""Every setting reaches the function it is for: a built program against its parts, put together by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.collect import build_batch, in_microbatches, sample_prompts, score
from rlvr_jax.train.config import set_field
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.step import build_loss, build_rollout_logprobs

SETTINGS = {
    "sampling.temperature": 0.7,
    "algo.clip_low": 0.01,
    "algo.clip_high": 0.05,
    "algo.kl_coef": 0.2,
    "algo.averaging": "sequence",
    "optimizer.peak_lr": 3e-3,
    "optimizer.warmup_updates": 4,
    "optimizer.b1": 0.7,
    "optimizer.b2": 0.8,
    "optimizer.eps": 1e-2,
    "optimizer.weight_decay": 0.3,
    "optimizer.clip_norm": 0.05,
}


@pytest.fixture
def config(tiny_config):
    for field, value in SETTINGS.items():
        set_field(tiny_config, field, value)
    return tiny_config


def collected(config, params):
    """A batch whose old and reference policies are others than the policy."""
    parts = assemble(config)
    programs = build_programs(config, parts)
    problems = [parts.task.train_problem(i) for i in range(8)]
    drawn = sample_prompts(
        programs.sample, params, problems, range(8), jax.random.key(0), parts.tokenizer, parts.mesh, max_prompt_tokens=7
    )
    reward_PR = score(parts.task, problems, drawn, parts.tokenizer).reward_PR
    batch = build_batch(drawn, reward_PR, kind="grpo", ddof=1, eps=1e-4)
    rng = np.random.default_rng(0)
    other = batch.behavior_logprob_PRT + rng.normal(0, 0.1, batch.behavior_logprob_PRT.shape).astype(np.float32)
    batch = batch.replace(old_logprob_PRT=other, reference_logprob_PRT=other - 0.1)
    return parts, programs, in_microbatches(batch, parts.mesh, microbatch_prompts=8)


def test_one_step_equals_its_parts_with_the_settings_written_out(config, tiny_params):
    parts, programs, batch = collected(config, tiny_params)
    logprobs = build_rollout_logprobs(parts.spec, temperature=0.7, compute_dtype=jnp.float32, use_remat=False)
    loss = build_loss(logprobs, clip_low=0.01, clip_high=0.05, kl_coef=0.2, averaging="sequence", max_new_tokens=4)
    rows = jax.tree.map(lambda leaf: leaf[0], batch)
    (_, terms), grads = jax.value_and_grad(loss, has_aux=True)(tiny_params, rows)
    grads = jax.tree.map(lambda g: g / terms.sums["weight"], grads)
    norm = float(optax.tree.norm(grads))
    assert norm > 0.05
    mask = jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), tiny_params)
    by_hand = optax.chain(
        optax.scale(0.05 / norm),
        optax.adamw(3e-3 / 4, b1=0.7, b2=0.8, eps=1e-2, weight_decay=0.3, mask=mask),  # first of 4 warm-up updates
    )
    updates, _ = by_hand.update(grads, by_hand.init(tiny_params), tiny_params)
    expected = optax.apply_updates(tiny_params, updates)

    state, metrics = programs.train_step(initial_state(tiny_params, programs.optimizer), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected)
    assert float(metrics["loss/kl"]) > 0
    assert float(metrics["policy/clip_frac_low"] + metrics["policy/clip_frac_high"]) > 0


def test_the_sampler_draws_at_the_temperature_the_trainer_assumes(config, tiny_params):
    parts, programs, batch = collected(config, tiny_params)
    logprob = np.asarray(programs.logprob_pass(tiny_params, batch))
    is_token = np.arange(4) < np.asarray(batch.completion_length_PR)[..., None]
    np.testing.assert_allclose(logprob[is_token], np.asarray(batch.behavior_logprob_PRT)[is_token], atol=1e-5)
    at_one = build_rollout_logprobs(parts.spec, temperature=1.0, compute_dtype=jnp.float32, use_remat=False)
    hotter = np.asarray(at_one(tiny_params, jax.tree.map(lambda leaf: leaf[0], batch))[0])
    assert np.abs(hotter - logprob[0])[is_token[0]].max() > 1e-2


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_half_precision_remat_and_a_tied_head_train(tiny_config, kl_coef):
    tiny_config.model.compute_dtype, tiny_config.model.use_remat = "bfloat16", True
    tiny_config.model.has_tied_head, tiny_config.algo.kl_coef = True, kl_coef
    from rlvr_jax.models.spec import initial_params

    params = initial_params(assemble(tiny_config).spec, jax.random.key(0))
    _, programs, batch = collected(tiny_config, params)
    state, metrics = programs.train_step(initial_state(params, programs.optimizer), batch)
    assert np.isfinite(float(metrics["loss/total"]))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}

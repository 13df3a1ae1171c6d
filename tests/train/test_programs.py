"""Every setting reaches the function it is for: a built program against its parts, put together by hand."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax.models.chunked_head import ALL_AT_ONCE
from rlvr_jax.models.spec import initial_params
from rlvr_jax.train import programs as programs_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch import batch_without_advantages, in_microbatches, with_advantages
from rlvr_jax.train.collect import collected
from rlvr_jax.train.config import AlgoConfig, set_field
from rlvr_jax.train.loss import build_loss, build_rollout_logprobs
from rlvr_jax.train.programs import build_programs, shares_backward
from rlvr_jax.train.sample_prompts import sample_prompts
from rlvr_jax.train.state import initial_state

SETTINGS = {
    "sampling.temperature": 0.7,
    "algo.clip_low": 0.01,
    "algo.clip_high": 0.05,
    "algo.dual_clip": 1.2,
    "algo.ratio": "sequence",
    "algo.kl_coef": 0.2,
    "algo.kl_estimator": "k2",
    "algo.entropy_coef": 0.05,
    "algo.importance_cap": 1.05,
    "algo.averaging": "sequence",
    "algo.advantage": "reinforce++",
    "algo.std_ddof": 0,
    "algo.std_eps": 0.1,
    "optimizer.peak_lr": 3e-3,
    "optimizer.warmup_updates": 4,
    "optimizer.b1": 0.7,
    "optimizer.b2": 0.8,
    "optimizer.eps": 1e-2,
    "optimizer.weight_decay": 0.3,
    "optimizer.clip_norm": 0.05,
}


@pytest.fixture(scope="module")
def config(module_config):
    config = copy.deepcopy(module_config)
    for field, value in SETTINGS.items():
        set_field(config, field, value)
    return config


@pytest.fixture(scope="module")
def drawn(config, tiny_params):
    return drawn_batch(config, tiny_params)


def drawn_batch(config, params):
    """A batch whose old and reference policies are others than the policy."""
    parts = assemble(config)
    programs = build_programs(config, parts)
    problems = [parts.task.train_problem(i) for i in range(8)]
    drawn = sample_prompts(
        programs.sample, params, problems, range(8), jax.random.key(0), parts.tokenizer, parts.mesh,
        max_prompt_tokens=7, bucket_tokens=config.sampling.bucket_tokens, prompts_at_once=8,
    )  # fmt: skip
    collection = collected(parts.task, problems, drawn, parts.tokenizer, config.algo, max_new_tokens=4)
    batch = with_advantages(batch_without_advantages(collection), collection, programs.advantages)
    rng = np.random.default_rng(0)
    other = batch.behavior_logprob_PRT + rng.normal(0, 0.1, batch.behavior_logprob_PRT.shape).astype(np.float32)
    batch = batch.replace(old_logprob_PRT=other, reference_logprob_PRT=other - np.float32(0.1))
    return parts, programs, collection, in_microbatches(batch, parts.mesh, microbatch_prompts=8)


def test_one_step_equals_its_parts_with_the_settings_written_out(drawn, tiny_params):
    parts, programs, _, batch = drawn
    logprobs = build_rollout_logprobs(
        parts.spec, temperature=0.7, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
    )
    algo = AlgoConfig(
        clip_low=0.01, clip_high=0.05, dual_clip=1.2, ratio="sequence", kl_coef=0.2, kl_estimator="k2",
        entropy_coef=0.05, importance_cap=1.05, averaging="sequence",
    )  # fmt: skip
    loss = build_loss(logprobs, algo, max_new_tokens=4)
    rows = jax.tree.map(lambda leaf: leaf[0], batch)
    (_, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(tiny_params, rows)
    grads = jax.tree.map(lambda g: g / terms.sums["weight"], grads)
    norm = float(optax.tree.norm(grads))
    assert norm > 0.05
    mask = jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), tiny_params)
    by_hand = optax.chain(
        optax.scale(0.05 / norm),
        optax.adamw(3e-3 / 4, b1=0.7, b2=0.8, eps=1e-2, weight_decay=0.3, mask=mask),  # first of 4 warm-up updates
    )

    @jax.jit
    def updated(params, grads):
        updates, _ = by_hand.update(grads, by_hand.init(params), params)
        return optax.apply_updates(params, updates)

    expected = updated(tiny_params, grads)

    state, metrics, _ = programs.train_step(initial_state(tiny_params, programs.optimizer), None, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected)
    assert float(metrics["loss/kl"]) > 0
    assert float(metrics["policy/clip_frac_low"] + metrics["policy/clip_frac_high"]) > 0
    assert float(metrics["mismatch/capped_frac"]) > 0


def test_advantages_are_those_the_config_names(drawn):
    _, _, collection, batch = drawn
    reward_PR = collection.reward_PR
    assert 0 < reward_PR.mean() < 1
    expected_PR = (reward_PR - reward_PR.mean()) / (reward_PR.std() + 0.1)  # reinforce++ with ddof 0, eps 0.1
    np.testing.assert_allclose(batch.advantage_PR[0], expected_PR, rtol=1e-5)
    loo_PR = (reward_PR - reward_PR.mean(axis=1, keepdims=True)) * 4 / 3
    np.testing.assert_allclose(batch.loo_advantage_PR[0], loo_PR, rtol=1e-5, atol=1e-6)


def test_the_sampler_draws_at_the_temperature_the_trainer_assumes(drawn, tiny_params):
    parts, programs, _, batch = drawn
    logprob = np.asarray(programs.logprob_pass(tiny_params, batch))
    is_token = np.arange(4) < np.asarray(batch.completion_length_PR)[..., None]
    np.testing.assert_allclose(logprob[is_token], np.asarray(batch.behavior_logprob_PRT)[is_token], atol=1e-5)
    at_one = build_rollout_logprobs(
        parts.spec, temperature=1.0, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
    )
    hotter = np.asarray(at_one(tiny_params, jax.tree.map(lambda leaf: leaf[0], batch))[0])
    assert np.abs(hotter - logprob[0])[is_token[0]].max() > 1e-2


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_half_precision_remat_and_a_tied_head_train(tiny_config, kl_coef):
    tiny_config.model.compute_dtype, tiny_config.model.remat = "bfloat16", "full"
    tiny_config.model.has_tied_head, tiny_config.algo.kl_coef = True, kl_coef
    params = initial_params(assemble(tiny_config).spec, jax.random.key(0))
    _, programs, _, batch = drawn_batch(tiny_config, params)
    state, metrics, _ = programs.train_step(initial_state(params, programs.optimizer), None, batch)
    assert np.isfinite(float(metrics["loss/total"]))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("nonfinite", "freezes"), [("stop", True), ("skip", False)])
def test_the_state_freezes_at_a_nonfinite_update_unless_it_may_be_skipped(tiny_config, monkeypatch, nonfinite, freezes):
    built = {}
    monkeypatch.setattr(programs_module, "build_train_step", lambda *args, **options: built.update(options))
    tiny_config.optimizer.nonfinite, tiny_config.optimizer.clip_norm = nonfinite, 0.3
    build_programs(tiny_config, assemble(tiny_config))
    assert {name: built[name] for name in ("freezes", "clip_norm")} == {"freezes": freezes, "clip_norm": 0.3}


def test_a_constant_length_is_that_of_the_sampler(tiny_config, monkeypatch):
    built = {}
    monkeypatch.setattr(programs_module, "build_loss", lambda *args, **options: built.update(options))
    monkeypatch.setattr(programs_module, "build_train_step", lambda *args, **options: None)
    tiny_config.sampling.max_new_tokens = 11
    build_programs(tiny_config, assemble(tiny_config))
    assert built == {"max_new_tokens": 11}


SHARING = {  # changed settings, whether a measured update's gradient comes from the measuring pass
    "the defaults": ({}, True),
    "not if it is not wanted": ({"noise.shares_backward": False}, False),
    "not of another loss": ({"algo.advantage": "grpo", "algo.kl_coef": 0.1}, False),
    "not if only the sum of noises is measured of another loss": (
        {"algo.advantage": "grpo", "noise.decompose": False}, False,
    ),
    "not with too few rollouts to split": ({"algo.advantage": "grpo", "batch.n_rollouts": 3}, False),
    "with just enough": ({"algo.advantage": "grpo", "batch.n_rollouts": 4}, True),
    "not of part of a collection": ({"batch.minibatch_prompts": 4}, False),
    "not twice": ({"batch.epochs_per_buffer": 2}, False),
    "by the other method": ({"noise.method": "vmap", "algo.kl_coef": 0.1}, True),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARING)
def test_one_program_measures_and_updates_where_it_can_else_two(tiny_config, case):
    settings, is_shared = SHARING[case]
    for field, value in settings.items():
        set_field(tiny_config, field, value)
    programs = build_programs(tiny_config, assemble(tiny_config))
    assert shares_backward(tiny_config) == is_shared
    assert (programs.measured_step is not None) == is_shared
    assert (programs.measure_noise is not None) == (not is_shared)


def test_the_noise_is_measured_with_the_settings_of_the_run(tiny_config, monkeypatch):
    built = {}

    def spy(name):
        original = getattr(programs_module, name)

        def build(*args, **options):
            built[name] = args, options
            return original(*args, **options)

        monkeypatch.setattr(programs_module, name, build)

    for name in ("build_rollout_logprobs", "build_loss_of_logprobs", "build_noise_pass", "build_measuring"):
        spy(name)
    monkeypatch.setattr(programs_module, "build_noise_measurement", lambda *args: built.update(measurement=args))
    config = tiny_config
    config.placement.data, config.batch.n_rollouts, config.batch.n_prompts = 2, 5, 16
    config.sampling.max_new_tokens, config.noise.shares_backward = 11, False
    build_programs(config, parts := assemble(config))
    (logprobs, _, algo, noise), options = built["build_noise_pass"]
    assert (algo, noise) == (config.algo, config.noise)
    assert options == {"n_rollouts": 5, "n_shards": 2, "lora": None, "decomposes": True, "shares_backward": False}
    assert built["build_rollout_logprobs"][1]["temperature"] == config.sampling.temperature
    assert logprobs.__qualname__.startswith("build_rollout_logprobs")
    assert built["build_loss_of_logprobs"] == ((config.algo,), {"max_new_tokens": 11})
    (_, noise, optimizer), options = built["build_measuring"]
    assert (noise, optimizer, options) == (config.noise, config.optimizer, {"n_prompts": 16, "n_rollouts": 5})
    assert built["measurement"][1] == parts.layout


def test_no_noise_is_measured_unless_asked_for(tiny_config):
    tiny_config.noise.every_updates = 0
    programs = build_programs(tiny_config, assemble(tiny_config))
    assert (programs.measured_step, programs.measure_noise) == (None, None)


def test_points_that_differ_in_seed_and_logging_share_programs_and_others_do_not(tiny_config):
    first = programs_module.kept_programs(tiny_config, assemble(tiny_config))
    tiny_config.seed, tiny_config.point, tiny_config.checkpoint.every_updates = 7, "another", 1
    tiny_config.start.checkpoint = "runs/a"  # the branches of a trunk and of another
    assert programs_module.kept_programs(tiny_config, assemble(tiny_config)) is first
    for field, value in [("optimizer.peak_lr", 0.5), ("algo.clip_low", 0.3), ("task.operand_max", 5), ("eval.seed", 1)]:
        other = copy.deepcopy(tiny_config)
        set_field(other, field, value)
        assert programs_module.kept_programs(other, assemble(other)) is not first, field


def test_only_the_programs_used_last_are_kept(tiny_config):
    first = programs_module.kept_programs(tiny_config, assemble(tiny_config))
    for seed in range(programs_module.N_KEPT):
        tiny_config.eval.seed = 100 + seed
        programs_module.kept_programs(tiny_config, assemble(tiny_config))
    assert len(programs_module._kept) == programs_module.N_KEPT
    tiny_config.eval.seed = 0
    assert programs_module.kept_programs(tiny_config, assemble(tiny_config)) is not first

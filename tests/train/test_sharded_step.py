"""The same work on eight devices, 2 x 2 x 2 of them, as on one."""

import copy
import dataclasses
import re
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
sys.path.insert(0, str(Path(__file__).parent))
from slow_loss import random_tokens
from toy_policy import loo_advantages

from rlvr_jax.models.lora import lora_table
from rlvr_jax.models.spec import ModelSpec, initial_params, initial_values
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch import in_microbatches
from rlvr_jax.train.checkpoint import Checkpoints
from rlvr_jax.train.config import LoraConfig, PlacementConfig
from rlvr_jax.train.placement import place_batch, placed_abstract_state
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.state import initial_state

# sizes that no two axes share, so that a shape in a program says what it is of
OLMO2 = ModelSpec(
    vocab_size=100, width=24, n_layers=3, n_heads=4, n_kv_heads=2, head_width=6, mlp_width=44, rope_theta=50.0,
    norm_eps=1e-6, has_tied_head=False, has_attention_bias=False, qk_norm="all_heads", has_post_norm=True,
)  # fmt: skip
QWEN2 = dataclasses.replace(OLMO2, has_tied_head=True, has_attention_bias=True, qk_norm="none", has_post_norm=False)
SPECS = {"olmo2": OLMO2, "qwen2": QWEN2}
ONE, EIGHT = PlacementConfig(data=1, fsdp=1, tensor=1), PlacementConfig(data=2, fsdp=2, tensor=2)
P, R, S, T = 8, 4, 5, 6


class Work(NamedTuple):
    """What one mesh makes of the same weights and tokens, on the host but for the state."""

    parts: object
    programs: object
    state: object  # after one measured update
    metrics: dict
    arrays: object
    gradient: dict


def tokens():
    rng = np.random.default_rng(5)
    reward_PR = rng.integers(0, 2, (P, R)).astype(np.float32)
    reward_PR[:, 0] = 1 - reward_PR[:, 1]  # no group without a gradient
    batch = random_tokens(rng, P=P, R=R, S=S, T=T, vocab_size=100)
    advantage_PR = loo_advantages(reward_PR, batch.is_kept_PR)
    return batch.replace(advantage_PR=advantage_PR, loo_advantage_PR=advantage_PR)


def settings(base, placement, *, lora=False, shares_backward=True):
    config = copy.deepcopy(base)
    config.placement, config.batch.n_prompts, config.batch.microbatch_prompts = placement, P, P // 2
    config.noise.every_updates, config.noise.shares_backward, config.noise.sketch_width = 1, shares_backward, 64
    config.optimizer.clip_norm = 0.0
    config.optimizer.eps = 1e-3  # else the first update is a sign, and a gradient near 0 has either
    config.sampling.max_new_tokens = T
    config.lora = LoraConfig(enabled=lora, rank=2, alpha=4.0, targets=("query", "out", "gate"))
    return config


def parts_of(config, spec):
    return dataclasses.replace(assemble(config), spec=spec)


def start(parts, programs):
    """(state, frozen) on the mesh, the same values on any."""
    params = parts.layout.place(initial_params(parts.spec, jax.random.key(1)))
    if parts.lora is None:
        return parts.layout.built(lambda params: initial_state(params, programs.optimizer), params), None
    table = lora_table(parts.spec, parts.lora)
    factors = jax.tree.map(lambda leaf: leaf + 0.05, initial_values(table, jax.random.key(2)))
    return parts.layout.built(lambda params: initial_state(params, programs.optimizer), factors), params


@pytest.fixture(scope="module")
def worked(module_config):
    done = {}

    def work(spec, placement, **options):
        key = (spec, *dataclasses.astuple(placement), *options.items())
        if key not in done:
            config = settings(module_config, placement, **options)
            parts = parts_of(config, SPECS[spec])
            programs = build_programs(config, parts)
            state, frozen = start(parts, programs)
            batch = in_microbatches(tokens(), parts.mesh, microbatch_prompts=config.microbatch_prompts)
            if programs.measured_step is not None:
                state, metrics, arrays = programs.measured_step(state, frozen, batch)
            else:
                _, noise, arrays = programs.measure_noise(state, frozen, batch)
                state, metrics, _ = programs.train_step(state, frozen, batch)
                metrics |= noise
            mu = next(leaf.mu for leaf in state.opt_state if hasattr(leaf, "mu"))
            gradient = jax.tree.map(lambda mu: mu / (1 - config.optimizer.b1), jax.device_get(mu))
            done[key] = Work(parts, programs, state, *jax.device_get((metrics, arrays)), gradient)
        return done[key]

    return work


def assert_alike(got, want, *, tolerance=1e-5):
    """Leaf by leaf, relative to the length of the leaf."""

    def check(got, want):
        assert (
            np.linalg.norm(np.float64(got) - np.float64(want)) <= tolerance * np.linalg.norm(np.float64(want)) + 1e-12
        )

    jax.tree.map(check, jax.device_get(got), jax.device_get(want))


CASES = {
    "olmo2": ("olmo2", {}),
    "qwen2": ("qwen2", {}),
    "olmo2, noise apart": ("olmo2", {"shares_backward": False}),
    "qwen2, adapter": ("qwen2", {"lora": True}),
}
SLOW = ("olmo2, noise apart", "qwen2, adapter")  # to compile


@pytest.mark.parametrize("case", ["olmo2", "qwen2", *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)])
def test_an_update_and_its_noise_are_those_of_one_device(case, worked):
    spec, options = CASES[case]
    one, eight = worked(spec, ONE, **options), worked(spec, EIGHT, **options)
    assert_alike(eight.gradient, one.gradient)
    assert_alike(eight.state.params, one.state.params)
    assert_alike(eight.arrays.gram_PRR, one.arrays.gram_PRR)
    compared = 0
    for name, want in one.metrics.items():
        if name.startswith("gns/") and not name.endswith(("trace_cov", "grad_sq")):
            continue  # quotients and intervals of these
        # |G|^2 is a small difference of sums as large as S; the rest is compared with itself
        scale = abs(float(one.metrics[name.replace("grad_sq", "trace_cov")]))
        assert abs(float(eight.metrics[name]) - float(want)) <= 1e-5 * max(scale, 1e-2), name
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("spec", SPECS)
def test_no_device_holds_more_than_its_part_of_the_state(spec, worked):
    state = worked(spec, EIGHT).state
    moments = next(leaf for leaf in state.opt_state if hasattr(leaf, "mu"))
    for tree in (state.params, moments.mu, moments.nu):
        for name, leaf in {
            **tree["layers"]["mlp"],
            **tree["layers"]["attention"],
            "embedding": tree["embedding"],
        }.items():
            whole, part = leaf.size, {shard.data.size for shard in leaf.addressable_shards}
            n_parts = 2 if leaf.ndim < 3 and name != "embedding" else 4  # norms: over fsdp alone
            n_parts = 2 if name.endswith("_bias") else 1 if name.endswith(("query_norm", "key_norm")) else n_parts
            assert part == {whole // n_parts}, name


@pytest.mark.parametrize("case", ["olmo2", *(pytest.param(case, marks=pytest.mark.slow) for case in ("qwen2", *SLOW))])
def test_no_program_ever_has_a_stack_of_matrices_whole(case, worked, module_config):
    """Gradients, moments, updates and gathered weights among them: their shapes are not in what is compiled."""
    spec, options = CASES[case]
    work = worked(spec, EIGHT, **options)
    config = settings(module_config, EIGHT, **options)
    state, frozen = start(work.parts, work.programs)
    batch = in_microbatches(tokens(), work.parts.mesh, microbatch_prompts=config.microbatch_prompts)
    step = work.programs.measured_step or work.programs.train_step
    text = step.lower(state, frozen, batch).compile().as_text()
    whole = r"f32\[3,(24,44|44,24|24,4,6|24,24|4,6,24)\]"
    assert re.findall(whole, text) == []
    assert re.search(r"f32\[3,(12,22|22,12|12,2,6)\]", text)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_tokens_are_drawn_on_one_device_and_on_eight(spec, worked):
    drawn = {}
    for placement in (ONE, EIGHT):
        work = worked(spec, placement)
        params = work.parts.layout.place(initial_params(SPECS[spec], jax.random.key(1)))
        prompts = tokens()
        arguments = (prompts.prompt_PS, prompts.prompt_length_P, np.arange(P, dtype=np.int32))
        placed = place_batch(arguments, work.parts.mesh, axis=0)
        drawn[placement.data] = jax.device_get(work.programs.sample(params, *placed, jax.random.key(7)))
    one, eight = drawn[1], drawn[2]
    np.testing.assert_array_equal(eight.completion_PRT, one.completion_PRT)
    np.testing.assert_array_equal(eight.completion_length_PR, one.completion_length_PR)
    np.testing.assert_allclose(eight.behavior_logprob_PRT, one.behavior_logprob_PRT, atol=1e-5)
    assert len(np.unique(one.completion_PRT)) > 20


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(ONE, id="one device"),
        pytest.param(PlacementConfig(data=1, fsdp=4, tensor=2), id="1 x 4 x 2", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_goes_on_on_another_mesh(there, tmp_path, worked, module_config):
    work = worked("olmo2", EIGHT)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_newest=1, keep_best=0)
    checkpoints.save(work.state, {"update": 1}, update=1, accuracy=None)
    checkpoints.wait()
    config = settings(module_config, there)
    parts = parts_of(config, OLMO2)
    programs = build_programs(config, parts)
    restored, _ = checkpoints.restore(1, placed_abstract_state(parts.layout, programs.optimizer))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(work.state))
    assert jax.tree.map(lambda leaf: leaf.sharding, restored.params) == parts.layout.of(restored.params)

    def next_update(programs, parts, state):
        batch = in_microbatches(tokens(), parts.mesh, microbatch_prompts=4)
        state, metrics, _ = programs.measured_step(jax.tree.map(jnp.copy, state), None, batch)
        return state.params, metrics["optim/grad_norm"], state.n_updates

    assert_alike(next_update(programs, parts, restored), next_update(work.programs, work.parts, work.state))

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_loss import random_tokens

from rlvr_jax.models.spec import ModelSpec
from rlvr_jax.train import config as c
from rlvr_jax.train import evaluate_checkpoint as evaluate_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.learner import Learner
from rlvr_jax.train.lowered_step import lowered_step
from rlvr_jax.train.memory_plan import (
    MemoryPlan,
    PlannedModel,
    automatic_microbatch,
    device_budget,
    memory_fix,
    memory_plan,
    memory_problems,
    memory_table,
    memory_warnings,
    prompts_at_once,
    size_text,
    step_argument_bytes,
    within_memory,
)
from rlvr_jax.train.out_of_memory import out_of_memory_explained
from rlvr_jax.train.placement import build_mesh

OLMO_2_1B = ModelSpec(
    vocab_size=100_352, width=2048, n_layers=16, n_heads=16, n_kv_heads=16, head_width=128, mlp_width=8192,
    rope_theta=5e5, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
    qk_norm="all_heads", has_post_norm=True,
)  # fmt: skip
N_OLMO = 1_484_916_736  # 2 * 100352 * 2048 + 2048 + 16 * (4 * 2048^2 + 3 * 2048 * 8192 + 4 * 2048)
GIB = 2**30


def olmo_config(**placement):
    return c.TrainConfig(
        task=c.TaskConfig(name="digits", operators="+", operand_max=99),
        model=c.ModelConfig(compute_dtype="bfloat16", remat="full"),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(n_prompts=16, n_rollouts=8, microbatch_prompts=4),
        sampling=c.SamplingConfig(max_new_tokens=512, max_prompt_tokens=256),
        eval=c.EvalConfig(n_problems=16),
        placement=c.PlacementConfig(**placement),
    )


def planned(config, spec=None):
    """(parts of a config, with the model exchanged; what its formulas read)"""
    parts = assemble(config)
    parts = dataclasses.replace(parts, spec=spec or parts.spec)
    model = PlannedModel(parts.spec, parts.lora, parts.mesh, parts.compute_dtype)
    plan, memory = within_memory(config, parts.plan, model)
    return dataclasses.replace(parts, plan=plan, memory=memory), model


def formula(config, parts, model):
    plan = parts.plan
    sizes = {"prompt_tokens": plan.max_prompt_tokens, "microbatch_prompts": plan.microbatch_prompts}
    return step_argument_bytes(config, model, **sizes)


@pytest.mark.parametrize("placement", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=["1 device", "8"])
def test_arguments_of_a_compiled_olmo_2_1b_update_are_the_plans_to_the_byte(placement):
    config = olmo_config(**placement)
    parts, model = planned(config, OLMO_2_1B)
    memory = lowered_step(config, parts).compile().memory_analysis()
    assert memory.argument_size_in_bytes == formula(config, parts, model)
    # the state goes in and comes out in the same place: fp32 weights and two moments, and 11 counters and averages
    plan = parts.memory
    assert memory.alias_size_in_bytes == plan.weights + plan.moments
    if placement == {"data": 1}:
        assert plan.weights == 4 * N_OLMO
        assert plan.moments == 8 * N_OLMO + 4 * 11


CASES = {
    "the built-in model": {},
    "on 4 x 2 devices, no matrix split": {"placement.data": 4, "placement.tensor": 2},
    "an adapter": {"lora.enabled": True, "lora.rank": 4, "model.compute_dtype": "bfloat16"},
    "an adapter, on 8 devices": {
        "lora.enabled": True, "lora.rank": 4, "placement.data": 2, "placement.fsdp": 2, "placement.tensor": 2,
    },
    "two updates per step, a KL penalty": {"batch.minibatch_prompts": 4, "algo.kl_coef": 0.1},
    "momentum in bfloat16, micro-batches that devices cannot share": {
        "optimizer.momentum_dtype": "bfloat16", "batch.microbatch_prompts": 2, "model.has_tied_head": True,
    },
    "no clipping": {"optimizer.clip_norm": 0.0},
    "rollouts of several turns": {
        "task.name": "wordle", "task.n_turns": 2, "task.n_words": 45, "task.operators": "+-", "task.operand_max": 99,
        "sampling.max_new_tokens": 19,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_arguments_of_a_compiled_update_are_the_plans_to_the_byte(case, tiny_config):
    for path, value in CASES[case].items():
        c.set_field(tiny_config, path, value)
    parts, model = planned(tiny_config)
    memory = lowered_step(tiny_config, parts).compile().memory_analysis()
    assert memory.argument_size_in_bytes == formula(tiny_config, parts, model)
    assert memory.alias_size_in_bytes == parts.memory.weights + parts.memory.moments


def test_temporaries_grow_with_what_is_kept_and_with_the_micro_batch():
    def backward(**fields):
        config = olmo_config(data=1)
        for path, value in fields.items():
            c.set_field(config, path.replace("__", "."), value)
        return planned(config, OLMO_2_1B)[0].memory.backward

    plain = backward()
    assert backward(batch__microbatch_prompts=2) < plain
    assert plain < backward(model__remat="dots") < backward(model__remat="none")
    assert backward(model__logprob_chunk_mib=8192) > plain  # 64 MiB on a CPU
    # full: 16 layers x 4 * 8 * 767 tokens x 2048 numbers of 2 bytes, at least
    assert plain > 16 * 4 * 8 * 767 * 2048 * 2


def test_the_samplers_caches_by_hand():
    parts, _ = planned(olmo_config(data=1), OLMO_2_1B)
    turns = olmo_config(data=1)
    turns.task = c.TaskConfig(name="wordle", n_turns=3, n_words=80)
    # each of 16 x 8 rollouts with a prompt of its own, which with what is new takes 256 + 512 slots at most
    assert planned(turns, OLMO_2_1B)[0].memory.caches == 128 * (256 + 512) * 2 * 2 * 16 * 16 * 128
    # 16 prompts of 256 slots once, and 8 rollouts of 512 each: 2 (k, v) x 2 bytes x 16 layers x 16 heads x 128
    assert parts.memory.caches == 16 * (256 + 8 * 512) * 2 * 2 * 16 * 16 * 128


def test_no_more_rollouts_are_drawn_at_a_time_than_have_room():
    config = olmo_config(data=1)
    config.placement.memory_gib = 60.0
    model = PlannedModel(OLMO_2_1B, None, build_mesh(config.placement), jnp.dtype("bfloat16"))

    def plan(**sampling):
        changed = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **sampling))
        return memory_plan(changed, model, prompt_tokens=256, microbatch_prompts=1, budget=60 * GIB)

    per_slot = 2 * 2 * 16 * 16 * 128  # k and v x 2 bytes x layers x heads x width
    automatic = plan(max_new_tokens=2048)
    # 0.95 x 60 GiB less 16 bytes per parameter, and 2 for the sampler; per rollout 256 + 2048 slots and 3 x V logits
    room = int(0.95 * 60 * GIB) - 16 * 1_484_916_736 - 4 * 11 - 2 * 1_484_916_736
    assert automatic.rollouts_at_once == room // (per_slot * (256 + 2048) + 3 * 4 * 100_352)
    assert automatic.caches + automatic.sampler <= room + 2 * 1_484_916_736
    assert plan(max_new_tokens=2048, rollouts_at_once=16).caches == 2 * (256 + 8 * 2048) * per_slot


@pytest.mark.parametrize(
    ("n_prompts", "n_rollouts", "rollouts_at_once", "n_shards", "expected"),
    [
        (16, 8, None, 1, 16),
        (16, 8, 128, 1, 16),
        (16, 8, 127, 1, 8),  # 15 would leave 1 for the second part
        (16, 8, 24, 1, 3),  # six parts of 3
        (16, 8, 4, 1, 1),  # prompts are never split
        (16, 8, 64, 4, 8),
        (16, 8, 8, 4, 4),  # a prompt for each device
        (3, 8, 8, 4, 3),
        (1319, 1, 500, 1, 440),
    ],
)
def test_prompts_are_drawn_in_parts_of_about_one_size(n_prompts, n_rollouts, rollouts_at_once, n_shards, expected):
    got = prompts_at_once(n_prompts, n_rollouts=n_rollouts, rollouts_at_once=rollouts_at_once, n_shards=n_shards)
    assert got == expected


def test_a_micro_batch_fits_the_budget():
    config = olmo_config(data=1)
    config.batch.microbatch_prompts = 0
    model = PlannedModel(OLMO_2_1B, None, build_mesh(config.placement), jnp.dtype("bfloat16"))

    def automatic(gib):
        budget = None if gib is None else int(gib * GIB)
        return automatic_microbatch(config, model, prompt_tokens=256, budget=budget)

    assert automatic(None) == 16  # the whole minibatch where nothing is known
    sizes = [automatic(gib) for gib in (20, 40, 60, 80, 1_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1  # too little in any case
    assert sizes[-1] == 16
    assert len(set(sizes)) >= 3
    assert all(16 % size == 0 for size in sizes)


def test_devices_can_share_an_automatic_micro_batch(tiny_config):
    tiny_config.placement = c.PlacementConfig(data=4, memory_gib=1e-6)  # 8 prompts
    parts, _ = planned(tiny_config)
    assert parts.plan.microbatch_prompts == 4
    assert parts.plan.microbatches_per_update == 2
    assert parts.memory.microbatch_prompts == 4


def test_a_micro_batch_that_is_set_stays(tiny_config):
    tiny_config.batch.microbatch_prompts, tiny_config.placement.memory_gib = 8, 1e-6
    assert planned(tiny_config)[0].plan.microbatch_prompts == 8


def test_an_update_goes_through_as_many_prompts_at_a_time_as_the_plan_says(tiny_config):
    tiny_config.placement.memory_gib = 1e-6
    parts, _ = planned(tiny_config)  # 8 prompts, 1 at a time
    learner = Learner(tiny_config, parts, None, None, None)
    batch = random_tokens(np.random.default_rng(0), P=8, R=4, S=2, T=3, vocab_size=9)
    assert learner._in_microbatches(batch).completion_PRT.shape == (8, 1, 4, 3)
    tiny_config.batch.microbatch_prompts = 4
    assert learner._in_microbatches(batch).completion_PRT.shape == (2, 4, 4, 3)


class Device:
    """One that says how much memory it has."""

    process_index = 0

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes

    def memory_stats(self):
        return {"bytes_limit": self.n_bytes}


def test_the_budget_is_what_the_config_says_or_the_least_that_a_device_has():
    mesh = build_mesh(c.PlacementConfig(data=1))
    assert device_budget(1.5, mesh) == 3 * 2**29
    assert device_budget(0.0, mesh) is None  # a CPU does not say
    gpus = SimpleNamespace(devices=np.array([Device(7 * GIB + 5), Device(6 * GIB + 5)]))
    assert device_budget(0.0, gpus) == 6 * GIB  # in whole MiB


PLAN = MemoryPlan(
    weights=4 * GIB, moments=8 * GIB, starting=4 * GIB, batch=2**20, backward=10 * GIB, caches=5 * GIB, sampler=3 * GIB,
    microbatch_prompts=4, rollouts_at_once=None, budget=40 * GIB,
)  # fmt: skip


def test_the_fullest_moment_is_the_backward_pass_or_sampling():
    assert PLAN.total == 26 * GIB + 2**20
    assert dataclasses.replace(PLAN, caches=20 * GIB).total == 39 * GIB  # 16 + 20 + 3


def test_what_does_not_fit_is_said_with_what_to_change():
    assert memory_problems(PLAN) == memory_warnings(PLAN) == []
    tight = dataclasses.replace(PLAN, budget=27 * GIB)  # 95% are less than 26
    assert memory_problems(tight) == []
    (warning,) = memory_warnings(tight)
    assert "26.0 GiB of the 27.0 GiB" in warning
    assert "batch.microbatch_prompts below 4" in warning
    (problem,) = memory_problems(dataclasses.replace(PLAN, budget=16 * GIB))
    assert "16.0 GiB of the 16.0 GiB" in problem
    assert "placement.fsdp" in problem
    assert memory_warnings(dataclasses.replace(PLAN, budget=16 * GIB)) == []  # said once
    assert memory_problems(dataclasses.replace(PLAN, budget=None)) == []
    assert "batch.n_rollouts" in memory_fix(dataclasses.replace(PLAN, microbatch_prompts=1))
    assert "sampling.rollouts_at_once" in memory_fix(dataclasses.replace(PLAN, caches=20 * GIB))


def test_the_plan_as_text():
    lines = memory_table(PLAN).splitlines()
    assert any(line.split() == ["weights", "4.0", "GiB", "trained,", "in", "fp32"] for line in lines)
    assert any("10.0 GiB" in line and "4 prompts at a time" in line for line in lines)
    assert "26.0 GiB" in lines[-1]
    assert "of 40.0 GiB" in lines[-1]
    assert "not known" in memory_table(dataclasses.replace(PLAN, budget=None))
    assert size_text(3 * 2**19) == "1.5 MiB"


def test_an_evaluation_that_does_not_fit_says_what_it_needs_less_of(tiny_config, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(evaluate_module, "_evaluated", exhausted)
    with pytest.raises(c.ConfigError, match=r"the evaluation ran out of .*use less of eval.n_problems"):
        evaluate_module.evaluate_checkpoint(tiny_config, None)


def test_running_out_of_memory_becomes_one_message_with_the_plan():
    text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes.\nmore"
    with pytest.raises(c.ConfigError) as raised, out_of_memory_explained(PLAN, lambda: "the warm start"):
        raise jax.errors.JaxRuntimeError(text)
    message = str(raised.value)
    assert message.startswith("the warm start ran out of a device's memory (RESOURCE_EXHAUSTED: Out of memory")
    assert "batch.microbatch_prompts below 4" in message
    assert "10.0 GiB" in message
    with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory_explained(PLAN, lambda: "the warm start"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

"""What a run needs of each device's memory, by formula, before anything is allocated.

What is held (weights, moments, a batch) is exact: the argument bytes of a compiled update, by test. What an update or
the sampler makes for a while is an estimate: it counts what has to be there at once, and leaves out what a compiler
may add or save. Every number is of one device; names with `local` count what one device has of an array.
"""

import dataclasses
import math
from collections.abc import Mapping

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rlvr_jax.models.lora import LoraSpec, trained_table
from rlvr_jax.models.spec import ModelSpec, Parameter, parameter_table
from rlvr_jax.train.batch_plan import BatchPlan
from rlvr_jax.train.completion_logprobs import build_head_plan
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.noise_pass import CHUNK_BYTES, CHUNK_BYTES_ELSEWHERE
from rlvr_jax.train.placement import n_batch_shards, param_shardings

N_COUNTERS = 5  # 32-bit: updates, those not finite, skipped in a row; and the optimiser's own two
N_NOISE_AVERAGES = 6
FRAGMENTATION = 0.95  # of the budget that arrays can fill


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one device."""

    weights: int  # trained ones in fp32
    moments: int  # of Adam, with all counters
    starting: int  # weights that do not change: under an adapter, a reference, or for the next point of a study
    batch: int  # of one update
    backward: int  # estimate: what an update makes for a while, at `microbatch_prompts`
    caches: int  # the sampler's keys and values of prompts and completions
    sampler: int  # estimate: what else it makes
    microbatch_prompts: int
    rollouts_at_once: int | None  # the sampler's, None: all
    budget: int | None  # None: not known

    @property
    def held(self) -> int:
        return self.weights + self.moments + self.starting

    @property
    def total(self) -> int:
        """At the fullest moment."""
        return self.held + max(self.batch + self.backward, self.caches + self.sampler)

    @property
    def fits(self) -> bool:
        return self.budget is None or self.total <= FRAGMENTATION * self.budget


@dataclasses.dataclass(frozen=True)
class PlannedModel:
    """What the formulas read of a model and where it lies."""

    spec: ModelSpec
    lora: LoraSpec | None
    mesh: Mesh
    compute_dtype: np.dtype


def memory_plan(
    config: TrainConfig, model: PlannedModel, *, prompt_tokens: int, microbatch_prompts: int, budget: int | None
) -> MemoryPlan:
    """The plan of a run whose prompts take up to so many tokens."""
    n_trained = local_values(trained_table(model.spec, model.lora), model)
    momentum = np.dtype("uint16" if config.optimizer.momentum_dtype == "bfloat16" else "float32").itemsize
    every = local_values(parameter_table(model.spec), model)
    weights, starting = 4 * n_trained, every * (4 if model.lora is None else _itemsize(model))
    moments = (momentum + 4) * n_trained + 4 * (N_COUNTERS + N_NOISE_AVERAGES)
    room = None if budget is None else int(FRAGMENTATION * budget) - weights - moments - starting
    rollouts_at_once = config.sampling.rollouts_at_once or _rollouts_that_fit(config, model, prompt_tokens, room)
    caches, sampler = _sampling_bytes(config, model, prompt_tokens, rollouts_at_once)
    return MemoryPlan(
        weights=weights,
        moments=moments,
        starting=starting,
        batch=batch_bytes(config, model, prompt_tokens=prompt_tokens, microbatch_prompts=microbatch_prompts),
        backward=_backward_bytes(config, model, prompt_tokens, microbatch_prompts),
        caches=caches,
        sampler=sampler,
        microbatch_prompts=microbatch_prompts,
        rollouts_at_once=rollouts_at_once,
        budget=budget,
    )


def within_memory(config: TrainConfig, plan: BatchPlan, model: PlannedModel) -> tuple[BatchPlan, MemoryPlan]:
    """The plan with its micro-batches settled, and what it takes."""
    n_evaluated = config.eval.n_problems or plan.n_heldout
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, n_problems=n_evaluated))
    budget = device_budget(config.placement.memory_gib, model.mesh)
    sizes = {"prompt_tokens": plan.max_prompt_tokens, "budget": budget}
    n = config.batch.microbatch_prompts or automatic_microbatch(config, model, **sizes)
    plan = dataclasses.replace(plan, microbatch_prompts=n, microbatches_per_update=plan.minibatch_prompts // n)
    return plan, memory_plan(config, model, microbatch_prompts=n, **sizes)


def automatic_microbatch(config: TrainConfig, model: PlannedModel, *, prompt_tokens: int, budget: int | None) -> int:
    """The largest micro-batch that divides the minibatch, that devices can share and that fits; else the smallest.

    The whole minibatch where no budget is known.
    """
    n_shards, whole = n_batch_shards(model.mesh), config.minibatch_prompts
    if budget is None:
        return whole
    sizes = [size for size in range(whole, 0, -1) if whole % size == 0 and size % n_shards == 0]
    for size in sizes:
        plan = memory_plan(config, model, prompt_tokens=prompt_tokens, microbatch_prompts=size, budget=budget)
        # what is held and what the sampler takes does not depend on the size: no use to shrink because of it
        if plan.held + plan.batch + plan.backward <= FRAGMENTATION * budget:
            return size
    return min(sizes, default=whole)


def device_budget(memory_gib: float, mesh: Mesh) -> int | None:
    """Bytes that one device may use: as the config says, else what it has for this process; None if it does not say."""
    if memory_gib > 0:
        return int(memory_gib * 2**30)
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in own]
    if not limits or not all(limits):
        return None
    limit_mib = min(limits) // 2**20
    if jax.process_count() > 1:  # micro-batches have to be the same everywhere
        limit_mib = int(multihost_utils.process_allgather(np.int32(limit_mib)).min())
    return limit_mib * 2**20


def step_argument_bytes(
    config: TrainConfig, model: PlannedModel, *, prompt_tokens: int, microbatch_prompts: int
) -> int:
    """What the compiled update takes in: state, frozen weights and batch, without what it does not read."""
    plan = memory_plan(config, model, prompt_tokens=prompt_tokens, microbatch_prompts=microbatch_prompts, budget=None)
    frozen = 0 if model.lora is None else plan.starting
    return plan.weights + plan.moments + frozen + plan.batch


def batch_bytes(config: TrainConfig, model: PlannedModel, *, prompt_tokens: int, microbatch_prompts: int) -> int:
    """The arrays of one update that measures nothing: see train/loss.Batch, but for what only the noise reads."""
    n_shards = n_batch_shards(model.mesh)
    n_parts = n_shards if microbatch_prompts % n_shards == 0 else 1
    R, T = config.batch.n_rollouts, config.sampling.max_new_tokens
    n_logprobs = 1 + (config.updates_per_step > 1) + (config.algo.kl_coef > 0 and config.algo.kl_in == "loss")
    per_prompt = 4 * (prompt_tokens + 1)  # the prompt and its length
    per_rollout = 4 * T * (1 + n_logprobs) + 4 + 1 + 4  # with its length, whether kept, its advantage
    per_rollout += T * config.has_turns  # which tokens are the policy's
    return config.minibatch_prompts * (per_prompt + R * per_rollout) // n_parts


def local_values(table: Mapping[str, Parameter], model: PlannedModel) -> int:
    """How many values of a table one device holds."""
    shardings = flax.traverse_util.flatten_dict(param_shardings(table, model.mesh), sep="/")
    return sum(math.prod(shardings[path].shard_shape(row.shape)) for path, row in table.items())


def _itemsize(model: PlannedModel) -> int:
    return np.dtype(model.compute_dtype).itemsize


def _backward_bytes(config: TrainConfig, model: PlannedModel, prompt_tokens: int, microbatch_prompts: int) -> int:
    """What the backward pass of a micro-batch has at its fullest; the optimiser's moment after it needs no more."""
    spec, c = model.spec, _itemsize(model)
    n_trained = local_values(trained_table(spec, model.lora), model)
    n_shards, n_tensor = n_batch_shards(model.mesh), model.mesh.shape["tensor"]
    n_rows = math.ceil(microbatch_prompts / n_shards) * config.batch.n_rollouts
    T = config.sampling.max_new_tokens
    n_tokens = n_rows * (prompt_tokens + T - 1)
    saved, whole = _layer_bytes_per_token(model, prompt_tokens + T - 1, remat=config.model.remat)
    cast = c * n_trained if c < 4 else 0
    gathered = 0
    if model.mesh.shape["fsdp"] > 1:  # two layers at a time, and the embedding
        n_matrices = local_values({p: row for p, row in parameter_table(spec).items() if "layers" in p}, model)
        of_layers = model.mesh.shape["fsdp"] * 2 * n_matrices // spec.n_layers
        gathered = c * (of_layers + spec.vocab_size * spec.width // n_tensor)
    plan = build_head_plan(config.model.logprob_chunk_mib, model.mesh)
    all_logits = 4 * n_rows * T * spec.vocab_size // n_tensor
    logits = 3 * min(plan.chunk_bytes, all_logits)  # logits, their gradients and one more in between
    states = n_rows * T * spec.width * (2 * c + 4)
    # fp32 sums over micro-batches, and the gradient of one in the dtype of its weight
    gradients = (4 + c) * n_trained
    # of the head as it fills up, and of the embedding before it is added
    tables = {path: row for path, row in parameter_table(spec).items() if path in ("embedding", "head")}
    gradients += 4 * local_values(tables, model) if model.lora is None else 0
    noise = 0
    if config.noise.every_updates > 0:
        noise = 8 * n_trained + _tap_bytes(config, model, prompt_tokens, n_rows)
    at_work = n_tokens * (saved * spec.n_layers + whole)
    at_head = logits + n_tokens * saved * spec.n_layers
    return int(cast + gathered + gradients + noise + max(at_work, at_head) + states)


def _layer_bytes_per_token(model: PlannedModel, n_positions: int, *, remat: str) -> tuple[int, int]:
    """(what each layer keeps until the backward pass, what the one in work has then), per token."""
    spec, c, n_tensor = model.spec, _itemsize(model), model.mesh.shape["tensor"]
    D, F = spec.width, spec.mlp_width // n_tensor
    queries, keys = (n * spec.head_width // n_tensor for n in (spec.n_heads, spec.n_kv_heads))
    scores = math.ceil(spec.n_heads / n_tensor) * n_positions
    stream = c * D
    products = c * (queries + 2 * keys + 2 * D + 2 * F)
    # two norms with fp32 inside, attention with its scores three times in fp32 and once not, and the five F-wide
    # arrays of a SwiGLU block
    everything = stream + 2 * (4 + c) * D + c * (2 * queries + 3 * keys) + (12 + c) * scores + 5 * c * F
    saved = {"full": stream, "dots": stream + products, "none": everything}[remat]
    cotangents = 8 * scores + 4 * c * F + 4 * 4 * D
    return saved, cotangents + (0 if remat == "none" else everything)


def _tap_bytes(config: TrainConfig, model: PlannedModel, prompt_tokens: int, n_rows: int) -> int:
    """Formed gradients, and for a table that is also the head the rollouts' gradients at the rows they looked up."""
    spec, R = model.spec, config.batch.n_rollouts
    platform = model.mesh.devices.flat[0].platform
    formed = 2 * (config.noise.chunk_mib * 2**20 or CHUNK_BYTES.get(platform, CHUNK_BYTES_ELSEWHERE))
    n_used = min(spec.vocab_size, R * (prompt_tokens + config.sampling.max_new_tokens - 1))
    return formed + (2 * 4 * n_rows * n_used * spec.width if spec.has_tied_head else 0)


def prompts_at_once(n_prompts: int, *, n_rollouts: int, rollouts_at_once: int | None, n_shards: int) -> int:
    """How many prompts the sampler takes at a time: parts of equal size that devices can share, at least one each."""
    if rollouts_at_once is None or n_prompts * n_rollouts <= rollouts_at_once:
        return n_prompts
    most = max(rollouts_at_once // (n_rollouts * n_shards), 1) * n_shards
    n_parts = math.ceil(n_prompts / most)
    return min(math.ceil(n_prompts / (n_parts * n_shards)) * n_shards, n_prompts)


def _sampling_bytes(
    config: TrainConfig, model: PlannedModel, prompt_tokens: int, rollouts_at_once: int | None
) -> tuple[int, int]:
    """(keys and values, what else the sampler has), of a step's rollouts or an evaluation, whichever has more."""
    n_shards = n_batch_shards(model.mesh)
    batches = [(config.batch.n_prompts, config.batch.n_rollouts), (config.eval.n_problems, config.eval.n_samples)]
    if config.has_turns:  # each rollout has a prompt of its own: all that came before its turn
        batches = [(n_prompts * n_rollouts, 1) for n_prompts, n_rollouts in batches]
    per_slot, logits = _slot_and_logit_bytes(model)
    weights = _sampler_weights(model)
    caches = sampler = 0
    for n_prompts, n_rollouts in batches:
        n = prompts_at_once(n_prompts, n_rollouts=n_rollouts, rollouts_at_once=rollouts_at_once, n_shards=n_shards)
        n_own = math.ceil(n / n_shards)
        n_slots = n_own * (prompt_tokens + n_rollouts * config.sampling.max_new_tokens)
        caches, sampler = max((caches, sampler), (per_slot * n_slots, weights + logits * n_own * n_rollouts))
    return caches, sampler


def _rollouts_that_fit(config: TrainConfig, model: PlannedModel, prompt_tokens: int, room: int | None) -> int | None:
    """How many rollouts of all devices can be drawn at a time, each with a prompt of its own; None if not known."""
    if room is None:
        return None
    per_slot, logits = _slot_and_logit_bytes(model)
    per_rollout = per_slot * (prompt_tokens + config.sampling.max_new_tokens) + logits
    return max((room - _sampler_weights(model)) // per_rollout, 1) * n_batch_shards(model.mesh)


def _slot_and_logit_bytes(model: PlannedModel) -> tuple[int, int]:
    """Of one token's keys and values in all layers, and of one rollout's logits while a token is chosen."""
    spec, n_tensor = model.spec, model.mesh.shape["tensor"]
    n_heads = spec.n_kv_heads // n_tensor if spec.n_kv_heads % n_tensor == 0 else spec.n_kv_heads
    per_slot = 2 * _itemsize(model) * spec.n_layers * n_heads * spec.head_width
    return per_slot, 3 * 4 * spec.vocab_size // n_tensor


def _sampler_weights(model: PlannedModel) -> int:
    """In the dtype of the matmuls, without the split over fsdp."""
    return _itemsize(model) * local_values(parameter_table(model.spec), model) * model.mesh.shape["fsdp"]


def memory_table(plan: MemoryPlan) -> str:
    """The plan as lines of text, one quantity each."""
    drawn = "all rollouts at once" if plan.rollouts_at_once is None else f"{plan.rollouts_at_once} rollouts at a time"
    at_once = f"estimate, {plan.microbatch_prompts} prompts at a time"
    rows = [
        ("memory of a device", "", "" if plan.budget else "how much it has is not known"),
        ("weights", size_text(plan.weights), "trained, in fp32"),
        ("starting weights", size_text(plan.starting), "kept as they are"),
        ("optimiser", size_text(plan.moments), ""),
        ("a batch", size_text(plan.batch), ""),
        ("backward pass", size_text(plan.backward), at_once),
        ("keys and values", size_text(plan.caches), f"while sampling, {drawn}"),
        ("sampler besides", size_text(plan.sampler), "estimate"),
        ("at the fullest", size_text(plan.total), f"of {size_text(plan.budget)}" if plan.budget else ""),
    ]
    width, number_width = max(len(r[0]) for r in rows) + 2, max(len(r[1]) for r in rows)
    lines = [f"  {name:<{width}}  {number:>{number_width}}  {how}".rstrip() for name, number, how in rows]
    return "\n".join(lines)


def size_text(n_bytes: int) -> str:
    """In GiB, or in MiB below one of them."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def memory_problems(plan: MemoryPlan) -> list[str]:
    """What cannot fit whatever is done in smaller parts, with the fix."""
    if plan.budget is None or plan.held + plan.batch <= plan.budget:
        return []
    return [
        f"weights and optimiser take {size_text(plan.held + plan.batch)} of the {size_text(plan.budget)} of a device; "
        "share them among more devices with placement.fsdp, or use optimizer.momentum_dtype='bfloat16' or lora.enabled"
    ]


def memory_warnings(plan: MemoryPlan) -> list[str]:
    """What may not fit, by estimate."""
    if plan.fits or memory_problems(plan):
        return []
    return [
        f"the run may need {size_text(plan.total)} of the {size_text(plan.budget)} of a device; if it runs out of "
        f"memory, {memory_fix(plan)}"
    ]


def memory_fix(plan: MemoryPlan) -> str:
    """What to change where it does not fit, by what is fullest."""
    if plan.caches + plan.sampler > plan.batch + plan.backward:
        return (
            "use a smaller sampling.rollouts_at_once (at least as many are drawn as batch.n_rollouts or eval.n_samples "
            "has), a smaller sampling.max_new_tokens, or more of placement.fsdp"
        )
    fewer = (
        f"batch.microbatch_prompts below {plan.microbatch_prompts}"
        if plan.microbatch_prompts > 1
        else "fewer batch.n_rollouts"
    )
    return f"use {fewer}, model.remat='full', a smaller model.logprob_chunk_mib or more of placement.fsdp"

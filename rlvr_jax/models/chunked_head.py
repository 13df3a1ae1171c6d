"""Log-probabilities and entropies of given tokens from a head whose logits are never all there at once.

A pass of 8,000 tokens over a vocabulary of 150,000 would hold 4.8 GB of logits, and again as much of their
gradients. Here the vocabulary is gone through in chunks of columns. Forward, each leaves its part of the running
maximum and of the sums; backward, each makes its logits again and from them

    d logit_v = d logprob (1{v = token} - p_v) - d entropy p_v (log p_v + entropy)

Chunks are of the vocabulary and not of tokens, because taps (models/taps.py) need the gradient of each rollout over
all its tokens: its inner products add up over columns, as over different parameters, but not over tokens.

A vocabulary that devices share is a run of columns on each of them; a chunk is then cut from each run, so that
nobody needs the others' columns. Array names: M tokens, s runs of columns, W of each run's columns at a time.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.models.tapped_ops import Reader, Tap, TapPlan, Turns, matrix_gradients, reader_cotangent, without_tap

NEVER = -1e30  # a logit that adds nothing; finite, because 0 * -inf is NaN


@dataclasses.dataclass(frozen=True)
class HeadPlan:
    """How many logits are made at a time, and by how many devices. Memory only: no result depends on it."""

    chunk_bytes: int  # of fp32 logits on each device
    n_token_shards: int  # devices that share the rows of a batch
    n_vocab_shards: int  # devices that share the vocabulary


ALL_AT_ONCE = HeadPlan(chunk_bytes=2**62, n_token_shards=1, n_vocab_shards=1)  # for small vocabularies


@dataclasses.dataclass(frozen=True)
class HeadChunks:
    """How a head is gone through. Hashable: static under jit."""

    width: int  # W
    n_runs: int  # s
    is_table: bool  # the weight is a table [V, D] that is also the embedding, else [D, V]
    temperature: float


def head_chunks(
    plan: HeadPlan, *, n_tokens: int, vocab_size: int, is_table: bool, temperature: float
) -> HeadChunks | None:
    """The chunks of one pass over so many tokens; None where all logits fit at once."""
    n_runs = plan.n_vocab_shards if vocab_size % plan.n_vocab_shards == 0 else 1
    n_columns = vocab_size // n_runs
    most = max(1, plan.chunk_bytes // (4 * math.ceil(n_tokens / plan.n_token_shards)))
    if n_columns <= most:
        return None
    width = math.ceil(n_columns / math.ceil(n_columns / most))
    if width >= 1024:
        width = min(n_columns, 128 * math.ceil(width / 128))  # matmul tiles; at most an eighth more than was allowed
    return HeadChunks(width, n_runs, is_table, temperature)


class Lse(NamedTuple):
    """Of the tokens' distributions, log sum exp = largest + log_total. f32[M] each."""

    largest_M: jax.Array
    log_total_M: jax.Array
    entropy_M: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chunked_logprobs(
    chunks: HeadChunks,
    plan: TapPlan | None,
    hidden_NTD: jax.Array,
    weight: jax.Array,
    token_NT: jax.Array,
    reader: Reader | None,
    row_PU: jax.Array | None,
    carrier_PRUD: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden weight / temperature) at each token, and the entropy of that distribution.

    Args:
        plan, reader: of a weight that is tapped, else None; the reader's leaves are shaped as the weight.
        row_PU, carrier_PRUD: of a tapped table that was also looked up (taps.Lookup), else None.

    Returns:
        f32[N, T] nats each.
    """
    return _forward(chunks, plan, hidden_NTD, weight, token_NT, reader, row_PU, carrier_PRUD)[0]


def _forward(chunks, plan, hidden_NTD, weight, token_NT, reader, row_PU, carrier_PRUD):
    del carrier_PRUD
    logprob_M, lse = _streamed(chunks, hidden_NTD.reshape(-1, hidden_NTD.shape[2]), weight, token_NT.reshape(-1))
    found = tuple(leaf.reshape(token_NT.shape) for leaf in (logprob_M, lse.entropy_M))
    return found, (hidden_NTD, weight, token_NT, lse, without_tap(reader) if plan else None, row_PU)


def _backward(chunks, plan, residuals, cotangents):
    hidden_NTD, weight, token_NT, lse, reader, row_PU = residuals
    D = hidden_NTD.shape[2]
    hidden_MD, token_M = hidden_NTD.reshape(-1, D), token_NT.reshape(-1)
    slopes = tuple(leaf.reshape(-1) for leaf in cotangents)
    letters = _letters(chunks)

    def gradients(dlogits_MsW: jax.Array, start: jax.Array) -> tuple[jax.Array, Tap | None]:
        if plan is None:
            return jnp.einsum(f"md,msw->{letters}", hidden_MD, dlogits_MsW, preferred_element_type=jnp.float32), None
        metric = _cut(chunks, reader.metric, start) if reader.metric is not None else None
        return _tapped_gradients(chunks, plan, hidden_NTD, dlogits_MsW, reader._replace(metric=metric), start, weight)

    def of_chunk(totals: tuple, first: jax.Array) -> tuple[tuple, Tap | None]:
        dhidden_sMD, dweight, gradient_sum = totals
        columns = _columns(chunks, weight, first)
        logit_MsW = _logits(chunks, hidden_MD, weight, columns.start)
        dlogits_MsW = _logit_gradients(logit_MsW, columns.column_sW, token_M, lse, slopes) / chunks.temperature
        dlogits_MsW = jnp.where(columns.is_new_W[None, None], dlogits_MsW, 0.0)
        # summed over runs after the loop: one reduction across devices, not one per chunk
        weight_chunk = _cut(chunks, weight, columns.start)
        dhidden_sMD = dhidden_sMD + jnp.einsum(
            f"msw,{letters}->smd", dlogits_MsW, weight_chunk, preferred_element_type=jnp.float32
        )
        dchunk, tap = gradients(dlogits_MsW, columns.start)
        dweight = _added(chunks, dweight, dchunk, columns.start)
        if tap is not None:
            gradient_sum = _added(chunks, gradient_sum, tap.gradient_sum, columns.start)
            tap = tap._replace(gradient_sum=None)
        return (dhidden_sMD, dweight, gradient_sum), tap

    gradient_sum = None if plan is None else jnp.zeros(weight.shape, jnp.float32)
    zero = (jnp.zeros((chunks.n_runs, *hidden_MD.shape), jnp.float32), jnp.zeros_like(weight), gradient_sum)
    (dhidden_sMD, dweight, gradient_sum), taps = jax.lax.scan(of_chunk, zero, _first_columns(chunks, weight))
    dhidden_NTD = dhidden_sMD.sum(axis=0).astype(hidden_NTD.dtype).reshape(hidden_NTD.shape)
    dreader = dcarrier_PRUD = None
    if plan is not None:
        tap = jax.tree.map(lambda leaf: leaf.sum(axis=0), taps)._replace(gradient_sum=gradient_sum)
        dreader = reader_cotangent(reader, tap)
    if row_PU is not None:
        dcarrier_PRUD = _carrier_cotangent(chunks, plan, hidden_NTD, weight, token_NT, lse, slopes, row_PU)
    return dhidden_NTD, dweight, None, dreader, None, dcarrier_PRUD


chunked_logprobs.defvjp(_forward, _backward)


def _streamed(chunks: HeadChunks, hidden_MD: jax.Array, weight: jax.Array, token_M: jax.Array) -> tuple[jax.Array, Lse]:
    """Log-probabilities f32[M], and what the backward pass needs to make the distributions again.

    Each run of columns keeps sums of its own, relative to its own maximum; they meet after the loop.
    """

    def of_chunk(sums: tuple, first: jax.Array) -> tuple[tuple, None]:
        largest_Ms, total_Ms, moment_Ms, chosen_Ms = sums
        columns = _columns(chunks, weight, first)
        is_new_11W = columns.is_new_W[None, None]
        logit_MsW = jnp.where(is_new_11W, _logits(chunks, hidden_MD, weight, columns.start), NEVER)
        before_Ms, largest_Ms = largest_Ms, jnp.maximum(largest_Ms, logit_MsW.max(axis=2))
        below_MsW = logit_MsW - largest_Ms[..., None]
        total_Ms, moment_Ms = _rebased(total_Ms, moment_Ms, before_Ms - largest_Ms)
        is_chosen_MsW = (columns.column_sW[None] == token_M[:, None, None]) & is_new_11W
        return (
            largest_Ms,
            total_Ms + jnp.exp(below_MsW).sum(axis=2),
            moment_Ms + (jnp.exp(below_MsW) * below_MsW).sum(axis=2),
            chosen_Ms + jnp.where(is_chosen_MsW, logit_MsW, 0.0).sum(axis=2),
        ), None

    zero_Ms = jnp.zeros((len(hidden_MD), chunks.n_runs), jnp.float32)
    (largest_Ms, total_Ms, moment_Ms, chosen_Ms), _ = jax.lax.scan(
        of_chunk, (zero_Ms + NEVER, zero_Ms, zero_Ms, zero_Ms), _first_columns(chunks, weight)
    )
    largest_M = largest_Ms.max(axis=1)
    total_Ms, moment_Ms = _rebased(total_Ms, moment_Ms, largest_Ms - largest_M[:, None])
    total_M = total_Ms.sum(axis=1)
    log_total_M = jnp.log(total_M)
    entropy_M = log_total_M - moment_Ms.sum(axis=1) / total_M
    logprob_M = (chosen_Ms.sum(axis=1) - largest_M) - log_total_M
    return logprob_M, Lse(largest_M, log_total_M, entropy_M)


def _rebased(total: jax.Array, moment: jax.Array, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sum exp(x) and sum x exp(x) with `moved` <= 0 added to every x."""
    scale = jnp.exp(moved)
    return scale * total, scale * (moment + total * moved)


def _logit_gradients(
    logit_MsW: jax.Array, column_sW: jax.Array, token_M: jax.Array, lse: Lse, slopes: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """The gradient by logit / temperature, from those by log-probability and entropy, f32[M] each."""
    largest, log_total, entropy, of_logprob, of_entropy = (leaf[:, None, None] for leaf in (*lse, *slopes))
    log_p_MsW = (logit_MsW - largest) - log_total
    drawn_down_MsW = jnp.exp(log_p_MsW) * (of_logprob + of_entropy * (log_p_MsW + entropy))
    return jnp.where(column_sW[None] == token_M[:, None, None], of_logprob, 0.0) - drawn_down_MsW


def _tapped_gradients(
    chunks: HeadChunks,
    plan: TapPlan,
    hidden_NTD: jax.Array,
    dlogits_MsW: jax.Array,
    reader: Reader,
    start: jax.Array,
    weight: jax.Array,
) -> tuple[jax.Array, Tap]:
    """The weighted gradient and the tap of a chunk; the reader's metric is cut like the weight."""
    _, T, D = hidden_NTD.shape
    hidden_PRTD = hidden_NTD.reshape(-1, plan.n_units, plan.rows_per_unit * T, D)
    dlogits_sPRTW = jnp.moveaxis(dlogits_MsW.reshape(*hidden_PRTD.shape[:3], *dlogits_MsW.shape[1:]), 3, 0)
    turn = (0, 2, 1) if chunks.is_table else (1, 0, 2)  # between the axes of a chunk and [s, D, W], either way

    def of_run(dlogits_PRTW: jax.Array, metric_DW: jax.Array | None, first_output: jax.Array) -> tuple[jax.Array, Tap]:
        own = reader._replace(metric=metric_DW)
        return matrix_gradients(plan, hidden_PRTD, dlogits_PRTW, own, first_output=first_output)

    metric_sDW = reader.metric.transpose(turn) if reader.metric is not None else None
    first_s = start + jnp.arange(chunks.n_runs) * _n_columns(chunks, weight)
    dweight_sDW, tap = _mapped(of_run, dlogits_sPRTW, metric_sDW, first_s)
    gradient_sum = tap.gradient_sum.transpose(turn)
    tap = jax.tree.map(lambda leaf: leaf.sum(axis=0), tap._replace(gradient_sum=None))
    return dweight_sDW.transpose(turn), tap._replace(gradient_sum=gradient_sum)


def _mapped(f: Callable[..., Any], *arrays: jax.Array | None) -> Any:
    """vmap over runs; of one run without vmap, which would make a gather of each roll of a sketch."""
    if len(jax.tree.leaves(arrays)[0]) > 1:
        return jax.vmap(f)(*arrays)
    return jax.tree.map(lambda leaf: leaf[None], f(*jax.tree.map(lambda leaf: leaf[0], arrays)))


def _carrier_cotangent(
    chunks: HeadChunks,
    plan: TapPlan,
    hidden_NTD: jax.Array,
    weight: jax.Array,
    token_NT: jax.Array,
    lse: Lse,
    slopes: tuple[jax.Array, jax.Array],
    row_PU: jax.Array,
) -> jax.Array:
    """f32[P, R, U, D], the rollouts' gradients of a table as head, at the rows that were looked up.

    Their logits are made once more: picking them out of the chunks would go through all of those.
    """
    U, D = row_PU.shape[1], hidden_NTD.shape[2]

    def by_unit(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(len(row_PU), plan.n_units, -1, *leaf.shape[1:])

    turns = Turns.fitting(plan, n_prompts=len(row_PU), bytes_per_prompt=4 * plan.n_units * U * D)
    of_tokens = jax.tree.map(by_unit, (hidden_NTD.reshape(-1, D), token_NT.reshape(-1), lse, slopes))

    def of_prompt(hidden_RTD: jax.Array, token_RT: jax.Array, lse: Lse, slopes: tuple, row_U: jax.Array) -> jax.Array:
        logit_RTU = jnp.einsum("rtd,ud->rtu", hidden_RTD, weight[row_U], preferred_element_type=jnp.float32)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1), (token_RT, lse, slopes))
        dlogits_M1U = _logit_gradients(logit_RTU.reshape(-1, 1, U) / chunks.temperature, row_U[None], *flat)
        dlogits_RTU = dlogits_M1U.reshape(logit_RTU.shape) / chunks.temperature
        return jnp.einsum("rtu,rtd->rud", dlogits_RTU, hidden_RTD, preferred_element_type=jnp.float32)

    def of_turn(_: None, inputs: tuple) -> tuple[None, jax.Array]:
        return None, jax.vmap(of_prompt)(*inputs)

    _, found = jax.lax.scan(of_turn, None, turns.split((*of_tokens, row_PU)))
    return turns.joined(found)


class _Columns(NamedTuple):
    """The columns of a chunk. The last one overlaps the one before where the width does not divide a run."""

    start: jax.Array  # within each run
    column_sW: jax.Array  # int32, within the vocabulary
    is_new_W: jax.Array  # bool, false where the chunk before had it


def _columns(chunks: HeadChunks, weight: jax.Array, first: jax.Array) -> _Columns:
    n_columns = _n_columns(chunks, weight)
    start = jnp.minimum(first, n_columns - chunks.width)
    place_W = start + jnp.arange(chunks.width)
    return _Columns(start, jnp.arange(chunks.n_runs)[:, None] * n_columns + place_W[None], place_W >= first)


def _first_columns(chunks: HeadChunks, weight: jax.Array) -> jax.Array:
    return jnp.arange(0, _n_columns(chunks, weight), chunks.width)


def _n_columns(chunks: HeadChunks, weight: jax.Array) -> int:
    """Of each run."""
    return weight.shape[0 if chunks.is_table else 1] // chunks.n_runs


def _letters(chunks: HeadChunks) -> str:
    """The axes of a chunk of the weight."""
    return "swd" if chunks.is_table else "dsw"


def _runs(chunks: HeadChunks, leaf: jax.Array) -> tuple[jax.Array, int]:
    """A leaf shaped as the weight with its vocabulary as [s, columns], and the axis of the latter."""
    if chunks.is_table:
        return leaf.reshape(chunks.n_runs, -1, leaf.shape[1]), 1
    return leaf.reshape(leaf.shape[0], chunks.n_runs, -1), 2


def _cut(chunks: HeadChunks, leaf: jax.Array, start: jax.Array) -> jax.Array:
    """[s, W, D] of a table, [D, s, W] of a head. A slice: chunks stacked for a scan would be a second copy."""
    runs, axis = _runs(chunks, leaf)
    return jax.lax.dynamic_slice_in_dim(runs, start, chunks.width, axis=axis)


def _added(chunks: HeadChunks, leaf: jax.Array, chunk: jax.Array, start: jax.Array) -> jax.Array:
    """The leaf with a chunk added in place: columns that two chunks share are 0 in the second."""
    runs, axis = _runs(chunks, leaf)
    total = _cut(chunks, leaf, start) + chunk.astype(leaf.dtype)
    return jax.lax.dynamic_update_slice_in_dim(runs, total, start, axis=axis).reshape(leaf.shape)


def _logits(chunks: HeadChunks, hidden_MD: jax.Array, weight: jax.Array, start: jax.Array) -> jax.Array:
    """f32[M, s, W], divided by the temperature."""
    chunk = _cut(chunks, weight, start)
    logit_MsW = jnp.einsum(f"md,{_letters(chunks)}->msw", hidden_MD, chunk, preferred_element_type=jnp.float32)
    return logit_MsW / chunks.temperature

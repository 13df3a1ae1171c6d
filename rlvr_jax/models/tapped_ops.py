"""Uses of a parameter whose backward pass also says how the rollouts' gradients lie to each other.

Forward, each is the plain operation. Backward it forms the gradient G_j of every rollout j at this use, prompt
by prompt so that what is formed stays small, and reads from it

    gram[j, k]     = <G_j, G_k>
    gradient_sum   = sum_j noise_weight_j G_j        fp32, over all prompts
    sketch         = of sum_j noise_weight_j G_j,    one per prompt
    d weight       = sum_j loss_weight_j G_j         where autodiff would have the weights all 1

`models/taps.py` wraps parameters for these. Array names: P prompts of R units, S of them in a turn.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Sketch(Protocol):
    """A linear map to `width` numbers that keeps inner products; hashable, since it is static under jit."""

    width: int

    def dense(self, values: jax.Array, offset: jax.Array | int, seed: jax.Array) -> jax.Array:
        """f32[..., width] of values [..., n] at positions offset, offset + 1, ... of a parameter."""

    def sparse(self, values: jax.Array, position: jax.Array, seed: jax.Array) -> jax.Array:
        """f32[..., width] of values [..., n] at the positions uint32[n]."""


@dataclasses.dataclass(frozen=True)
class TapPlan:
    """What a tapped pass reads, and how it goes about it. Hashable: static under jit.

    A unit is what one gradient G is formed of: a rollout, which is one row of the batch, or a prompt's
    whole group of rows. `n_shards` devices share the prompts; each goes through its own in turns, so many at
    once as their formed gradients fit `chunk_bytes`.
    """

    n_units: int  # of each prompt
    rows_per_unit: int
    n_shards: int
    chunk_bytes: int  # of formed gradients at a time on a shard; a matrix with more per prompt is cut along its outputs
    sketch: Sketch | None
    keeps_unit_sketches: bool


class Tap(NamedTuple):
    """What one parameter gives up in the backward pass; zeros go in, cotangents come out. f32.

    The `metric_` ones are of G * metric, elementwise; None without a metric.
    """

    gram_PRR: jax.Array
    gradient_sum: jax.Array  # shaped as the parameter
    sketch_PW: jax.Array | None
    unit_sketch_PRW: jax.Array | None
    metric_gram_PRR: jax.Array | None
    metric_sketch_PW: jax.Array | None


class Reader(NamedTuple):
    """The operands of a use besides its input and its weight."""

    tap: Tap
    loss_weight_PR: jax.Array
    noise_weight_PR: jax.Array
    metric: jax.Array | None
    seed: jax.Array  # uint32, of the sketch


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(plan: TapPlan, out_dtype: jnp.dtype, x_PRTI: jax.Array, weight_IO: jax.Array, reader: Reader) -> jax.Array:
    """[P, R, T, O] = x weight."""
    return jnp.einsum("prti,io->prto", x_PRTI, weight_IO, preferred_element_type=out_dtype)


def _product_forward(plan, out_dtype, x_PRTI, weight_IO, reader):
    return product(plan, out_dtype, x_PRTI, weight_IO, reader), (x_PRTI, weight_IO, without_tap(reader))


def _product_backward(plan, out_dtype, residuals, dy_PRTO):
    x_PRTI, weight_IO, reader = residuals
    dx_PRTI = jnp.einsum("prto,io->prti", dy_PRTO, weight_IO).astype(x_PRTI.dtype)
    dweight_IO, tap = matrix_gradients(plan, x_PRTI, dy_PRTO, reader, first_output=0)
    return dx_PRTI, dweight_IO.astype(weight_IO.dtype), reader_cotangent(reader, tap)


product.defvjp(_product_forward, _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scaled(plan: TapPlan, x_PRTD: jax.Array, scale_D: jax.Array, reader: Reader) -> jax.Array:
    """x * scale."""
    return x_PRTD * scale_D[None, None, None]


def _scaled_forward(plan, x_PRTD, scale_D, reader):
    return scaled(plan, x_PRTD, scale_D, reader), (x_PRTD, scale_D, without_tap(reader))


def _scaled_backward(plan, residuals, dy_PRTD):
    x_PRTD, scale_D, reader = residuals
    gradient_PRD = jnp.einsum("prtd,prtd->prd", dy_PRTD, x_PRTD, preferred_element_type=jnp.float32)
    dscale_D, tap = _vector_gradients(plan, gradient_PRD, reader)
    return dy_PRTD * scale_D[None, None, None], dscale_D.astype(scale_D.dtype), reader_cotangent(reader, tap)


scaled.defvjp(_scaled_forward, _scaled_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def biased(plan: TapPlan, x_PRTD: jax.Array, bias_D: jax.Array, reader: Reader) -> jax.Array:
    """x + bias."""
    return x_PRTD + bias_D[None, None, None]


def _biased_forward(plan, x_PRTD, bias_D, reader):
    return biased(plan, x_PRTD, bias_D, reader), (bias_D, without_tap(reader))


def _biased_backward(plan, residuals, dy_PRTD):
    bias_D, reader = residuals
    dbias_D, tap = _vector_gradients(plan, dy_PRTD.astype(jnp.float32).sum(axis=2), reader)
    return dy_PRTD, dbias_D.astype(bias_D.dtype), reader_cotangent(reader, tap)


biased.defvjp(_biased_forward, _biased_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def looked_up(
    plan: TapPlan,
    token_PRT: jax.Array,
    row_PU: jax.Array,
    place_PRT: jax.Array,
    carrier_PRUD: jax.Array,
    table_VD: jax.Array,
    reader: Reader,
) -> tuple[jax.Array, jax.Array]:
    """Rows [P, R, T, D] of a table, and the carrier.

    The carrier's cotangent is what the head made of the same rows when the table is also the head: the
    rollouts' gradients of both uses then meet here, and their cross terms join the Gram matrix.

    Args:
        row_PU, place_PRT: the rows in use per prompt, and where among them each token is: see `rows_in_use`.
        carrier_PRUD: zeros, U = 0 if the table is not the head.
    """
    return table_VD[token_PRT], carrier_PRUD


def _looked_up_forward(plan, token_PRT, row_PU, place_PRT, carrier_PRUD, table_VD, reader):
    out = looked_up(plan, token_PRT, row_PU, place_PRT, carrier_PRUD, table_VD, reader)
    return out, (token_PRT, row_PU, place_PRT, table_VD, without_tap(reader))


def _looked_up_backward(plan, residuals, cotangents):
    token_PRT, row_PU, place_PRT, table_VD, reader = residuals
    dx_PRTD, of_head_PRUD = cotangents
    V, D = table_VD.shape
    R, U = plan.n_units, row_PU.shape[1]
    dx_PRTD = dx_PRTD.astype(jnp.float32)
    is_head = of_head_PRUD.shape[2] > 0
    width = _divisor_up_to(D, plan.chunk_bytes // (4 * R * U))
    turns = Turns.fitting(plan, n_prompts=len(token_PRT), bytes_per_prompt=4 * R * U * D)

    def of_turn(_: None, inputs: tuple) -> tuple[None, tuple]:
        dx_SRTD, place_SRT, row_SU, head_SRUD, noise_weight_SR = inputs
        metric_SUD = reader.metric[row_SU] if reader.metric is not None else None

        def of_columns(first: jax.Array) -> Tap:
            def cut(leaf: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(leaf, first, width, axis=leaf.ndim - 1)

            def rows_of_rollout(dx_TC: jax.Array, place_T: jax.Array) -> jax.Array:
                return jnp.zeros((U, width), jnp.float32).at[place_T].add(dx_TC)

            own_SRn = jax.vmap(jax.vmap(rows_of_rollout))(cut(dx_SRTD), place_SRT).reshape(-1, R, U * width)
            head_SRn = cut(head_SRUD).reshape(-1, R, U * width) if is_head else None
            metric_Sn = cut(metric_SUD).reshape(-1, U * width) if metric_SUD is not None else None
            column_C = (first + jnp.arange(width)).astype(jnp.uint32)
            position_Sn = (row_SU.astype(jnp.uint32)[..., None] * jnp.uint32(D) + column_C[None, None]).reshape(
                -1, U * width
            )

            def sketch(values_S_n: jax.Array) -> jax.Array:
                return jax.vmap(lambda values, position: plan.sketch.sparse(values, position, reader.seed))(
                    values_S_n, position_Sn
                )

            return _read(plan, own_SRn, noise_weight_SR, metric_Sn, sketch, other_PRn=head_SRn)

        found = jax.lax.map(of_columns, jnp.arange(0, D, width))
        return None, jax.tree.map(lambda leaf: leaf.sum(axis=0), found)

    arrays = (dx_PRTD, place_PRT, row_PU, of_head_PRUD, reader.noise_weight_PR)
    _, found = jax.lax.scan(of_turn, None, turns.split(arrays))

    def scattered(weight_PR: jax.Array) -> jax.Array:
        return jnp.zeros((V, D), jnp.float32).at[token_PRT].add(weight_PR[..., None, None] * dx_PRTD)

    tap = _tap(turns.joined(found), gradient_sum=scattered(reader.noise_weight_PR))
    dtable_VD = scattered(reader.loss_weight_PR).astype(table_VD.dtype)
    return None, None, None, jnp.zeros_like(of_head_PRUD), dtable_VD, reader_cotangent(reader, tap)


looked_up.defvjp(_looked_up_forward, _looked_up_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def through_carrier(
    plan: TapPlan, logits_PRTV: jax.Array, hidden_PRTD: jax.Array, row_PU: jax.Array, carrier_PRUD: jax.Array
) -> jax.Array:
    """The logits as they are; the carrier's cotangent is the rollouts' gradient of the head at its rows `row_PU`."""
    return logits_PRTV


def _through_carrier_forward(plan, logits_PRTV, hidden_PRTD, row_PU, carrier_PRUD):
    return logits_PRTV, (hidden_PRTD, row_PU)


def _through_carrier_backward(plan, residuals, dlogits_PRTV):
    hidden_PRTD, row_PU = residuals
    U, D = row_PU.shape[1], hidden_PRTD.shape[3]
    are_all_rows = dlogits_PRTV.shape[3] == U
    turns = Turns.fitting(plan, n_prompts=len(row_PU), bytes_per_prompt=4 * plan.n_units * U * D)

    def of_turn(_: None, inputs: tuple) -> tuple[None, jax.Array]:
        dlogits_SRTV, hidden_SRTD, row_SU = inputs
        dlogits_SRTU = dlogits_SRTV
        if not are_all_rows:
            dlogits_SRTU = jax.vmap(lambda dlogits, row: dlogits[:, :, row])(dlogits_SRTV, row_SU)
        return None, jnp.einsum("srtu,srtd->srud", dlogits_SRTU, hidden_SRTD, preferred_element_type=jnp.float32)

    _, found = jax.lax.scan(of_turn, None, turns.split((dlogits_PRTV, hidden_PRTD, row_PU)))
    return dlogits_PRTV, jnp.zeros_like(hidden_PRTD), None, turns.joined(found)


through_carrier.defvjp(_through_carrier_forward, _through_carrier_backward)


def rows_in_use(token_PRT: jax.Array, *, n_rows: int) -> tuple[jax.Array, jax.Array]:
    """Rows of a table that a prompt's rollouts look up, int32[P, U], and the place of each token's among them.

    All rows of a small table; of a large one each that occurs, filled up with row 0 to U = R * T.
    """
    P, R, T = token_PRT.shape
    if n_rows <= R * T:
        return jnp.broadcast_to(jnp.arange(n_rows, dtype=jnp.int32), (P, n_rows)), token_PRT

    def of_prompt(token_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.unique(token_N, size=R * T, fill_value=0, return_inverse=True)

    row_PU, place_PN = jax.vmap(of_prompt)(token_PRT.reshape(P, R * T))
    return row_PU.astype(jnp.int32), place_PN.reshape(P, R, T)


class _Found(NamedTuple):
    """What is read of each prompt; `Tap` without the sums over prompts."""

    gram: jax.Array
    sketch: jax.Array | None
    unit_sketch: jax.Array | None
    metric_gram: jax.Array | None
    metric_sketch: jax.Array | None


def matrix_gradients(
    plan: TapPlan, x_PRTI: jax.Array, dy_PRTO: jax.Array, reader: Reader, *, first_output: jax.Array | int
) -> tuple[jax.Array, Tap]:
    """The weighted gradient [I, O] and the tap of a matrix, or of its outputs from `first_output` on.

    G is formed as [O, I], which is dy^T x, so that a chunk of outputs is a run of positions.
    """
    P, R, T, I = x_PRTI.shape  # noqa: E741, named as the axes are
    O = dy_PRTO.shape[3]  # noqa: E741
    turns = Turns.fitting(plan, n_prompts=P, bytes_per_prompt=4 * R * I * O)
    D, S = plan.n_shards, plan.n_shards * turns.n_at_once
    width = min(O, max(1, plan.chunk_bytes // (4 * R * I)))
    n_chunks = math.ceil(O / width)
    width = math.ceil(O / n_chunks)
    padding = n_chunks * width - O
    is_formed = plan.keeps_unit_sketches or reader.metric is not None or T * T * (I + O) >= I * O

    def in_chunks(leaf: jax.Array, axis: int) -> jax.Array:
        """[..., O, ...] as [n_chunks, ..., width, ...]."""
        if padding:
            leaf = jnp.pad(leaf, [(0, padding if a == axis else 0) for a in range(leaf.ndim)])
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:axis], n_chunks, width, *leaf.shape[axis + 1 :]), axis, 0)

    metric_nWI = in_chunks(reader.metric.T, 0) if reader.metric is not None else None

    def of_turn(totals_nD2WI: jax.Array, inputs: tuple) -> tuple[jax.Array, _Found]:
        x_SRTI, dy_SRTO, loss_weight_SR, noise_weight_SR = inputs
        weight_DVM = _sums_and_groups(D, loss_weight_SR, noise_weight_SR, has_groups=plan.sketch is not None)

        def of_chunk(_: None, chunk: tuple) -> tuple[None, tuple[jax.Array, _Found]]:
            number, dy_SRTW, total_D2WI, metric_WI = chunk
            metric_Sn = jnp.broadcast_to(metric_WI.reshape(1, -1), (S, width * I)) if metric_WI is not None else None

            def sketch(values: jax.Array) -> jax.Array:
                return plan.sketch.dense(values, (first_output + number * width) * I, reader.seed)

            if is_formed:
                gradient_SRn = jnp.einsum(
                    "srtw,srti->srwi", dy_SRTW, x_SRTI, preferred_element_type=jnp.float32
                ).reshape(S, R, width * I)
                weighted_DVn = _exact_einsum("dvm,dmn->dvn", weight_DVM, gradient_SRn.reshape(D, -1, width * I))
                group_Sn = weighted_DVn[:, 2:].reshape(-1, width * I) if plan.sketch is not None else None
                found = _read(plan, gradient_SRn, noise_weight_SR, metric_Sn, sketch, group_Pn=group_Sn)
            else:  # few tokens: inner products over pairs of tokens cost less than forming G
                dy_DMTW, x_DMTI = (leaf.reshape(D, -1, *leaf.shape[2:]) for leaf in (dy_SRTW, x_SRTI))
                weighted_DVn = jnp.einsum(
                    "dvm,dmtw,dmti->dvwi", weight_DVM, dy_DMTW, x_DMTI, preferred_element_type=jnp.float32
                ).reshape(D, -1, width * I)
                group_sketch = sketch(weighted_DVn[:, 2:].reshape(S, -1)) if plan.sketch is not None else None
                found = _Found(_gram_of_tokens(x_SRTI, dy_SRTW), group_sketch, None, None, None)
            return None, (total_D2WI + weighted_DVn[:, :2].reshape(D, 2, width, I), found)

        chunks = (jnp.arange(n_chunks), in_chunks(dy_SRTO, 3), totals_nD2WI, metric_nWI)
        _, (totals_nD2WI, found) = jax.lax.scan(of_chunk, None, chunks)
        return totals_nD2WI, jax.tree.map(lambda leaf: leaf.sum(axis=0), found)

    zero = jnp.zeros((n_chunks, D, 2, width, I), jnp.float32)
    arrays = turns.split((x_PRTI, dy_PRTO, reader.loss_weight_PR, reader.noise_weight_PR))
    totals_nD2WI, found = jax.lax.scan(of_turn, zero, arrays)
    total_2nWI = jnp.moveaxis(totals_nD2WI.sum(axis=1), 1, 0)  # over shards: the one reduction across devices
    total_2IO = jnp.swapaxes(total_2nWI.reshape(2, n_chunks * width, I)[:, :O], 1, 2)
    return total_2IO[0], _tap(turns.joined(found), gradient_sum=total_2IO[1])


def _sums_and_groups(
    n_shards: int, loss_weight_SR: jax.Array, noise_weight_SR: jax.Array, *, has_groups: bool
) -> jax.Array:
    """Weights [D, V, C * R] that take a shard's C * R formed gradients to what is wanted of them in one product.

    The first two rows sum over all of them, with either weight; with groups, C more sum over one prompt each. One
    matrix product: XLA's CPU backend is slow at products in batches and at sums over leading axes.
    """
    loss_weight_DM, noise_weight_DM = (leaf.reshape(n_shards, -1) for leaf in (loss_weight_SR, noise_weight_SR))
    sums_D2M = jnp.stack([loss_weight_DM, noise_weight_DM], axis=1)
    if not has_groups:
        return sums_D2M
    C, R = loss_weight_SR.shape[0] // n_shards, loss_weight_SR.shape[1]
    is_own_CM = jnp.repeat(jnp.eye(C), R, axis=1)
    return jnp.concatenate([sums_D2M, is_own_CM[None] * noise_weight_DM[:, None]], axis=1)


def _vector_gradients(plan: TapPlan, gradient_PRD: jax.Array, reader: Reader) -> tuple[jax.Array, Tap]:
    """The weighted gradient [D] and the tap of a vector, whose per-rollout gradients are small."""

    def sketch(values: jax.Array) -> jax.Array:
        return plan.sketch.dense(values, 0, reader.seed)

    metric_PD = None
    if reader.metric is not None:
        metric_PD = jnp.broadcast_to(reader.metric[None], (gradient_PRD.shape[0], gradient_PRD.shape[2]))
    found = _read(plan, gradient_PRD, reader.noise_weight_PR, metric_PD, sketch)
    gradient_D, gradient_sum_D = (
        _exact_einsum("pr,prd->d", weight_PR, gradient_PRD)
        for weight_PR in (reader.loss_weight_PR, reader.noise_weight_PR)
    )
    return gradient_D, _tap(found, gradient_sum=gradient_sum_D)


def _read(
    plan: TapPlan,
    gradient_PRn: jax.Array,
    noise_weight_PR: jax.Array,
    metric_Pn: jax.Array | None,
    sketch: Any,
    *,
    group_Pn: jax.Array | None = None,
    other_PRn: jax.Array | None = None,
) -> _Found:
    """What a tap keeps of formed gradients [P, R, n]; `group_Pn` is their weighted sum if it is known already.

    With `other_PRn`, the gradients of another use of the same parameter, the cross terms of the two are
    added to the Gram matrices; that use has read its own.
    """

    def gram(a: jax.Array, b: jax.Array | None) -> jax.Array:
        own = _exact_einsum("prn,psn->prs", a, a)
        if b is None:
            return own
        cross = _exact_einsum("prn,psn->prs", a, b)
        return own + cross + jnp.swapaxes(cross, 1, 2)

    group_sketch = unit_sketch = metric_gram = metric_sketch = None
    if plan.sketch is not None:
        if group_Pn is None:
            group_Pn = _exact_einsum("pr,prn->pn", noise_weight_PR, gradient_PRn)
        group_sketch = sketch(group_Pn)
        unit_sketch = sketch(gradient_PRn) if plan.keeps_unit_sketches else None
    if metric_Pn is not None:
        other = other_PRn * metric_Pn[:, None] if other_PRn is not None else None
        metric_gram = gram(gradient_PRn * metric_Pn[:, None], other)
        metric_sketch = sketch(group_Pn * metric_Pn) if plan.sketch is not None else None
    return _Found(gram(gradient_PRn, other_PRn), group_sketch, unit_sketch, metric_gram, metric_sketch)


def _gram_of_tokens(x_SRTI: jax.Array, dy_SRTO: jax.Array) -> jax.Array:
    """<G_j, G_k> = sum over pairs of tokens of (x_jt . x_ku) (dy_jt . dy_ku), without forming G."""
    pairs = (
        jnp.einsum("srti,squi->srtqu", leaf, leaf, preferred_element_type=jnp.float32, precision="highest")
        for leaf in (x_SRTI, dy_SRTO)
    )
    return jnp.sum(math.prod(pairs), axis=(2, 4))


def _exact_einsum(subscripts: str, *operands: jax.Array) -> jax.Array:
    """In full fp32: these products are small, and the estimates are differences of their results."""
    return jnp.einsum(subscripts, *operands, precision="highest")


class Turns(NamedTuple):
    """How prompts are gone through: in each turn some of every shard's own, S in all, so that no device waits."""

    n_shards: int
    n_at_once: int  # of each shard

    @staticmethod
    def fitting(plan: TapPlan, *, n_prompts: int, bytes_per_prompt: int) -> "Turns":
        n_own = n_prompts // plan.n_shards
        return Turns(plan.n_shards, _divisor_up_to(n_own, plan.chunk_bytes // max(bytes_per_prompt, 1)))

    def split(self, arrays: Any) -> Any:
        """Leaves [P, ...] as [turns, S, ...]."""
        D, C = self

        def of_leaf(leaf: jax.Array) -> jax.Array:
            n_turns, rest = leaf.shape[0] // (D * C), leaf.shape[1:]
            return jnp.moveaxis(leaf.reshape(D, n_turns, C, *rest), 1, 0).reshape(n_turns, D * C, *rest)

        return jax.tree.map(of_leaf, arrays)

    def joined(self, arrays: Any) -> Any:
        """Leaves [turns, S, ...] as [P, ...]."""
        D, C = self

        def of_leaf(leaf: jax.Array) -> jax.Array:
            n_turns, rest = leaf.shape[0], leaf.shape[2:]
            return jnp.moveaxis(leaf.reshape(n_turns, D, C, *rest), 0, 1).reshape(n_turns * D * C, *rest)

        return jax.tree.map(of_leaf, arrays)


def _tap(found: _Found, *, gradient_sum: jax.Array) -> Tap:
    return Tap(
        gram_PRR=found.gram,
        gradient_sum=gradient_sum,
        sketch_PW=found.sketch,
        unit_sketch_PRW=found.unit_sketch,
        metric_gram_PRR=found.metric_gram,
        metric_sketch_PW=found.metric_sketch,
    )


def without_tap(reader: Reader) -> Reader:
    """To keep until the backward pass, which does not read the zeros."""
    return reader._replace(tap=None)


def reader_cotangent(reader: Reader, tap: Tap) -> Reader:
    """Only the tap has one."""
    zero = jax.tree.map(jnp.zeros_like, reader._replace(tap=None, seed=None))
    return zero._replace(tap=tap, seed=None)


def _divisor_up_to(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, or 1."""
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(most, 1))

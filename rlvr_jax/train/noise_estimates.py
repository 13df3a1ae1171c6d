"""From what a measuring pass read to gns/ metrics."""

import math

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.models.spec import Params, model_part
from rlvr_jax.noise.decompose import Decomposition, Interval, decomposition, group_moments, rollout_variance
from rlvr_jax.noise.noise_scale import NoiseScale, naive_noise_scale, noise_scale
from rlvr_jax.train.loss import Batch
from rlvr_jax.train.noise_pass import ByPart, GradientSums, GroupReading, Reading, is_counted
from rlvr_jax.train.state import NoiseAverages

NoiseMetrics = dict[str, jax.Array]


@flax.struct.dataclass
class NoiseEstimates:
    """Of one batch: in all, by part of the model, in Adam's metric, and split into prompt and rollout noise."""

    total: NoiseScale
    by_part: dict[str, NoiseScale]
    adam: NoiseScale | None
    split: Decomposition | None
    naive_rollouts: jax.Array  # f32
    n_nonfinite_rollouts: jax.Array  # int32


def noise_estimates(
    reading: Reading,
    sums: GradientSums,
    metric: Params | None,
    *,
    reward_PR: jax.Array,
    is_kept_PR: jax.Array,
    naive_minibatches: int,
) -> NoiseEstimates:
    """Estimates from one batch [P, ...]; norms of sums are exact, inner products of groups are from sketches.

    Args:
        metric: what gradients are multiplied with for `adam`, or None.
        reward_PR: f32, up to a constant per prompt; anything where not kept.
        naive_minibatches: K of the naive estimate, which divides P; 0 leaves it NaN.
    """
    is_counted_P = is_counted(is_kept_PR)
    loss_sq = sq_norms_by_part(sums.loss)
    split = None
    if reading.gram is not None:
        policy_sq = sq_norms_by_part(sums.policy) if sums.policy is not None else loss_sq
        split = decomposition(
            group_moments(_total(reading.gram), reward_PR, is_kept_PR),
            *group_statistics(reading.policy or reading.loss, policy_sq),
            is_counted_P,
        )
    adam = None
    if reading.adam is not None:
        metric_sum = jax.tree.map(jnp.multiply, sums.loss, metric)
        adam = noise_scale(*group_statistics(reading.adam, sq_norms_by_part(metric_sum)), is_counted_P)
    return NoiseEstimates(
        total=noise_scale(*group_statistics(reading.loss, loss_sq), is_counted_P),
        by_part={part: noise_scale(*group_statistics(reading.loss, loss_sq, part), is_counted_P) for part in loss_sq},
        adam=adam,
        split=split,
        naive_rollouts=_naive(reading.loss, is_kept_PR.shape[1], naive_minibatches),
        n_nonfinite_rollouts=jnp.sum(~is_finite_rollout(reading, is_kept_PR)),
    )


def group_statistics(
    groups: GroupReading, sum_sq_norms: ByPart, part: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sq_norm_P, sum_sq_norm, dot_sum_P) as the estimators take them, of one part or of all together."""
    sq_norm_P, sketch_PW, sum_sq_norm = (
        of_parts[part] if part else _total(of_parts) for of_parts in (groups.sq_norm, groups.sketch, sum_sq_norms)
    )
    dot_sum_P = jnp.einsum("pw,w->p", sketch_PW, sketch_PW.sum(axis=0), precision="highest")
    # <g_x, g_x> is known exactly: left in the sketch's, its error would not cancel when x is left out
    return sq_norm_P, sum_sq_norm, dot_sum_P - jnp.square(sketch_PW).sum(axis=1) + sq_norm_P


def is_finite_rollout(reading: Reading, is_kept_PR: jax.Array) -> jax.Array:
    """bool[P, R], false where a kept rollout has a gradient that is not finite, as far as the pass looked.

    Without a pass over scores only groups were seen: all their rollouts are then false.
    """
    if reading.gram is None:
        return jnp.isfinite(_total(reading.loss.sq_norm))[:, None] | ~is_kept_PR
    diagonal_PR = jnp.diagonal(_total(reading.gram), axis1=1, axis2=2)
    return jnp.isfinite(diagonal_PR) | ~is_kept_PR


def sq_norms_by_part(tree: Params) -> ByPart:
    """Squared norm of a tree of gradients, by part of the model."""
    found: ByPart = {}
    for path, leaf in sorted(flax.traverse_util.flatten_dict(tree).items()):
        part = model_part(path)
        found[part] = found.get(part, jnp.zeros((), jnp.float32)) + jnp.sum(jnp.square(leaf))
    return found


def new_averages(averages: NoiseAverages, found: NoiseEstimates, *, smoothing: float) -> NoiseAverages:
    """The running averages with one more measurement; one that is not finite would stay in them and is left out."""
    values = {"trace_cov": found.total.trace_cov, "grad_sq": found.total.grad_sq}
    if found.split is not None:
        values |= {name: getattr(found.split, name).value for name in ("v_prompt", "zeta1", "zeta2")}
    is_finite = jnp.all(jnp.isfinite(jnp.stack(list(values.values()))))
    kept = {
        name: jnp.where(
            is_finite, smoothing * getattr(averages, name) + (1 - smoothing) * value, getattr(averages, name)
        )
        for name, value in values.items()
    }
    return averages.replace(
        **kept, weight=jnp.where(is_finite, smoothing * averages.weight + (1 - smoothing), averages.weight)
    )


def noise_metrics(found: NoiseEstimates, averages: NoiseAverages, *, n_prompts: int, n_rollouts: int) -> NoiseMetrics:
    """gns/ metrics of one measured update. Numbers that mean nothing are NaN here and written as null."""

    def debiased(average: jax.Array) -> jax.Array:
        return jnp.where(averages.weight > 0, average / averages.weight, math.nan)

    running_ratio = _ratio(averages.trace_cov, averages.grad_sq)
    metrics = _scale_metrics("gns", found.total) | {
        "gns/b_noise_rollouts": found.total.b_noise_prompts * n_rollouts,
        "gns/noise_to_signal": found.total.b_noise_prompts / n_prompts,
        "gns/noise_to_signal_low": found.total.low_prompts / n_prompts,
        "gns/noise_to_signal_high": found.total.high_prompts / n_prompts,
        "gns/prompts_to_resolve": found.total.prompts_to_resolve,
        "gns/running_trace_cov": debiased(averages.trace_cov),
        "gns/running_grad_sq": debiased(averages.grad_sq),
        "gns/running_b_noise_prompts": running_ratio,
        "gns/running_noise_to_signal": running_ratio / n_prompts,
        "gns/naive": found.naive_rollouts,
        "gns/nonfinite_rollouts": found.n_nonfinite_rollouts,
    }
    for part, scale in found.by_part.items():
        metrics |= _scale_metrics(f"gns/{part}", scale)
    if found.adam is not None:
        metrics |= _scale_metrics("gns/adam", found.adam)
    if found.split is not None:
        metrics |= _split_metrics(found.split, averages, n_rollouts=n_rollouts)
    return metrics


def _scale_metrics(prefix: str, scale: NoiseScale) -> NoiseMetrics:
    return {
        f"{prefix}/trace_cov": scale.trace_cov,
        f"{prefix}/grad_sq": scale.grad_sq,
        f"{prefix}/resolved": scale.is_resolved,
        f"{prefix}/b_noise_prompts": scale.b_noise_prompts,
        f"{prefix}/b_noise_prompts_low": scale.low_prompts,
        f"{prefix}/b_noise_prompts_high": scale.high_prompts,
    }


def _split_metrics(split: Decomposition, averages: NoiseAverages, *, n_rollouts: int) -> NoiseMetrics:
    def with_interval(name: str, interval: Interval) -> NoiseMetrics:
        return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}

    surplus = 2 * averages.zeta2 - 4 * averages.zeta1
    running_r_star = 1 + jnp.sqrt(_ratio(surplus, averages.v_prompt))  # NaN below 0
    return {
        **with_interval("gns/prompt_var", split.v_prompt),
        "gns/rollout_var": rollout_variance(split.zeta1.value, split.zeta2.value, n_rollouts),
        "gns/zeta1": split.zeta1.value,
        "gns/zeta2": split.zeta2.value,
        **with_interval("gns/r_star", split.r_star),
        "gns/running_r_star": running_r_star,
        "gns/split_prompts": split.n_counted,
    }


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    return jnp.where(under > 0, over / jnp.where(under > 0, under, 1.0), math.nan)


def _naive(groups: GroupReading, n_rollouts: int, naive_minibatches: int) -> jax.Array:
    """From sketches: blocks of prompts have no sums of their own, and the estimate is a rough one."""
    if naive_minibatches == 0:
        return jnp.full((), math.nan)
    sketch_PW = _total(groups.sketch)
    block_prompts = sketch_PW.shape[0] // naive_minibatches
    sketch_BW = sketch_PW.reshape(naive_minibatches, block_prompts, -1).sum(axis=1)
    return naive_noise_scale(
        jnp.square(sketch_BW).sum(axis=1),
        jnp.square(sketch_BW.sum(axis=0)).sum(),
        rollouts_per_block=n_rollouts * block_prompts,
    )


def centred_rewards(batch: Batch) -> jax.Array:
    """Rewards less their group's mean: from (r - mean of the others) = R/(R-1) (r - mean)."""
    n_kept_P = batch.is_kept_PR.sum(axis=1).astype(jnp.float32)
    return batch.loo_advantage_PR * (1 - 1 / jnp.maximum(n_kept_P, 1.0))[:, None]


def _total(of_parts: ByPart) -> jax.Array:
    return sum(of_parts.values())

"""From a large noise measurement to noise.json, which analysis/noise_report.py shows. null: a number means nothing."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from rlvr_jax.models.spec import Params
from rlvr_jax.noise.decompose import (
    MIN_ROLLOUTS,
    Decomposition,
    Interval,
    cost_aware_best_rollouts,
    critical_rollouts,
    predicted_trace_cov,
)
from rlvr_jax.noise.noise_scale import NoiseScale
from rlvr_jax.train.noise_estimates import NoiseEstimates, noise_estimates
from rlvr_jax.train.noise_folder import Arrays, reading_of
from rlvr_jax.train.noise_pass import GradientSums

Json = dict[str, Any]

MOST_ROLLOUTS = 64  # of the predicted splits, or four times those measured
MOST_ROLLOUTS_BY_COST = 1024


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a measurement is of, in the words and numbers of its report."""

    policy: str
    n_prompts: int
    n_rollouts: int
    n_problems: int  # that the prompts were drawn from, each at most once
    has_other_terms: bool  # a KL or entropy term in the loss
    costs: tuple[float, float] | None  # of a prompt and of a rollout


def noise_summary(measured: Measured, arrays: Arrays, sums: GradientSums, metric: Params | None) -> Json:
    """The whole noise.json but for where it came from.

    Args:
        arrays: [P, ...] of all chunks; sums: over all of them.
        metric: what gradients are multiplied with for `adam`, or None.
    """
    found = _estimates(arrays, sums, metric)
    sizes = {"n_prompts": measured.n_prompts, "n_rollouts": measured.n_rollouts}
    refused = _refusal(measured, found)
    is_ungraded_P = ~np.isfinite(arrays["reward_PR"]).any(axis=1)
    counts = {
        "effective_prompts": int(arrays["is_effective_P"].sum()),
        "n_ungraded_prompts": int(is_ungraded_P.sum()),
        "n_kept_rollouts": int(arrays["is_kept_PR"].sum()),
        "n_nonfinite_rollouts": int((~arrays["is_finite_PR"]).sum()),
        "n_nonfinite_prompts": int((~arrays["is_finite_PR"]).any(axis=1).sum()),
    }
    return {
        "policy": measured.policy,
        **sizes,
        "n_problems": measured.n_problems,
        "total": _scale(found.total, **sizes) | counts,
        "per_group": {part: _scale(scale, **sizes) for part, scale in found.by_part.items()},
        "adam": None if found.adam is None else _scale(found.adam, **sizes),
        "decompose": None if refused else _decomposition(measured, found.split),
        "decompose_refused": refused,
        "predicted": [] if refused else _predicted(measured, found.split),
        "nonfinite": _nonfinite(arrays),
    }


def _estimates(arrays: Arrays, sums: GradientSums, metric: Params | None) -> NoiseEstimates:
    """On the host's values, in one program."""

    def estimates(arrays: Arrays, sums: GradientSums, metric: Params | None) -> NoiseEstimates:
        of_batch = {name: arrays[name] for name in ("reward_PR", "is_kept_PR")}
        return noise_estimates(reading_of(arrays), sums, metric, **of_batch, naive_minibatches=0)

    numbers = {name: leaf for name, leaf in arrays.items() if leaf.dtype.kind != "U"}
    return jax.device_get(jax.jit(estimates)(numbers, sums, metric))


def _refusal(measured: Measured, found: NoiseEstimates) -> str | None:
    """Why prompt noise and rollout noise cannot be told apart, or None."""
    if measured.n_rollouts < MIN_ROLLOUTS:
        return (
            f"prompt noise and rollout noise can be told apart from {MIN_ROLLOUTS} rollouts per prompt on; "
            f"run again with --n_rollouts={MIN_ROLLOUTS} or more"
        )
    if found.split.n_counted == 0:
        return f"not one prompt has {MIN_ROLLOUTS} rollouts that were kept; run again with a larger --n_rollouts"
    if not math.isfinite(found.split.grad_sq.value):
        return "one prompt does not say how prompts differ; run again with a larger --n_prompts"
    return None


def _scale(scale: NoiseScale, *, n_prompts: int, n_rollouts: int) -> Json:
    """A noise scale in three units; `trace_cov` is that of the batch's gradient, S / P."""
    ends = np.array([scale.b_noise_prompts, scale.low_prompts, scale.high_prompts], np.float64)
    units = {"b_noise_prompts": ends, "b_noise_rollouts": ends * n_rollouts, "noise_to_signal": ends / n_prompts}
    return {
        "trace_cov": number(scale.trace_cov / n_prompts),
        "trace_cov_group": number(scale.trace_cov),
        "grad_sq": number(scale.grad_sq),
        "resolved": bool(scale.is_resolved),
        **{name: number(value) for name, (value, _, _) in units.items()},
        "ci": {name: _ends(low, high) for name, (_, low, high) in units.items()},
        "prompts_to_resolve": number(scale.prompts_to_resolve),
    }


def _decomposition(measured: Measured, split: Decomposition) -> Json:
    parts = (split.v_prompt.value, split.zeta1.value, split.zeta2.value)
    is_resolved = bool(split.is_r_star_resolved)
    by_cost = None
    if measured.costs is not None:
        per_prompt, per_rollout = measured.costs
        most = max(MOST_ROLLOUTS_BY_COST, 4 * measured.n_rollouts)
        best = cost_aware_best_rollouts(
            split, cost_per_prompt=per_prompt, cost_per_rollout=per_rollout, max_rollouts=most
        )
        by_cost = {
            "cost_per_prompt": per_prompt,
            "cost_per_rollout": per_rollout,
            "n_rollouts": number(best) if is_resolved else None,
            "looked_up_to": most,
        }
    return {
        **{name: _interval(getattr(split, name)) for name in ("grad_sq", "v_prompt", "zeta1", "zeta2", "r_star")},
        "resolved": is_resolved,
        "critical_rollouts": number(critical_rollouts(*parts)) if is_resolved else None,
        "best_rollouts_by_cost": by_cost,
        "n_split_prompts": int(split.n_counted),
        "is_policy_term_alone": measured.has_other_terms,
    }


def _predicted(measured: Measured, split: Decomposition) -> list[Json]:
    """Over powers of two and what was measured: prompts up to the same batch of pairs, as far as there are problems."""
    P, R, N = measured.n_prompts, measured.n_rollouts, measured.n_problems
    n_prompts_X = np.array(_powers_of_two(1, min(N, max(P * R // 2, P)), also=P))
    n_rollouts_Y = np.array(_powers_of_two(2, max(MOST_ROLLOUTS, 4 * R), also=R))
    noise = predicted_trace_cov(split, n_prompts=n_prompts_X[:, None], n_rollouts=n_rollouts_Y[None], n_problems=N)
    return [
        {
            "n_prompts": int(p),
            "n_rollouts": int(r),
            "trace_cov": number(noise.value[x, y]),
            "lo": number(noise.low[x, y]),
            "hi": number(noise.high[x, y]),
        }
        for x, p in enumerate(n_prompts_X)
        for y, r in enumerate(n_rollouts_Y)
    ]


def _powers_of_two(least: int, most: int, *, also: int) -> list[int]:
    return sorted({also} | {2**k for k in range(most.bit_length()) if least <= 2**k <= most})


def _nonfinite(arrays: Arrays) -> list[Json]:
    """The prompts whose groups were left out, with the rollouts that were the reason."""
    return [
        {
            "prompt": str(arrays["prompt"][p]),
            "problem": int(arrays["problem_P"][p]),
            "rollouts": np.flatnonzero(~arrays["is_finite_PR"][p]).tolist(),
        }
        for p in np.flatnonzero((~arrays["is_finite_PR"]).any(axis=1))
    ]


def _interval(interval: Interval) -> Json:
    return {"value": number(interval.value), "ci": _ends(interval.low, interval.high)}


def _ends(low: float, high: float) -> list[float] | None:
    return [float(low), float(high)] if math.isfinite(low) and math.isfinite(high) else None


def number(value: Any) -> float | None:
    """As JSON has it: null for NaN and infinities."""
    value = float(value)
    return value if math.isfinite(value) else None

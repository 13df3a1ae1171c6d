"""Noise predicted for a split from runs with another one, beside what the runs with that split measured."""

import math
from dataclasses import dataclass

import numpy as np

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Measurements, Moments, NoisePool, Pooled
from rlvr_jax.analysis.noise_series import NoiseSeries
from rlvr_jax.analysis.observations import Observation


@dataclass(frozen=True)
class CheckedNoise:
    """tr Cov of the batch gradient at one split, measured there and predicted from elsewhere, both with intervals."""

    target: float  # policies after the target before it and up to this one
    group: str
    n_prompts: int
    n_rollouts: int
    measured: Pooled  # S / P of the runs with this split
    predicted: Pooled  # (V_prompt + V_rollout(R)) / P of the source runs
    runs: tuple[str, ...]


@dataclass(frozen=True)
class NoiseCheck:
    """All splits but the source's own, target by target."""

    source_prompts: int
    source_rollouts: int
    source_runs: tuple[str, ...]
    points: tuple[CheckedNoise, ...]


def check_noise(
    series: list[NoiseSeries],
    observations: list[Observation],
    *,
    unit: str = "update",
    confidence: float = 0.9,
    source: tuple[int, int] | None = None,
) -> NoiseCheck | None:
    """Predictions from one split (all its seeds) against the measurements of every other, at equal accuracy.

    Noise grows and shrinks as the policy learns, so both sides are averages over the same stretch of accuracy: from the
    target before (or the start) to the target. None where no run decomposed its noise.

    Args:
        source: (n_prompts, n_rollouts) to predict from; None: of the splits that were decomposed the one with most
            rollouts per prompt, which knows both parts best, then with most prompts.
    """
    by_run = {one.run: one for one in series}
    reached = [seen for seen in observations if seen.is_reached]
    splits = {
        (one.n_prompts, one.n_rollouts) for one in series if not one.why_no_split and np.isfinite(one.v_prompt).any()
    }
    if source is None:
        source = max(splits, key=lambda split: split[::-1], default=None)
    if source not in splits:
        return None
    points, sources = [], {}
    for group in dict.fromkeys(seen.group for seen in reached):
        of_group = [seen for seen in reached if seen.group == group]
        for target in sorted({seen.target for seen in of_group}):
            stretches = _stretches(by_run, of_group, target, unit)
            of_source = [one for one in stretches if (one.n_prompts, one.n_rollouts) == source]
            if not of_source:
                continue
            sources.update(dict.fromkeys(one.run for one in of_source))
            points += _points(stretches, of_source, target, group, source, confidence)
    return NoiseCheck(*source, tuple(sources), tuple(points))


def _stretches(
    by_run: dict[str, NoiseSeries], reached: list[Observation], target: float, unit: str
) -> list[Measurements]:
    """What each run measured between the highest target below this one and this one."""
    found = []
    for seen in reached:
        if seen.target != target or seen.run not in by_run:
            continue
        run = by_run[seen.run]
        earlier = [one.at for one in reached if one.run == seen.run and one.target < target]
        clock = run.updates if unit == "update" else run.steps
        is_in = (clock > max(earlier, default=-math.inf)) & (clock <= seen.at)
        if is_in.any():
            names = ("trace_cov", "grad_sq", "v_prompt", "zeta1", "zeta2")
            arrays = {name: getattr(run, name)[is_in] for name in names}
            found.append(Measurements(run.run, run.n_prompts, run.n_rollouts, **arrays))
    return found


def _points(
    stretches: list[Measurements],
    of_source: list[Measurements],
    target: float,
    group: str,
    source: tuple[int, int],
    confidence: float,
) -> list[CheckedNoise]:
    pool, points = NoisePool(of_source, confidence=confidence), []
    splits = {(one.n_prompts, one.n_rollouts) for one in stretches if one.n_rollouts > 1} - {source}
    for P, R in sorted(splits, key=lambda split: (split[1], split[0])):
        there = [one for one in stretches if (one.n_prompts, one.n_rollouts) == (P, R)]

        def measured(moments: Moments, P: int = P, R: int = R) -> float:
            return moments.trace_cov[R] / P

        def predicted(moments: Moments, P: int = P, R: int = R) -> float:
            return moments.split_trace_cov(R) / P

        points.append(
            CheckedNoise(
                target,
                group,
                P,
                R,
                measured=_estimate(NoisePool(there, confidence=confidence), measured),
                predicted=_estimate(pool, predicted),
                runs=tuple(one.run for one in there),
            )
        )
    return points


def _estimate(pool: NoisePool, moment) -> Pooled:
    """With fewer than three measurements a value without an interval: noise is known well even so."""
    found = pool.estimate(moment, "the noise", is_over_grad_sq=False)
    value = moment(pool.moments)
    if found.is_resolved or not (math.isfinite(value) and value > 0):
        return found
    return Pooled(Estimate(value, 0.0, math.inf))

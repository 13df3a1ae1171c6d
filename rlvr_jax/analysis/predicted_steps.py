"""How steps grow with gradient noise, and the curve that a fit would put through them; predict.py says why."""

import math

import numpy as np

from rlvr_jax.analysis.noise_pool import Moments, NoisePool, Pooled

STEPS = ("best_size", "normalised")  # of the size that suits their noise; divided by the gradient's root mean square


def relative_steps(moments: Moments, n_prompts: int, n_rollouts: int, *, steps: str) -> float:
    """S(P, R) / S_min for steps of one of STEPS: 1 + x or sqrt(1 + x), with x = tr Cov(P, R) / |G|^2."""
    if not moments.grad_sq > 0:
        return math.nan
    noise_to_signal = trace_cov_at(moments, n_rollouts) / (n_prompts * moments.grad_sq)
    if not noise_to_signal >= 0:  # an estimate from parts may be negative
        return math.nan
    return (1 + noise_to_signal) ** (1.0 if steps == "best_size" else 0.5)


def as_fitted_steps(pool: NoisePool, splits: list[tuple[int, int]], steps: str) -> Pooled:
    """`_hyperbola` at those splits that the law in P R is fitted to, or why there is no such curve."""
    grouped = [(P, R) for P, R in splits if R > 1]
    splits = grouped or splits  # one rollout per prompt has another baseline, and so another law
    if len({P * R for P, R in splits}) < 2:
        return Pooled(None, "one batch size was run, so there is no curve to compare")
    unknown = sorted({R for _, R in splits if not math.isfinite(trace_cov_at(pool.moments, R))})
    if unknown:
        some = ", ".join(map(str, unknown))
        return Pooled(None, f"no run measured the noise at R = {some} on its way to the target")
    return pool.estimate(lambda m: _hyperbola(m, splits, steps), "the growth of steps over the splits that were run")


def _hyperbola(moments: Moments, splits: list[tuple[int, int]], steps: str) -> float:
    """B of the law S_min (1 + B / (P R)) that is nearest, in relative error, to the predicted steps at these splits.

    NaN where the noise of one is not known.
    """
    batches = np.array([P * R for P, R in splits], np.float64)
    log_steps = np.log([relative_steps(moments, P, R, steps=steps) for P, R in splits])
    if not np.isfinite(log_steps).all():
        return math.nan

    def misfit(log_b: np.ndarray) -> np.ndarray:
        return np.var(log_steps - np.log1p(np.exp(log_b)[..., None] / batches), axis=-1)  # the level is free

    log_b, half = (math.log(batches.min() * batches.max())) / 2, math.log(batches.max() / batches.min()) / 2 + 7
    for _ in range(4):  # each grid is 20 times as fine; this is done for every unit of a jackknife
        grid = np.linspace(log_b - half, log_b + half, 41)
        log_b, half = grid[np.argmin(misfit(grid))], half / 20
    return math.exp(log_b)


def trace_cov_at(moments: Moments, n_rollouts: int) -> float:
    """S at R as measured there, or else from its parts."""
    measured = moments.trace_cov.get(n_rollouts, math.nan)
    return measured if math.isfinite(measured) or n_rollouts < 2 else moments.split_trace_cov(n_rollouts)

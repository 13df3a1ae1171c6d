"""Fits of the law written by hand: what the text, the records and the figure are made from."""

import math
from dataclasses import dataclass

import numpy as np

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate, FitPoint, LawFit
from rlvr_jax.analysis.observations import Observation

REASON = "S still falls at the largest batch; measure larger sizes"


@dataclass(frozen=True)
class HandLaw(LawFit):
    """S = S_min (1 + B_noise / B) with a band of 0.8 to 1.25 times."""

    def steps(self, n_prompts, n_rollouts):
        return self.s_min.value * (1 + self.b_noise.value / (np.asarray(n_prompts) * np.asarray(n_rollouts)))

    def band(self, n_prompts, n_rollouts):
        return 0.8 * self.steps(n_prompts, n_rollouts), 1.25 * self.steps(n_prompts, n_rollouts)


def seen(n_prompts, at, *, target=0.5, run=None, seed=None, every=0.0, ran=None, group="", n_rollouts=8):
    """One observation: reached at `at`, or never within `ran`."""
    after, by = (ran, math.inf) if at is None else (at - every, at)
    return Observation(run or f"B{8 * n_prompts}", n_prompts, n_rollouts, target, at, after, by, seed, group)


def law(observations, *, s_min, b_noise, interval=None, residuals="relative", reason=""):
    """A fit with these numbers; its interval a factor of 1.5 to both sides unless it is given."""
    low, high = interval or (b_noise / 1.5, b_noise * 1.5)
    points = []
    for one in observations:
        fitted = s_min * (1 + b_noise / one.batch)
        residual = None
        if one.at is not None and math.isfinite(fitted):
            residual = math.log(one.at / fitted) if residuals == "relative" else one.at - fitted
        points.append(FitPoint(one, fitted, residual))
    return HandLaw(
        shape="total",
        residuals=residuals,
        confidence=0.9,
        n_runs=len({one.run for one in observations}),
        n_reached=sum(one.is_reached for one in observations),
        s_min=Estimate(s_min, s_min / 1.25, s_min * 1.25),
        b_noise=Estimate(b_noise, low, high),
        terms={"b_noise": Estimate(b_noise, low, high)},
        sigma=0.1 if residuals == "relative" else 12.0,
        log_likelihood=-3.0,
        aicc=math.inf,
        resolved=not reason,
        reason=reason,
        lack_of_fit_p=None,
        points=tuple(points),
    )


def at_target(target, fit, group=""):
    return TargetFit(target, group, fit)

"""The law of each target, and of all targets of a group together."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from rlvr_jax.analysis.fit_verdict import REFUSED_P
from rlvr_jax.analysis.fits import Estimate, LawFit, fit_curve, fit_law
from rlvr_jax.analysis.observations import Observation


@dataclass(frozen=True)
class TargetFit:
    """One fit of one group. `target` None: all targets together, one B_noise and an S_min for each."""

    target: float | None
    group: str
    fit: LawFit
    s_min_by_target: dict[float, Estimate] | None = None


def fit_targets(
    observations: Iterable[Observation], *, shape: str = "total", residuals: str = "relative", confidence: float = 0.9
) -> list[TargetFit]:
    """One fit for each target of each group, targets ascending; then, of a group with two or more, a joint one.

    The joint law has one curve 1 + B_noise/B and a level S_min for each target. Targets of one run share its luck, so
    its points count as one: 2 ln L is scaled by runs / points, and Student's t has runs - 2 degrees of freedom, one
    fewer for each further part of the table that shares no run with the rest. That is right when a run is late by one
    factor at every target, and too cautious otherwise. Its lack_of_fit_p asks whether
    the targets prefer different B_noise; where they do (p < 0.01) it is unresolved, and also where its targets speak
    against it: one that seeds refuse the law of, or two with intervals apart.

    Raises:
        ValueError: no observations, or a shape that these runs cannot have.
    """
    observations = list(observations)
    if not observations:
        raise ValueError("no observations to fit; give the steps of at least three batch sizes")
    settings = {"shape": shape, "residuals": residuals, "confidence": confidence}
    fits = []
    for group in dict.fromkeys(o.group for o in observations):
        of_group = [o for o in observations if o.group == group]
        by_target = {t: [o for o in of_group if o.target == t] for t in sorted({o.target for o in of_group})}
        fits += [TargetFit(t, group, fit_law(of_target, **settings)) for t, of_target in by_target.items()]
        if len(by_target) > 1:
            joint = _unless_refused(fit_curve(of_group, **settings), fits[-len(by_target) :])
            fits.append(TargetFit(None, group, joint, _least_steps(joint, list(by_target))))
    return fits


def _unless_refused(joint: LawFit, fits: list[TargetFit]) -> LawFit:
    """The joint fit, unresolved where what single targets say rules out one curve for all."""
    refused = [f"{f.target:g}" for f in fits if f.fit.lack_of_fit_p is not None and f.fit.lack_of_fit_p < REFUSED_P]
    if refused:
        return _refused(
            joint, f"the seeds refuse the law at {', '.join(refused)}, so one law for all targets says nothing"
        )
    known = [(f.target, f.fit.b_noise) for f in fits if f.fit.resolved and f.fit.b_noise is not None]
    if known:
        wider = _widening(joint.confidence, len(known))
        low = min(known, key=lambda k: _moved_end(k[1].value, k[1].high, wider))
        high = max(known, key=lambda k: _moved_end(k[1].value, k[1].low, wider))
        if _moved_end(low[1].value, low[1].high, wider) < _moved_end(high[1].value, high[1].low, wider):
            words = (f"{b.value:.3g} [{b.low:.3g}, {b.high:.3g}] at {target:g}" for target, b in (low, high))
            return _refused(joint, f"no one B_noise is that of all targets: {' and '.join(words)}")
    return joint


def _widening(confidence: float, n: int) -> float:
    """How much longer an interval is that holds for n targets at once (Bonferroni): one in ten misses by itself."""
    return float(scipy.stats.norm.ppf(1 - (1 - confidence) / 2 / n) / scipy.stats.norm.ppf((1 + confidence) / 2))


def _moved_end(value: float, end: float, times: float) -> float:
    """The end of an interval that is so many times as long, in the logarithm."""
    return value * (end / value) ** times


def _refused(joint: LawFit, reason: str) -> LawFit:
    return dataclasses.replace(joint, resolved=False, is_refused=True, reason=joint.reason or reason)


def _least_steps(joint: LawFit, targets: list[float]) -> dict[float, Estimate]:
    if joint.curve is None:
        return {t: Estimate(math.nan, 0.0, math.inf) for t in targets}
    place = {
        t: k for k, t in enumerate(sorted({p.observation.target for p in joint.points if p.observation.is_reached}))
    }
    s_min = np.eye(joint.curve.columns_nk.shape[1])[0]
    unknown = Estimate(math.nan, 0.0, math.inf)
    return {t: joint.curve.level(s_min, place[t]) if t in place else unknown for t in targets}

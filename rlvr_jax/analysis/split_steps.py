"""Steps to each target at a split nobody ran: by the fitted law, and by gradient noise."""

import math
from dataclasses import dataclass

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_words import interval_text, number_text, target_name
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.predict import Prediction
from rlvr_jax.analysis.predicted_rows import level_and_miss
from rlvr_jax.analysis.predicted_steps import STEPS


@dataclass(frozen=True)
class ByGradients:
    """S_min taken from the runs as a level, everything else from gradient noise."""

    value: float
    miss: float  # typical factor by which runs differ from it at the splits that were run, such as 1.15


@dataclass(frozen=True)
class SplitSteps:
    """One target at one split, in what the observations count."""

    target: float
    group: str
    fitted: Estimate | None  # the curve's interval: a single run scatters more; None: unresolved
    by_gradients: dict[str, ByGradients]  # by predicted_steps.STEPS; without those that are not known


def split_steps(
    n_prompts: int, n_rollouts: int, fits: list[TargetFit], predictions: list[Prediction]
) -> list[SplitSteps]:
    """One entry per fit of a single target.

    By gradients: the predicted shape S(P, R) / S_min times one level, the geometric mean of observed / shape over the
    runs that reached the target.
    """
    found = []
    for target_fit in fits:
        fit = target_fit.fit
        if target_fit.target is None:
            continue
        fitted = None
        if fit.resolved:
            low, high = fit.band(n_prompts, n_rollouts)
            fitted = Estimate(float(fit.steps(n_prompts, n_rollouts)), float(low), float(high))
        by_gradients = {}
        for prediction in predictions:
            of_fit = (prediction.target, prediction.group) == (target_fit.target, target_fit.group)
            if of_fit and prediction.metric == "gradient":
                seen = [point.observation for point in fit.points if point.observation.is_reached]
                some = {steps: _by_gradients(prediction, seen, n_prompts, n_rollouts, steps) for steps in STEPS}
                by_gradients = {steps: one for steps, one in some.items() if one is not None}
        found.append(SplitSteps(target_fit.target, target_fit.group, fitted, by_gradients))
    return found


def _by_gradients(
    prediction: Prediction, seen: list[Observation], n_prompts: int, n_rollouts: int, steps: str
) -> ByGradients | None:
    if not prediction.as_fitted[steps].is_resolved:
        return None
    level, miss = level_and_miss(prediction, seen, steps=steps)
    value = level * prediction.relative_steps(n_prompts, n_rollouts, steps=steps)
    return ByGradients(value, miss) if math.isfinite(value) else None


def split_steps_text(found: list[SplitSteps]) -> str:
    """A markdown table."""
    lines = [
        "| target | fitted law | steps divided by their size | misses by | steps of the best size | misses by |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        fitted = "unresolved"
        if one.fitted is not None:
            fitted = f"{number_text(one.fitted.value)} {interval_text(one.fitted)}"
        cells = [target_name(one.target, one.group), fitted]
        for steps in ("normalised", "best_size"):
            by = one.by_gradients.get(steps)
            cells += ["unresolved", "-"] if by is None else [number_text(by.value), f"× {by.miss:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""The law predicted from gradients beside the law fitted to steps."""

import math
from dataclasses import dataclass

import numpy as np

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate, LawFit
from rlvr_jax.analysis.law_words import interval_text, number_text, target_name
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.predict import Prediction

_METRIC_WORDS = {"gradient": "", "adam": " (in Adam's metric)"}


@dataclass(frozen=True)
class PredictedRow:
    """One target at one number of rollouts per prompt; everything in rollouts."""

    target: float
    group: str
    metric: str  # "gradient" or "adam"
    n_rollouts: int
    fitted: Estimate | None
    is_fit_resolved: bool
    predicted: Pooled
    ratio: Estimate | None  # predicted / fitted
    runs_fitted: int
    runs_predicted: int
    sentence: str


def compare_predicted(predictions: list[Prediction], fits: list[TargetFit]) -> list[PredictedRow]:
    """One row per prediction, measured R and fit of its target; fits of all targets together have none.

    The interval of the ratio takes both estimates for independent, and adds the halves of their intervals in quadrature
    on the logarithm. A fit of two terms, which has no single B_noise, is compared by its critical number of prompts.
    """
    rows = []
    for fit in fits:
        for prediction in predictions:
            if (prediction.target, prediction.group) != (fit.target, fit.group):
                continue
            fitted_at = {point.observation.n_rollouts for point in fit.fit.points}
            for found in prediction.noise:
                if found.n_rollouts in fitted_at:
                    rows.append(_row(prediction, fit, found.n_rollouts, found.rollouts))
    return rows


def _row(prediction: Prediction, target_fit: TargetFit, n_rollouts: int, predicted: Pooled) -> PredictedRow:
    fit = target_fit.fit
    fitted = fit.b_noise
    if fitted is None and (prompts := fit.prompt_cbs(n_rollouts)) is not None:
        fitted = Estimate(*(n_rollouts * number for number in (prompts.value, prompts.low, prompts.high)))
    where = f"{target_name(prediction.target, prediction.group)}, R = {n_rollouts}{_METRIC_WORDS[prediction.metric]}"
    ratio = None
    if not predicted.is_resolved:
        sentence = f"{where}: cannot say, as the prediction is unresolved: {predicted.reason}."
    elif fitted is None or not fit.resolved:
        why = fit.reason or f"it has no critical batch at R = {n_rollouts}"
        sentence = f"{where}: predicted {text(predicted.estimate)} rollouts; the fitted law is unresolved: {why}"
    else:
        ratio = ratio_of(predicted.estimate, fitted)
        both = f"predicted {text(predicted.estimate)}, fitted {text(fitted)} rollouts"
        sentence = f"{where}: {both}, ratio {text(ratio)}: {agreement(ratio)}."
    return PredictedRow(
        target=prediction.target,
        group=prediction.group,
        metric=prediction.metric,
        n_rollouts=n_rollouts,
        fitted=fitted,
        is_fit_resolved=fitted is not None and fit.resolved,
        predicted=predicted,
        ratio=ratio,
        runs_fitted=fit.n_runs,
        runs_predicted=len(prediction.runs),
        sentence=sentence.rstrip(".") + ".",
    )


@dataclass(frozen=True)
class StepsRow:
    """One target: the B_noise of a hyperbola through predicted steps beside that of the one through observed steps."""

    target: float
    group: str
    metric: str
    fitted: Estimate | None
    is_fit_resolved: bool
    predicted: dict[str, Pooled]  # by predicted_steps.STEPS, in rollouts
    ratios: dict[str, Estimate]  # predicted / fitted, where both are resolved
    misses: dict[str, float]  # typical factor between observed and predicted steps, one level for all runs left free
    runs_fitted: int
    runs_predicted: int
    sentence: str


_STEPS_WORDS = {
    "normalised": "if steps are divided by their gradient's size, as Adam's",
    "best_size": "if steps have the best size",
}


def compare_steps(predictions: list[Prediction], fits: list[TargetFit]) -> list[StepsRow]:
    """One row per prediction and fit of its target in P R alone, all at the splits that were run."""
    rows = []
    for target_fit in fits:
        for found in predictions:
            is_alike = (found.target, found.group) == (target_fit.target, target_fit.group)
            if is_alike and target_fit.fit.b_noise is not None:
                rows.append(_steps_row(found, target_fit.fit))
    return rows


def _steps_row(found: Prediction, fit: LawFit) -> StepsRow:
    known = {steps: pooled.estimate for steps, pooled in found.as_fitted.items() if pooled.is_resolved}
    seen = [point.observation for point in fit.points if point.observation.is_reached]
    levels = {steps: level_and_miss(found, seen, steps=steps) for steps in known}
    ratios = {steps: ratio_of(estimate, fit.b_noise) for steps, estimate in known.items() if fit.resolved}
    parts = []
    for steps, words in _STEPS_WORDS.items():
        if steps in known:
            part = f"{text(known[steps])} rollouts {words}"
            if fit.resolved:
                part += f" (ratio {text(ratios[steps])}: {agreement(ratios[steps])})"
            if math.isfinite(levels[steps][1]):
                part += f", which with one level for all runs misses them by a typical factor of {levels[steps][1]:.2f}"
            parts.append(part)
    where = f"{target_name(found.target, found.group)}{_METRIC_WORDS[found.metric]}"
    beside = f"fitted {text(fit.b_noise)}" if fit.resolved else "the fitted law is unresolved"
    said = f"critical batch by gradient noise {'; '.join(parts)}; {beside}"
    if not parts:
        said = f"no critical batch by gradient noise to set beside a fit: {found.as_fitted['normalised'].reason}"
        measured = [at for at in found.noise if at.is_measured and at.rollouts.is_resolved]
        if measured:
            noise = ", ".join(f"{text(at.rollouts.estimate)} rollouts at R = {at.n_rollouts}" for at in measured)
            said += (
                f"; B_noise measured on the way: {noise} ({len(found.runs)} run(s), {found.confidence:.0%} interval)"
            )
    return StepsRow(
        target=found.target,
        group=found.group,
        metric=found.metric,
        fitted=fit.b_noise,
        is_fit_resolved=fit.resolved,
        predicted=found.as_fitted,
        ratios=ratios,
        misses={steps: miss for steps, (_, miss) in levels.items()},
        runs_fitted=fit.n_runs,
        runs_predicted=len(found.runs),
        sentence=f"{where}: {said}.",
    )


def level_and_miss(prediction: Prediction, seen: list[Observation], *, steps: str) -> tuple[float, float]:
    """(S_min, typical factor between observed and predicted steps) of a predicted shape with one free level.

    The level is the geometric mean of observed / shape, the factor exp of the logarithms' standard deviation; NaN where
    the noise of a split is not known, and the factor of fewer than three runs.
    """
    shape = [prediction.relative_steps(one.n_prompts, one.n_rollouts, steps=steps) for one in seen]
    log_levels = np.log([one.at for one in seen]) - np.log(shape)
    if not len(seen) or not np.isfinite(log_levels).all():
        return math.nan, math.nan
    return math.exp(log_levels.mean()), math.exp(log_levels.std(ddof=1)) if len(seen) > 2 else math.nan


def ratio_of(over: Estimate, under: Estimate) -> Estimate:
    """over / under of two independent estimates with intervals of one confidence."""
    log_ratio = _log(over.value) - _log(under.value)
    up = math.hypot(_log(over.high) - _log(over.value), _log(under.value) - _log(under.low))
    down = math.hypot(_log(over.value) - _log(over.low), _log(under.high) - _log(under.value))
    return Estimate(math.exp(log_ratio), math.exp(log_ratio - down), math.exp(log_ratio + up))


def agreement(ratio: Estimate) -> str:
    """What a ratio with its interval allows one to say."""
    if ratio.low > 1:
        return f"they differ, the prediction is at least {ratio.low:.3g} times as large"
    if ratio.high < 1:
        return f"they differ, the fitted one is at least {1 / ratio.high:.3g} times as large"
    factor = max(ratio.high, 1 / ratio.low if ratio.low > 0 else math.inf)
    if not factor < 10:
        return "too uncertain to tell a factor of ten"
    return f"they agree within a factor of {factor:.2g}"


def text(estimate: Estimate) -> str:
    """ "310 [210, 480]"."""
    return f"{number_text(estimate.value)} {interval_text(estimate)}"


def _log(value: float) -> float:
    """Of an end at 0 or infinity, -inf or inf."""
    return math.log(value) if value > 0 else -math.inf

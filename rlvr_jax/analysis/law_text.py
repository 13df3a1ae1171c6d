"""Fits of the law as text for a terminal or a markdown page, and as records for --json."""

import itertools
import math
from collections import defaultdict
from typing import Any

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate, LawFit
from rlvr_jax.analysis.law_choices import residual_choices
from rlvr_jax.analysis.law_residuals import aligned
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, is_bounded, number_text, target_name, term_name

_PROCEDURES = {
    "relative": "maximum likelihood in relative error, evaluation spacing and runs that did not get there included",
    "absolute": "unweighted least squares on the printed numbers, runs that did not get there left out",
}


def law_text(fits: list[TargetFit], *, unit: str) -> str:
    """The fits as a markdown table that a terminal of 120 columns holds, and what is unresolved and why.

    Fits of one target under both kinds of residuals stand beside each other, and what they disagree on is said.

    Args:
        fits: of `fit_targets`, once or once per kind of residuals.
        unit: "step" or "update", what the observations count.
    """
    if not fits:
        return "There is nothing to fit."
    kinds = list(dict.fromkeys(fit.fit.residuals for fit in fits))
    paragraphs = [
        *(f"{kind.capitalize()} residuals: {_PROCEDURES[kind]}." for kind in kinds),
        "\n".join(_table(_ordered(fits), unit)),
        "\n".join(_joint_lines(fits, unit)),
        "\n".join(_unresolved(fits)),
    ]
    if len(kinds) > 1:
        paragraphs.append("\n".join(["What depends on the kind of residuals:", "", *residual_choices(_ordered(fits))]))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def law_record(fit: TargetFit, *, unit: str) -> dict[str, Any]:
    """One fit as plain data: finite numbers, null where a value or an end of an interval is open."""
    law = fit.fit
    rollouts = {point.observation.n_rollouts for point in law.points}
    b_noise = law.b_noise
    in_prompts = _finite(b_noise.value / min(rollouts)) if b_noise and len(rollouts) == 1 else None
    joint = {f"{target:g}": _estimate_record(s_min) for target, s_min in (fit.s_min_by_target or {}).items()}
    return {
        "target": fit.target,
        "group": fit.group,
        "unit": unit,
        "shape": law.shape,
        "residuals_kind": law.residuals,
        "b_noise": _finite(b_noise.value) if b_noise else None,
        "ci": _ends(b_noise),
        "b_noise_prompts": in_prompts,
        "s_min": _finite(law.s_min.value) if law.s_min else None,
        "s_min_ci": _ends(law.s_min),
        "s_min_by_target": joint or None,
        "terms": {name: _estimate_record(term) for name, term in law.terms.items()},
        "confidence": law.confidence,
        "resolved": bool(law.resolved),
        "reason": law.reason,
        "n_runs": law.n_runs,
        "n_reached": law.n_reached,
        "n_points": len(law.points),
        "n_left_out": law.n_left_out,
        "sigma": _finite(law.sigma),
        "log_likelihood": _finite(law.log_likelihood),
        "aicc": _finite(law.aicc),
        "lack_of_fit_p": _finite(law.lack_of_fit_p),
        "residuals": [_finite(point.residual) for point in law.points],
        "points": [
            {
                "run": point.observation.run,
                "n_prompts": point.observation.n_prompts,
                "n_rollouts": point.observation.n_rollouts,
                "batch": point.observation.batch,
                "target": point.observation.target,
                "steps": point.observation.at,
                "after": point.observation.after,
                "by": _finite(point.observation.by),
                "seed": point.observation.seed,
                "fitted": _finite(point.fitted),
                "residual": _finite(point.residual),
            }
            for point in law.points
        ],
    }


def law_sentence(fit: TargetFit, *, unit: str) -> str:
    """One claim, with its interval and the runs behind it; or that it is unresolved, and why."""
    law = fit.fit
    name = target_name(fit.target, fit.group)
    if law.b_noise is None:
        return f"{name}: the shape {law.shape} has no one critical batch size"
    runs = f"{law.n_reached} of {law.n_runs} runs reached it"
    if fit.target is None:
        runs = f"{law.n_reached} of {len(law.points)} targets reached in {law.n_runs} runs"
    if not law.resolved:
        return f"{name}: the critical batch size is unresolved ({runs}): {law.reason}"
    return (
        f"{name}: critical batch size {number_text(law.b_noise.value)} rollouts"
        f" {interval_text(law.b_noise)} ({law.confidence:.0%} interval; {runs}; in {UNIT_NAMES[unit]})"
    )


def _ordered(fits: list[TargetFit]) -> list[TargetFit]:
    """By group and target as they came, kinds of residuals beside each other."""
    keys = list(dict.fromkeys((fit.group, fit.target) for fit in fits))
    return sorted(fits, key=lambda fit: keys.index((fit.group, fit.target)))


def _table(fits: list[TargetFit], unit: str) -> list[str]:
    """A line per fit; the numbers of the law are B_noise, or the terms of another shape."""
    interval, names = f"{fits[0].fit.confidence:.0%} interval", list(fits[0].fit.terms)
    heads = itertools.chain.from_iterable((term_name(name), interval) for name in names)
    rows = [["target", "residuals", "reached", *heads, f"S_min, {UNIT_NAMES[unit]}", interval, "spread"]]
    for fit in fits:
        law = fit.fit
        terms = [law.terms[name] for name in names]
        values = [
            (number_text(term.value) if law.resolved else "unresolved", "" if law.is_refused else interval_text(term))
            for term in terms
        ]
        rows.append(
            [
                target_name(fit.target, fit.group),
                law.residuals,
                f"{law.n_reached} of {len(law.points)}",
                *itertools.chain.from_iterable(values),
                number_text(law.s_min.value) if law.resolved and is_bounded(law.s_min) else "-",
                "" if law.is_refused else interval_text(law.s_min),
                _spread_text(law),
            ]
        )
    n_without = max(fit.fit.n_without_baseline for fit in fits)
    shape = fits[0].fit.shape
    remark = f"\n{n_without} run(s) with one rollout per prompt, which the shape {shape} does not hold, are left out."
    return aligned(rows) + [remark] * bool(n_without)


def _joint_lines(fits: list[TargetFit], unit: str) -> list[str]:
    """The S_min that each target has in a joint fit; of an unresolved one there is nothing to quote."""
    return [
        f"- S_min in the joint fit of {target_name(fit.target, fit.group)} ({fit.fit.residuals}), in"
        f" {UNIT_NAMES[unit]}: "
        + ", ".join(
            f"{number_text(s.value) if is_bounded(s) else '-'} {interval_text(s)} at {t:g}"
            for t, s in fit.s_min_by_target.items()
        )
        for fit in fits
        if fit.s_min_by_target and fit.fit.resolved
    ]


def _spread_text(law: LawFit) -> str:
    """How far runs scatter about the law: of ln S, or in steps."""
    if not math.isfinite(law.sigma):
        return "-"
    return f"{law.sigma:.0%}" if law.residuals == "relative" else f"±{number_text(law.sigma)}"


def _unresolved(fits: list[TargetFit]) -> list[str]:
    """One line per reason; kinds of residuals that share it share the line."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fit in fits:
        if not fit.fit.resolved:
            by_reason[target_name(fit.target, fit.group), fit.fit.reason].append(fit.fit.residuals)
    if not by_reason:
        return []
    lines = [f"- {name} ({', '.join(kinds)}): {reason}" for (name, reason), kinds in by_reason.items()]
    return ["Unresolved, and why:", "", *lines]


def _estimate_record(estimate: Estimate) -> dict[str, Any]:
    return {"value": _finite(estimate.value), "ci": _ends(estimate)}


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    return None if estimate is None else [_finite(estimate.low), _finite(estimate.high)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)

"""Which conclusions depend on the kind of residuals, one line each."""

import math
from collections import defaultdict

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import RESIDUALS, LawFit
from rlvr_jax.analysis.law_words import number_text, target_name, term_name

_LEAST_FACTOR = 1.5  # between the best fits of one number under both kinds, to be said


def residual_choices(fits: list[TargetFit]) -> list[str]:
    """What is resolved under one kind alone, numbers far apart, and orders of targets that only one kind has.

    Args:
        fits: of `fit_targets` under both kinds of residuals.
    """
    pairs: dict[str, dict[str, LawFit]] = defaultdict(dict)
    for fit in fits:
        pairs[target_name(fit.target, fit.group)][fit.fit.residuals] = fit.fit
    lines = []
    for name, kinds in pairs.items():
        if len(kinds) == len(RESIDUALS):
            lines += _pair_lines(name, *(kinds[kind] for kind in RESIDUALS))
    lines += _order_lines(fits)
    return lines or [f"- Nothing: verdicts agree, and no number is a factor {_LEAST_FACTOR:g} apart."]


def _pair_lines(name: str, relative: LawFit, absolute: LawFit) -> list[str]:
    lines = []
    if relative.resolved != absolute.resolved:
        lines.append(f"- {name}: resolved under {'relative' if relative.resolved else 'absolute'} residuals only.")
    both = "" if relative.resolved and absolute.resolved else ", not both resolved"
    for term, estimate in relative.terms.items():
        term_in_words = term_name(term).split(",")[0]
        values = (estimate.value, absolute.terms[term].value)
        if not all(math.isfinite(value) and value > 0 for value in values):
            if any(math.isfinite(value) and value > 0 for value in values):
                lines.append(f"- {name}: only one kind has a best fit of {term_in_words} above 0 and below infinity.")
            continue
        factor = max(values) / min(values)
        if factor >= _LEAST_FACTOR:
            best = f"{number_text(values[0])} (relative) and {number_text(values[1])} (absolute)"
            lines.append(f"- {name}: best fits of {term_in_words}: {best}, a factor {factor:.1f} apart{both}.")
    return lines


def _order_lines(fits: list[TargetFit]) -> list[str]:
    """Pairs of targets whose intervals of B_noise lie apart under one kind of residuals and not under the other."""
    laws: dict[tuple[str, str], dict[float, LawFit]] = defaultdict(dict)
    for fit in fits:
        if fit.target is not None and fit.fit.b_noise is not None:
            laws[fit.group, fit.fit.residuals][fit.target] = fit.fit
    lines = []
    for group in dict.fromkeys(group for group, _ in laws):
        above = {kind: _above(laws[group, kind]) for kind in RESIDUALS}
        place = f" {group}" if group else ""
        for kind, other in (("relative", "absolute"), ("absolute", "relative")):
            only = sorted(above[kind] - above[other])
            if only:
                claims = ", ".join(f"{high:g} above {low:g}" for high, low in only[:6])
                more = f" and {len(only) - 6} more" if len(only) > 6 else ""
                lines.append(
                    f"- B_noise of{place} targets, intervals apart under {kind} residuals only: {claims}{more}."
                )
        is_one = all(len(laws[group, kind]) < 2 for kind in RESIDUALS)
        if not (above["relative"] or above["absolute"] or is_one):
            lines.append(f"- Under neither kind do the intervals of B_noise of any two{place} targets lie apart.")
    return lines


def _above(laws: dict[float, LawFit]) -> set[tuple[float, float]]:
    """(higher, lower) for resolved targets whose intervals do not touch."""
    resolved = {target: law.b_noise for target, law in laws.items() if law.resolved}
    return {(a, b) for a in resolved for b in resolved if resolved[a].low > resolved[b].high}

"""Whether runs follow the law that was fitted to them, as text."""

import math

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fit_verdict import REFUSED_P
from rlvr_jax.analysis.hyperbola import hyperbola_points
from rlvr_jax.analysis.law_residuals import aligned, residual_text
from rlvr_jax.analysis.law_words import number_text, target_name


def law_checks_text(fits: list[TargetFit], *, unit: str) -> str:
    """Residuals of every batch, the test of lack of fit, and the hyperbola; "" without fits.

    Args:
        fits: of shape "total", of one kind of residuals.
        unit: "step" or "update".
    """
    sections = [residual_text(fits, unit=unit), _lack_of_fit(fits), _hyperbola(fits)]
    return "\n\n".join(section for section in sections if section)


def _lack_of_fit(fits: list[TargetFit]) -> str:
    """The test of every target, and why there is none; whether targets share one B_noise is the joint fit's verdict."""
    single = [fit for fit in fits if fit.target is not None]
    known = [fit for fit in single if fit.fit.lack_of_fit_p is not None]
    sentences = []
    if known:
        values = ", ".join(f"{fit.fit.lack_of_fit_p:.2g} at {target_name(fit.target, fit.group)}" for fit in known)
        bent = [target_name(fit.target, fit.group) for fit in known if fit.fit.lack_of_fit_p < REFUSED_P]
        said = f"seeds refuse the law at {', '.join(bent)}" if bent else "seeds would refuse the law, and do so nowhere"
        sentences.append(
            f"Lack of fit, p: {values}; of means of batch sizes against what seeds differ by. Below {REFUSED_P:g}, "
            f"{said}."
        )
    untested: dict[str, list[str]] = {}
    for fit in single:
        if fit.fit.lack_of_fit_p is None:
            untested.setdefault(_why_untested(fit), []).append(target_name(fit.target, fit.group))
    sentences += [f"Lack of fit is not tested at {', '.join(names)}: {why}." for why, names in untested.items()]
    return " ".join(sentences)


def _why_untested(fit: TargetFit) -> str:
    seen = [point.observation for point in fit.fit.points]
    n_cells = len({(one.n_prompts, one.n_rollouts, one.updates_per_step) for one in seen})
    if not fit.fit.n_reached:
        return "no run reached it"
    if n_cells == len(seen) or n_cells <= 1 + len(fit.fit.terms):
        return "it takes several seeds of some batch size, and more sizes than numbers fitted"
    if fit.fit.residuals == "absolute" and fit.fit.n_reached < len(seen):
        return "absolute residuals leave out the slow runs"
    return "the evaluations lie too far apart to see by how much seeds differ"


def _hyperbola(fits: list[TargetFit]) -> str:
    """(S/S_min - 1)(E/E_min - 1) by batch and target."""
    columns = {}
    for fit in fits:
        if fit.target is None or not fit.fit.resolved:
            continue
        try:
            columns[target_name(fit.target, fit.group)] = {p.batch: p for p in hyperbola_points(fit.fit)}
        except ValueError:  # an end of the law is not measured
            continue
    if not columns:
        return ""
    rows = [["B, rollouts", *columns]]
    for batch in sorted({batch for column in columns.values() for batch in column}):
        found = [column.get(batch) for column in columns.values()]
        rows.append([str(batch), *("" if point is None else _product_text(point.product) for point in found)])
    return "\n".join(
        [
            "(S/S_min - 1)(E/E_min - 1), 1 on the law; far from B_noise a run late by 10% moves it by far more:",
            "",
            *aligned(rows),
        ]
    )


def _product_text(product: float) -> str:
    return number_text(product) if math.isfinite(product) else "-"

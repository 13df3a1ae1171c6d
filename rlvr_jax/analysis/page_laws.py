"""Conclusions of a study as cards and tables of its page."""

import math
from dataclasses import dataclass

from rlvr_jax.analysis.conclusions import Conclusions, LawConclusion
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.page_tables import Table
from rlvr_jax.analysis.predicted_words import text as pooled_text


@dataclass(frozen=True)
class Card:
    """One target's critical batch, or that there is none."""

    title: str
    group: str
    is_resolved: bool
    value: str
    interval: str
    runs: str


def law_cards(conclusions: Conclusions) -> list[Card]:
    return [_card(law) for law in conclusions.laws]


def _card(law: LawConclusion) -> Card:
    fit = law.fit.fit
    has_value = fit.resolved and fit.b_noise is not None
    return Card(
        title="all targets together" if law.target is None else f"to {law.target:g}",
        group=law.group,
        is_resolved=has_value,
        value=f"{number_text(fit.b_noise.value)} rollouts" if has_value else "unresolved",
        interval=f"{interval_text(fit.b_noise)} at {fit.confidence:.0%}" if has_value else "",
        runs=_reached(law),
    )


def _reached(law: LawConclusion) -> str:
    fit = law.fit.fit
    if law.target is None:
        return f"{fit.n_reached} of {len(fit.points)} targets of {fit.n_runs} runs reached"
    return f"{fit.n_reached} of {fit.n_runs} runs reached it"


def split_table(conclusions: Conclusions) -> Table:
    """Critical prompts at each R and critical rollouts at each P, from the better two-dimensional law."""
    rows = []
    for split in conclusions.splits:
        name = target_name(split.target, split.group)
        rows += [[name, f"prompts, at R = {R}", estimate_text(found)] for R, found in split.prompt_cbs.items()]
        rows += [[name, f"rollouts, at P = {P}", estimate_text(found)] for P, found in split.rollout_cbs.items()]
    return Table(["target", "critical number of", "with its interval"], rows)


def predicted_table(conclusions: Conclusions) -> Table:
    """Predicted beside fitted, one row per target and R."""
    rows = [
        [
            target_name(row.target, row.group),
            f"{row.n_rollouts}",
            "gradient" if row.metric == "gradient" else f"gradient in {row.metric.capitalize()}'s metric",
            pooled_text(row.predicted),
            f"{row.runs_predicted}",
            estimate_text(row.fitted),
            f"{row.runs_fitted}",
            estimate_text(row.ratio),
        ]
        for row in conclusions.predicted_rows
    ]
    return Table(["target", "R", "noise of", "predicted", "runs", "fitted", "runs", "predicted / fitted"], rows)


def iso_table(conclusions: Conclusions) -> tuple[Table, list[str]]:
    """(one row per split of every batch size that was split in several ways, sentences on which of them differ)."""
    targets = sorted({iso.target for iso in conclusions.iso_batches})
    rows: dict[tuple[str, int, str], dict[float, str]] = {}
    orders = []
    for iso in conclusions.iso_batches:
        for name, time in iso.rows:
            rows.setdefault((iso.group, iso.batch, name), {})[iso.target] = time
        where = f"{iso.batch} rollouts{f', {iso.group}' if iso.group else ''}, to {iso.target:g}"
        orders += [f"{where}: {iso.orders[0]}", *(f"- {order}" for order in iso.orders[1:])]
    return Table(
        ["rollouts in all", "prompts x rollouts", *(f"to {target:g}" for target in targets)],
        [
            [f"{batch}{f' ({group})' if group else ''}", name, *(times.get(target, "-") for target in targets)]
            for (group, batch, name), times in rows.items()
        ],
    ), orders


def law_table(conclusions: Conclusions) -> Table:
    """The fitted law of every target; no number of one that is unresolved."""
    rows = []
    for law in conclusions.laws:
        fit = law.fit.fit
        has_value = fit.resolved and fit.b_noise is not None
        rows.append(
            [
                target_name(law.target, law.group),
                estimate_text(fit.b_noise) if has_value else "unresolved",
                _least_text(law) if has_value else "unresolved",
                f"{fit.sigma:.2g}" if math.isfinite(fit.sigma) else "-",
                "-" if fit.lack_of_fit_p is None else f"{fit.lack_of_fit_p:.2g}",
                _reached(law),
            ]
        )
    columns = ["target", "B_noise, rollouts", f"S_min, {UNIT_NAMES[conclusions.unit]}"]
    return Table([*columns, "spread of ln S between runs", "p of lack of fit", "runs"], rows)


def _least_text(law: LawConclusion) -> str:
    if law.fit.fit.s_min is not None:
        return estimate_text(law.fit.fit.s_min)
    return "; ".join(f"{target:g}: {estimate_text(least)}" for target, least in (law.fit.s_min_by_target or {}).items())


def estimate_text(estimate: Estimate | None) -> str:
    """ "310 [210, 480]", or "unresolved"."""
    if estimate is None:
        return "unresolved"
    return f"{number_text(estimate.value)} {interval_text(estimate)}".rstrip()

"""Conclusions of a study as cards and tables of its page."""

import math
import re
from dataclasses import dataclass

from rlvr_jax.analysis.conclusions import Conclusions, LawConclusion
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.page_tables import Table
from rlvr_jax.analysis.predict import Prediction
from rlvr_jax.analysis.predicted_rows import StepsRow
from rlvr_jax.analysis.predicted_words import steps_cells
from rlvr_jax.analysis.predicted_words import text as pooled_text

_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Card:
    """One target's critical batch, or that there is none."""

    title: str
    group: str
    is_resolved: bool
    value: str  # in rollouts
    interval: str
    runs: str
    predicted: str  # by gradient noise; "" where nothing was predicted


def law_cards(conclusions: Conclusions) -> list[Card]:
    """One per target, and one for all of them where that is resolved; what gradient noise predicts stands on it too."""
    rows = {(row.target, row.group): row for row in conclusions.steps_rows if row.metric == "gradient"}
    found = {(one.target, one.group): one for one in conclusions.predictions if one.metric == "gradient"}
    return [
        _card(law, _predicted_text(rows.get((law.target, law.group)), found.get((law.target, law.group))))
        for law in conclusions.laws
        if law.target is not None or law.fit.fit.resolved
    ]


def _card(law: LawConclusion, predicted: str) -> Card:
    fit = law.fit.fit
    has_value = fit.resolved and fit.b_noise is not None
    n_bounded = sum(not point.observation.is_reached or point.observation.after <= 0 for point in fit.points)
    return Card(
        title="all targets together" if law.target is None else f"to {law.target:g}",
        group=law.group,
        is_resolved=has_value,
        value=number_text(fit.b_noise.value) if has_value else "unresolved",
        interval=interval_text(fit.b_noise) if has_value else "",
        runs=_reached(law) + (f", {n_bounded} of them only bounded" if n_bounded and law.target is not None else ""),
        predicted=predicted,
    )


def _predicted_text(row: StepsRow | None, found: Prediction | None) -> str:
    """Of the curve through steps as Adam's, or else B_noise where it was measured; "" where neither is known."""
    if row is not None and row.predicted["normalised"].is_resolved:
        return f"by gradient noise {pooled_text(row.predicted['normalised'])}, steps as Adam's"
    at = [one for one in found.noise if one.is_measured and one.rollouts.is_resolved] if found else []
    if not at:
        return ""
    return "B_noise of gradients " + ", ".join(f"{pooled_text(one.rollouts)} at R = {one.n_rollouts}" for one in at[:2])


def _reached(law: LawConclusion) -> str:
    fit = law.fit.fit
    if law.target is None:
        return f"{fit.n_reached} of {len(fit.points)} reached by {fit.n_runs} runs"
    return f"reached by {fit.n_reached} of {fit.n_runs} runs"


def split_table(conclusions: Conclusions) -> Table:
    """Critical prompts at each R and critical rollouts at each P, by target, of laws that are resolved."""
    resolved = [
        split for split in conclusions.splits if split.law and split.comparison.fits[split.law].resolved
    ]  # a number of any other is not to be quoted
    rows: dict[str, dict[int, str]] = {}
    for i, split in enumerate(resolved):
        for R, found in split.prompt_cbs.items():
            rows.setdefault(f"prompts, of {R} rollouts each", {})[i] = estimate_text(found, missing="-")
        for P, found in split.rollout_cbs.items():
            rows.setdefault(f"rollouts, of {P} prompts", {})[i] = estimate_text(found, missing="-")
    names = [f"{target_name(split.target, split.group)} (law {split.law})" for split in resolved]
    return Table(
        ["critical number of", *names],
        [[name, *(cells.get(i, "-") for i in range(len(names)))] for name, cells in rows.items()],
    )


def shapes_table(conclusions: Conclusions) -> Table:
    """The laws that were compared, target by target."""
    rows = [
        [
            target_name(split.target, split.group),
            shape,
            ", ".join(f"{name} {estimate_text(term)}" for name, term in fit.terms.items()) or "-",
            f"{fit.sigma:.2g}" if math.isfinite(fit.sigma) else "-",
            f"{fit.aicc:.1f}" if math.isfinite(fit.aicc) else "-",
            f"{fit.n_reached} of {fit.n_runs} runs",
        ]
        for split in conclusions.splits
        for shape, fit in split.comparison.fits.items()
    ]
    return Table(["target", "law", "terms", "spread of ln S between runs", "AICc", "reached by"], rows)


def steps_table(conclusions: Conclusions) -> Table:
    """The law's B_noise beside that of a hyperbola through predicted steps, one row per target."""
    cells = steps_cells(conclusions.steps_rows)
    return Table(cells[0], cells[1:]) if cells else Table([], [])


def _noise_of(metric: str) -> str:
    return metric if metric == "gradient" else f"gradient in {metric.capitalize()}'s metric"


def predicted_table(conclusions: Conclusions) -> Table:
    """Predicted beside fitted, one row per target and R; no number of a law that is unresolved."""
    rows = [
        [
            target_name(row.target, row.group),
            f"{row.n_rollouts}",
            _noise_of(row.metric),
            pooled_text(row.predicted),
            f"{row.runs_predicted}",
            estimate_text(row.fitted if row.is_fit_resolved else None),
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


def branch_blocks(conclusions: Conclusions) -> list[str | Table]:
    """What branches of one checkpoint say, from markdown: sentences and tables in their order."""
    blocks: list[str | Table] = []
    for block in conclusions.branches.split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if lines and all(line.startswith("|") for line in lines):
            header, *rows = [
                [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(line.strip("|"))]
                for i, line in enumerate(lines)
                if i != 1  # the rule below the header
            ]
            blocks.append(Table(header, rows))
        elif lines:
            blocks.append(" ".join(lines))
    return blocks


def estimate_text(estimate: Estimate | None, *, missing: str = "unresolved") -> str:
    """ "310 [210, 480]", "310 (> 210)"; None: `missing`."""
    if estimate is None:
        return missing
    interval = interval_text(estimate)
    return f"{number_text(estimate.value)} {interval if interval.startswith('[') else f'({interval})'}"

"""How far each run lies from the fitted law, as a compact table."""

import math
from collections import defaultdict

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import FitPoint
from rlvr_jax.analysis.law_words import UNIT_NAMES, number_text, target_name

_MOST_RUNS = 20  # with a line each; of more, those of one size share a line
_MOST_LINES, _MOST_COLUMNS = 40, 8
_LARGE_LOG = math.log(5.0)  # from here on a residual is a factor, no percentage
_TITLES = {
    "relative": "printed / fitted - 1, of the relative fit",
    "absolute": "printed - fitted, in {unit}, of the absolute fit",
}
_KEY = (
    "Residuals. In brackets: the law lies within what the evaluations leave open. -: not reached, as the law has it."
    " >: not reached, and at least so much beyond the law. Seeds of one name share a line: the mean over those that got"
    " there, 2/3 behind it for 2 of 3."
)


def residual_text(fits: list[TargetFit], *, unit: str) -> str:
    """A column per target and a line per run, or per size where runs are many; means over those that got there.

    Args:
        fits: per target, under one kind of residuals or both; joint fits are left alone.
        unit: "step" or "update".
    """
    fits = [fit for fit in fits if fit.target is not None and fit.fit.points]
    parts = [_KEY] if fits else []
    for kind in dict.fromkeys(fit.fit.residuals for fit in fits):
        of_kind = [fit for fit in fits if fit.fit.residuals == kind]
        parts.append(f"{_TITLES[kind].format(unit=UNIT_NAMES[unit])}:".capitalize())
        for first in range(0, len(of_kind), _MOST_COLUMNS):
            parts.append("\n".join(_table(of_kind[first : first + _MOST_COLUMNS], kind)))
    return "\n\n".join(parts)


def aligned(rows: list[list[str]]) -> list[str]:
    """The lines of a markdown table, padded; the first row is its header, its first column stands to the left."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append(f"| {' | '.join([row[0].ljust(widths[0]), *rest])} |")
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [lines[0], f"|{rule}|", *lines[1:]]


def _table(fits: list[TargetFit], kind: str) -> list[str]:
    runs = {(point.observation.group, point.observation.run) for fit in fits for point in fit.fit.points}
    is_by_run = len(runs) <= _MOST_RUNS
    cells: dict[tuple, dict[int, list[FitPoint]]] = defaultdict(lambda: defaultdict(list))
    for column, fit in enumerate(fits):
        for point in fit.fit.points:
            seen = point.observation
            key = (seen.n_prompts * seen.n_rollouts, seen.n_prompts, seen.n_rollouts, seen.run if is_by_run else "")
            cells[key][column].append(point)
    keys = sorted(cells)
    rows = [["run" if is_by_run else "runs", "P x R", *(target_name(fit.target, fit.group) for fit in fits)]]
    for key in keys[:_MOST_LINES]:
        n_runs = max(len(points) for points in cells[key].values())
        name = key[3] if is_by_run else str(n_runs)
        rows.append(
            [name, f"{key[1]} x {key[2]}", *(_cell(cells[key].get(column, []), kind) for column in range(len(fits)))]
        )
    more = [f"... and {len(keys) - _MOST_LINES} more sizes"] if len(keys) > _MOST_LINES else []
    return aligned(rows) + more


def _cell(points: list[FitPoint], kind: str) -> str:
    residuals = [point.residual for point in points if point.residual is not None]
    if residuals:
        mean = _residual_text(sum(residuals) / len(residuals), kind)
        mean = f"({mean})" if all(_is_within(point) for point in points) else mean
        return mean if len(residuals) == len(points) else f"{mean} {len(residuals)}/{len(points)}"
    short = [point for point in points if not point.observation.is_reached and point.fitted < point.observation.after]
    if short:
        logs = [math.log(point.observation.after / point.fitted) for point in short]
        differences = [point.observation.after - point.fitted for point in short]
        beyond = logs if kind == "relative" else differences
        return f">{_residual_text(sum(beyond) / len(beyond), kind)}"
    return "-" if points else ""


def _is_within(point: FitPoint) -> bool:
    """The law's time lies where the crossing may have been."""
    return point.observation.after < point.fitted <= point.observation.by


def _residual_text(residual: float, kind: str) -> str:
    if kind == "relative":
        return (
            f"{round(100 * math.expm1(residual)):+d}%"
            if residual < _LARGE_LOG
            else f"x{number_text(math.exp(residual))}"
        )
    return number_text(round(residual)) if round(residual) <= 0 else f"+{number_text(round(residual))}"

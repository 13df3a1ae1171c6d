"""Pictures of what gradient noise predicts: of the noise at other splits, and of the law."""

from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.analysis.figures import HEIGHT_IN, WIDTH_IN, save
from rlvr_jax.analysis.law_words import number_text, target_name
from rlvr_jax.analysis.noise_check import NoiseCheck
from rlvr_jax.analysis.predicted_rows import PredictedRow, StepsRow

_MARKERS = "osD^vP*X<>"


def noise_check_figure(check: NoiseCheck, path: Path) -> bool:
    """Predicted against measured tr Cov of the batch gradient, a marker per target and a colour per R; PNG.

    Points on the line are predicted right. False, and no file, without a point.
    """
    points = [one for one in check.points if one.measured.is_resolved and one.predicted.is_resolved]
    if not points:
        return False
    figure, axes = _new_figure(WIDTH_IN, 5.0)
    rollouts, targets = sorted({p.n_rollouts for p in points}), sorted({p.target for p in points})
    colours = _colours(rollouts)
    for point in points:
        measured, predicted = point.measured.estimate, point.predicted.estimate
        axes.errorbar(
            measured.value,
            predicted.value,
            xerr=_bar(measured),
            yerr=_bar(predicted),
            fmt=_MARKERS[targets.index(point.target) % len(_MARKERS)],
            color=colours[point.n_rollouts],
            markersize=6,
            elinewidth=0.8,
            alpha=0.9,
        )
    values = [one.estimate.value for point in points for one in (point.measured, point.predicted)]
    ends = np.array([min(values) / 1.6, max(values) * 1.6])
    axes.plot(ends, ends, color="0.4", linewidth=1.0, zorder=0)
    for factor in (0.5, 2.0):
        axes.plot(ends, factor * ends, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    axes.set(xlabel="measured tr Cov of the batch gradient", ylabel="predicted")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    n = len(check.source_runs)
    axes.set_title(
        f"noise at other splits, predicted from {check.source_prompts} × {check.source_rollouts} ({n} run(s))"
        "\nline: equal; dotted: a factor of two",
        fontsize=10,
    )
    for R in rollouts:
        axes.plot([], [], "o", color=colours[R], label=f"R = {R}")
    for i, target in enumerate(targets):
        axes.plot([], [], _MARKERS[i % len(_MARKERS)], color="0.3", markerfacecolor="none", label=f"up to {target:g}")
    save(figure, path, n_labels=len(rollouts) + len(targets), title=None)
    return True


def predicted_figure(rows: list[PredictedRow], path: Path, *, steps: list[StepsRow] = ()) -> bool:
    """Critical batches by target: fitted to steps, from gradients over all splits, and B_noise at each R; PNG.

    Unresolved ones are crosses at the foot. False, and no file, without anything to draw.
    """
    rows, steps = ([row for row in some if row.metric == "gradient"] for some in (rows, steps))
    fitted_as = {(row.target, row.group): (row.fitted, row.is_fit_resolved) for row in [*rows, *steps]}
    if not any(row.predicted.is_resolved or row.is_fit_resolved for row in rows):
        return False
    rollouts = sorted({row.n_rollouts for row in rows})
    colours = _colours(rollouts)
    figure, axes = _new_figure(WIDTH_IN, HEIGHT_IN)
    kinds = ["fitted", *_STEPS_STYLE, *rollouts] if steps else ["fitted", *rollouts]
    width, labelled = 0.75 / len(kinds), set()

    def draw(key: tuple, kind: Any, estimate: Any, label: str, **style: Any) -> None:
        x = list(fitted_as).index(key) + width * (kinds.index(kind) - (len(kinds) - 1) / 2)
        label = "_" if label in labelled else labelled.add(label) or label
        if estimate is None or not np.isfinite(estimate.value) or estimate.value <= 0:
            style |= {"marker": "x", "linestyle": ""}
            axes.plot(x, 0.03, **style, transform=axes.get_xaxis_transform(), label=label)
            return
        axes.errorbar(x, estimate.value, yerr=_bar(estimate), **style, linestyle="", capsize=3, label=label)

    for key, (fitted, is_resolved) in fitted_as.items():
        draw(key, "fitted", fitted if is_resolved else None, "fitted to steps", color="black", marker="s")
    for row in steps:
        for kind, (label, style) in _STEPS_STYLE.items():
            draw((row.target, row.group), kind, row.predicted[kind].estimate, label, **style)
    for row in rows:
        draw(
            (row.target, row.group),
            row.n_rollouts,
            row.predicted.estimate,
            f"R = {row.n_rollouts}",
            color=colours[row.n_rollouts],
            marker="o",
        )
    axes.set(yscale="log")
    _plain_numbers(axes.yaxis)
    axes.set_xticks(range(len(fitted_as)), [target_name(*key) for key in fitted_as])
    axes.set(xlabel="target", ylabel="critical batch [rollouts]", xlim=(-0.5, len(fitted_as) - 0.5))
    axes.set_title("critical batch, fitted and predicted; crosses: unresolved", fontsize=10)
    axes.grid(alpha=0.2, axis="y")
    save(figure, path, n_labels=len(kinds), title=None)
    return True


_STEPS_STYLE = {
    "normalised": ("steps as Adam's", {"color": "crimson", "marker": "D"}),
    "best_size": ("steps of the best size", {"color": "0.5", "marker": "D"}),
}


def _new_figure(width_in: float, height_in: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def _plain_numbers(axis: Any) -> None:
    """1, 2, 5, 10 instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axis.set_minor_formatter(NullFormatter())


def _colours(rollouts: list[int]) -> dict[int, Any]:
    from matplotlib import colormaps

    return dict(zip(rollouts, colormaps["viridis"](np.linspace(0.0, 0.85, len(rollouts))), strict=True))


def _bar(estimate: Any) -> list[list[float]] | None:
    """Interval halves; None where an end is open."""
    if not (estimate.low > 0 and np.isfinite(estimate.high)):
        return None
    return [[estimate.value - estimate.low], [estimate.high - estimate.value]]

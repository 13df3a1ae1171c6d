"""Fits of the law as a picture: steps and examples to target over the batch size, and where the law bends."""

from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import FitPoint, LawFit
from rlvr_jax.analysis.law_words import SHAPE_FORMULAS, UNIT_NAMES, interval_text, number_text, target_name

_DPI = 130
_N_CURVE = 41  # points of a curve
_MOST_TICKS = 10


def law_figure(fits: list[TargetFit], path: Path, *, unit: str) -> None:
    """Writes a PNG: left S(B), right E(B) = B S(B), below B_noise with its interval; two rows per group.

    Args:
        fits: per target and, where there is one, jointly; of several kinds of residuals the first is drawn.
        path: of the file.
        unit: "step" or "update", what the observations count.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    fits = [fit for fit in fits if fit.fit.residuals == fits[0].fit.residuals]
    groups = list(dict.fromkeys(fit.group for fit in fits))
    most = max(sum(fit.group == group for fit in fits) for group in groups)
    strip = 0.5 + 0.2 * most  # inches for the intervals, one line each
    figure = Figure(figsize=(13.0, (5.2 + strip) * len(groups)), layout="constrained")
    panels = figure.subplots(2 * len(groups), 2, squeeze=False, height_ratios=[5.2, strip] * len(groups))
    for index, group in enumerate(groups):
        _draw_group(panels[2 * index : 2 * index + 2], [fit for fit in fits if fit.group == group], unit)
    kind = fits[0].fit.residuals
    title = f"S = {SHAPE_FORMULAS[fits[0].fit.shape]}, fitted to {kind} residuals; bands and bars: "
    figure.suptitle(title + f"{fits[0].fit.confidence:.0%} intervals", fontsize=11)
    figure.savefig(path, dpi=_DPI, format="png")


def _draw_group(panels: Any, fits: list[TargetFit], unit: str) -> None:
    import matplotlib
    from matplotlib.collections import LineCollection

    steps, examples = panels[0]
    strip, key = panels[1]
    targets = [fit for fit in fits if fit.target is not None]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, max(1, len(targets))))
    batches = sorted({point.observation.batch for fit in targets for point in fit.fit.points})
    if not batches:
        return
    for fit, colour in zip(targets, colours, strict=True):
        _draw_curves(steps, examples, fit.fit, batches, colour)
        _draw_points(steps, fit.fit.points, colour, is_examples=False)
        _draw_points(examples, fit.fit.points, colour, is_examples=True)
    name = UNIT_NAMES[unit]
    group = f"{fits[0].group}: " if fits[0].group else ""
    steps.set(ylabel=f"{name} to target", title=f"{group}{name} to target, S(B)")
    examples.set(ylabel="rollouts to target", title=f"{group}rollouts to target, E(B) = B S(B)")
    for axes in (steps, examples, strip):
        _log_batch_axis(axes, batches)
    for axes in (steps, examples):
        shown = [line for line in axes.get_lines() if line.get_marker() in "^vo" or line.get_linestyle() == "-"]
        ends = [np.asarray(line.get_ydata()) for line in shown]
        bars = [
            segment[:, 1]
            for found in axes.collections
            if isinstance(found, LineCollection)
            for segment in found.get_segments()
        ]
        _log_value_axis(axes, np.concatenate([np.empty(0), *ends, *bars]))
        axes.set_xlabel("batch size B, rollouts")
        axes.grid(alpha=0.2)
    _draw_scales(strip, fits, colours, batches)
    _draw_key(key, targets, colours)


def _draw_curves(steps: Any, examples: Any, law: LawFit, batches: list[int], colour: Any) -> None:
    """The law over the measured batch sizes with its band; dashed and without one where it is unresolved."""
    split = _split(law, np.geomspace(batches[0], batches[-1], _N_CURVE))
    if law.n_reached == 0:
        return
    if split is None:
        _draw_curves_by_rollouts(steps, examples, law, colour)
        return
    batch, curve = split[0] * split[1], np.asarray(law.steps(*split))
    for axes, factor in ((steps, 1.0), (examples, batch)):
        axes.plot(batch, curve * factor, color=colour, linewidth=1.6, linestyle="-" if law.resolved else (0, (4, 3)))
    if not law.resolved:  # the band of what is unresolved says little and hides the rest
        return
    low, high = (np.asarray(end) for end in law.band(*split))
    is_bounded = np.isfinite(low) & np.isfinite(high) & (low > 0)
    for axes, factor in ((steps, 1.0), (examples, batch)):
        axes.fill_between(
            batch, low * factor, high * factor, where=is_bounded, color=colour, alpha=0.15, linewidth=0
        )  # fmt: skip


def _draw_curves_by_rollouts(steps: Any, examples: Any, law: LawFit, colour: Any) -> None:
    """One line per n_rollouts over the prompts measured with it, where the law is no function of their product."""
    prompts: dict[int, set[int]] = {}
    for point in law.points:
        prompts.setdefault(point.observation.n_rollouts, set()).add(point.observation.n_prompts)
    for n_rollouts, found in sorted(prompts.items()):
        if len(found) < 2:
            continue
        P = np.geomspace(min(found), max(found), _N_CURVE)
        batch, curve = P * n_rollouts, np.asarray(law.steps(P, n_rollouts))
        for axes, factor in ((steps, 1.0), (examples, batch)):
            axes.plot(
                batch, curve * factor, color=colour, linewidth=1.0, linestyle="-" if law.resolved else (0, (4, 3))
            )
            axes.annotate(
                f"R={n_rollouts}", (batch[0], (curve * factor)[0]), xytext=(-6, 0), textcoords="offset points",
                ha="right", va="center", fontsize=7, color=colour,
            )  # fmt: skip


def _split(law: LawFit, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(n_prompts, n_rollouts) along the batch sizes where the law is a function of those; else None."""
    prompts = {point.observation.n_prompts for point in law.points}
    rollouts = {point.observation.n_rollouts for point in law.points}
    if len(rollouts) == 1:
        return batch / min(rollouts), np.full_like(batch, min(rollouts))
    if len(prompts) == 1:
        return np.full_like(batch, min(prompts)), batch / min(prompts)
    return (batch, np.ones_like(batch)) if law.shape == "total" else None


def _draw_points(axes: Any, points: tuple[FitPoint, ...], colour: Any, *, is_examples: bool) -> None:
    """A dot on top of the bar in which the truth lies; a triangle where only one side is known."""
    marks: dict[str, list[tuple[float, float]]] = {"^": [], "v": [], "o": []}
    bars = []
    for point in points:
        seen = point.observation
        x, factor = seen.batch, seen.batch if is_examples else 1
        if not seen.is_known:
            continue
        if not seen.is_reached:
            marks["^"].append((x, seen.after * factor))
        elif seen.after <= 0:
            marks["v"].append((x, seen.by * factor))  # what lies between is not known
        else:
            marks["o"].append((x, seen.at * factor))
            if seen.by > seen.after:
                bars.append((x, seen.after * factor, seen.by * factor))
    for marker, places in marks.items():
        style = {"markersize": 5} if marker == "o" else {"markersize": 7, "markerfacecolor": "none"}
        if places:
            axes.plot(*zip(*places, strict=True), marker=marker, color=colour, linestyle="none", zorder=3, **style)
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=colour, linewidth=1.2, alpha=0.7)


def _draw_scales(axes: Any, fits: list[TargetFit], colours: Any, batches: list[int]) -> None:
    """B_noise of each fit with its interval, on the same axis of batch sizes."""
    left, right = axes.get_xlim()
    by_target = iter(colours)
    for row, fit in enumerate(fits):
        colour = "black" if fit.target is None else next(by_target)
        scale = fit.fit.b_noise
        if scale is None:
            terms = ", ".join(f"{name} {interval_text(term)}" for name, term in fit.fit.terms.items())
            axes.annotate(terms, (0.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            continue
        low, high = max(scale.low, left), min(scale.high, right)
        is_seen = low < right and high > left and not fit.fit.is_refused
        if is_seen:
            line = "-" if fit.fit.resolved else (0, (4, 3))
            axes.plot([low, high], [row, row], color=colour, linewidth=2.0, linestyle=line, solid_capstyle="butt")
        if scale.low < left and is_seen:
            axes.plot(left, row, marker="<", color=colour, clip_on=False)
        if scale.high > right and is_seen:
            axes.plot(right, row, marker=">", color=colour, clip_on=False)
        text = "unresolved" if fit.fit.is_refused else f"unresolved, {interval_text(scale)}"
        if fit.fit.resolved:
            text = f"{number_text(scale.value)} {interval_text(scale)}"
            axes.plot(scale.value, row, marker="o", color=colour, zorder=3)
        note = axes.annotate(text, (1.012, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        note.set_in_layout(False)  # it may stand between the panels without pushing them apart
    axes.set_yticks(range(len(fits)), [target_name(fit.target) for fit in fits], fontsize=8)
    axes.set_ylim(len(fits) - 0.4, -0.6)
    axes.set(xlabel="B_noise, rollouts", ylabel="target")
    axes.grid(alpha=0.2, axis="x")


def _draw_key(axes: Any, targets: list[TargetFit], colours: Any) -> None:
    """What colours and marks mean, beside the data and not on it."""
    from matplotlib.lines import Line2D

    axes.axis("off")
    grey = {"color": "0.3", "linestyle": "none"}
    marks = [
        Line2D([], [], marker="o", **grey, label="reached; bar: between the evaluations"),
        Line2D([], [], marker="v", markerfacecolor="none", **grey, label="reached by the first evaluation: at most"),
        Line2D([], [], marker="^", markerfacecolor="none", **grey, label="not reached by then: more than"),
        Line2D([], [], color="0.3", linestyle=(0, (4, 3)), label="B_noise unresolved"),
    ]
    lines = [
        Line2D([], [], color=colour, marker="o", markersize=5, label=f"target {target_name(fit.target)}")
        for fit, colour in zip(targets, colours, strict=True)
    ]
    first = axes.legend(handles=marks, loc="upper left", bbox_to_anchor=(0.25, 1.0), fontsize=8, frameon=False)
    axes.add_artist(first)
    n_columns = 1 + (len(lines) - 1) // 6
    axes.legend(
        handles=lines, loc="upper right", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False, ncols=n_columns
    )  # fmt: skip


def _log_batch_axis(axes: Any, batches: list[int]) -> None:
    """The measured sizes in plain numbers, as many as fit."""
    axes.set_xscale("log")
    margin = 1.35
    axes.set_xlim(batches[0] / margin, batches[-1] * margin)
    ticks: list[int] = []
    least = (batches[-1] / batches[0]) ** (1 / _MOST_TICKS)
    for batch in batches:
        if not ticks or batch >= ticks[-1] * least:
            ticks.append(batch)
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()


def _log_value_axis(axes: Any, values: np.ndarray) -> None:
    """Around the values, since a curve may run far from them; plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    values = values[values > 0]
    if not len(values):  # no run reached anything, and nobody knows how far it went
        return
    low, high = values.min() / 1.3, values.max() * 1.5
    axes.set_ylim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < 3e3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * (10 if letter == "k" else 1):
            return f"{value / size:g}{letter}"
    return f"{value:g}"

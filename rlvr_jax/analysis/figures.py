"""Curves and noise of a study's points as pictures. matplotlib is optional: it is imported inside functions only."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.analysis.read_runs import RunRecord, column
from rlvr_jax.analysis.summary import PointSummary

# narrow, with the legend below: two stand beside each other on a screen, and one is still legible on a phone
WIDTH_IN, HEIGHT_IN, DPI = 5.8, 4.4, 170
MARKERS = "os^vDPX*<>"
UNRESOLVED_COLOUR = "firebrick"
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))


def new_figure(*, width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> Any:
    """An empty matplotlib Figure: not pyplot's, which has windows and a state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def plain(text: str) -> str:
    """Text of a run directory as matplotlib shows it word for word: between dollars it would read formulas."""
    return text.replace("$", r"\$")


def point_styles(points: list[PointSummary]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of every point by its name, the same in all figures of one study.

    Points of one number of rollouts share their dashes, and take colours from one end to the other by their prompts, so

    """
    from matplotlib import colormaps

    rollouts = sorted(
        {point.n_rollouts for point in points}, key=lambda R: (-sum(p.n_rollouts == R for p in points), R)
    )
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(points)))
    return {
        point.name: {
            "color": colour,
            "linestyle": _DASHES[rollouts.index(point.n_rollouts) % len(_DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 3.5,
            "linewidth": 1.3,
        }
        for i, (point, colour) in enumerate(zip(points, colours, strict=True))
    }


def save(figure: Any, path: Path, *, n_labels: int = 0, title: str | None = "prompts x rollouts") -> None:
    """Writes the PNG, with room below for a legend of `n_labels` lines, those of the first axes."""
    if n_labels:
        n_columns = min(n_labels, 4 if figure.get_figwidth() <= WIDTH_IN else 8)
        figure.set_figheight(figure.get_figheight() + 0.2 * (-(-n_labels // n_columns)) + 0.25 * bool(title))
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=n_columns, fontsize=8, frameon=False,
            title=title, title_fontsize=8,
        )  # fmt: skip
    figure.savefig(path, dpi=DPI, format="png")


def runs_comparison(points: list[PointSummary], path: Path) -> None:
    """Held-out accuracy over updates, one line per point with the range of its seeds."""
    figure = new_figure()
    axes = figure.subplots()
    record = points[0].runs[0].record
    draw_curves(axes, points, lambda record: column(record.evals, record.target_name))
    for target in record.config["eval.targets"]:
        axes.axhline(target, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="optimiser updates",
        ylabel=plain(f"held-out {record.config['eval.target_metric']} ({record.config['task.name']})"),
        title="accuracy over training; dotted: targets",
    )
    save(figure, path, n_labels=len(points))


def draw_curves(axes: Any, points: list[PointSummary], curve_of: Callable[[RunRecord], tuple]) -> None:
    """One line per point: the mean over its seeds, with a band from the lowest to the highest.

    Seeds that ended at different times have a mean as far as all of them went, and thin lines of their own beyond.
    """
    styles = point_styles(points)
    for point in points:
        style = styles[point.name]
        curves = [dict(zip(*curve_of(run.record), strict=True)) for run in point.runs]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        values = np.array([[curve[update] for update in shared] for curve in curves])
        if shared:
            axes.fill_between(
                shared, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
            )
            axes.plot(shared, values.mean(axis=0), label=plain(point.name), **style)
        for curve in curves:
            beyond = [update for update in sorted(curve) if not shared or update >= shared[-1]]
            if len(beyond) > 1 or not shared:
                axes.plot(beyond, [curve[u] for u in beyond], color=style["color"], linewidth=0.6)
    axes.grid(alpha=0.25)


def gns_comparison(points: list[PointSummary], path: Path) -> None:
    """Noise-to-signal of every point with its interval; unresolved ones are marked as such."""
    figure = new_figure()
    axes = figure.subplots()
    ratios = [point.noise_to_signal for point in points]
    styles = point_styles(points)
    for x, (point, ratio) in enumerate(zip(points, ratios, strict=True)):
        if ratio.value is None:
            mark_unresolved(axes, x)
        else:
            axes.errorbar(
                x, ratio.value, yerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]], capsize=3,
                color="black", marker=styles[point.name]["marker"], markersize=5,
            )  # fmt: skip
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    name_points(axes, [point.name for point in points])
    if any(ratio.value is not None for ratio in ratios):
        axes.set_yscale("log")
    axes.set(
        ylabel="noise-to-signal, S / (|G|² n_prompts)",
        title="gradient noise over training, 95% interval",
    )
    axes.grid(alpha=0.25, axis="y")
    save(figure, path)


def mark_unresolved(axes: Any, x: float) -> None:
    """The word at the foot of the axes, where a value would have stood."""
    axes.annotate(
        "unresolved", (x, 0.03), xycoords=("data", "axes fraction"), ha="center", va="bottom", rotation=90,
        color=UNRESOLVED_COLOUR, fontsize=8,
    )  # fmt: skip


def name_points(axes: Any, names: Iterable[str]) -> None:
    """The x axis as one place per point."""
    names = list(names)
    short = [plain(name if len(name) <= 24 else f"{name[:23]}…") for name in names]
    is_crowded = sum(map(len, short)) > 50
    axes.set_xticks(range(len(names)), short, rotation=45 if is_crowded else 0, ha="right" if is_crowded else "center")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel("prompts x rollouts")

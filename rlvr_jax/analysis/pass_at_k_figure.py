"""pass@k of a study's points as pictures."""

import re
from collections.abc import Callable
from pathlib import Path

from rlvr_jax.analysis.figures import draw_curves, new_figure, plain, point_styles, save
from rlvr_jax.analysis.read_runs import RunRecord, column
from rlvr_jax.analysis.summary import PointSummary

_PASS_AT = re.compile(r"eval/[^/]+/pass@(\d+)")  # of the whole task: a category has one part more


def measured_ks(points: list[PointSummary]) -> list[int]:
    """Every k that some run's evaluations have a pass@k for, ascending."""
    names = {name for point in points for run in point.runs for row in run.record.evals for name in row}
    return sorted({int(match[1]) for match in map(_PASS_AT.fullmatch, names) if match})


def pass_at_k_over_training(points: list[PointSummary], path: Path, *, k: int) -> None:
    """Held-out pass@k over updates, one line per point with the range of its seeds."""
    figure = new_figure()
    axes = figure.subplots()
    draw_curves(axes, points, _curve(k))
    axes.set(xlabel="optimiser updates", ylabel=f"held-out pass@{k}", title=f"pass@{k} over training")
    save(figure, path, n_labels=len(points))


def pass_at_k_at_the_end(points: list[PointSummary], path: Path, *, ks: list[int]) -> None:
    """pass@k over k at the last evaluation of every point, and before training in grey."""
    figure = new_figure()
    axes = figure.subplots()
    styles = point_styles(points)
    starts: list[tuple[float, ...]] = []
    for point in points:
        ends = []
        for run in point.runs:
            curves = [list(zip(*_curve(k)(run.record), strict=True)) for k in ks]
            if all(curves):
                ends.append([curve[-1][1] for curve in curves])
                if all(curve[0][0] == 0 for curve in curves):
                    starts.append(tuple(curve[0][1] for curve in curves))
        if ends:
            by_k = list(zip(*ends, strict=True))
            means = [sum(values) / len(values) for values in by_k]
            axes.fill_between(
                ks, list(map(min, by_k)), list(map(max, by_k)), color=styles[point.name]["color"], alpha=0.15
            )
            axes.plot(ks, means, label=plain(point.name), **styles[point.name])
    for start in sorted(set(starts)):
        axes.plot(ks, start, color="grey", linestyle="--", linewidth=1.0, zorder=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, map(str, ks))
    before = "; dashed: before training" if starts else ""
    axes.set(xlabel="k", ylabel="held-out pass@k", title=f"pass@k at the last evaluation{before}")
    axes.grid(alpha=0.25)
    save(figure, path, n_labels=len(axes.get_legend_handles_labels()[0]))


def _curve(k: int) -> Callable[[RunRecord], tuple[list[float], list[float]]]:
    return lambda record: column(record.evals, f"eval/{record.config['task.name']}/pass@{k}")

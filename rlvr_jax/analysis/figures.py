"""A study as pictures. matplotlib is optional: it is imported inside functions only."""

from pathlib import Path

import numpy as np

from rlvr_jax.analysis.read_runs import column
from rlvr_jax.analysis.summary import PointSummary

_WIDTH_IN, _HEIGHT_IN, _DPI = 9.0, 5.0, 130


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # no display is needed to write a PNG
    import matplotlib.pyplot as plt

    return plt


def runs_comparison(points: list[PointSummary], path: Path) -> None:
    """Held-out accuracy over updates, one line per point with the range of its seeds."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    colours = plt.colormaps["viridis"](np.linspace(0.0, 0.9, len(points)))
    for point, colour in zip(points, colours, strict=True):
        curves = [column(run.record.evals, run.record.target_name) for run in point.runs]
        shared = sorted(set.intersection(*(set(updates) for updates, _ in curves)))
        values = np.array([[dict(zip(*curve, strict=True))[u] for u in shared] for curve in curves])
        axes.plot(shared, values.mean(axis=0), color=colour, marker=".", label=f"{point.name} ({len(curves)} seed(s))")
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    for target in points[0].runs[0].record.config["eval.targets"]:
        axes.axhline(target, color="grey", linewidth=0.6, linestyle=":")
    record = points[0].runs[0].record
    axes.set(
        xlabel="optimiser updates",
        ylabel=f"held-out {record.config['eval.target_metric']} ({record.config['task.name']})",
        title=f"{record.study}: mean over seeds, band from lowest to highest; dotted: targets",
    )
    axes.legend(title="n_prompts x n_rollouts")
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def gns_comparison(points: list[PointSummary], path: Path) -> None:
    """Noise-to-signal of every point with its interval; unresolved ones are marked as such."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    ratios = [point.noise_to_signal for point in points]
    for x, ratio in enumerate(ratios):
        if ratio.value is None:
            axes.annotate("unresolved", (x, 0.02), xycoords=("data", "axes fraction"), ha="center", color="firebrick")
        else:
            axes.errorbar(
                x, ratio.value, yerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]],
                fmt="o", color="black", capsize=4,
            )  # fmt: skip
    axes.axhline(1.0, color="grey", linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(points)), [point.name for point in points])
    axes.set_xlim(-0.5, len(points) - 0.5)
    if any(ratio.value is not None for ratio in ratios):
        axes.set_yscale("log")
    axes.set(
        xlabel="n_prompts x n_rollouts",
        ylabel="noise-to-signal, S / (|G|² n_prompts)",
        title="gradient noise averaged over training; bars: 95% jackknife interval",
    )
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)

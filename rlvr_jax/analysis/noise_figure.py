"""One policy's gradient noise, as bin/noise wrote it down, as a picture."""

import math
import textwrap
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.noise_result import (
    Result,
    best_text,
    ci_of,
    has_best,
    interval_text,
    is_number,
    iso_batch,
    noise_here,
    number_text,
    refusal_text,
    rollout_variance,
    unresolved_text,
)

_DPI = 130
_PROMPT_COLOUR, _ROLLOUT_COLOUR, _TOTAL_COLOUR, _BEST_COLOUR = "tab:blue", "tab:orange", "black", "crimson"


def noise_figure(result: Result) -> Any:
    """The result as a matplotlib Figure.

    Predicted noise over every split and along one batch size; without a prediction, noise over n_prompts.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    points = [point for point in result["predicted"] or [] if is_number(point["trace_cov"])]
    figure = Figure(figsize=(13.0, 5.4) if points else (8.0, 5.2), layout="constrained")
    total = result["total"]
    scale = f"B_noise {unresolved_text(total)}"
    if total["resolved"]:
        interval = interval_text(ci_of(total, "b_noise_prompts"))
        scale = f"B_noise = {number_text(total['b_noise_prompts'])} prompts {interval}"
    title = f"Gradient noise of {result['policy']}, {result['n_prompts']} × {result['n_rollouts']}"
    figure.suptitle("\n".join([*textwrap.wrap(title, 110 if points else 80), scale]), fontsize=11)
    if not points:
        _draw_over_prompts(figure.subplots(), result)
        return figure
    left, right = figure.subplots(1, 2)
    _draw_splits(figure, left, result, points)
    _draw_iso_batch(right, result)
    return figure


def save_noise_figure(result: Result, path: Path) -> None:
    """Writes `noise_figure` as a PNG."""
    noise_figure(result).savefig(path, dpi=_DPI, format="png")


def _draw_splits(figure: Any, axes: Any, result: Result, points: list[Result]) -> None:
    """Heat map of tr Cov over (R', P') with lines of equal noise and of equal batch size."""
    import numpy as np
    from matplotlib.colors import LogNorm

    rollouts = sorted({point["n_rollouts"] for point in points})
    prompts = sorted({point["n_prompts"] for point in points})
    trace_cov = np.full((len(prompts), len(rollouts)), np.nan)
    for point in points:
        if point["trace_cov"] > 0:  # an estimate may be negative, and has no colour then
            trace_cov[prompts.index(point["n_prompts"]), rollouts.index(point["n_rollouts"])] = point["trace_cov"]
    axes.set_facecolor("0.85")
    x, y = np.log2(rollouts), np.log2(prompts)
    if np.isfinite(trace_cov).any():
        mesh = axes.pcolormesh(x, y, trace_cov, norm=LogNorm(), cmap="viridis", shading="nearest")
        figure.colorbar(mesh, ax=axes, label="tr Cov of the batch gradient")
        here = noise_here(result)
        # of the logarithm, which is close to linear between the points of the grid
        doublings = np.log2(trace_cov / (here if is_number(here) and here > 0 else np.nan))
        levels = [k for k in range(-20, 21, 2) if (doublings < k).any() and (doublings > k).any()]
        if levels and min(trace_cov.shape) > 1:
            lines = axes.contour(x, y, doublings, levels=levels, colors="white", linewidths=1, linestyles="-")
            axes.clabel(lines, fmt=lambda k: f"×{2**k:g}" if k >= 0 else f"×1/{2**-k:g}", fontsize=8)
    _log2_axis(axes.xaxis, rollouts)
    _log2_axis(axes.yaxis, prompts)
    P, R = result["n_prompts"], result["n_rollouts"]
    ends = np.array(axes.get_xlim())
    for k in range(-20, 21, 2):
        axes.plot(ends, math.log2(P * R) + k - ends, color="white", linestyle="--", linewidth=2.0 if k == 0 else 0.6)
    _draw_best(axes, result)
    axes.plot(math.log2(R), math.log2(P), "o", color=_TOTAL_COLOUR, markeredgecolor="white", markersize=9, zorder=5)
    axes.set(xlabel="rollouts per prompt R'", ylabel="prompts P'")
    same_noise = "predicted noise; solid lines: times the noise measured (dot)"
    axes.set_title(f"{same_noise}\ndashed: the same number of rollouts in all, thick: {P * R}", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")


def _draw_iso_batch(axes: Any, result: Result) -> None:
    """Predicted noise over R' at one batch size, and the two parts it is made of."""
    batch, line = iso_batch(result)
    x, values = [math.log2(point["n_rollouts"]) for point in line], [point["trace_cov"] for point in line]
    bands = [point for point in line if is_number(point["lo"]) and is_number(point["hi"])]
    lows, highs = [point["lo"] for point in bands], [point["hi"] for point in bands]
    band_x = [math.log2(point["n_rollouts"]) for point in bands]
    axes.fill_between(band_x, lows, highs, color=_TOTAL_COLOUR, alpha=0.15, linewidth=0, label="95% interval")
    axes.plot(x, values, color=_TOTAL_COLOUR, marker=".", label="predicted")
    parts = result["decompose"]
    if parts and None not in (parts["zeta1"]["value"], parts["zeta2"]["value"]):
        zetas = parts["zeta1"]["value"], parts["zeta2"]["value"]
        of_rollouts = [rollout_variance(*zetas, point["n_rollouts"]) / point["n_prompts"] for point in line]
        of_prompts = [value - part for value, part in zip(values, of_rollouts, strict=True)]
        axes.plot(x, of_prompts, color=_PROMPT_COLOUR, linestyle="--", label="its prompt noise")
        axes.plot(x, of_rollouts, color=_ROLLOUT_COLOUR, linestyle="--", label="its rollout noise")
    measured, here = result["n_prompts"] * result["n_rollouts"], noise_here(result)
    if measured == batch and is_number(here):
        axes.plot(math.log2(result["n_rollouts"]), here, "o", color=_TOTAL_COLOUR, markersize=9, label="measured")
    _log2_axis(axes.xaxis, [point["n_rollouts"] for point in line])
    above = axes.secondary_xaxis("top")
    above.set_xticks(x, [f"{point['n_prompts']}" for point in line])
    near = "" if measured == batch else f"; {measured} were measured"
    above.set_xlabel(f"prompts P' ({batch} rollouts in all{near})")
    _draw_best(axes, result)
    if min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 4, max([*values, *highs]) * 1.6)  # what falls below is a part that hardly counts
    else:
        axes.axhline(0.0, color="grey", linewidth=0.6)
    axes.set(xlabel="rollouts per prompt R'", ylabel="tr Cov of the batch gradient")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8)


def _draw_over_prompts(axes: Any, result: Result) -> None:
    """S / P' over P' at the measured rollouts; it meets |G|^2 at the noise scale."""
    total, P = result["total"], result["n_prompts"]
    prompts = [2**k for k in range(max(0, round(math.log2(P)) - 5), round(math.log2(P)) + 6)]
    if is_number(total["trace_cov"]) and total["trace_cov"] > 0:
        x, noise = [math.log2(p) for p in prompts], [total["trace_cov"] * P / p for p in prompts]
        axes.plot(x, noise, color=_TOTAL_COLOUR, label=f"noise of a batch of P' prompts × {result['n_rollouts']}")
        axes.plot(math.log2(P), total["trace_cov"], "o", color=_TOTAL_COLOUR, markersize=9, label="measured")
        axes.set_yscale("log")
    _log2_axis(axes.xaxis, prompts)
    if total["resolved"] and is_number(total["grad_sq"]):
        axes.axhline(total["grad_sq"], color=_PROMPT_COLOUR, label="|G|², the signal")
        label = f"B_noise = {number_text(total['b_noise_prompts'])} prompts"
        _draw_estimate(axes, total["b_noise_prompts"], ci_of(total, "b_noise_prompts"), label)
    axes.set_title("\n".join(textwrap.wrap(f"not decomposed: {refusal_text(result)}", 90)), fontsize=9)
    axes.set(xlabel="prompts P'", ylabel="tr Cov of the batch gradient")
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _draw_best(axes: Any, result: Result) -> None:
    """R* with its interval, or a remark that it is unresolved."""
    parts = result["decompose"]
    label = f"R* {'= ' if has_best(parts) else ''}{best_text(parts)}"
    if has_best(parts):
        _draw_estimate(axes, parts["r_star"]["value"], parts["r_star"]["ci"], label)
    else:
        axes.plot([], [], " ", label=label)


def _draw_estimate(axes: Any, value: float | None, ci: list[float | None] | None, label: str) -> None:
    """A vertical line on a log2 axis, with its interval."""
    if not is_number(value):
        return
    if interval_text(ci):
        axes.axvspan(math.log2(ci[0]), math.log2(ci[1]), color=_BEST_COLOUR, alpha=0.15, linewidth=0)
    axes.axvline(math.log2(value), color=_BEST_COLOUR, linewidth=1.4, label=label)


def _log2_axis(axis: Any, values: list[int]) -> None:
    """For data plotted by their log2, which contours need: plain numbers, half a step wider than the values."""
    axis.set_ticks([math.log2(value) for value in values], [f"{value}" for value in values])
    low, high = math.log2(values[0]) - 0.5, math.log2(values[-1]) + 0.5
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})

"""Prompt noise, rollout noise and signal over training: averages in windows of updates, and pictures of them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.analysis.figures import new_figure, plain, point_styles, save
from rlvr_jax.analysis.noise_series import NoiseSeries, noise_series
from rlvr_jax.analysis.seeds import ratio_of_averages
from rlvr_jax.analysis.summary import PointSummary

N_WINDOWS = 8  # single measurements scatter too much to be told apart; a window pools a few of every seed

_ASIDE = 0.008  # of the longest run, between points
_MANY_POINTS, _FEW_WINDOWS = 6, 4  # so many points get fewer windows: their bars are shorter, and hide less

# field of NoiseSeries, file name, title, axis
PARTS = (
    ("v_prompt", "noise_prompt_var.png", "prompt noise over training", "V_prompt"),
    ("v_rollout", "noise_rollout_var.png", "rollout noise over training", "V_rollout at the point's own R"),
    ("grad_sq", "noise_grad_sq.png", "signal over training", "|G|²"),
)
B_NOISE_FILE = "noise_b_noise.png"


@dataclass(frozen=True)
class Window:
    """One quantity of one point, averaged over the measurements of all seeds in a stretch of training."""

    update: float  # mean of the measured updates
    n_measured: int
    value: float | None  # None: unresolved
    low: float | None = None  # 95% interval; None: too few measurements for one
    high: float | None = None


def averages(point: PointSummary, field: str, *, n_windows: int = N_WINDOWS) -> list[Window]:
    """Windows of one field of NoiseSeries; an average may be negative, and stays so. Empty where none was measured."""
    windows = []
    for updates, columns in _pooled(point, field, n_windows=n_windows):
        values = columns[field]
        half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 2 else math.nan
        mean = float(values.mean())
        ends = (mean - half, mean + half) if math.isfinite(half) else (None, None)
        windows.append(Window(float(updates.mean()), len(values), mean, *ends))
    return windows


def noise_scales(point: PointSummary, *, n_windows: int = N_WINDOWS) -> list[Window]:
    """Windows of B_noise = R S / |G|^2 in rollouts: ratios of averages with jackknife intervals, or unresolved."""
    windows = []
    for updates, columns in _pooled(point, "trace_cov", "grad_sq", n_windows=n_windows):
        scale = ratio_of_averages(list(point.n_rollouts * columns["trace_cov"]), list(columns["grad_sq"]))
        windows.append(Window(float(updates.mean()), len(updates), scale.value, scale.low, scale.high))
    return windows


def _pooled(point: PointSummary, *fields: str, n_windows: int) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Updates and columns of the measurements that have all `fields`, of all seeds, by window."""
    found = [noise_series(run.record) for run in point.runs]
    updates = np.concatenate([series.updates for series in found])
    columns = {field: np.concatenate([_measured(series, field) for series in found]) for field in fields}
    is_whole = np.all([np.isfinite(values) for values in columns.values()], axis=0)
    if not is_whole.any():
        return []
    updates, columns = updates[is_whole], {field: values[is_whole] for field, values in columns.items()}
    edges = np.linspace(updates.min(), updates.max(), n_windows + 1)[1:-1]
    window = np.searchsorted(edges, updates, side="right")
    return [
        (updates[window == w], {field: values[window == w] for field, values in columns.items()})
        for w in range(n_windows)
        if (window == w).any()
    ]


def _measured(series: NoiseSeries, field: str) -> np.ndarray:
    values = getattr(series, field)
    return np.full_like(values, math.nan) if field.startswith("v_") and series.why_no_split else values


def noise_part_figure(points: list[PointSummary], path: Path, *, field: str, title: str, axis: str) -> list[str]:
    """One of PARTS for every point that has it; returns the names of those that have not. None drawn: no file."""
    windows = [averages(point, field, n_windows=_n_windows(points)) for point in points]
    return _figure(points, path, windows, title=title, axis=axis)


def noise_scale_figure(points: list[PointSummary], path: Path) -> list[str]:
    """B_noise in rollouts for every point that measured it; returns the names of those that did not."""
    windows = [noise_scales(point, n_windows=_n_windows(points)) for point in points]
    return _figure(points, path, windows, title="noise scale over training", axis="B_noise = R S / |G|² [rollouts]")


def _n_windows(points: list[PointSummary]) -> int:
    return _FEW_WINDOWS if len(points) >= _MANY_POINTS else N_WINDOWS


def _figure(points: list[PointSummary], path: Path, windows: list[list[Window]], *, title: str, axis: str) -> list[str]:
    shown = [(point, found) for point, found in zip(points, windows, strict=True) if found]
    if shown:
        figure = new_figure()
        axes = figure.subplots()
        styles = point_styles(points)
        widest = max(window.update for _, found in shown for window in found)
        for i, (point, found) in enumerate(shown):
            aside = widest * _ASIDE * (i - (len(shown) - 1) / 2)  # points measured at the same updates hide each other
            _draw(axes, found, label=plain(point.name), style=styles[point.name], aside=aside)
        axes.set(xlabel="optimiser updates", ylabel=axis, title=title, yscale="log")
        values = [w.value for _, found in shown for w in found if w.value is not None and w.value > 0]
        if values:  # intervals of few measurements are many times wider than what there is to see
            axes.set_ylim(min(values) / 4, max(values) * 4)
        axes.grid(alpha=0.25)
        save(figure, path, n_labels=len(shown))
    return [point.name for point, found in zip(points, windows, strict=True) if not found]


def _draw(axes: Any, windows: list[Window], *, label: str, style: dict[str, Any], aside: float) -> None:
    """A line with its intervals; windows without a positive value are crosses at the foot."""
    is_there = [window.value is not None and window.value > 0 for window in windows]
    values = [window.value if there else math.nan for window, there in zip(windows, is_there, strict=True)]
    x = [window.update + aside for window in windows]
    axes.plot(x, values, label=label, **style)
    for window, there in zip(windows, is_there, strict=True):
        if there and window.low is not None:
            low = max(window.low, window.value * 1e-3)  # an interval that reaches below 0 has no end on a log axis
            axes.plot([window.update + aside] * 2, [low, window.high], color=style["color"], linewidth=0.9, alpha=0.5)
        if not there:
            axes.plot(
                window.update + aside,
                0.02,
                marker="x",
                markeredgewidth=1.6,
                markersize=5,
                color=style["color"],
                transform=axes.get_xaxis_transform(),
            )

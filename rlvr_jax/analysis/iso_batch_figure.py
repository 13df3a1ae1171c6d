"""Batch sizes that were split in different ways, as a picture."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_jax.analysis.figures import MARKERS, new_figure, save
from rlvr_jax.analysis.observations import Observation

_PANEL_IN = 2.6  # of one batch size among several
_MOST_IN_A_ROW = 5


def split_sizes(observations: list[Observation]) -> dict[int, list[Observation]]:
    """Observations by batch size, of the sizes that were split in two ways at least, ascending."""
    found: dict[int, list[Observation]] = {}
    for observation in sorted(observations, key=lambda o: (o.batch, o.n_rollouts, o.target)):
        found.setdefault(observation.batch, []).append(observation)
    return {batch: of_size for batch, of_size in found.items() if len({o.n_rollouts for o in of_size}) > 1}


def iso_batch_figure(sizes: dict[int, list[Observation]], path: Path, *, unit: str) -> None:
    """Times to every target over the splits, a panel per batch size: every run, and lines through geometric means.

    A split with runs that never got there has no mean: an open triangle stands where such a run ended.
    """
    n_columns = min(len(sizes), _MOST_IN_A_ROW)
    n_rows = -(-len(sizes) // n_columns)
    if len(sizes) == 1:
        figure = new_figure()
    else:
        figure = new_figure(width_in=max(5.8, _PANEL_IN * n_columns + 0.6), height_in=3.6 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    targets = sorted({o.target for of_size in sizes.values() for o in of_size})
    for axes, (batch, of_size) in itertools.zip_longest(panels.flat, sizes.items(), fillvalue=(None, None)):
        if batch is None:
            axes.set_axis_off()
            continue
        _draw_size(axes, of_size, targets)
        axes.set_title(f"{batch} rollouts" + (" in all" if len(sizes) == 1 else ""))
        axes.set_xlabel("prompts x rollouts")
    for axes in panels[:, 0]:
        axes.set_ylabel("optimiser updates" if unit == "update" else "steps (collections)")
    _plain_log_axis(panels[0, 0])
    save(figure, path, n_labels=len(targets), title=None)


def _draw_size(axes: Any, observations: list[Observation], targets: list[float]) -> None:
    splits = sorted({(o.n_rollouts, o.n_prompts) for o in observations})
    for i, target in enumerate(targets):
        colour, marker, means = f"C{i}", MARKERS[i % len(MARKERS)], {}
        for x, (n_rollouts, _) in enumerate(splits):
            here = [o for o in observations if (o.target, o.n_rollouts) == (target, n_rollouts)]
            reached = [o.at for o in here if o.is_reached and o.at]
            for offset, o in zip(np.linspace(-0.1, 0.1, len(here) + 2)[1:-1], here, strict=True):
                dot = {"marker": marker} if o.is_reached else {"marker": "^", "fillstyle": "none"}
                time = o.at if o.is_reached else o.after
                axes.plot(x + offset, time, color=colour, markersize=4.5, alpha=0.7, linestyle="none", **dot)
            if here and len(reached) == len(here):
                means[x] = math.exp(np.mean(np.log(reached)))
        axes.plot(list(means), list(means.values()), color=colour, linewidth=1.3, label=f"to {target:g}")
    axes.set_xticks(range(len(splits)), [f"{n_prompts} x {n_rollouts}" for n_rollouts, n_prompts in splits])
    axes.set_xlim(-0.5, len(splits) - 0.5)
    axes.grid(alpha=0.25)


def _plain_log_axis(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())

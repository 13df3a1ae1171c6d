"""One batch size split in different ways, as a picture."""

import itertools
import math
from pathlib import Path

import numpy as np

from rlvr_jax.analysis.figures import MARKERS, new_figure, save
from rlvr_jax.analysis.observations import Observation


def iso_batches(observations: list[Observation]) -> dict[tuple[str, int], list[Observation]]:
    """Observations by (group, batch size) of the batch sizes that were split in two ways at least."""
    found: dict[tuple[str, int], list[Observation]] = {}
    for observation in sorted(observations, key=lambda o: (o.group, o.batch, o.n_rollouts, o.target)):
        found.setdefault((observation.group, observation.batch), []).append(observation)
    return {key: of_size for key, of_size in found.items() if len({o.n_rollouts for o in of_size}) > 1}


def iso_batch_figure(observations: list[Observation], path: Path, *, unit: str) -> None:
    """Times to every target over the split of one batch size: every run, and lines through geometric means.

    A split with runs that never got there has no mean: its dots include arrows at the end of those runs.
    """
    figure = new_figure()
    axes = figure.subplots()
    splits = sorted({(o.n_rollouts, o.n_prompts) for o in observations})
    place = {n_rollouts: x for x, (n_rollouts, _) in enumerate(splits)}
    for i, (target, group) in enumerate(itertools.groupby(sorted(observations, key=lambda o: o.target), _target)):
        of_target, colour = list(group), f"C{i}"
        means = {}
        for n_rollouts, x in place.items():
            here = [o for o in of_target if o.n_rollouts == n_rollouts]
            reached = [o.at for o in here if o.is_reached and o.at]
            for offset, o in zip(np.linspace(-0.08, 0.08, len(here)), here, strict=True):
                marker = MARKERS[i % len(MARKERS)] if o.is_reached else "^"
                axes.plot(
                    x + offset, o.at if o.is_reached else o.after, marker=marker, color=colour, markersize=4,
                    fillstyle="full" if o.is_reached else "none", alpha=0.6, linestyle="none",
                )  # fmt: skip
            if here and len(reached) == len(here):
                means[x] = math.exp(np.mean(np.log(reached)))
        axes.plot(list(means), list(means.values()), color=colour, linewidth=1.3, label=f"to {target:g}")
    axes.set_xticks(range(len(splits)), [f"{n_prompts} x {n_rollouts}" for n_rollouts, n_prompts in splits])
    axes.set_xlim(-0.5, len(splits) - 0.5)
    axes.set(
        xlabel="prompts x rollouts", ylabel=f"optimiser {unit}s" if unit == "update" else "steps (collections)",
        title=f"{observations[0].batch} rollouts, split in {len(splits)} ways", yscale="log",
    )  # fmt: skip
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    save(figure, path)


def _target(observation: Observation) -> float:
    return observation.target

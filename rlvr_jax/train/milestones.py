"""What a run has come to: its rewards at chosen updates, as means over those just before, and its targets."""

import math
from collections.abc import Iterable

from rlvr_jax.analysis.read_runs import Row
from rlvr_jax.analysis.targets import first_crossing

WINDOW_UPDATES = 50  # one step's rewards are too noisy to compare


def milestone_means(rows: Iterable[Row], *, update: int) -> dict[str, float]:
    """Means of the rewards over the last WINDOW_UPDATES updates up to `update`.

    milestone/reward, after weights and penalties, milestone/<name> of each reward and penalty before weights, and
    milestone/n_updates, over how many. Rows without a value, or null for one, are left out of its mean.
    """
    columns: dict[str, list[float]] = {}
    n_updates = 0
    for row in rows:
        if not update - WINDOW_UPDATES < row["update"] <= update:
            continue
        n_updates += 1
        for name, value in row.items():
            short = _short_name(name)
            if short and value is not None and math.isfinite(value):
                columns.setdefault(short, []).append(value)
    means = {f"milestone/{name}": sum(values) / len(values) for name, values in columns.items()}
    return means | {"milestone/n_updates": n_updates}


def _short_name(name: str) -> str | None:
    if name == "reward/mean":
        return "reward"
    parts = name.split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "rewards" and parts[2] == "mean" else None


def updates_to_targets(evals: Iterable[Row], *, metric: str, targets: Iterable[float]) -> dict[str, float]:
    """cbs/updates_to_<target> of the targets that were reached, interpolated between evaluations."""
    known = [(row["update"], row[metric]) for row in evals if row.get(metric) is not None]
    updates, accuracies = [update for update, _ in known], [accuracy for _, accuracy in known]
    crossings = [first_crossing(updates, accuracies, target) for target in targets]
    return {f"cbs/updates_to_{c.target:g}": c.updates for c in crossings if c is not None and c.updates is not None}


def milestone_text(means: dict[str, float], *, update: int) -> str:
    """One line for people."""
    shown = ", ".join(
        f"{name.removeprefix('milestone/')} {value:.3f}"
        for name, value in means.items()
        if name != "milestone/n_updates"
    )
    return f"milestone {update}, mean of the last {means['milestone/n_updates']} updates: {shown}"

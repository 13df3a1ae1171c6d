"""When a run reached an accuracy, and how well that is known."""

from dataclasses import dataclass

import numpy as np

from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.series import is_number

UNITS = ("update", "step")  # what time is counted in; examples are rollouts drawn


@dataclass(frozen=True)
class Crossing:
    """Updates a run needed to a target; the truth lies in (after, by], None where that is open."""

    target: float
    updates: float | None  # interpolated; None: not reached
    after: float | None  # the last evaluation below the target; None: the first one was at it already
    by: float | None  # the first evaluation at or above it


def first_crossing(updates: list[float], accuracies: list[float], target: float) -> Crossing | None:
    """When accuracy first stood at or above `target`, by linear interpolation between two evaluations.

    Nothing after the crossing is looked at, so a run that is cut later has the same crossing.
    A target met at the first evaluation counts as that evaluation. None without evaluations.

    Args:
        updates: of the evaluations, ascending.
        accuracies: one per evaluation.
    """
    if not updates:
        return None
    previous = None
    for update, accuracy in zip(updates, accuracies, strict=True):
        if accuracy >= target:
            if previous is None:
                return Crossing(target, update, None, update)
            share = (target - previous[1]) / (accuracy - previous[1])
            return Crossing(target, previous[0] + share * (update - previous[0]), previous[0], update)
        previous = update, accuracy
    return Crossing(target, None, updates[-1], None)


def trailing_mean(values: list[float], n: int) -> list[float]:
    """The mean of each value and of up to n - 1 before it; nothing after it is looked at.

        m_i = mean(v_j, max(0, i - n + 1) <= j <= i)

    It lags behind a rising curve by about (n - 1) / 2 evaluations.
    """
    return [float(np.mean(values[max(0, i - n + 1) : i + 1])) for i in range(len(values))]


@dataclass(frozen=True)
class Evaluations:
    """A run's held-out accuracy, and how far the run was in updates, in steps and in rollouts drawn."""

    updates: list[float]  # ascending
    steps: list[float]
    rollouts: list[float]
    accuracies: list[float]  # trailing means where smoothed
    n_skipped: int = 0  # evaluations without the number, or out of order

    def crossing(self, target: float) -> Crossing | None:
        return first_crossing(self.updates, self.accuracies, target)

    def steps_at(self, updates: float) -> float:
        """Collections begun when so many updates were done, between evaluations by interpolation."""
        return float(np.interp(updates, self.updates, self.steps))

    def rollouts_at(self, updates: float) -> float:
        """Rollouts drawn when so many updates were done, between evaluations by interpolation."""
        return float(np.interp(updates, self.updates, self.rollouts))

    def in_unit(self, unit: str, updates: float) -> float:
        return updates if unit == "update" else self.steps_at(updates)


def evaluations(record: RunRecord, *, smooth: int = 1, last_update: float | None = None) -> Evaluations:
    """What a run's evals.jsonl says of its target metric, up to `last_update`."""
    updates, steps, rollouts, accuracies = [], [], [], []
    n_skipped = 0
    for row in record.evals:
        update, accuracy = row["update"], row.get(record.target_name)
        if last_update is not None and update > last_update:
            continue
        if not is_number(accuracy) or (updates and update <= updates[-1]):
            n_skipped += 1
            continue
        step = row["step"] if is_number(row.get("step")) else update / record.updates_per_step
        drawn = row["rollouts"] if is_number(row.get("rollouts")) else step * record.n_prompts * record.n_rollouts
        for values, value in ((updates, update), (steps, step), (rollouts, drawn), (accuracies, accuracy)):
            values.append(float(value))
    return Evaluations(updates, steps, rollouts, trailing_mean(accuracies, smooth), n_skipped)

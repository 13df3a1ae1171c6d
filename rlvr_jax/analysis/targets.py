"""When a run reached an accuracy, and how well that is known."""

from dataclasses import dataclass


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

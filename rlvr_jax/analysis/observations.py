"""What the law is fitted to: how long one run took to one target."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Observation:
    """The truth lies in (after, by]: evaluations lie apart, and a run may end before it gets there.

    Counted in steps (collections) or in updates (optimiser steps), and then `n_prompts` are those of a collection or of
    an update; all observations of a fit are of one kind. Times lie in the unit's count, from 0 at the start. A run of
    which nothing is known lies in (0, inf]: no fit uses it, and every fit counts it.
    """

    run: str  # several targets of one run share its luck
    n_prompts: int
    n_rollouts: int
    target: float
    at: float | None  # as printed, or interpolated between evaluations; None: never reached
    after: float  # the last time known to be too early
    by: float  # the first known to be enough; math.inf: never reached; equal to `after`: known exactly
    seed: int | None = None
    group: str = ""  # fitted apart from others
    updates_per_step: int = 1  # runs that differ in it are no seeds of each other, whatever their batch

    @property
    def batch(self) -> int:
        """n_prompts x n_rollouts, the batch size B in rollouts."""
        return self.n_prompts * self.n_rollouts

    @property
    def is_known(self) -> bool:
        return self.is_reached or self.after > 0

    @property
    def is_reached(self) -> bool:
        return math.isfinite(self.by)

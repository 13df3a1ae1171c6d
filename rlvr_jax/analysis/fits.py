"""The law fitted to the steps of many runs: estimates, their intervals, and whether the data can carry them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlvr_jax.analysis.observations import Observation

@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FitPoint:
    observation: Observation
    fitted: float
    residual: float | None


@dataclass(frozen=True)
class LawFit:
    shape: str
    residuals: str
    confidence: float
    n_runs: int
    n_reached: int
    s_min: Estimate | None
    b_noise: Estimate | None
    terms: dict[str, Estimate]
    sigma: float
    log_likelihood: float
    aicc: float
    resolved: bool
    reason: str
    lack_of_fit_p: float | None
    points: tuple[FitPoint, ...]
    model: Any = field(default=None, repr=False, compare=False)

    def steps(self, n_prompts, n_rollouts) -> np.ndarray:
        raise NotImplementedError

    def band(self, n_prompts, n_rollouts) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def prompt_cbs(self, n_rollouts: float) -> Estimate | None:
        raise NotImplementedError

    def rollout_cbs(self, n_prompts: float) -> Estimate | None:
        raise NotImplementedError


def fit_law(observations, *, shape="total", residuals="relative", confidence=0.9) -> LawFit:
    raise NotImplementedError("under way")

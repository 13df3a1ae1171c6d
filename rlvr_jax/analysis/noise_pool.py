"""Noise measured by several runs as one: averages, and jackknife intervals of whatever is computed from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats

from rlvr_jax.analysis.fits import Estimate

_FEWEST_UNITS = 3  # of a jackknife
_MOST_BLOCKS = 10  # of consecutive measurements of one run


@dataclass(frozen=True)
class Pooled:
    """One number with its interval, or why there is none."""

    estimate: Estimate | None
    reason: str = ""  # "" when resolved

    @property
    def is_resolved(self) -> bool:
        return self.estimate is not None


@dataclass(frozen=True)
class Measurements:
    """M measurements of one run that count, f64[M] each; NaN: not decomposed."""

    run: str
    n_prompts: int
    n_rollouts: int
    trace_cov: np.ndarray
    grad_sq: np.ndarray
    v_prompt: np.ndarray
    zeta1: np.ndarray
    zeta2: np.ndarray


@dataclass(frozen=True)
class Moments:
    """Averages. `trace_cov` by the R it was measured at; NaN where nothing was."""

    grad_sq: float
    trace_cov: dict[int, float]
    v_prompt: float
    zeta1: float
    zeta2: float

    def split_trace_cov(self, n_rollouts: int) -> float:
        """S at any R >= 2 from its parts: V_prompt + V_rollout(R), arXiv:2603.01162."""
        R = n_rollouts
        return self.v_prompt + (4 * (R - 2) * self.zeta1 + 2 * self.zeta2) / (R * (R - 1))


class NoisePool:
    """Averages over runs, and the same averages without each unit in turn.

    Numerators and denominators are averaged apart and divided afterwards: |G|^2 of one measurement may be near 0 or
    negative, and a mean of such ratios means nothing (arXiv:1812.06162 app. A). A measurement counts with

        P (P - 1) / S_R^2

    pairs of prompt groups by the noise of one at its R: where noise outweighs the gradient this is the inverse variance
    of its |G|^2, the one average that is hard to know. S_R is the plain mean over the runs at that R, so weights know
    nothing of a measurement's own luck.

    Intervals: delete-one jackknife on the logarithm with Student's quantile. What is left out is a whole run, so that
    the spread between seeds is in the interval; with fewer than three runs, or an R that one run alone measured, it is
    one measurement, or a tenth of a run's, and the spread between seeds is not. Degrees of freedom count units by their
    weights, (sum w)^2 / sum w^2 - 1.
    """

    def __init__(self, measured: list[Measurements], *, confidence: float):
        self.runs = [one.run for one in measured if len(one.grad_sq)]
        self.n_measurements = sum(len(one.grad_sq) for one in measured)
        self._confidence = confidence
        rows = _rows([one for one in measured if len(one.grad_sq)])
        runs_at = {R: len(np.unique(rows["unit"][rows["n_rollouts"] == R])) for R in np.unique(rows["n_rollouts"])}
        self.unit = "run" if len(self.runs) >= _FEWEST_UNITS and min(runs_at.values()) > 1 else "measurement"
        if self.unit == "measurement":
            rows["unit"] = _blocks(rows["unit"])
        units = _by_unit(rows)
        self.moments = _moments(units, np.ones(len(units["weight"]), bool))
        numbers = np.arange(len(units["weight"]))
        self._left_out = [_moments(units, numbers != number) for number in numbers]
        weight_U = units["weight"]
        squares = np.square(weight_U).sum()
        self.n_effective = float(weight_U.sum() ** 2 / squares) if squares > 0 else 0.0  # units of equal weight
        self._degrees = max(1.0, self.n_effective - 1)

    def estimate(self, ratio: Callable[[Moments], float], what: str, *, is_over_grad_sq: bool = True) -> Pooled:
        """A positive function of the averages; unresolved where it is not positive, with or without any unit.

        Args:
            what: named in the reason, such as "V_prompt".
            is_over_grad_sq: whether it has |G|^2 as a denominator, which then has to be resolved.
        """
        n = len(self._left_out)
        if n < _FEWEST_UNITS:
            return Pooled(None, f"{n} measurements of the noise before the target; {_FEWEST_UNITS} are needed")
        if is_over_grad_sq and (reason := self._unresolved_grad_sq()):
            return Pooled(None, reason)
        value, left_out_U = ratio(self.moments), np.array([ratio(moments) for moments in self._left_out])
        if not (value > 0 and (left_out_U > 0).all() and np.isfinite(left_out_U).all() and math.isfinite(value)):
            return Pooled(None, f"{what} is not told apart from 0 by {self.n_measurements} measurements")
        left_out_log_U = np.log(left_out_U)
        error = math.sqrt((n - 1) / n * np.square(left_out_log_U - left_out_log_U.mean()).sum())
        half_width = scipy.stats.t.ppf((1 + self._confidence) / 2, self._degrees) * error
        return Pooled(Estimate(value, value * math.exp(-half_width), value * math.exp(half_width)))

    def _unresolved_grad_sq(self) -> str:
        """Why |G|^2 is not resolved, and what would help; "" if it is."""
        left_out_U = np.array([moments.grad_sq for moments in self._left_out])
        if self.moments.grad_sq > 0 and (left_out_U > 0).all():
            return ""
        n = len(left_out_U)
        error = math.sqrt((n - 1) / n * np.square(left_out_U - left_out_U.mean()).sum())
        found = f"|G|^2 = {self.moments.grad_sq:.2g} ± {error:.2g} is not told apart from 0"
        sizes = f"by {self.n_measurements} measurements of {len(self.runs)} run(s)"
        return f"{found} {sizes}; measure more often (noise.every_updates) or with more prompts"


def _rows(measured: list[Measurements]) -> dict[str, np.ndarray]:
    """One entry per measurement, of all runs."""

    def joined(values: Callable[[Measurements], Any]) -> np.ndarray:
        parts = [np.broadcast_to(np.asarray(values(one), np.float64), len(one.grad_sq)) for one in measured]
        return np.concatenate(parts) if parts else np.zeros(0)

    rows = {name: joined(lambda one, name=name: getattr(one, name)) for name in _AVERAGED}
    rows["n_rollouts"] = joined(lambda one: one.n_rollouts).astype(int)
    numbers = iter(range(len(measured)))
    rows["unit"] = joined(lambda one: next(numbers)).astype(int)
    pairs = joined(lambda one: one.n_prompts * (one.n_prompts - 1))
    noise = np.ones(len(pairs))
    for R in np.unique(rows["n_rollouts"]):
        of_R = [one.trace_cov.mean() for one in measured if one.n_rollouts == R]
        noise[rows["n_rollouts"] == R] = np.mean(of_R)
    rows["weight"] = pairs / (np.square(noise) if noise.all() else 1.0)  # 0: not one rollout differed from its group
    return rows


_AVERAGED = ("trace_cov", "grad_sq", "v_prompt", "zeta1", "zeta2")


def _blocks(run_N: np.ndarray) -> np.ndarray:
    """Units of single measurements; of a run with many, of as many consecutive ones as make _MOST_BLOCKS of it."""
    units = []
    for run in np.unique(run_N):
        n = int((run_N == run).sum())
        start = units[-1][-1] + 1 if units else 0
        units.append(start + np.arange(n) * min(n, _MOST_BLOCKS) // n)
    return np.concatenate(units) if units else run_N


def _by_unit(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weighted averages of each unit; all of a unit has one R."""
    n_units = int(rows["unit"].max()) + 1 if len(rows["unit"]) else 0
    is_split = np.isfinite(rows["v_prompt"]) & np.isfinite(rows["zeta1"]) & np.isfinite(rows["zeta2"])

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows["unit"], values, minlength=n_units)

    weight, split_weight = total(rows["weight"]), total(rows["weight"] * is_split)
    units = {"weight": weight, "split_weight": split_weight, "n_rollouts": np.zeros(n_units, int)}
    units["n_rollouts"][rows["unit"]] = rows["n_rollouts"]
    for name in ("trace_cov", "grad_sq"):
        units[name] = total(rows["weight"] * rows[name]) / np.where(weight > 0, weight, 1.0)
    for name in ("v_prompt", "zeta1", "zeta2"):
        values = total(rows["weight"] * np.where(is_split, rows[name], 0.0))
        units[name] = values / np.where(split_weight > 0, split_weight, 1.0)
    return units


def _moments(units: dict[str, np.ndarray], is_in: np.ndarray) -> Moments:
    # a batch's mean as baseline makes another estimator: its |G|^2 joins no average unless it is all there is
    is_grouped = is_in & (units["n_rollouts"] > 1)
    sizes = sorted(set(units["n_rollouts"].tolist()))
    return Moments(
        grad_sq=_average(units["grad_sq"], units["weight"] * (is_grouped if is_grouped.any() else is_in)),
        trace_cov={
            R: _average(units["trace_cov"], units["weight"] * (is_in & (units["n_rollouts"] == R))) for R in sizes
        },
        **{name: _average(units[name], units["split_weight"] * is_in) for name in ("v_prompt", "zeta1", "zeta2")},
    )


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    weight = weights.sum()
    return float(values @ weights / weight) if weight > 0 else math.nan


def in_adam_metric(measured: Measurements, trace_cov: np.ndarray, grad_sq: np.ndarray) -> Measurements:
    """The same measurements with S and |G|^2 of gradients divided by sqrt(v) + eps, which are not decomposed.

    The metric itself changes as v does, by orders of magnitude where a parameter that hardly ever has a gradient gets
    one: an average over measurements would be that of the largest. So each is scaled to have the plain gradient's S.
    """
    is_known = np.isfinite(grad_sq) & (trace_cov > 0)  # 0: Adam has seen no gradient yet
    nothing = np.full(int(is_known.sum()), math.nan)
    return replace(
        measured,
        trace_cov=measured.trace_cov[is_known],
        grad_sq=measured.trace_cov[is_known] * grad_sq[is_known] / trace_cov[is_known],
        v_prompt=nothing,
        zeta1=nothing,
        zeta2=nothing,
    )

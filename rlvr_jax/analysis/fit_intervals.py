"""Profile-likelihood intervals of what follows from a fitted law, honest at 0 and at infinity."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats

from rlvr_jax.analysis.fit_likelihood import Maximum, Runs, maximum
from rlvr_jax.analysis.law_shapes import Ratio

_CLOSE = 2e-3  # of ln(value): ends of intervals are found to 0.2%
_SAME = 1e-7  # deviance of laws that are one
_LONGEST_SEARCH = 60  # doublings of the distance; the likelihood has crossed its threshold long before


@dataclass(frozen=True)
class Estimate:
    """A value and its interval. `low` may be 0, `high` infinite, and the value either where the optimum is an edge."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedCurve:
    """The most likely law, and all that its intervals need."""

    runs: Runs
    columns_nk: np.ndarray  # phi, one row per run
    best: Maximum
    n_independent: int  # runs, not points
    confidence: float
    n_levels: int = 1  # parts of the table that share no run: targets of shared runs have one luck, and one level

    @property
    def n_mean(self) -> int:
        """Numbers of the law itself, without sigma: of the curve, and a level for each part that shares no run."""
        return self.columns_nk.shape[1] - 1 + self.n_levels

    @property
    def n_free(self) -> int:
        return self.n_independent - self.n_mean

    @functools.cached_property
    def threshold(self) -> float:
        """How far 2 (ln L_max - ln L) may rise inside an interval.

            n ln(1 + t^2 / (n - p)),   t the two-sided quantile of Student's t with n - p degrees of freedom

        With normal noise, exact numbers and a linear law this is the exact interval of regression; chi^2_1 in its place
        covers too little with few runs. Infinite where the runs are no more than the law's numbers.
        """
        if self.n_free <= 0:
            return math.inf
        t = scipy.stats.t.ppf((1 + self.confidence) / 2, self.n_free)
        return self.n_independent * math.log1p(t * t / self.n_free)

    def deviance(self, other: Maximum | None) -> float:
        """2 (ln L_max - ln L), the points of a run counted as one: they share its luck."""
        if other is None:
            return math.inf
        share = self.n_independent / len(self.runs.lower_n)
        return max(0.0, 2 * share * (self.best.log_likelihood - other.log_likelihood))

    def ratio(self, ratio: Ratio) -> Estimate:
        """A ratio of coefficients and its interval: all values q with a law of that ratio that is likely enough.

        The laws with (top . c) = q (bottom . c) and c >= 0 are again non-negative sums of a few curves, so each q is a
        fit of its own, with every other number refitted.
        """
        coefficients = self.best.coefficients[0]
        top, bottom = float(ratio.top @ coefficients), float(ratio.bottom @ coefficients)
        value = top / bottom if bottom > 0 else math.inf if top > 0 else math.nan
        least, most = ratio.range()
        if math.isinf(self.threshold) or math.isnan(value):
            return Estimate(value, least, most)
        equal = 1 / self.columns_nk.mean(axis=0)
        typical = float(ratio.top @ equal) / float(ratio.bottom @ equal)
        earlier: dict[int, Maximum] = {}

        def deviance(q: float) -> float:
            rays = _rays(ratio, q)
            if rays is None:
                return math.inf
            columns = self.columns_nk @ rays
            found = maximum(
                self.runs,
                columns,
                columns.mean(axis=0),
                starts=tuple(earlier[k] for k in earlier if k == rays.shape[1]),
            )
            earlier[rays.shape[1]] = found
            return self.deviance(found)

        return self._interval(deviance, value, least, most, typical)

    def level(self, row_k: np.ndarray, target: int = 0) -> Estimate:
        """S of the curve at one row of phi, such as (1, 0, ..) for S_min, and its interval in steps."""
        value = float(self.best.coefficients[target] @ row_k)
        is_free = row_k > 0
        if math.isinf(self.threshold):
            return Estimate(value, 0.0, math.inf)
        typical = float(self.columns_nk.mean(axis=0) @ self.best.coefficients[target])
        earlier = [self.best]

        def deviance(steps: float) -> float:
            if steps == 0:  # all of the law is in what vanishes at this row
                if is_free.all():
                    return math.inf
                columns = self.columns_nk[:, ~is_free]
                return self.deviance(maximum(self.runs, columns, columns.mean(axis=0)))
            if math.isinf(steps):
                return math.inf
            found = maximum(
                self.runs, self.columns_nk, row_k, starts=tuple(earlier), fixed_levels={target: math.log(steps)}
            )
            earlier[:] = [found]
            return self.deviance(found)

        return self._interval(deviance, value, 0.0, math.inf, typical)

    def _interval(
        self, deviance: Callable[[float], float], value: float, least: float, most: float, typical: float
    ) -> Estimate:
        known: dict[float, float] = {}

        def excess(log_q: float) -> float:
            """Below 0 inside the interval; nearly linear in ln q on either side of the optimum."""
            if log_q not in known:
                known[log_q] = math.sqrt(min(deviance(math.exp(log_q)), 1e6)) - math.sqrt(self.threshold)
            return known[log_q]

        def crossing(inside: float, edge: float, sign: int) -> float:
            """Where the likelihood leaves the interval between `inside` and an edge that lies outside."""
            near, step = math.log(inside), 0.3
            limit = math.log(edge) if 0 < edge < math.inf else sign * math.inf
            for _ in range(_LONGEST_SEARCH):
                far = near + sign * step
                if sign * far >= sign * limit:
                    far = limit
                if far == limit or excess(far) > 0:
                    break
                slope = (excess(far) - excess(near)) / step
                guess = -1.2 * excess(far) / slope if slope > 0 else math.inf
                near, step = far, min(max(guess, 0.5 * step), 4 * step)
            else:
                return edge
            if excess(near) >= 0 or excess(far) <= 0:
                return math.exp(near if excess(near) >= 0 else far)
            return math.exp(scipy.optimize.brentq(excess, min(near, far), max(near, far), xtol=_CLOSE))

        at_least, at_most = deviance(least), deviance(most)
        if min(at_least, at_most) < _SAME:  # an optimiser comes ever nearer to an edge and never arrives
            value = least if at_least <= at_most else most
        is_low_open = value <= least or at_least <= self.threshold
        is_high_open = value >= most or at_most <= self.threshold
        if least < value < most:
            known[math.log(value)] = -math.sqrt(self.threshold)
            low = least if is_low_open else crossing(value, least, -1)
            high = most if is_high_open else crossing(value, most, +1)
            return Estimate(value, low, high)
        # The optimum is an edge: from a typical value towards it, a first point inside the interval.
        sign = -1 if value <= least else +1
        inside = typical
        for _ in range(_LONGEST_SEARCH):
            if excess(math.log(inside)) <= 0:
                break
            inside *= 4.0**sign
        else:
            return Estimate(value, value, value)
        if sign < 0:
            return Estimate(value, least, most if is_high_open else crossing(inside, most, +1))
        return Estimate(value, least if is_low_open else crossing(inside, least, -1), most)


def _rays(ratio: Ratio, q: float) -> np.ndarray | None:
    """rays[K, J]: their non-negative sums are all c >= 0 with top . c = q (bottom . c); None: there are none."""
    v = ratio.bottom if math.isinf(q) else ratio.top - q * ratio.bottom
    unit = np.eye(len(v))
    tiny = 1e-12 * np.abs(v).max()
    rays = [unit[k] for k in range(len(v)) if abs(v[k]) <= tiny]
    rays += [
        unit[i] * -v[j] + unit[j] * v[i] for i in range(len(v)) if v[i] > tiny for j in range(len(v)) if v[j] < -tiny
    ]
    if not rays:
        return None
    return np.stack(rays, axis=1)

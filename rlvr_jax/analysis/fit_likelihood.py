"""The likelihood of runs under one curve, and its maximum over the curve's coefficients.

Run i took S_i steps with ln S_i = ln(law_i) + sigma eps_i (relative), or S_i = law_i + sigma eps_i (absolute); what is
known of it is an interval, a bound or a number. The curve is e^(m_t) (X_i . w) / (x . w): a level per target t, at the
reference row x, and a shape that only the direction of the weights w >= 0 decides, the same for all targets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.special

SIGMA_FLOOR = 1e-3  # runs never agree better than 0.1%
SIGMA_CEILING = 1e2
_LEVEL_ROOM = math.log(1e6)  # how far beyond the data the level may go when every run is censored on one side
_FLAT = 1e-5  # slope of ln L per run and sigma: leaves ln L within n 1e-10 of its maximum
_NOTHING = 1e-12  # of a curve that the optimiser tries without any weight
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Runs:
    """What is known of n runs. Relative: logarithms of the ends; absolute: the steps as printed, both ends alike."""

    lower_n: np.ndarray  # -inf: from the start
    upper_n: np.ndarray  # inf: never reached
    target_n: np.ndarray  # which of the targets, from 0
    is_relative: bool

    @property
    def n_targets(self) -> int:
        return int(self.target_n.max()) + 1

    @property
    def sigma_floor(self) -> float:
        """The least sigma that these runs could show: of ln S, or as a share of the mean steps in an absolute fit.

        Evaluations a factor w apart hide a spread below ln(w) / sqrt(12), their own rounding. Without this floor a law
        that passes through every interval would claim runs without any noise, and intervals to match.
        """
        width_n = np.where(np.isfinite(self.lower_n) & np.isfinite(self.upper_n), self.upper_n - self.lower_n, np.nan)
        hidden = float(np.nanmedian(width_n)) / math.sqrt(12) if np.isfinite(width_n).any() else 0.0
        return max(SIGMA_FLOOR, hidden)

    @property
    def steps_n(self) -> np.ndarray:
        """One number for each, in steps: where a fit starts."""
        if not self.is_relative:
            return self.lower_n
        finite = np.where(np.isfinite(self.lower_n), self.lower_n, self.upper_n - math.log(2))
        return np.exp((finite + np.where(np.isfinite(self.upper_n), self.upper_n, finite)) / 2)


@dataclass(frozen=True)
class Maximum:
    log_likelihood: float
    coefficients: np.ndarray  # [targets, J]: curve = columns @ coefficients
    sigma: float
    is_certain: bool  # False: the optimiser stopped on a slope


def log_likelihood(runs: Runs, curve_n: np.ndarray, sigma: float) -> tuple[float, np.ndarray, float]:
    """(log likelihood, its derivative by each run's prediction, by ln sigma).

        sum over runs of  ln( Phi((upper - mu) / sigma) - Phi((lower - mu) / sigma) )

    or of the log density where both ends agree; mu is ln(curve) in a relative fit, the curve in an absolute one.
    """
    mu_n = np.log(curve_n) if runs.is_relative else curve_n
    a_n, b_n = (runs.lower_n - mu_n) / sigma, (runs.upper_n - mu_n) / sigma
    is_exact = runs.lower_n == runs.upper_n
    z_n = np.where(is_exact, a_n, 0.0)
    total = float(np.sum(np.where(is_exact, -0.5 * z_n**2 - math.log(sigma) - _HALF_LOG_2PI, 0.0)))
    by_mu_n, by_log_sigma_n = z_n / sigma, np.where(is_exact, z_n**2 - 1, 0.0)
    if is_exact.all():
        return total, by_mu_n, float(by_log_sigma_n.sum())
    # Mirrored where both ends lie above, so that a difference of two numbers near 1 is never formed.
    a_k, b_k = a_n[~is_exact], b_n[~is_exact]
    is_above = a_k > 0
    low_k, high_k = np.where(is_above, -b_k, a_k), np.where(is_above, -a_k, b_k)
    log_low_k, log_high_k = scipy.special.log_ndtr(low_k), scipy.special.log_ndtr(high_k)
    log_p_k = log_high_k + np.log(-np.expm1(np.minimum(log_low_k - log_high_k, -1e-300)))
    density_a_k, density_b_k = (np.exp(-0.5 * e_k**2 - _HALF_LOG_2PI - log_p_k) for e_k in (a_k, b_k))
    by_mu_n[~is_exact] = (density_a_k - density_b_k) / sigma
    a_times, b_times = (np.where(np.isfinite(e), e, 0.0) * d for e, d in ((a_k, density_a_k), (b_k, density_b_k)))
    by_log_sigma_n[~is_exact] = a_times - b_times
    return total + float(log_p_k.sum()), by_mu_n, float(by_log_sigma_n.sum())


def maximum(
    runs: Runs,
    columns_nj: np.ndarray,
    reference_j: np.ndarray,
    *,
    starts: tuple[Maximum, ...] = (),
    fixed_levels: dict[int, float] | None = None,
) -> Maximum:
    """The most likely coefficients >= 0 and sigma, the best of all starts.

    scipy's SLSQP with the exact gradient, then L-BFGS-B from there where it stopped on a slope. With one column the
    problem has one maximum: the likelihood of intervals is log-concave in level / sigma and 1 / sigma. With more, the
    starts are non-negative least squares and each column nearly alone, unless earlier maxima are given.

    Args:
        columns_nj: f64[n, J], each non-negative.
        reference_j: f64[J], where the levels hold.
        starts: earlier maxima of nearby problems with the same columns, to start from instead.
        fixed_levels: targets whose level is given, ln(steps).
    """
    scale_j = np.where(reference_j > 0, reference_j, columns_nj.mean(axis=0))
    scaled_nj = columns_nj / scale_j
    is_counted_j = (reference_j > 0).astype(float)
    n_columns, n_targets = columns_nj.shape[1], runs.n_targets
    steps_n = runs.steps_n
    level_bounds = (math.log(steps_n.min()) - _LEVEL_ROOM, math.log(steps_n.max()) + _LEVEL_ROOM)
    scale = 1.0 if runs.is_relative else float(np.mean(np.abs(steps_n)))
    target_nt = np.eye(n_targets)[runs.target_n]

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights_j, levels_t, sigma = theta[:n_columns], theta[n_columns:-1], scale * math.exp(theta[-1])
        sum_n, reference = scaled_nj @ weights_j, float(is_counted_j @ weights_j)
        curve_n = np.exp(levels_t[runs.target_n]) * np.maximum(sum_n, _NOTHING) / max(reference, _NOTHING)
        total, by_mu_n, by_log_sigma = log_likelihood(runs, curve_n, sigma)
        by_log_curve_n = by_mu_n if runs.is_relative else by_mu_n * curve_n
        by_weights_j = (by_log_curve_n / np.maximum(sum_n, _NOTHING)) @ scaled_nj
        by_weights_j -= by_log_curve_n.sum() * is_counted_j / max(reference, _NOTHING)
        by_theta = np.concatenate([by_weights_j, by_log_curve_n @ target_nt, [by_log_sigma]])
        return -total / len(curve_n), -by_theta / len(curve_n)

    low = np.array([0.0] * n_columns + [level_bounds[0]] * n_targets + [math.log(runs.sigma_floor)])
    high = np.array([1e6] * n_columns + [level_bounds[1]] * n_targets + [math.log(SIGMA_CEILING)])
    if is_counted_j.sum() == 1:  # only then could nothing be left at the reference row
        low[int(is_counted_j.argmax())] = high[int(is_counted_j.argmax())] = 1.0
    for t, level in (fixed_levels or {}).items():
        low[n_columns + t] = high[n_columns + t] = level
    best = None
    for weights_j in [e.coefficients[0] * scale_j for e in starts] or _starts(runs, scaled_nj):
        start = np.clip(_start(runs, scaled_nj, is_counted_j, weights_j, scale), low, high)
        found = _climb(negative, start, low, high)
        if best is None or found[0] > best[0]:
            best = found
    value, theta, is_certain = best
    weights_j = theta[:n_columns] / float(is_counted_j @ theta[:n_columns])
    coefficients_tj = np.exp(theta[n_columns:-1])[:, None] * weights_j / scale_j
    return Maximum(value * len(columns_nj), coefficients_tj, scale * math.exp(theta[-1]), is_certain)


def _climb(
    negative: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[float, np.ndarray, bool]:
    """The local maximum from one start, and whether its projected gradient vanishes.

    In units where the curvature is near 1: weights and levels in sigma, the likelihood per run.
    """
    unit = np.append(np.full(len(start) - 1, math.exp(start[-1])), 1.0)

    def in_units(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative(x * unit)
        return value, gradient * unit

    bounds = list(zip(low / unit, high / unit, strict=True))
    best = None
    for method, options in (("SLSQP", {"ftol": 1e-14, "maxiter": 200}), ("L-BFGS-B", {"ftol": 1e-15, "gtol": 1e-9})):
        x0 = start / unit if best is None else best[1] / unit
        result = scipy.optimize.minimize(in_units, x0, jac=True, method=method, bounds=bounds, options=options)
        theta = np.clip(result.x * unit, low, high)
        value, gradient = in_units(theta / unit)
        slope = np.abs(theta / unit - np.clip(theta / unit - gradient, low / unit, high / unit)).max()
        if best is None or value < best[0]:
            best = (value, theta, bool(slope < _FLAT))
        if best[2]:
            break
    return -best[0], best[1], best[2]


def _start(
    runs: Runs, scaled_nj: np.ndarray, is_counted_j: np.ndarray, weights_j: np.ndarray, scale: float
) -> np.ndarray:
    """The parameters with these weights: levels and sigma by least squares."""
    reference = float(is_counted_j @ weights_j)
    weights_j = weights_j / reference if reference > 0 else np.maximum(weights_j, 1e-6)
    shape_n = np.maximum(scaled_nj @ weights_j, _NOTHING)
    steps_n, levels = np.maximum(runs.steps_n, _NOTHING), []
    for t in range(runs.n_targets):
        x, y = shape_n[runs.target_n == t], steps_n[runs.target_n == t]
        levels.append(np.log(y / x).mean() if runs.is_relative else math.log(float(x @ y / (x @ x))))
    curve_n = np.exp(np.array(levels)[runs.target_n]) * shape_n
    rest_n = np.log(steps_n / curve_n) if runs.is_relative else (steps_n - curve_n) / scale
    return np.concatenate([weights_j, levels, [math.log(max(float(np.sqrt(np.mean(rest_n**2))), 0.01))]])


def _starts(runs: Runs, scaled_nj: np.ndarray) -> list[np.ndarray]:
    """Weights to climb from: non-negative least squares, equal ones, and nearly all in one column."""
    n_columns, n_targets, steps_n = scaled_nj.shape[1], runs.n_targets, runs.steps_n
    equal_j = np.full(n_columns, 1 / n_columns)
    if n_columns == 1:
        return [equal_j]
    level_n = np.array([np.exp(np.log(steps_n[runs.target_n == t]).mean()) for t in range(n_targets)])[runs.target_n]
    relative_n = steps_n / level_n if runs.is_relative else np.ones(len(steps_n))
    nnls_j, _ = scipy.optimize.nnls(scaled_nj / relative_n[:, None], steps_n / level_n / relative_n)
    mostly_one = [0.2 * equal_j + 0.8 * one_j for one_j in np.eye(n_columns)]
    return [*([nnls_j] if nnls_j.sum() > 0 else []), *([equal_j] if n_columns > 2 else []), *mostly_one]

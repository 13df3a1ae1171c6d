"""What several seeds of several points allow one to say."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio of two averages with its 95% interval; None where the data do not resolve it."""

    value: float | None
    low: float | None = None
    high: float | None = None


def ratio_of_averages(numerators: list[float], denominators: list[float]) -> Ratio:
    """mean(numerators) / mean(denominators), with a delete-one jackknife interval on its logarithm.

    Never a mean of ratios: single denominators may be near 0 or negative. Unresolved when an
    average, of all measurements or of all but one, is not positive, or with fewer than 3.
    """
    a, b = np.array(numerators), np.array(denominators)
    n = len(a)
    if n < 3:
        return Ratio(None)
    left_out_a, left_out_b = (a.sum() - a) / (n - 1), (b.sum() - b) / (n - 1)
    if min(a.mean(), b.mean(), left_out_a.min(), left_out_b.min()) <= 0:
        return Ratio(None)
    log_ratio = math.log(a.mean() / b.mean())
    left_out = np.log(left_out_a / left_out_b)
    standard_error = math.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))
    half_width = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * standard_error
    return Ratio(math.exp(log_ratio), math.exp(log_ratio - half_width), math.exp(log_ratio + half_width))


@dataclass(frozen=True)
class Order:
    """`better` stands above `worse` by `difference`, beyond seed spread."""

    better: str
    worse: str
    difference: float
    low: float
    high: float


def resolved_orders(values_by_point: dict[str, list[float]]) -> tuple[list[Order], str]:
    """The pairs of points whose means differ beyond seed spread, and a sentence on what the test could see.

    Tukey's honestly significant difference over all pairs at once, 95% for the whole family, so that
    many points do not make a false order likely. It needs at least 2 seeds in every point.
    """
    few = [point for point, values in values_by_point.items() if len(values) < 2]
    groups = {point: values for point, values in values_by_point.items() if len(values) >= 2}
    if len(groups) < 2:
        return [], "fewer than two points with two seeds: no order is claimed"
    if all(np.ptp(values) == 0 for values in groups.values()):
        return [], "the seeds of every point agree exactly, so seed spread is unknown: no order is claimed"
    names = list(groups)
    test = scipy.stats.tukey_hsd(*groups.values())
    interval = test.confidence_interval(CONFIDENCE)
    orders = [
        Order(names[i], names[j], test.statistic[i, j], interval.low[i, j], interval.high[i, j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and interval.low[i, j] > 0
    ]
    n_pairs = len(names) * (len(names) - 1) // 2
    sentence = f"{len(orders)} of {n_pairs} pairs differ beyond seed spread (Tukey HSD, 95% over all pairs)"
    return sorted(orders, key=lambda order: -order.difference), sentence + (
        f"; left out for want of a second seed: {', '.join(few)}" if few else ""
    )

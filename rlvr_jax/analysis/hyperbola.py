"""How far each batch size lies from the hyperbola that the law draws in steps and examples."""

import math
from collections import defaultdict
from dataclasses import dataclass

from rlvr_jax.analysis.fits import LawFit


@dataclass(frozen=True)
class HyperbolaPoint:
    batch: int  # in rollouts
    n_reached: int
    n_runs: int
    steps: float  # geometric mean over the runs that reached the target
    product: float  # (S/S_min - 1) (E/E_min - 1)
    log_product: float | None  # 0 on the law; None where S or E lies below its least, off both branches


def hyperbola_points(fit: LawFit) -> list[HyperbolaPoint]:
    """(S/S_min - 1) (E/E_min - 1) of each batch size that was reached, ascending; the law says 1.

    E = B S, E_min = S_min B_noise: arXiv:1812.06162 (sec. 2.3). The product is steep where S or E is near its least: a
    run that is late by 10% moves it by far more than 10% there, so it shows where the points leave the curve; the fit
    itself weighs ln S. A batch that some runs never got to the target with is shown by those that did, so too low.

    Raises:
        ValueError: a fit of another shape, of several targets, or with S_min or B_noise at an edge.
    """
    if fit.shape != "total" or fit.s_min is None or fit.b_noise is None:
        raise ValueError(f"the hyperbola is of shape 'total' and one target, not of {fit.shape!r}; fit that")
    s_min, b_noise = fit.s_min.value, fit.b_noise.value
    if not (0 < s_min < math.inf and 0 < b_noise < math.inf):
        raise ValueError(f"S_min={s_min:g} and B_noise={b_noise:g} draw no hyperbola; both must be measured")
    by_batch = defaultdict(list)
    for point in fit.points:
        by_batch[point.observation.batch].append(point.observation)
    points = []
    for batch, runs in sorted(by_batch.items()):
        reached = [math.log(o.at) for o in runs if o.is_reached and o.at is not None]
        if not reached:
            continue
        steps = math.exp(sum(reached) / len(reached))
        over_s, over_e = steps / s_min - 1, batch * steps / (s_min * b_noise) - 1
        log_product = math.log(over_s * over_e) if over_s > 0 and over_e > 0 else None
        points.append(HyperbolaPoint(batch, len(reached), len(runs), steps, over_s * over_e, log_product))
    return points

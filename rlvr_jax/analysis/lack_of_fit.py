"""How likely luck alone is to miss a fitted law by as much: seeds against the law, targets against one B_noise."""

import math

import numpy as np
import scipy.stats

from rlvr_jax.analysis.fit_intervals import FittedCurve
from rlvr_jax.analysis.fit_likelihood import Maximum, Runs, maximum
from rlvr_jax.analysis.observations import Observation


def lack_of_fit_p(curve: FittedCurve, observations: list[Observation]) -> float | None:
    """How likely seeds alone miss the law by as much; None without seeds.

    Likelihood ratio of one free level for each of k cells against the law of p numbers, as an F test. Runs of one cell
    share n_prompts, n_rollouts and the updates per step, without which they are no seeds of each other:

        F = (exp(2 (ln L_free - ln L) / n) - 1) (n - k) / (k - p)

    which is that of regression where steps are known exactly.
    """
    cell_of = [(o.n_prompts, o.n_rollouts, o.updates_per_step) for o in observations]
    cells = sorted(set(cell_of))
    n, k, n_mean = len(observations), len(cells), curve.n_mean
    if k <= n_mean or n <= k:
        return None
    cell_n = np.array([cells.index(cell) for cell in cell_of])
    one = np.ones((n, 1))
    free = maximum(Runs(curve.runs.lower_n, curve.runs.upper_n, cell_n, curve.runs.is_relative), one, one[0])
    scale = 1.0 if curve.runs.is_relative else float(curve.runs.steps_n.mean())
    if free.sigma < 1.01 * curve.runs.sigma_floor * scale:  # the evaluations lie too far apart to see the seeds' spread
        return None
    rise = math.expm1(max(0.0, 2 * (free.log_likelihood - curve.best.log_likelihood)) / n)
    return float(scipy.stats.f.sf(rise * (n - k) / (k - n_mean), k - n_mean, n - k))


def other_b_noise_p(curve: FittedCurve) -> float | None:
    """How likely luck alone lets the targets prefer as different curves; the points of a run counted as one."""
    if curve.n_free <= 0:
        return None
    own_nj = np.concatenate(
        [curve.columns_nk * (curve.runs.target_n == t)[:, None] for t in range(curve.runs.n_targets)], axis=1
    )
    together = Runs(curve.runs.lower_n, curve.runs.upper_n, np.zeros_like(curve.runs.target_n), curve.runs.is_relative)
    is_used_j = own_nj.any(axis=0)
    shared = Maximum(
        curve.best.log_likelihood, curve.best.coefficients.reshape(1, -1)[:, is_used_j], curve.best.sigma, True
    )
    own = maximum(together, own_nj[:, is_used_j], own_nj[:, is_used_j].mean(axis=0), starts=(shared,))
    n_more = (curve.runs.n_targets - 1) * (curve.columns_nk.shape[1] - 1)
    share = curve.n_independent / len(curve.runs.lower_n)
    rise = math.expm1(2 * share * max(0.0, own.log_likelihood - curve.best.log_likelihood) / curve.n_independent)
    return float(scipy.stats.f.sf(rise * curve.n_free / n_more, n_more, curve.n_free))

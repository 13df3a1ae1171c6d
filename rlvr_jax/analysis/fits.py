"""The critical-batch-size law fitted to many runs, with intervals, or the reason why they cannot carry it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse.csgraph
from numpy.typing import ArrayLike

from rlvr_jax.analysis.fit_intervals import Estimate, FittedCurve
from rlvr_jax.analysis.fit_likelihood import Runs, maximum
from rlvr_jax.analysis.fit_verdict import REFUSED_P, Knee, why_unresolved
from rlvr_jax.analysis.lack_of_fit import lack_of_fit_p, other_b_noise_p
from rlvr_jax.analysis.law_shapes import (
    SHAPES,
    Ratio,
    law_columns,
    law_terms,
    needs_two_rollouts,
    prompt_cbs_ratio,
    rollout_cbs_ratio,
)
from rlvr_jax.analysis.observations import Observation

RESIDUALS = ("relative", "absolute")
_BAND_KNOTS = 13
_NARROW = 1e-6  # of ln S: an interval this short is a number, and the difference of two probabilities is only rounding

__all__ = ["RESIDUALS", "SHAPES", "Estimate", "FitPoint", "LawFit", "fit_law"]


@dataclass(frozen=True)
class FitPoint:
    observation: Observation
    fitted: float  # the law at its batch size
    residual: float | None  # ln(at / fitted) of a relative fit, at - fitted of an absolute one; None: not reached


@dataclass(frozen=True)
class LawFit:
    """A law S = S_min (1 + ..) with its intervals. Where `resolved` is False no number of it may be quoted as measured.

    Of several targets at once `s_min` is None and `steps` and `band` are in units of each target's own S_min.
    """

    shape: str
    residuals: str
    confidence: float
    n_runs: int
    n_reached: int
    s_min: Estimate | None
    b_noise: Estimate | None  # in rollouts, of shape "total" alone
    terms: dict[str, Estimate]  # alpha in prompts, beta in rollouts x prompts, ..: see law_shapes
    sigma: float  # spread of ln S between runs; in steps of an absolute fit
    log_likelihood: float
    aicc: float
    resolved: bool
    reason: str  # "" when resolved
    lack_of_fit_p: float | None  # seeds against the law; of several targets: one B_noise against one for each
    points: tuple[FitPoint, ...]
    n_without_baseline: int = 0  # runs with one rollout, under shapes that need a group's; not in n_runs
    n_left_out: int = 0  # those, runs of which nothing is known, and, of absolute residuals, those that never got there
    is_refused: bool = False  # seeds or targets speak against the curve: its intervals mean nothing
    curve: FittedCurve | None = field(default=None, repr=False, compare=False)

    def steps(self, n_prompts: ArrayLike, n_rollouts: ArrayLike) -> np.ndarray:
        """S of the law, in steps, of the broadcast shape of both."""
        rows, shape = self._rows(n_prompts, n_rollouts)
        if self.curve is None:
            return np.full(shape, math.nan)
        c = self.curve.best.coefficients[0]
        with np.errstate(divide="ignore"):
            return (rows @ c / (c[0] if self.s_min is None else 1.0)).reshape(shape)

    def band(self, n_prompts: ArrayLike, n_rollouts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the law's curve at each place, in steps; not of single runs, which scatter by sigma more."""
        rows, shape = self._rows(n_prompts, n_rollouts)
        if self.curve is None:
            return np.zeros(shape), np.full(shape, math.inf)
        knots, back = np.unique(rows, axis=0, return_inverse=True)
        is_interpolated = len(knots) > _BAND_KNOTS and rows.shape[1] == 2
        if is_interpolated:
            phi = np.geomspace(knots[:, 1].min(), knots[:, 1].max(), _BAND_KNOTS)
            knots = np.stack([np.ones(_BAND_KNOTS), phi], axis=1)
        s_min = np.eye(rows.shape[1])[0]
        ends = [self.curve.level(k) if self.s_min else self.curve.ratio(Ratio(k, s_min)) for k in knots]
        low, high = np.array([e.low for e in ends]), np.array([e.high for e in ends])
        if is_interpolated:
            x, at = np.log(rows[:, 1]), np.log(knots[:, 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high = (np.exp(np.interp(x, at, np.log(e))) for e in (low, high))
        else:
            low, high = low[back.ravel()], high[back.ravel()]
        return low.reshape(shape), high.reshape(shape)

    def prompt_cbs(self, n_rollouts: float) -> Estimate | None:
        """The prompts at which S is twice S_min, at this many rollouts each: alpha + beta / (R-1) of shape "loo"."""
        ratio = prompt_cbs_ratio(self.shape, n_rollouts)
        return self.curve.ratio(ratio) if ratio is not None and self.curve is not None else None

    def rollout_cbs(self, n_prompts: float) -> Estimate | None:
        """The rollouts at which S is twice that of infinitely many, at this many prompts: 1 + beta / (P + alpha)."""
        found = rollout_cbs_ratio(self.shape, n_prompts)
        if found is None or self.curve is None:
            return None
        ratio, offset = found
        estimate = self.curve.ratio(ratio)
        return Estimate(offset + estimate.value, offset + estimate.low, offset + estimate.high)

    def _rows(self, n_prompts: ArrayLike, n_rollouts: ArrayLike) -> tuple[np.ndarray, tuple[int, ...]]:
        shape = np.broadcast_shapes(np.shape(n_prompts), np.shape(n_rollouts))
        return law_columns(self.shape, n_prompts, n_rollouts), shape


def fit_law(
    observations: Iterable[Observation], *, shape: str = "total", residuals: str = "relative", confidence: float = 0.9
) -> LawFit:
    """The law of one target, fitted to all runs there are.

    Relative: maximum likelihood of ln S = ln law + sigma eps. A run counts with the interval between two evaluations
    that its target fell into, or, if it never got there, with all steps beyond its last. Absolute: least squares of the
    steps as printed, the runs that never got there left out, as published fits are made. All coefficients are >= 0.
    Intervals are of the profile likelihood, with Student's t (fit_intervals). arXiv:1812.06162 (sec. 2.3) has the law.

    Args:
        observations: of one target and one group, one for each run.
        shape: one of law_shapes.SHAPES.
        confidence: of every interval, such as 0.9.

    Raises:
        ValueError: no observations, more than one target or group, or a shape that these runs cannot have.
    """
    observations = list(observations)
    targets = sorted({o.target for o in observations})
    if len(targets) > 1:
        raise ValueError(
            f"targets {targets[0]} and {targets[1]} in one fit; fit_targets fits them one by one and jointly"
        )
    return fit_curve(observations, shape=shape, residuals=residuals, confidence=confidence)


def fit_curve(observations: list[Observation], *, shape: str, residuals: str, confidence: float) -> LawFit:
    """`fit_law` of any number of targets, each with its own level and all with one curve."""
    kept = _checked(observations, shape, residuals, confidence)
    targets = sorted({o.target for o in kept})
    reached = {o.target for o in kept if o.is_reached}  # a target that no run reached has no level
    used = [o for o in kept if o.is_reached or (residuals == "relative" and o.is_known)]
    fitted = [o for o in used if o.target in reached]
    n_reached = sum(o.is_reached for o in kept)
    common = {
        "shape": shape,
        "residuals": residuals,
        "confidence": confidence,
        "n_runs": len({run_key(o) for o in kept}),
        "n_reached": n_reached,
        "n_without_baseline": len({run_key(o) for o in observations}) - len({run_key(o) for o in kept}),
        "n_left_out": len({run_key(o) for o in observations}) - len({run_key(o) for o in used}),
    }
    if n_reached == 0:
        unknown = Estimate(math.nan, 0.0, math.inf)
        return LawFit(
            **common,
            s_min=None if len(targets) > 1 else unknown,
            b_noise=unknown if shape == "total" else None,
            terms=dict.fromkeys(law_terms(shape), unknown),
            sigma=math.nan,
            log_likelihood=math.nan,
            aicc=math.inf,
            resolved=False,
            reason=f"none of {len(kept)} runs reached the target: train longer, or choose an easier target",
            lack_of_fit_p=None,
            points=tuple(FitPoint(o, math.nan, None) for o in kept),
        )

    columns = law_columns(shape, [o.n_prompts for o in fitted], [o.n_rollouts for o in fitted])
    runs = _runs(fitted, sorted(reached), residuals)
    best = maximum(runs, columns, columns.mean(axis=0))
    curve = FittedCurve(runs, columns, best, len({run_key(o) for o in fitted}), confidence, _n_parts(fitted))
    terms = {name: curve.ratio(ratio) for name, ratio in law_terms(shape).items()}
    if len(reached) > 1:
        p = other_b_noise_p(curve)
    elif residuals == "absolute" and len(fitted) < len(kept):
        p = None  # the slow runs are missing where S is largest: the test would refuse the law for that alone
    else:
        p = lack_of_fit_p(curve, fitted)
    knee = _knee(shape, curve, terms, fitted)
    reason = why_unresolved(knee, terms, fitted, n_runs=len(kept), lack_of_fit_p=p, n_free=curve.n_free)
    if not reason and not best.is_certain:
        reason = "the optimiser did not settle on one law; more runs would fix it"
    level_of = {t: best.coefficients[k] for k, t in enumerate(sorted(reached))}
    return LawFit(
        **common,
        s_min=None if len(targets) > 1 else curve.level(np.eye(columns.shape[1])[0]),
        b_noise=terms.get("b_noise"),
        terms=terms,
        sigma=best.sigma,
        log_likelihood=best.log_likelihood,
        aicc=_aicc(best.log_likelihood, columns.shape[1] + runs.n_targets, len(fitted)),
        resolved=not reason,
        reason=reason,
        is_refused=bool(reason) and p is not None and p < REFUSED_P,
        lack_of_fit_p=p,
        points=tuple(_point(o, shape, residuals, level_of.get(o.target)) for o in kept),
        curve=curve,
    )


def run_key(observation: Observation) -> tuple:
    """What tells one run from another: tables may name all seeds of a point alike."""
    return observation.run, observation.seed, observation.n_prompts, observation.n_rollouts


def _n_parts(observations: list[Observation]) -> int:
    """Into how many parts the table of runs and targets falls, between which no run is shared."""
    runs = list(dict.fromkeys(run_key(o) for o in observations))
    targets = sorted({o.target for o in observations})
    place = {key: at for at, key in enumerate([*runs, *targets])}
    of_run_n, of_target_n = [place[run_key(o)] for o in observations], [place[o.target] for o in observations]
    links = scipy.sparse.coo_array((np.ones(len(observations)), (of_run_n, of_target_n)), shape=(len(place),) * 2)
    return int(scipy.sparse.csgraph.connected_components(links, directed=False)[0])


def _checked(observations: list[Observation], shape: str, residuals: str, confidence: float) -> list[Observation]:
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r} is not one of {', '.join(SHAPES)}")
    if residuals not in RESIDUALS:
        raise ValueError(f"residuals={residuals!r} is not one of {', '.join(RESIDUALS)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1; 0.9 is usual")
    if not observations:
        raise ValueError("no observations to fit; give the steps of at least three batch sizes")
    groups = sorted({o.group for o in observations})
    if len(groups) > 1:
        raise ValueError(f"groups {groups[0]!r} and {groups[1]!r} in one fit; fit_targets keeps groups apart")
    for o in observations:
        if not (0 <= o.after <= o.by and o.by > 0 and o.n_prompts >= 1 and o.n_rollouts >= 1):
            raise ValueError(
                f"run {o.run!r}: reached in ({o.after}, {o.by}] with {o.n_prompts} x {o.n_rollouts}; "
                "steps are positive, in order, and of at least one prompt and rollout"
            )
    kept = [o for o in observations if o.n_rollouts > 1 or not needs_two_rollouts(shape)]
    if not kept:
        raise ValueError(f"shape={shape!r} needs 2 rollouts per prompt and every run has 1; use shape='total'")
    if shape.startswith("rollouts") and len({o.n_prompts for o in kept}) > 1:
        raise ValueError(f"shape={shape!r} is for one n_prompts, and it varies; use 'loo', 'mean' or 'zeta'")
    return kept


def _runs(observations: list[Observation], targets: list[float], residuals: str) -> Runs:
    target_n = np.array([targets.index(o.target) for o in observations])
    if residuals == "absolute":
        at_n = np.array([float(o.at if o.at is not None else o.by) for o in observations])
        return Runs(at_n, at_n, target_n, is_relative=False)
    with np.errstate(divide="ignore"):
        lower_n = np.log(np.array([o.after for o in observations], float))
        upper_n = np.log(np.array([o.by for o in observations], float))
    is_narrow_n = upper_n - lower_n < _NARROW
    lower_n, upper_n = (np.where(is_narrow_n, (lower_n + upper_n) / 2, ends) for ends in (lower_n, upper_n))
    return Runs(lower_n, upper_n, target_n, is_relative=True)


def _knee(shape: str, curve: FittedCurve, terms: dict[str, Estimate], observations: list[Observation]) -> Knee:
    """The number that decides whether a law is resolved, and the sizes at which it was measured."""
    rollouts = [o.n_rollouts for o in observations]
    match shape:
        case "total":
            return Knee("B_noise", "rollouts", terms["b_noise"], tuple(o.batch for o in observations))
        case "prompts":
            return Knee("alpha", "prompts", terms["alpha"], tuple(o.n_prompts for o in observations))
        case "rollouts_loo":
            return Knee("beta", "rollouts - 1", terms["beta"], tuple(r - 1 for r in rollouts))
        case "rollouts_mean":
            return Knee("beta", "rollouts", terms["beta"], tuple(rollouts))
    middle = float(np.exp(np.mean(np.log(rollouts))))
    cbs = curve.ratio(prompt_cbs_ratio(shape, middle))
    return Knee(f"the prompt CBS at R = {middle:.3g}", "prompts", cbs, tuple(o.n_prompts for o in observations))


def _aicc(log_likelihood: float, n_numbers: int, n: int) -> float:
    """Akaike's criterion with the small-sample term; infinite where that has no meaning."""
    n_free = n - n_numbers - 1
    return math.inf if n_free <= 0 else -2 * log_likelihood + 2 * n_numbers + 2 * n_numbers * (n_numbers + 1) / n_free


def _point(o: Observation, shape: str, residuals: str, coefficients: np.ndarray | None) -> FitPoint:
    if coefficients is None:  # no run reached this target
        return FitPoint(o, math.nan, None)
    fitted = float(law_columns(shape, o.n_prompts, o.n_rollouts)[0] @ coefficients)
    if o.at is None or not o.is_reached:
        return FitPoint(o, fitted, None)
    return FitPoint(o, fitted, math.log(o.at / fitted) if residuals == "relative" else o.at - fitted)

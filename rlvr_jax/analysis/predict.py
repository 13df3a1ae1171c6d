"""The law that measured gradient noise predicts, target by target, beside the one fitted to steps.

A step of optimal size along a gradient of B samples does 1 / (1 + B_noise/B) of what a noiseless one does
(arXiv:1812.06162 sec. 2.2), so that along the path of a training run, with ds a noiseless step,

    S(B) = integral of (1 + B_noise(s)/B) ds = S_min + E_min / B      B_crit = E_min / S_min = mean of B_noise over ds

(app. D there): the fitted law's B is a mean of the gradient noise scale along the way to the target, not its value at
the start or at the end. What is computed here is the ratio of averages over the measurements on that way,

    B_noise = mean S / mean |G|^2

which is the mean of S/|G|^2 weighted by |G|^2, that is by progress, where the law weights by noiseless steps. The two
agree where B_noise hardly changes; where it rises towards the target, as it usually does, this one is the smaller.

What the derivation takes for granted, and why the fitted law may differ: plain gradient steps whose size is right for
every batch size, which shrinks as noise grows. Under Adam a step has about the same length however noisy the gradient
is, and the derivation does not hold as it stands (app. E there). At one learning rate for all batch sizes, a step that
is divided by the gradient's root mean square, noise included, as Adam's is, does 1 / sqrt(1 + B_noise/B) of a noiseless
one's work wherever the loss is straight along it (the mean of g / rms(g); for signs: arXiv:2405.14578). Steps then grow
with the root only:

    S(B) = S_min sqrt(1 + B_noise/B)

A hyperbola fitted to such steps has a B well below B_noise, and how far below depends on the batch sizes that were run.
So both laws are worked out at the splits that were run, and a hyperbola is fitted to each: that B is what compares with
the fitted one. Where curvature or clipping decides, neither holds, and a warm-up, whose updates every batch size takes,
lowers the fitted B of early targets. B_noise in Adam's metric is a second set of its own: closer to what Adam follows,
and no more a theorem. Where they differ, the fitted law is what was seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Measurements, Moments, NoisePool, Pooled, in_adam_metric
from rlvr_jax.analysis.noise_series import NoiseSeries
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.predicted_steps import STEPS, as_fitted_steps, relative_steps, trace_cov_at

SPLIT_ROLLOUTS = (2, 4, 8, 16, 32, 64)  # predicted where noise is decomposed, besides those that were measured

METRICS = ("gradient", "adam")


@dataclass(frozen=True)
class NoiseAt:
    """The predicted critical batch at one number of rollouts per prompt."""

    n_rollouts: int
    is_measured: bool  # S was measured at this R; otherwise it is V_prompt + V_rollout(R)
    prompts: Pooled  # (V_prompt + V_rollout(R)) / |G|^2
    rollouts: Pooled  # the same times R
    n_runs: int = 0  # that measured S at this R; 0: none did


@dataclass(frozen=True)
class Prediction:
    """What the noise on the way to one target says about the steps to it."""

    target: float
    group: str
    metric: str  # "gradient"; "adam": of gradients divided by sqrt(v) + eps
    confidence: float
    runs: tuple[str, ...]  # behind every number
    n_measurements: int
    n_effective: float  # units of equal weight that would say as much, (sum w)^2 / sum w^2
    unit: str  # what the intervals leave out in turn: "run", or "measurement": the spread between seeds is not in them
    moments: Moments
    splits: frozenset[tuple[int, int]]  # (n_prompts, n_rollouts) that were run, whether or not they got there
    noise: tuple[NoiseAt, ...]  # by rising R
    by_run: dict[str, Pooled]  # B_noise in rollouts of each run alone, by its own measurements
    terms: dict[str, Pooled]  # alpha = V_prompt, zeta1, zeta2, all / |G|^2: of S/S_min = 1 + (alpha + ...) / P
    best_rollouts: Pooled  # R*, the least noise at a fixed batch
    critical_rollouts: Pooled  # R at which V_rollout(R) = V_prompt
    rollout_cbs: dict[int, Pooled]  # by n_prompts: the R at which steps are twice those of R -> infinity
    as_fitted: dict[str, Pooled]  # by STEPS: the B_noise in rollouts of a law fitted to predicted steps at all splits
    notes: tuple[str, ...]  # what was left out and why

    def at(self, n_rollouts: int) -> NoiseAt | None:
        return next((found for found in self.noise if found.n_rollouts == n_rollouts), None)

    def noise_to_signal(self, n_prompts: int, n_rollouts: int) -> float:
        """tr Cov / |G|^2 of a batch's gradient at any split; NaN where |G|^2 or the noise at this R is not known."""
        return relative_steps(self.moments, n_prompts, n_rollouts, steps="best_size") - 1

    def relative_steps(self, n_prompts: int, n_rollouts: int, *, steps: str = "best_size") -> float:
        """S(P, R) / S_min, see the module's `relative_steps`; NaN where |G|^2 or the noise at this R is not known."""
        return relative_steps(self.moments, n_prompts, n_rollouts, steps=steps)


def predict(
    series: list[NoiseSeries],
    observations: list[Observation],
    *,
    unit: str = "update",
    confidence: float = 0.9,
) -> list[Prediction]:
    """The predicted law, one per group and target that some run reached, and per metric that was measured.

    Only measurements before a run's own crossing of the target count: all runs are then pooled over the same policies,
    by accuracy, though not over the same updates. A run that never got there stayed near some policies for as long as
    it ran, and is left out.

    Args:
        series: of every run; those without measurements are named in the notes.
        observations: of the same runs, by `run`.
        unit: "update" or "step": what the observations count.

    Raises ValueError naming a run that has observations and no series.
    """
    by_run = {one.run: one for one in series}
    if strangers := sorted({seen.run for seen in observations} - by_run.keys()):
        raise ValueError(f"no noise series has the name of {', '.join(strangers)}; give that of every run observed")
    keys = dict.fromkeys((seen.group, seen.target) for seen in observations)
    predictions = []
    for group, target in keys:
        seen = [one for one in observations if (one.group, one.target) == (group, target)]
        for metric in METRICS:
            measured, notes = _on_the_way(by_run, seen, unit=unit, metric=metric)
            if measured:
                splits = sorted((one.n_prompts, one.n_rollouts) for one in seen)  # all those that the fit is of
                predictions.append(_prediction(target, group, metric, measured, splits, notes, confidence))
    return predictions


def _on_the_way(
    by_run: dict[str, NoiseSeries], observations: list[Observation], *, unit: str, metric: str
) -> tuple[list[Measurements], list[str]]:
    """What each run measured before it reached the target, and what was left out."""
    measured, unreached, unmeasured, unsplit = [], [], [], {}
    for seen in observations:
        run = by_run[seen.run]
        if not seen.is_reached:
            unreached.append(seen.run)
            continue
        is_before = (run.updates if unit == "update" else run.steps) <= (seen.by if seen.at is None else seen.at)
        if not is_before.any():
            unmeasured.append(seen.run)
            continue
        may_split = not run.why_no_split
        if not may_split:
            unsplit.setdefault(run.why_no_split, []).append(seen.run)
        found = Measurements(
            run=run.run,
            n_prompts=run.n_prompts,
            n_rollouts=run.n_rollouts,
            trace_cov=run.trace_cov[is_before],
            grad_sq=run.grad_sq[is_before],
            **{
                name: np.where(may_split, getattr(run, name)[is_before], math.nan)
                for name in ("v_prompt", "zeta1", "zeta2")
            },
        )
        if metric == "adam":
            found = in_adam_metric(found, run.adam_trace_cov[is_before], run.adam_grad_sq[is_before])
        if len(found.grad_sq):
            measured.append(found)
    notes = []
    if unreached:
        notes.append(f"{len(unreached)} run(s) that did not reach the target are not in it: {', '.join(unreached)}")
    if unmeasured:
        notes.append(f"{len(unmeasured)} run(s) measured no noise before the target: {', '.join(unmeasured)}")
    notes += [f"not decomposed, {why}: {', '.join(runs)}" for why, runs in unsplit.items() if metric == "gradient"]
    return measured, notes


def _prediction(
    target: float,
    group: str,
    metric: str,
    measured: list[Measurements],
    splits: list[tuple[int, int]],
    notes: list[str],
    confidence: float,
) -> Prediction:
    pool = NoisePool(measured, confidence=confidence)
    at = sorted(set(pool.moments.trace_cov) | (set(SPLIT_ROLLOUTS) if _has_split(pool.moments) else set()))
    alone = {one.run: NoisePool([one], confidence=confidence) for one in measured}
    return Prediction(
        target=target,
        group=group,
        metric=metric,
        confidence=confidence,
        runs=tuple(pool.runs),
        n_measurements=pool.n_measurements,
        n_effective=pool.n_effective,
        unit=pool.unit,
        moments=pool.moments,
        splits=frozenset(splits),
        noise=tuple(_noise_at(pool, R, sum(one.n_rollouts == R for one in measured)) for R in at),
        by_run={one.run: _times(_noise_at(alone[one.run], one.n_rollouts).prompts, one.n_rollouts) for one in measured},
        terms={
            name: _of_split(pool, lambda m, field=field: getattr(m, field) / m.grad_sq, symbol)
            for name, field, symbol in (
                ("alpha", "v_prompt", "V_prompt"),
                ("zeta1", "zeta1", "zeta1"),
                ("zeta2", "zeta2", "zeta2"),
            )
        },
        best_rollouts=_shifted(_of_split(pool, _best_rollouts_excess, "V_prompt or rollout noise", over=False)),
        critical_rollouts=_shifted(
            _of_split(
                pool,
                lambda m: _equal_noise_excess(m, m.v_prompt),
                "V_prompt, or rollout noise above it,",
                over=False,
            )
        ),
        rollout_cbs={
            P: _shifted(
                _of_split(
                    pool,
                    lambda m, P=P: _equal_noise_excess(m, m.v_prompt + P * m.grad_sq),
                    f"rollout noise at {P} prompts",
                )
            )
            for P in sorted({one.n_prompts for one in measured}, reverse=True)
        },
        as_fitted={steps: as_fitted_steps(pool, splits, steps) for steps in STEPS},
        notes=tuple(notes),
    )


def _noise_at(pool: NoisePool, n_rollouts: int, n_runs: int = 1) -> NoiseAt:
    prompts = pool.estimate(lambda m: trace_cov_at(m, n_rollouts) / m.grad_sq, f"the noise at R = {n_rollouts}")
    is_measured = n_rollouts in pool.moments.trace_cov
    return NoiseAt(n_rollouts, is_measured, prompts, _times(prompts, n_rollouts), n_runs)


def _has_split(moments: Moments) -> bool:
    return math.isfinite(moments.v_prompt)


def _of_split(pool: NoisePool, ratio: Callable[[Moments], float], what: str, *, over: bool = True) -> Pooled:
    if not _has_split(pool.moments):
        return Pooled(None, "no run told prompt noise and rollout noise apart")
    return pool.estimate(ratio, what, is_over_grad_sq=over)


def _best_rollouts_excess(moments: Moments) -> float:
    """R* - 1 = sqrt((2 zeta2 - 4 zeta1) / V_prompt), arXiv:2603.01162; NaN unless both are positive."""
    surplus = 2 * moments.zeta2 - 4 * moments.zeta1
    return math.sqrt(surplus / moments.v_prompt) if surplus > 0 and moments.v_prompt > 0 else math.nan


def _equal_noise_excess(moments: Moments, noise: float) -> float:
    """R - 1 at which V_rollout(R) = noise: with m = R - 1, noise m^2 + (noise - 4 zeta1) m = 2 zeta2 - 4 zeta1."""
    surplus = 2 * moments.zeta2 - 4 * moments.zeta1
    roots = np.roots([noise, noise - 4 * moments.zeta1, -surplus]) if noise > 0 else np.zeros(0)
    real = roots.real[np.isreal(roots)]
    return float(real.max()) if len(real) else math.nan


def _times(pooled: Pooled, factor: float) -> Pooled:
    if pooled.estimate is None:
        return pooled
    found = pooled.estimate
    return Pooled(Estimate(factor * found.value, factor * found.low, factor * found.high))


def _shifted(pooled: Pooled) -> Pooled:
    """1 + an excess: its logarithm is far closer to normal than that of the sum."""
    if pooled.estimate is None:
        return pooled
    found = pooled.estimate
    return Pooled(Estimate(1 + found.value, 1 + found.low, 1 + found.high))

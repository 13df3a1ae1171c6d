"""Branched training: the critical batch at one checkpoint, from what several batch sizes make of equally many rollouts.

Branches start from one state and differ in their batch. While a batch is below the critical one, nothing is lost by
doubling it: the same rollouts in half the updates lead as far, at a learning rate that grows with the batch
(arXiv:2505.23971). It needs no law and no target, which makes it a second look at what those say.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import scipy.stats

from rlvr_jax.analysis.controls import rate_in_use
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.series import is_number

TOLERANCE = 0.01  # of an error or a reward in [0, 1]: what a larger batch may lose
REWARD_SHARE = 0.25  # of a branch's rollouts, the last ones: one update's reward is too noisy
NOT_WORSE, WORSE, UNDECIDED = "not worse", "worse", "undecided"


@dataclass(frozen=True)
class Compared:
    """One batch size against the smaller ones that were not worse, or None for the smallest."""

    batch: int  # rollouts per update
    values: list[float]  # one per seed, lower is better
    difference: float | None
    low: float | None
    high: float | None
    verdict: str | None  # one of NOT_WORSE, WORSE, UNDECIDED


@dataclass(frozen=True)
class CriticalBatch:
    """It lies in (low, high): the largest batch that is not worse, and the smallest that is."""

    low: int | None  # None: no batch was shown to be as good as a smaller one
    high: int | None  # None: none was shown to be worse
    compared: list[Compared]  # by rising batch
    reason: str  # "": both ends are known; else what is not, and what would tell

    @property
    def is_resolved(self) -> bool:
        return not self.reason


def branched_critical_batch(
    values_by_batch: Mapping[int, Sequence[float]], *, tolerance: float = TOLERANCE, confidence: float = 0.9
) -> CriticalBatch:
    """Between which batch sizes the critical one lies, from errors after equally many rollouts.

        d_k = mean(batch k) - mean(all seeds of the smallest and of those smaller than k that were not worse)
        d_k +- t s sqrt(1/n_k + 1/n_smaller),   s^2 = seeds' variance within batches, pooled

    A batch is worse if all of the interval lies above the tolerance, not worse if none does. Smaller ones are averaged,
    since the best of several would be the luckiest.

    Args:
        values_by_batch: rollouts per update -> one error per seed, lower is better.
        tolerance: in the unit of the errors.

    Raises:
        ValueError: a tolerance or confidence that means nothing, or a batch without a value.
    """
    if not tolerance >= 0 or not 0 < confidence < 1:
        raise ValueError(f"tolerance={tolerance} must be at least 0 and confidence={confidence} lie between 0 and 1")
    if empty := [batch for batch, values in values_by_batch.items() if not values]:
        raise ValueError(f"batch {empty[0]} has no value")
    batches = sorted(values_by_batch)
    n_free = sum(len(values) - 1 for values in values_by_batch.values())
    if len(batches) < 2:
        return CriticalBatch(None, None, [], "there is one batch size; branches with others would tell")
    if n_free == 0:
        return CriticalBatch(None, None, [], "every batch has one seed, so that chance is unknown; a second would tell")
    squares = sum(float(np.sum((np.array(v) - np.mean(v)) ** 2)) for v in values_by_batch.values())
    spread, t = math.sqrt(squares / n_free), scipy.stats.t.ppf((1 + confidence) / 2, n_free)
    smaller = list(values_by_batch[batches[0]])
    compared = [Compared(batches[0], smaller.copy(), None, None, None, None)]
    for batch in batches[1:]:
        values = list(values_by_batch[batch])
        difference = fmean(values) - fmean(smaller)
        half_width = float(t) * spread * math.sqrt(1 / len(values) + 1 / len(smaller))
        low, high = difference - half_width, difference + half_width
        verdict = WORSE if low > tolerance else NOT_WORSE if high <= tolerance else UNDECIDED
        if verdict == NOT_WORSE:
            smaller += values
        compared.append(Compared(batch, values, difference, low, high, verdict))
    return _between(compared)


def _between(compared: list[Compared]) -> CriticalBatch:
    high = min((one.batch for one in compared if one.verdict == WORSE), default=None)
    below = [one for one in compared if high is None or one.batch < high]
    low = max((one.batch for one in below if one.verdict == NOT_WORSE), default=None)
    reasons = []
    if low is None:
        undecided = any(one.verdict == UNDECIDED for one in below)
        reasons.append(
            "no batch was shown to be as good as a smaller one; "
            + ("more seeds would tell" if undecided else "smaller batches would tell")
        )
    if high is None:
        undecided = compared[-1].verdict == UNDECIDED
        reasons.append(
            "no batch was shown to be worse than smaller ones; "
            + ("more seeds would tell" if undecided else "larger batches would tell")
        )
    if high is not None and any(one.batch > high and one.verdict == NOT_WORSE for one in compared):
        reasons.append(
            f"a batch larger than {high} was not worse, which no critical batch explains; more seeds would tell"
        )
    return CriticalBatch(low, high, compared, "; ".join(reasons))


@dataclass(frozen=True)
class BranchStudy:
    """Branches of one checkpoint under one learning-rate rule."""

    trunk: str  # the point it belongs to
    update: int  # of the trunk
    rule: str  # of learning rates
    rollouts: float  # of each branch: where they are compared
    rates: dict[int, float | None]  # by batch: the peak rate in use
    n_seeds: dict[int, int]  # by batch
    by_error: CriticalBatch  # 1 - the held-out metric that targets are read from
    by_reward: CriticalBatch  # 1 - the mean training reward over the last quarter of the rollouts


def branch_studies(
    records: Sequence[RunRecord], *, tolerance: float = TOLERANCE, confidence: float = 0.9, notes: list[str]
) -> list[BranchStudy]:
    """One per checkpoint and learning-rate rule that finished runs branched off; [] where none did.

    Of a grid of rates each batch has the one with the least error, which favours a batch that has more of them.
    Branches are compared at the largest number of rollouts at which all of them were evaluated.

    Args:
        notes: told in sentences what was left out and why.
    """
    groups = defaultdict(list)
    for record in records:
        trunk = record.run.get("trunk")
        if not isinstance(trunk, dict):
            continue
        if not record.is_finished:
            notes.append(f"{record.point} is a branch that is not finished and is not compared.")
            continue
        key = (trunk.get("params"), record.config.get("optimizer.lr_rule"), record.config["task.name"])
        groups[key].append(record)
    studies = []
    for branches in groups.values():
        shared = set.intersection(*({*_errors(record)} for record in branches)) - {0.0}
        trunk = branches[0].run["trunk"]
        if not shared:
            notes.append(
                f"The branches of {trunk.get('point')} were never evaluated after equally many rollouts and are not "
                "compared; choose n_updates and eval.every_updates so that they are."
            )
            continue
        studies.append(_compared_at(max(shared), branches, tolerance, confidence))
    return studies


def _compared_at(rollouts: float, branches: list[RunRecord], tolerance: float, confidence: float) -> BranchStudy:
    by_rate = defaultdict(lambda: defaultdict(list))
    for record in branches:
        by_rate[record.minibatch_prompts * record.n_rollouts][rate_in_use(record)].append(record)

    def mean_error(runs: list[RunRecord]) -> float:
        return fmean(_errors(record)[rollouts] for record in runs)

    by_batch = {batch: min(rates.values(), key=mean_error) for batch, rates in sorted(by_rate.items())}  # of a grid
    errors = {batch: [_errors(record)[rollouts] for record in runs] for batch, runs in by_batch.items()}
    missed = {batch: [1.0 - _late_reward(record, rollouts) for record in runs] for batch, runs in by_batch.items()}
    told = {batch: [value for value in values if math.isfinite(value)] for batch, values in missed.items()}
    limits = {"tolerance": tolerance, "confidence": confidence}
    first = branches[0]
    return BranchStudy(
        trunk=str(first.run["trunk"].get("point")),
        update=int(first.run["trunk"].get("update", 0)),
        rule=str(first.config.get("optimizer.lr_rule", "constant")),
        rollouts=rollouts,
        rates={batch: rate_in_use(runs[0]) for batch, runs in by_batch.items()},
        n_seeds={batch: len(runs) for batch, runs in by_batch.items()},
        by_error=branched_critical_batch(errors, **limits),
        by_reward=branched_critical_batch({batch: values for batch, values in told.items() if values}, **limits),
    )


def _errors(record: RunRecord) -> dict[float, float]:
    """Rollouts since the branch began -> held-out error."""
    pairs = ((row.get("rollouts"), row.get(record.target_name)) for row in record.evals)
    return {float(drawn): 1.0 - value for drawn, value in pairs if is_number(drawn) and is_number(value)}


def _late_reward(record: RunRecord, rollouts: float) -> float:
    """Mean training reward over the last rollouts up to `rollouts`; NaN where there is none."""
    series = record.series("rollouts", "reward/mean")
    drawn, reward = series["rollouts"], series["reward/mean"]
    is_late = (drawn > (1 - REWARD_SHARE) * rollouts) & (drawn <= rollouts) & np.isfinite(reward)
    return float(reward[is_late].mean()) if is_late.any() else math.nan

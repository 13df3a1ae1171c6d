"""One batch size split in different ways: times to a target, and which splits differ beyond seed spread."""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass

import scipy.stats

from rlvr_jax.analysis.law_words import UNIT_NAMES, number_text
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.seeds import resolved_orders


@dataclass(frozen=True)
class SplitTime:
    """One split's time to the target: a mean over the runs that got there, and its interval."""

    name: str  # "64 x 4"
    n_runs: int
    n_reached: int
    mean: float | None  # None: some run, or all, did not get there
    low: float | None  # None: fewer than two runs
    high: float | None
    at_least: float  # how far the run went that stopped first without getting there; 0: all got there

    @property
    def text(self) -> str:
        """ "61 [52, 70] (3 runs)", "61 (1 run)", "> 120 (0 of 3 runs got there)"."""
        if self.mean is None:
            return f"> {number_text(self.at_least)} ({self.n_reached} of {self.n_runs} runs got there)"
        interval = "" if self.low is None else f" [{number_text(self.low)}, {number_text(self.high)}]"
        return f"{number_text(self.mean)}{interval} ({self.n_runs} run{'s' * (self.n_runs > 1)})"


@dataclass(frozen=True)
class IsoBatch:
    """Splits of one batch size P R, by falling P, at one target."""

    batch: int
    group: str
    target: float
    times: list[SplitTime]
    orders: list[str]  # sentences: Tukey over all pairs of splits

    @property
    def rows(self) -> list[tuple[str, str]]:
        return [(time.name, time.text) for time in self.times]


def iso_batches(observations: list[Observation], *, unit: str, confidence: float) -> list[IsoBatch]:
    """Every batch size that was run in two splits or more, at every target.

    Intervals are Student's over seeds. Splits of which some run did not get there have no mean, and are not ordered.
    """
    by_batch: dict[tuple, dict[tuple, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for seen in observations:
        by_batch[seen.group, seen.batch, seen.target][-seen.n_prompts, seen.n_rollouts].append(seen)
    return [
        IsoBatch(
            batch,
            group,
            target,
            [_time(f"{-P} x {R}", splits[P, R], confidence) for P, R in sorted(splits)],
            _orders(splits, unit),
        )
        for (group, batch, target), splits in sorted(by_batch.items())
        if len(splits) > 1
    ]


def _time(name: str, seen: list[Observation], confidence: float) -> SplitTime:
    reached = [one.at for one in seen if one.at is not None]
    missed = [one.after for one in seen if one.at is None]
    if missed:
        return SplitTime(name, len(seen), len(reached), None, None, None, min(missed))
    mean = statistics.fmean(reached)
    if len(reached) < 2:
        return SplitTime(name, len(seen), len(reached), mean, None, None, 0.0)
    error = statistics.stdev(reached) / math.sqrt(len(reached))
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(reached) - 1)) * error
    return SplitTime(name, len(seen), len(reached), mean, max(0.0, mean - half), mean + half, 0.0)


def _orders(splits: dict[tuple, list[Observation]], unit: str) -> list[str]:
    times = {
        f"{-P} x {R}": [-one.at for one in splits[P, R]]  # the sooner the better
        for P, R in sorted(splits)
        if all(one.at is not None for one in splits[P, R])
    }
    orders, sentence = resolved_orders(times)
    left_out = len(splits) - len(times)
    if left_out:
        sentence += f"; {left_out} split(s) with runs that did not get there are not compared"
    return [
        f"{sentence}.",
        *(
            f"{order.better} before {order.worse} by {number_text(order.difference)} {UNIT_NAMES[unit]} "
            f"[{number_text(order.low)}, {number_text(order.high)}]."
            for order in orders
        ),
    ]

"""A study as one row per run and one row per point."""

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rlvr_jax.analysis.controls import rate_in_use
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.seeds import Ratio, ratio_of_averages
from rlvr_jax.analysis.series import is_number
from rlvr_jax.analysis.targets import Crossing, Evaluations, evaluations


@dataclass(frozen=True)
class RunSummary:
    """What one run came to. A run that is not finished has its accuracy so far."""

    record: RunRecord
    start_accuracy: float | None  # None: the row of update 0 is missing
    final_accuracy: float
    mean_accuracy: float  # area under the accuracy curve per update: rewards speed, and needs no target
    crossings: list[Crossing]
    final_evaluation: dict[str, float]  # by the name's last part, such as "pass@4"
    trace_cov: list[float]  # measured S over training
    grad_sq: list[float]  # measured |G|^2
    evaluated: Evaluations  # what crossings were read from

    def rollouts_to(self, index: int) -> float | None:
        """Rollouts drawn until target number `index`."""
        updates = self.crossings[index].updates
        return None if updates is None else self.evaluated.rollouts_at(updates)

    def steps_to(self, index: int) -> float | None:
        """Collections until target number `index`."""
        updates = self.crossings[index].updates
        return None if updates is None else self.evaluated.steps_at(updates)


@dataclass(frozen=True)
class PointSummary:
    """All seeds of one split."""

    name: str  # "128 x 2"
    n_prompts: int
    n_rollouts: int
    runs: list[RunSummary]  # by seed; some may not be finished
    group: str = ""  # of controls

    @property
    def finished(self) -> list[RunSummary]:
        """Only these have a final accuracy; targets are read from all."""
        return [run for run in self.runs if run.record.is_finished]

    @property
    def seeds_text(self) -> str:
        """ "3", "2 + 1 unfinished", "1 unfinished"."""
        n_finished = len(self.finished)
        n_others = len(self.runs) - n_finished
        counts = [f"{n_finished}"] * (n_finished > 0 or not n_others) + [f"{n_others} unfinished"] * (n_others > 0)
        return " + ".join(counts)

    @property
    def noise_to_signal(self) -> Ratio:
        """S / (|G|^2 n_prompts), averages over all measurements of all seeds.

        Measurements of one run follow each other and are alike, so with 3 seeds or more the
        interval leaves out whole runs.
        """
        runs = [run for run in self.finished or self.runs if run.trace_cov]
        if len(runs) >= 3:
            S, G2 = [fmean(run.trace_cov) for run in runs], [fmean(run.grad_sq) for run in runs]
        else:
            S, G2 = [s for run in runs for s in run.trace_cov], [g for run in runs for g in run.grad_sq]
        return ratio_of_averages([s / self.n_prompts for s in S], G2)


def summarise_run(
    record: RunRecord, targets: tuple[float, ...], *, smooth: int = 1, last_update: float | None = None
) -> RunSummary | None:
    """None for a run without any evaluation after its start.

    Args:
        smooth: evaluations that targets are looked for in the trailing mean of.
        last_update: what is final is read at the last evaluation up to it; None: of all.
    """
    evaluated = evaluations(record, smooth=smooth)
    plain = evaluations(record, last_update=last_update)
    if not plain.updates or plain.updates[-1] == 0:
        return None
    final = next(row for row in reversed(record.evals) if row["update"] == plain.updates[-1])
    noise = record.series("gns/trace_cov", "gns/grad_sq")
    pairs = zip(noise["gns/trace_cov"].tolist(), noise["gns/grad_sq"].tolist(), strict=True)
    measured = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return RunSummary(
        record=record,
        start_accuracy=plain.accuracies[0] if plain.updates[0] == 0 else None,
        final_accuracy=plain.accuracies[-1],
        mean_accuracy=_area_per_update(plain.updates, plain.accuracies),
        crossings=[evaluated.crossing(target) for target in targets],
        final_evaluation={
            name.split("/", 2)[2]: float(value)
            if is_number(value)
            else math.nan  # "pass@1", "algebra/pass@1" of a category
            for name, value in final.items()
            if name.startswith("eval/") and name.count("/") >= 2
        },
        trace_cov=[trace_cov for trace_cov, _ in measured],
        grad_sq=[grad_sq for _, grad_sq in measured],
        evaluated=evaluated,
    )


def _area_per_update(updates: list[float], accuracies: list[float]) -> float:
    """By trapezoids, so that evaluations need not be evenly spaced."""
    if len(updates) == 1:
        return accuracies[0]
    points = list(zip(updates, accuracies, strict=True))
    area = sum((a + b) / 2 * (v - u) for (u, a), (v, b) in itertools.pairwise(points))
    return area / (updates[-1] - updates[0])


def summarise_points(summaries: list[RunSummary], group_of: dict[Path, str]) -> list[PointSummary]:
    """Points by group and falling n_prompts; runs that differ only in their seed are one point."""
    by_point: dict[tuple, list[RunSummary]] = defaultdict(list)
    for summary in summaries:
        by_point[point_key(summary.record, group_of)].append(summary)
    splits = Counter((group, n_prompts, n_rollouts) for group, n_prompts, n_rollouts, *_ in by_point)
    points = []
    for (group, n_prompts, n_rollouts, minibatch_prompts, rate), runs in by_point.items():
        name = f"{n_prompts} x {n_rollouts}"
        if splits[group, n_prompts, n_rollouts] > 1:  # say which of them it is
            of_rate = "" if rate is None else f", rate {rate:g}"
            name += f" (minibatch {minibatch_prompts}{of_rate})" if rate is None else f" (rate {rate:g})"
        if group:
            name += f" [{group}]"
        points.append(PointSummary(name, n_prompts, n_rollouts, sorted(runs, key=lambda run: run.record.seed), group))
    return sorted(points, key=lambda point: (point.group, -point.n_prompts, point.n_rollouts, point.name))


def point_key(record: RunRecord, group_of: dict[Path, str]) -> tuple:
    """What the seeds of a point share."""
    rate = rate_in_use(record) if record.config["optimizer.lr_rule"] == "grid" else None
    return group_of[record.folder], record.n_prompts, record.n_rollouts, record.minibatch_prompts, rate


def mean_and_spread(values: list[float]) -> str:
    """ "0.873 ± 0.012": mean and standard deviation over seeds; one value stands alone, none is "-"."""
    if not values:
        return "-"
    if not all(math.isfinite(value) for value in values):
        return "unknown"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def updates_to_target(point: PointSummary, index: int) -> str:
    """ "61 ± 4", "61 (2 of 3)" when some seeds did not get there, "> 120" when none did."""
    crossings = [run.crossings[index] for run in point.runs]
    reached = [crossing.updates for crossing in crossings if crossing.updates is not None]
    if not reached:
        return f"> {min(crossing.after for crossing in crossings):.0f}"
    if len(reached) < len(crossings):
        return f"{fmean(reached):.0f} ({len(reached)} of {len(crossings)})"
    spread = f" ± {statistics.stdev(reached):.0f}" if len(reached) > 1 else ""
    return f"{fmean(reached):.0f}{spread}"


def samples_to_target(point: PointSummary, index: int) -> str:
    """Mean rollouts drawn until the target: "9936", "9936 (2 of 3)", "-", as `updates_to_target`."""
    return _counted(point, lambda run: run.rollouts_to(index))


def steps_to_target(point: PointSummary, index: int) -> str:
    """Mean collections until the target, as `samples_to_target`."""
    return _counted(point, lambda run: run.steps_to(index))


def _counted(point: PointSummary, count: Callable[[RunSummary], float | None]) -> str:
    reached = [value for run in point.runs if (value := count(run)) is not None]
    if not reached:
        return "-"
    return f"{fmean(reached):.0f}" + (
        f" ({len(reached)} of {len(point.runs)})" if len(reached) < len(point.runs) else ""
    )

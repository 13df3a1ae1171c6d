"""A study as one row per run and one row per point."""

import itertools
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlvr_jax.analysis.read_runs import RunRecord, column
from rlvr_jax.analysis.seeds import Ratio, ratio_of_averages
from rlvr_jax.analysis.targets import Crossing, first_crossing


@dataclass(frozen=True)
class RunSummary:
    """What one run came to."""

    record: RunRecord
    start_accuracy: float | None  # None: the row of update 0 is missing
    final_accuracy: float
    mean_accuracy: float  # area under the accuracy curve per update: rewards speed, and needs no target
    crossings: list[Crossing]
    final_evaluation: dict[str, float]  # by the name's last part, such as "pass@4"
    trace_cov: list[float]  # measured S over training
    grad_sq: list[float]  # measured |G|^2


@dataclass(frozen=True)
class PointSummary:
    """All seeds of one split."""

    name: str  # "128 x 2"
    n_prompts: int
    n_rollouts: int
    runs: list[RunSummary]

    @property
    def noise_to_signal(self) -> Ratio:
        """S / (|G|^2 n_prompts), averages over all measurements of all seeds.

        Measurements of one run follow each other and are alike, so with 3 seeds or more the
        interval leaves out whole runs.
        """
        runs = [run for run in self.runs if run.trace_cov]
        if len(runs) >= 3:
            S, G2 = [fmean(run.trace_cov) for run in runs], [fmean(run.grad_sq) for run in runs]
        else:
            S, G2 = [s for run in runs for s in run.trace_cov], [g for run in runs for g in run.grad_sq]
        return ratio_of_averages([s / self.n_prompts for s in S], G2)


def summarise_run(record: RunRecord) -> RunSummary | None:
    """None for a run without any evaluation after its start."""
    evals = [row for row in record.evals if row.get(record.target_name) is not None]
    updates, accuracies = column(evals, record.target_name)
    if not updates or updates[-1] == 0:
        return None
    measured = [
        row for row in record.metrics if row.get("gns/trace_cov") is not None and row.get("gns/grad_sq") is not None
    ]
    return RunSummary(
        record=record,
        start_accuracy=accuracies[0] if updates[0] == 0 else None,
        final_accuracy=accuracies[-1],
        mean_accuracy=_area_per_update(updates, accuracies),
        crossings=[first_crossing(updates, accuracies, target) for target in record.config["eval.targets"]],
        final_evaluation={
            name.split("/", 2)[2]: math.nan if value is None else value  # "pass@1", "algebra/pass@1" of a category
            for name, value in evals[-1].items()
            if name.startswith("eval/")
        },
        trace_cov=[row["gns/trace_cov"] for row in measured],
        grad_sq=[row["gns/grad_sq"] for row in measured],
    )


def _area_per_update(updates: list[float], accuracies: list[float]) -> float:
    """By trapezoids, so that evaluations need not be evenly spaced."""
    if len(updates) == 1:
        return accuracies[0]
    points = list(zip(updates, accuracies, strict=True))
    area = sum((a + b) / 2 * (v - u) for (u, a), (v, b) in itertools.pairwise(points))
    return area / (updates[-1] - updates[0])


def summarise_points(records: list[RunRecord]) -> list[PointSummary]:
    """Points by falling n_prompts; runs that differ only in their seed are one point.

    Raises ValueError when two folders hold the same point and seed: they are one run, not two seeds.
    """
    by_point: dict[tuple, list[RunSummary]] = defaultdict(list)
    for record in records:
        summary = summarise_run(record)
        if summary is not None:
            by_point[_settings_but_seed(record)].append(summary)
    splits = [(key[0], key[1]) for key in by_point]
    points = []
    for key, runs in by_point.items():
        runs = sorted(runs, key=lambda run: run.record.seed)
        for first, second in itertools.pairwise(runs):
            if first.record.seed == second.record.seed:
                raise ValueError(
                    f"{first.record.folder} and {second.record.folder} hold the same point and seed; report one of them"
                )
        name = f"{key[0]} x {key[1]}"
        if splits.count(key[:2]) > 1:  # other settings differ too: say which run it is
            name += f" ({runs[0].record.folder})"
        points.append(PointSummary(name, key[0], key[1], runs))
    return sorted(points, key=lambda point: (-point.n_prompts, point.n_rollouts, point.name))


def _settings_but_seed(record: RunRecord) -> tuple[Any, ...]:
    rest = {name: value for name, value in record.config.items() if name not in ("seed", "point")}
    return record.n_prompts, record.n_rollouts, str(sorted(rest.items()))


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
    reached = [
        run.crossings[index].updates * run.record.plan["rollouts_per_step"] / run.record.plan["updates_per_step"]
        for run in point.runs
        if run.crossings[index].updates is not None
    ]
    if not reached:
        return "-"
    return f"{fmean(reached):.0f}" + (
        f" ({len(reached)} of {len(point.runs)})" if len(reached) < len(point.runs) else ""
    )

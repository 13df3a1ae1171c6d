"""The tables of a study's page, as cells of text."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rlvr_jax.analysis.controls import rate_in_use
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.study import Study
from rlvr_jax.analysis.summary import (
    PointSummary,
    RunSummary,
    mean_and_spread,
    samples_to_target,
    steps_to_target,
    updates_to_target,
)
from rlvr_jax.analysis.targets import Crossing

_WITHOUT_EFFECT = ("study", "point", "seed")


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of a row names it."""

    columns: list[str]
    rows: list[list[str]]


def points_table(study: Study) -> Table:
    """One row per point: all its seeds together."""
    targets = list(enumerate(study.targets))
    parts = list(dict.fromkeys(part for point in study.points for run in point.runs for part in run.final_evaluation))
    parts = [part for part in parts if "/" not in part and not part.endswith("_se") and part != "ungraded_frac"]
    has_steps = any(record.updates_per_step > 1 for record in study.records)
    columns = ["prompts x rollouts", "rollouts per update", "learning rate", "seeds", "start"]
    columns += [f"updates to {target:g}" for _, target in targets]
    columns += [f"steps to {target:g}" for _, target in targets if has_steps]
    columns += [f"rollouts to {target:g}" for _, target in targets]
    columns += [f"final {part}" for part in parts] + ["noise-to-signal"]
    return Table(columns, [_point_row(point, targets, parts, has_steps=has_steps) for point in study.points])


def _point_row(
    point: PointSummary, targets: list[tuple[int, float]], parts: list[str], *, has_steps: bool
) -> list[str]:
    record = point.runs[0].record
    rate = rate_in_use(record)
    of_seeds = ", ".join(str(run.record.seed) for run in point.runs)
    row = [point.name, f"{record.minibatch_prompts * point.n_rollouts}", "-" if rate is None else f"{rate:g}"]
    row += [f"{point.seeds_text} ({of_seeds})"]
    row += [mean_and_spread([run.start_accuracy for run in point.runs if run.start_accuracy is not None])]
    row += [updates_to_target(point, index) for index, _ in targets]
    row += [steps_to_target(point, index) for index, _ in targets if has_steps]
    row += [samples_to_target(point, index) for index, _ in targets]
    for part in parts:
        row.append(
            mean_and_spread([run.final_evaluation[part] for run in point.finished if part in run.final_evaluation])
        )
    return [*row, _noise_text(point)]


def _noise_text(point: PointSummary) -> str:
    if not any(run.trace_cov for run in point.runs):
        return "not measured"
    ratio = point.noise_to_signal
    return "unresolved" if ratio.value is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def runs_table(study: Study) -> Table:
    """One row per run, with the evaluations between which it reached each target."""
    columns = ["run", "point", "seed", "status", "updates", "rollouts", "time", "start", "final"]
    columns += [f"updates to {target:g}" for target in study.targets] + ["folder"]
    return Table(columns, [_run_row(point, run) for point in study.points for run in point.runs])


def _run_row(point: PointSummary, run: RunSummary) -> list[str]:
    record, last = run.record, run.record.evals[-1]
    start = "-" if run.start_accuracy is None else f"{run.start_accuracy:.3f}"
    return [
        record.point, point.name, str(record.seed), record.status, _count(last.get("update")),
        _count(last.get("rollouts")), _time(last.get("seconds")), start, f"{run.final_accuracy:.3f}",
        *map(_crossing, run.crossings), str(record.folder),
    ]  # fmt: skip


def _crossing(crossing: Crossing) -> str:
    """ "36.2 (30, 40]": interpolated, and the evaluations that it lies between."""
    if crossing.updates is None:
        return "-" if crossing.after is None else f"not by {crossing.after:g}"
    if crossing.after is None:
        return f"at {crossing.updates:g} already"
    return f"{crossing.updates:.1f} ({crossing.after:g}, {crossing.by:g}]"


def _count(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, (int, float)) and math.isfinite(value) else "-"


def _time(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def settings_tables(study: Study) -> tuple[Table, Table]:
    """(settings that differ between runs, with how many runs have each value; settings that all runs share)."""
    names = sorted({name for record in study.records for name in record.config if name not in _WITHOUT_EFFECT})
    differing, shared = [], []
    for name in names:
        values = Counter(_setting(record, name) for record in study.records)
        if len(values) > 1:
            differing.append([name, ", ".join(f"{value} ({n})" for value, n in _in_order(values))])
        else:
            shared.append([name, next(iter(values))])
    return Table(["setting", "values (runs)"], differing), Table(["setting", "value"], shared)


def _setting(record: RunRecord, name: str) -> str:
    return str(record.config[name]) if name in record.config else "not recorded"


def _in_order(values: Counter[str]) -> list[tuple[str, int]]:
    """Numbers by size, before words."""

    def key(item: tuple[str, int]) -> tuple[bool, float, str]:
        try:
            return False, float(item[0]), item[0]
        except ValueError:
            return True, 0.0, item[0]

    return sorted(values.items(), key=key)


def facts_table(study: Study) -> Table:
    """What made the runs: code, versions, machines, data; with the number of runs where they disagree."""
    facts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in study.records:
        for name, value in _facts(record.run):
            facts[name][value] += 1
    n_runs = len(study.records)
    return Table(
        ["of the runs", "recorded"],
        [
            [name, ", ".join(v if n == n_runs else f"{v} ({n} of {n_runs} runs)" for v, n in values.most_common())]
            for name, values in facts.items()
        ],
    )


def _facts(run: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Names and texts; what an older version did not record is left out."""
    titles = {"git_revision": "git revision", "starting_params": "starting parameters", "task_data": "data"}
    for name, title in titles.items():
        if run.get(name):
            yield title, str(run[name])
    devices = run.get("devices")
    if isinstance(devices, dict):
        yield "devices", f"{devices.get('n', '?')} x {devices.get('kind', 'unknown')} ({devices.get('platform', '?')})"
    plan = run.get("plan")
    if isinstance(plan, dict) and plan.get("n_parameters"):
        yield "parameters", f"{plan['n_parameters']:,}"
    versions = run.get("versions")
    if isinstance(versions, dict):
        yield from ((str(name), str(version)) for name, version in versions.items())

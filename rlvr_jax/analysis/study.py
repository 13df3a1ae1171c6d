"""Run directories as one study: what the report, its page and the notebook read."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rlvr_jax.analysis.controls import controls, some
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.read_runs import METRICS_FILE, RunRecord, find_runs
from rlvr_jax.analysis.run_observations import all_targets, of_one_estimator, run_observations
from rlvr_jax.analysis.summary import PointSummary, RunSummary, point_key, summarise_points, summarise_run
from rlvr_jax.analysis.targets import evaluations

_NOISE = ("trace_cov", "grad_sq", "b_noise_prompts", "prompt_var", "zeta1", "zeta2", "adam/trace_cov", "adam/grad_sq")
NOISE_COLUMNS = tuple(f"gns/{name}" for name in _NOISE)  # what is kept of metrics.jsonl


@dataclass(frozen=True)
class Study:
    """Every run that counts, its points, and what was left out and why.

    `unit` is "update" (the batch is a minibatch) or "step" (it is a collection); accuracies are trailing means of
    `smooth` evaluations where targets are looked for (1: as evaluated).
    """

    name: str
    records: list[RunRecord]  # those never evaluated after their start, and those not finished, among them
    points: list[PointSummary]  # of evaluated runs, from many prompts to few; may be empty
    targets: tuple[float, ...]  # rising
    observations: list[Observation]  # what the law is fitted to: runs of one gradient estimator
    notes: list[str]  # sentences
    unit: str = "update"
    smooth: int = 1
    group_of: dict[Path, str] = field(default_factory=dict)  # a run's folder -> settings it was grouped by, "" if one
    final_update: float | None = None  # runs of several lengths: final accuracies are those at this update
    columns: tuple[str, ...] = ()  # of all metrics.jsonl
    other_observations: list[Observation] = field(default_factory=list)  # one rollout per prompt, another baseline

    @property
    def groups(self) -> list[str]:
        """Groups of controls, each with a law of its own."""
        return list(dict.fromkeys(self.group_of[record.folder] for record in self.records))


def read_study(paths: list[Path], *, unit: str = "update", smooth: int = 1) -> Study:
    """The study, or the several ones, that the run directories at or below `paths` hold.

    Each metrics.jsonl is read once from end to end; only its noise columns are kept.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: no run can be read, runs cannot share a table, or no run has a row yet.
    """
    notes: list[str] = []
    found = find_runs(paths, notes=notes)
    compared = controls(found)
    records = _each_once(found, compared.group_of, notes)
    notes += controls(records).notes  # without the copies that were left out
    columns: dict[str, None] = {}
    for record in records:
        columns |= record.scan(*NOISE_COLUMNS)
    _note_noise(records, notes)
    notes += _grouped([(record, note) for record in records for note in record.notes])
    targets = all_targets(records)
    observations = run_observations(records, unit=unit, smooth=smooth, group_of=compared.group_of, notes=notes)
    observations, other_observations = of_one_estimator(observations, records)
    last_update = _shared_length(records, notes)
    summaries, of_runs = [], []
    for record in records:
        summary = summarise_run(record, targets, smooth=smooth, last_update=last_update)
        of_runs += [(record, note) for note in _evaluation_notes(record, summary)]
        if summary is not None:
            summaries.append(summary)
    notes += _grouped(of_runs)
    if not summaries and not columns:
        raise ValueError(
            f"none of the {len(records)} run(s) has been evaluated after its start or has a row of metrics yet; "
            "run bin/train again to go on"
        )
    _note_unfinished(records, notes)
    _note_reuse(records, notes)
    _note_targets(records, targets, notes)
    return Study(
        name=", ".join(sorted({record.study for record in records})),
        records=records,
        points=summarise_points(summaries, compared.group_of),
        targets=targets,
        observations=observations,
        notes=notes,
        unit=unit,
        smooth=smooth,
        group_of={record.folder: compared.group_of[record.folder] for record in records},
        final_update=last_update,
        columns=tuple(columns),
        other_observations=other_observations,
    )


def _each_once(records: list[RunRecord], group_of: dict[Path, str], notes: list[str]) -> list[RunRecord]:
    """Of runs with the same point and seed the one that is finished or went furthest: they are no two seeds."""
    alike = defaultdict(list)
    for record in records:
        alike[*point_key(record, group_of), record.config["batch.epochs_per_buffer"], record.seed].append(record)
    kept, repeated = set(), []
    for copies in alike.values():
        best = max(copies, key=lambda record: (record.is_finished, _length(record)))
        kept.add(best.folder)
        others = ", ".join(str(record.folder) for record in copies if record is not best)
        if others:
            repeated.append((best, f"The point and seed of {best.folder} are also in {others}"))
    if repeated:
        more = f"; likewise {some([best.point for best, _ in repeated[1:]])}" if len(repeated) > 1 else ""
        notes.append(f"{repeated[0][1]}: one run repeated, counted once{more}.")
    return [record for record in records if record.folder in kept]


def _length(record: RunRecord) -> float:
    return max(evaluations(record).updates, default=-1.0)


def _shared_length(records: list[RunRecord], notes: list[str]) -> float | None:
    """Where the finished runs are of several lengths, the last update that all of them were evaluated at or after."""
    lengths = sorted({_length(record) for record in records if record.is_finished and _length(record) > 0})
    if len(lengths) < 2:
        return None
    if all("trunk" in record.run for record in records):
        notes.append(
            f"The branches are of different lengths ({', '.join(f'{length:g}' for length in lengths)} updates): what "
            "is called final is each one's last evaluation."
        )
        return None
    notes.append(
        f"The finished runs are of different lengths ({', '.join(f'{length:g}' for length in lengths)} updates): what "
        f"is called final, and the mean over training, are those of the first {lengths[0]:g} updates."
    )
    return lengths[0]


def _grouped(notes: list[tuple[RunRecord, str]]) -> list[str]:
    """Notes on single runs, those that are alike as one."""
    alike: dict[str, list[tuple[RunRecord, str]]] = defaultdict(list)
    for record, note in notes:
        kind = note.replace(f"{record.folder}{os.sep}", "").replace(str(record.folder), "each")
        alike[kind].append((record, note))
    return [
        of_kind[0][1]
        if len(of_kind) == 1
        else f"{len(of_kind)} runs ({some([record.point for record, _ in of_kind])}): {kind}"
        for kind, of_kind in alike.items()
    ]


def _note_noise(records: list[RunRecord], notes: list[str]) -> None:
    """Runs that nothing can be predicted from; call after `scan`."""
    without: dict[str, list[str]] = defaultdict(list)
    for record in records:
        path = record.folder / METRICS_FILE
        if not path.exists():
            without[f"no {METRICS_FILE}"].append(record.point)
        elif path.stat().st_size == 0:
            without[f"an empty {METRICS_FILE}"].append(record.point)
        elif not len(record.series("gns/trace_cov").updates):
            without[f"no measurement of gradient noise (gns/trace_cov) in {METRICS_FILE}"].append(record.point)
    notes += [
        f"{len(points)} run(s) ({some(points)}) have {what}: nothing is predicted from them."
        for what, points in without.items()
    ]


def _evaluation_notes(record: RunRecord, summary: RunSummary | None) -> list[str]:
    if summary is None:
        after = "only before training" if any(row["update"] == 0 for row in record.evals) else "nowhere"
        return [f"{record.folder} was evaluated {after}: it has no accuracy to report and no target."]
    notes = []
    n_skipped = summary.evaluated.n_skipped
    if n_skipped:
        notes.append(
            f"{n_skipped} of {len(record.evals)} evaluation(s) of {record.folder} have no number under "
            f"{record.target_name}, or are out of order, and are skipped: its times are known less well."
        )
    if summary.start_accuracy is None and any(c.after is None for c in summary.crossings):
        notes.append(
            f"{record.folder} was not evaluated before training: a target it was at first is only known as early."
        )
    return notes


def _note_unfinished(records: list[RunRecord], notes: list[str]) -> None:
    unfinished = [record for record in records if not record.is_finished]
    if unfinished:
        states = ", ".join(
            f"{record.point} ({record.status}, evaluated up to update {max(_length(record), 0):g})"
            for record in unfinished
        )
        notes.append(
            f"Not finished: {states}. Targets they reached count; at others they are runs that were not there yet at "
            "their last evaluation. They are left out of final accuracies and of orders."
        )


def _note_reuse(records: list[RunRecord], notes: list[str]) -> None:
    reused = sorted({(r.n_prompts, r.n_rollouts, r.updates_per_step) for r in records if r.updates_per_step > 1})
    if reused:
        texts = "; ".join(f"{p} x {r}: {n} updates per step" for p, r, n in reused)
        notes.append(
            f"Several updates per collection ({texts}): all but the first of them are off-policy, and an update's "
            "batch is a part of the collection. Steps and updates are not the same there."
        )


def _note_targets(records: list[RunRecord], targets: tuple[float, ...], notes: list[str]) -> None:
    if len({tuple(sorted(record.config["eval.targets"])) for record in records}) > 1:
        notes.append(f"The runs were given different targets; each is read at all of them: {_listed(targets)}.")
    if not targets:
        notes.append("The runs have no eval.targets: no law can be fitted.")


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)

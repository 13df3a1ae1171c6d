"""A study's numbers as CSV files."""

import csv
from pathlib import Path

from rlvr_jax.analysis.study import Study


def write_runs(study: Study, path: Path) -> None:
    """One row per evaluated run."""
    rows = []
    for point in study.points:
        for run in point.runs:
            record = run.record
            last = record.evals[-1]
            row = {
                "study": record.study, "point": record.point, "status": record.status, "seed": record.seed,
                "n_prompts": record.n_prompts, "n_rollouts": record.n_rollouts,
                "minibatch_prompts": record.minibatch_prompts, "updates_per_step": record.updates_per_step,
                "lr_rule": record.config["optimizer.lr_rule"], "group": point.group,
                "updates": last["update"], "rollouts": last.get("rollouts"), "seconds": last.get("seconds"),
                "start_accuracy": run.start_accuracy, "mean_accuracy": run.mean_accuracy,
            }  # fmt: skip
            for i, crossing in enumerate(run.crossings):
                name = f"{crossing.target:g}"
                row |= {f"updates_to_{name}": crossing.updates, f"updates_to_{name}_after": crossing.after}
                row |= {f"updates_to_{name}_by": crossing.by, f"steps_to_{name}": run.steps_to(i)}
                row |= {f"rollouts_to_{name}": run.rollouts_to(i)}
            rows.append(row | {f"final_{name}": value for name, value in run.final_evaluation.items()})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_metrics(study: Study, path: Path) -> None:
    """Every row of every run, streamed: the columns are known from the study's own pass."""
    columns = ["study", "point", *(name for name in study.columns if name not in ("study", "point"))]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        for record in study.records:
            own = [record.study, record.point]
            for row in record.rows():
                writer.writerow([*own, *map(row.get, columns[2:])])

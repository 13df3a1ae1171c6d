"""A study's report: the table, what can be said of it, the files."""

import csv
from pathlib import Path

from rlvr_jax.analysis.figures import gns_comparison, runs_comparison
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.seeds import Order, Ratio, resolved_orders
from rlvr_jax.analysis.summary import (
    PointSummary,
    mean_and_spread,
    samples_to_target,
    summarise_points,
    updates_to_target,
)  # fmt: skip

SUMMARY_FILE, RUNS_FILE, METRICS_FILE = (
    "comprehensive_summary.md",
    "summary_metrics.csv",
    "combined_training_metrics.csv",
)
CURVES_FILE, NOISE_FILE = "runs_comparison.png", "gns_comparison.png"


def write_report(records: list[RunRecord], folder: Path) -> str:
    """Writes the report's files into `folder` and returns its text.

    Raises ValueError when no run has been evaluated, or when the runs do not share targets.
    """
    points = summarise_points([record for record in records if record.status == "finished"])
    if not points:
        raise ValueError(f"none of the {len(records)} run(s) is finished yet; run bin/train again to go on")
    shared = [name for name in records[0].config if name == "n_updates" or name.startswith(("task.", "eval."))]
    for field in shared:
        found = sorted({str(record.config.get(field)) for record in records})
        if len(found) > 1:
            raise ValueError(
                f"the runs differ in {field} ({', '.join(found)}) and cannot share a table; report them apart"
            )
    folder.mkdir(parents=True, exist_ok=True)
    runs_comparison(points, folder / CURVES_FILE)
    gns_comparison(points, folder / NOISE_FILE)
    _write_runs(points, folder / RUNS_FILE)
    _write_metrics(records, folder / METRICS_FILE)
    text = report_text(records, points)
    (folder / SUMMARY_FILE).write_text(text + f"\n\n![curves]({CURVES_FILE})\n\n![noise]({NOISE_FILE})\n", "utf-8")
    return text


def report_text(records: list[RunRecord], points: list[PointSummary]) -> str:
    """The report as markdown that also reads well on a terminal."""
    config = records[0].config
    metric = config["eval.target_metric"]
    unfinished = [record.point for record in records if record.status != "finished"]
    lines = [
        f"# {', '.join(sorted({record.study for record in records}))}",
        "",
        f"Held-out {metric} on task {config['task.name']}, {config['eval.n_problems'] or 'all'} problems, "
        f"evaluated every {config['eval.every_updates']} updates. "
        "Mean ± standard deviation over seeds. Updates to target are interpolated between evaluations. "
        "Noise-to-signal is a ratio of averages over training, its 95% interval a jackknife over seeds "
        "(over measurements with fewer than 3 seeds, which is too narrow if they are alike).",
        "",
        *_table(points, config),
        "",
        *_orders("mean accuracy over training (speed)", {p.name: [r.mean_accuracy for r in p.runs] for p in points}),
        "",
        *_orders("final accuracy", {p.name: [r.final_accuracy for r in p.runs] for p in points}),
    ]
    if unfinished:
        lines += ["", f"Not finished, and left out: {', '.join(unfinished)}."]
    return "\n".join(lines)


def _table(points: list[PointSummary], config: dict) -> list[str]:
    targets, ks = config["eval.targets"], [f"pass@{k}" for k in config["eval.k"]]
    header = ["prompts x rollouts", "seeds", "start"]
    header += [f"updates to {target:g}" for target in targets] + [f"rollouts to {targets[-1]:g}"] * bool(targets)
    header += ["final greedy", *(f"final {k}" for k in ks), "noise-to-signal"]
    rows = [header]
    for point in points:
        finals = [run.final_evaluation for run in point.runs]
        rows.append(
            [
                point.name,
                str(len(point.runs)),
                mean_and_spread([run.start_accuracy for run in point.runs if run.start_accuracy is not None]),
                *(updates_to_target(point, i) for i in range(len(targets))),
                *([samples_to_target(point, len(targets) - 1)] if targets else []),
                *(mean_and_spread([final[name] for final in finals]) for name in ("greedy", *ks)),
                _ratio_text(point.noise_to_signal, any(run.trace_cov for run in point.runs)),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _ratio_text(ratio: Ratio, is_measured: bool) -> str:
    if not is_measured:
        return "not measured"
    return "unresolved" if ratio.value is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _orders(what: str, values_by_point: dict[str, list[float]]) -> list[str]:
    orders, sentence = resolved_orders(values_by_point)
    return [f"Order by {what}: {sentence}.", *(f"- {_order_text(order)}" for order in orders)]


def _order_text(order: Order) -> str:
    return f"{order.better} above {order.worse} by {order.difference:.3f} [{order.low:.3f}, {order.high:.3f}]"


def _write_runs(points: list[PointSummary], path: Path) -> None:
    rows = []
    for point in points:
        for run in point.runs:
            record = run.record
            row = {
                "study": record.study, "point": record.point, "status": record.status, "seed": record.seed,
                "n_prompts": record.n_prompts, "n_rollouts": record.n_rollouts, "updates": record.evals[-1]["update"],
                "rollouts": record.evals[-1]["rollouts"], "seconds": record.evals[-1]["seconds"],
                "start_accuracy": run.start_accuracy, "mean_accuracy": run.mean_accuracy,
            }  # fmt: skip
            for crossing in run.crossings:
                name = f"updates_to_{crossing.target:g}"
                row |= {name: crossing.updates, f"{name}_after": crossing.after, f"{name}_by": crossing.by}
            rows.append(row | {f"final_{name}": value for name, value in run.final_evaluation.items()})
    _write_csv(rows, path)


def _write_metrics(records: list[RunRecord], path: Path) -> None:
    _write_csv([{"study": r.study, "point": r.point} | row for r in records for row in r.metrics], path)


def _write_csv(rows: list[dict], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)

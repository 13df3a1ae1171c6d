"""What bin/evaluate leaves behind: a table, a row in evals.jsonl and TensorBoard events, outside any run's record."""

import json
import math
from pathlib import Path

from rlvr_jax.analysis.read_runs import Row
from rlvr_jax.train.log import EVALS_FILE
from rlvr_jax.train.sinks import TensorBoardSink

EVALUATIONS_FOLDER = "evaluations"  # in the run directory whose checkpoint was evaluated
_NO_UPDATE = 2**62  # later than any: an event file from here on makes readers forget nothing


def evaluation_table(metrics: dict[str, float], *, n_problems: int) -> str:
    """All numbers, those that are means over problems with standard errors: first over all, then by category."""
    short = {name.split("/", 2)[2]: value for name, value in metrics.items()}
    categories = [name.removesuffix("/n") for name in short if name.endswith("/n")]
    cells = [("problems", "n", "metric", "value", "standard error")]
    for category in (None, *categories):
        of = {name: value for name, value in short.items() if _category(name, categories) == category}
        for name, value in of.items():
            metric = name if category is None else name.removeprefix(f"{category}/")
            if metric != "n" and not metric.endswith("_se"):
                n = str(n_problems if category is None else of[f"{category}/n"])
                se = f"{of[f'{name}_se']:.3f}" if f"{name}_se" in of else ""
                cells.append((category or "all", n, metric, f"{value:.3f}", se))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _category(name: str, categories: list[str]) -> str | None:
    return next((category for category in categories if name.startswith(f"{category}/")), None)


def save_evaluation(folder: Path, row: Row) -> None:
    """Appends a row to `folder`/evals.jsonl, and its metrics to an event file of TensorBoard's there.

    A folder of its own: what a run wrote of itself stays the record that analysis reads.

    Args:
        row: update, what was evaluated, and the eval/ metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    with (folder / EVALS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(known, allow_nan=False) + "\n")  # one write: evaluations may run side by side
    sink = TensorBoardSink(folder, purge_step=_NO_UPDATE)
    sink.scalars({name: value for name, value in known.items() if value is not None})
    sink.close()

"""A study as one web page: everything in it, nothing fetched, nothing run."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.conclusions import Conclusions
from rlvr_jax.analysis.page_laws import (
    branch_blocks,
    iso_table,
    law_cards,
    law_table,
    predicted_table,
    shapes_table,
    split_table,
    steps_table,
)
from rlvr_jax.analysis.page_tables import facts_table, points_table, runs_table, settings_tables
from rlvr_jax.analysis.printable import emphasised, printable
from rlvr_jax.analysis.report_text import spacings_text
from rlvr_jax.analysis.samples import last_samples
from rlvr_jax.analysis.study import Study
from rlvr_jax.analysis.study_figures import StudyFigure

PAGE_FILE = "report.html"
_TEMPLATE = "page.html.jinja"
_SAMPLE_PROMPTS, _SAMPLE_CHARACTERS = 3, 600
_MOST_SAMPLED_RUNS = 200  # a page is read, not searched


def write_page(
    study: Study,
    conclusions: Conclusions,
    folder: Path,
    *,
    figures: Sequence[StudyFigure] = (),
    command: str = "",
    notes: Sequence[str] = (),
) -> Path:
    """Writes `report.html` into `folder` and returns its path.

    Pictures are inside the page, and its content security policy forbids scripts and every request. All text, that of
    models above all, is escaped, and what would not show is shown as an escape.

    Args:
        figures: of `study_figures`; none without matplotlib.
        command: that made the page, for its foot.
        notes: beside those of the study and its conclusions.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, finalize=printable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["emphasised"] = emphasised
    template = environment.from_string(Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        study=study,
        conclusions=conclusions,
        who=_who(study),
        cards=law_cards(conclusions),
        figures=[(figure, _data_address(figure.path)) for figure in figures],
        points=points_table(study),
        runs=runs_table(study),
        cbs=split_table(conclusions),
        shapes=shapes_table(conclusions),
        predicted=predicted_table(conclusions),
        steps=steps_table(conclusions),
        branches=branch_blocks(conclusions),
        laws=law_table(conclusions),
        iso=iso_table(conclusions),
        sampled=_sampled(study),
        n_sample_prompts=_SAMPLE_PROMPTS,
        settings=settings_tables(study),
        facts=facts_table(study),
        notes=list(dict.fromkeys([*study.notes, *conclusions.notes, *notes])),
        command=command,
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _who(study: Study) -> dict[str, Any]:
    """What was trained, in numbers."""
    config = study.records[0].config if study.records else {}
    return {
        "n_runs": sum(len(point.runs) for point in study.points),
        "n_points": len(study.points),
        "seeds": sorted({run.record.seed for point in study.points for run in point.runs}),
        "task": config.get("task.name", "unknown"),
        "model": config.get("model.name", "unknown"),
        "metric": config.get("eval.target_metric", "accuracy"),
        "n_problems": config.get("eval.n_problems") or "all",
        "every": spacings_text(study),
    }


def _data_address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _sampled(study: Study) -> list[tuple[str, list[tuple[str, Any]]]]:
    """(point, [(run, its samples)]) of the first runs."""
    sampled, n_left = [], _MOST_SAMPLED_RUNS
    for point in study.points:
        runs = point.runs[:n_left]
        n_left -= len(runs)
        found = [
            (
                f"seed {run.record.seed}",
                last_samples(run.record.folder, n_prompts=_SAMPLE_PROMPTS, n_characters=_SAMPLE_CHARACTERS),
            )
            for run in runs
        ]
        if found:
            sampled.append((point.name, found))
    return sampled

"""A study's report as files: text, tables, figures, page."""

import re
from pathlib import Path

from rlvr_jax.analysis.conclusions import Conclusions, conclude
from rlvr_jax.analysis.page import write_page
from rlvr_jax.analysis.report_tables import write_metrics, write_runs
from rlvr_jax.analysis.report_text import report_text
from rlvr_jax.analysis.study import Study
from rlvr_jax.analysis.study_figures import StudyFigure, study_figures

SUMMARY_FILE, RUNS_FILE, METRICS_FILE = (
    "comprehensive_summary.md",
    "summary_metrics.csv",
    "combined_training_metrics.csv",
)


def write_report(study: Study, folder: Path, *, confidence: float = 0.9, command: str = "") -> str:
    """Writes the report's files into `folder` and returns its text.

    Args:
        command: that made it, for the page's foot.
    """
    conclusions = conclude(study, confidence=confidence)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give --out a folder")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old_figures(folder)
    write_runs(study, folder / RUNS_FILE)
    write_metrics(study, folder / METRICS_FILE)
    figures = _figures(study, conclusions, folder)
    text = inert(report_text(study, conclusions))
    shown = "".join(f"\n\n![{figure.title}]({figure.path.name})\n\n{figure.caption}" for figure in figures)
    (folder / SUMMARY_FILE).write_text(f"{text}{shown}\n", "utf-8", errors="backslashreplace")
    write_page(study, conclusions, folder, figures=figures, command=command)
    return text


def inert(text: str) -> str:
    """Markdown whose words hold no link, image or HTML, whatever runs and settings are called."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")


def _remove_old_figures(folder: Path) -> None:
    """Those that an earlier report in this folder lists: a smaller study would leave some beside its own."""
    earlier = folder / SUMMARY_FILE
    if earlier.is_file():
        for name in re.findall(
            r"^!\[.*\]\(([\w.-]+\.png)\)$", earlier.read_text("utf-8", errors="replace"), re.MULTILINE
        ):
            (folder / name).unlink(missing_ok=True)


def _figures(study: Study, conclusions: Conclusions, folder: Path) -> list[StudyFigure]:
    """Without matplotlib there are none, and the notes say so."""
    try:
        return study_figures(study, conclusions, folder)
    except ModuleNotFoundError:
        conclusions.notes.append("No figures: matplotlib is not installed; `pip install rlvr_jax[plots]` has it.")
        return []

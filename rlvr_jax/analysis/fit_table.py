"""One table fitted: its text or JSON, and the files that were asked for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.fits import RESIDUALS
from rlvr_jax.analysis.law_figure import law_figure
from rlvr_jax.analysis.law_report import law_report
from rlvr_jax.analysis.law_table import UNITS, read_table, table_observations, unused_columns
from rlvr_jax.analysis.law_text import law_record

ON_THE_TERMINAL = "-"  # of `json`: instead of the text


@dataclass(frozen=True)
class TableOptions:
    """What is fitted and where it goes."""

    residuals: str  # of the figure and the records; the text has both kinds
    unit: str  # "step" or "update"
    eval_every: float | None  # steps, for a table without that column
    max_steps: float | None  # how far every run went, likewise
    shape: str
    confidence: float
    out: str | None  # a folder for text, figure and records
    figure: str | None  # a file
    json: str | None  # a file, or ON_THE_TERMINAL


def fit_table(path: Path, options: TableOptions, *, say: Callable[[str], None]) -> None:
    """Says the report (or the records), then writes the files: what cannot be written costs no result.

    Raises:
        ValueError: a bad table or option, with the fix.
        OSError: a file that cannot be read or written.
    """
    if options.residuals not in RESIDUALS:
        raise ValueError(f"--residuals={options.residuals} is none of {', '.join(RESIDUALS)}")
    if options.unit not in UNITS:
        raise ValueError(f"--unit={options.unit} is none of {', '.join(UNITS)}")
    if options.json == "":
        raise ValueError("--json= names no file; --json alone prints JSON, --json=FILE writes it")
    if options.figure is not None and not options.figure.endswith(".png"):
        raise ValueError(f"--figure={options.figure} is no PNG file, which is what is drawn; end it in .png")
    rows = read_table(path, eval_every=options.eval_every, max_steps=options.max_steps)
    observations = table_observations(rows, options.unit)
    is_json_only = options.json == ON_THE_TERMINAL
    kinds = [options.residuals] if is_json_only and not options.out else RESIDUALS
    fits = {
        kind: fit_targets(observations, shape=options.shape, residuals=kind, confidence=options.confidence)
        for kind in kinds
    }
    chosen = fits[options.residuals]
    records = json.dumps([law_record(fit, unit=options.unit) for fit in chosen], indent=1, allow_nan=False)
    report = ""
    if len(kinds) == len(RESIDUALS):
        report = law_report(
            rows,
            [fit for kind in kinds for fit in fits[kind]],
            name=path.name,
            unit=options.unit,
            shape=options.shape,
            confidence=options.confidence,
            unused=unused_columns(path),
        )
    say(records if is_json_only else report)
    written = []
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "law.md").write_text(f"{report}\n\n![the law](law.png)\n", "utf-8")
        (folder / "law.json").write_text(records + "\n", "utf-8")
        law_figure(chosen, folder / "law.png", unit=options.unit)
        written += [f"{folder}/{name}" for name in ("law.md", "law.json", "law.png")]
    if options.figure:
        law_figure(chosen, Path(options.figure), unit=options.unit)
        written.append(options.figure)
    if options.json and not is_json_only:
        Path(options.json).write_text(records + "\n", "utf-8")
        written.append(options.json)
    if not is_json_only:
        say(f"\nwritten: {', '.join(written)}" if written else "\n(--out=FOLDER keeps text, figure and JSON)")

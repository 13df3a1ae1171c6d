#!/usr/bin/env python3
"""Writes a small copy of run directories that holds what analysis reads: settings, evaluations, measured noise.

python notebooks/thin_runs.py runs/cbs_p1_tiny runs/cbs_p2b_tiny --out=notebooks/small_study
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.read_runs import RunRecord, find_runs, read_rows

CLOCK = ("step", "update", "prompts", "rollouts")
NOISE = (
    *(f"gns/{name}" for name in ("trace_cov", "grad_sq", "resolved", "b_noise_prompts", "prompt_var", "rollout_var")),
    *("gns/zeta1", "gns/zeta2", "gns/adam/trace_cov", "gns/adam/grad_sq"),
)
EVALS = re.compile(r"eval/[^/]+/(greedy|pass@\d+)")
DIGITS = 5  # significant ones that are kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    arguments = parser.parse_args()
    try:
        records = find_runs(arguments.runs)
        for record in records:
            thin(record, arguments.out / record.study / record.point)
    except (OSError, ValueError) as error:
        print(f"thin_runs: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in arguments.out.rglob("*.json*"))
    print(f"{len(records)} runs in {arguments.out}, {size / 1e6:.2f} MB")
    return 0


def thin(record: RunRecord, folder: Path) -> None:
    """One run: every evaluation, and of its updates those that measured noise."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {name: value for name, value in record.run.items() if name != "final"}  # the last evaluation says it too
    (folder / "run.json").write_text(json.dumps(run, indent=0) + "\n")
    _write(folder / "evals.jsonl", record.evals, EVALS.fullmatch)
    measured = (row for row in read_rows(record.folder / "metrics.jsonl") if "gns/trace_cov" in row)
    _write(folder / "metrics.jsonl", measured, NOISE.__contains__)


def _write(path: Path, rows: Any, is_kept: Callable[[str], Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            kept = {name: _rounded(value) for name, value in row.items() if name in CLOCK or is_kept(name)}
            file.write(json.dumps(kept, separators=(",", ":")) + "\n")


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())

"""What tests compare of a run directory."""

from pathlib import Path

from rlvr_jax.analysis.read_runs import read_rows


def exact_rows(folder: Path) -> list[dict]:
    """metrics.jsonl without its times."""
    return [
        {name: value for name, value in row.items() if name != "seconds" and not name.startswith("perf/")}
        for row in read_rows(folder / "metrics.jsonl")
    ]

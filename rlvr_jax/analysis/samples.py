"""A few completions of a run, as it wrote them down last."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.printable import shortened
from rlvr_jax.analysis.read_runs import read_rows

ROLLOUTS_FILE = "rollouts.jsonl.gz"
_MARK = [b'"completions"']


@dataclass(frozen=True)
class Sample:
    """One rollout; its texts are cut to a length that can be shown."""

    prompt: str
    answer: str
    completion: str
    reward: float | None  # None: not a number
    is_truncated: bool


@dataclass(frozen=True)
class Samples:
    """Rollouts of one table, or why there are none."""

    update: int | None
    samples: list[Sample]
    note: str = ""


def last_samples(folder: Path, *, n_prompts: int, n_characters: int) -> Samples:
    """The first rollout of the first prompts in the last table of completions: not chosen by how they did.

    The file is streamed; what cannot be read of it is left out and said in `note`.
    """
    path = folder / ROLLOUTS_FILE
    if not path.exists():
        return Samples(None, [], f"no {ROLLOUTS_FILE}")
    update, rows, damaged = None, {}, []
    try:
        for row in read_rows(path, on_damage=damaged.append, marks=_MARK):
            if not isinstance(row, dict) or row.get("table") != "completions":
                continue
            if row.get("update") != update:
                update, rows = row.get("update"), {}
            prompt = str(row.get("prompt", ""))
            if len(rows) < n_prompts and prompt not in rows:
                rows[prompt] = _sample(row, n_characters)
    except OSError as error:
        damaged.append(f"{path} cannot be read ({error.strerror or error})")
    note = f"{len(damaged)} line(s) of {ROLLOUTS_FILE} could not be read" if damaged else ""
    return Samples(update, list(rows.values()), note if rows or note else "no completions were written down")


def _sample(row: dict[str, Any], n_characters: int) -> Sample:
    reward = row.get("reward")
    is_number = isinstance(reward, (int, float)) and math.isfinite(reward)
    return Sample(
        prompt=shortened(str(row.get("prompt", "")), n_characters),
        answer=shortened(str(row.get("answer", "")), n_characters),
        completion=shortened(str(row.get("completion", "")), n_characters),
        reward=float(reward) if is_number else None,
        is_truncated=bool(row.get("is_truncated")),
    )

"""Large noise measurements of single policies, as bin/noise wrote them, beside what runs measured on the way."""

import json
from dataclasses import dataclass
from pathlib import Path

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.noise_result import Result, ci_of, has_best, is_number, refusal_text, unresolved_text
from rlvr_jax.analysis.predicted_words import text

RESULT_FILE = "noise.json"


@dataclass(frozen=True)
class PolicyNoise:
    """One policy: its noise is that of one moment, and what a law averages over is a path. Intervals are of 95%."""

    policy: str
    n_prompts: int
    n_rollouts: int
    b_noise_rollouts: Pooled
    best_rollouts: Pooled


def find_policy_noise(paths: list[Path], *, notes: list[str]) -> list[PolicyNoise]:
    """What bin/noise measured at or below the folders, sorted by file; what cannot be read is said in `notes`."""
    files = sorted({file.resolve(): file for path in paths for file in path.rglob(RESULT_FILE)}.items())
    found = []
    for _, file in files:
        try:
            found.append(_policy_noise(json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{file} is no result of bin/noise ({type(error).__name__}: {error}) and is left out.")
    return found


def _policy_noise(result: Result) -> PolicyNoise:
    total, parts = result["total"], result["decompose"]
    best = Pooled(None, refusal_text(result) if parts is None else "V_prompt is not told apart from 0")
    if has_best(parts):
        best = _pooled(parts["r_star"]["value"], parts["r_star"]["ci"])
    scale = Pooled(None, unresolved_text(total))
    if total["resolved"]:
        scale = _pooled(total["b_noise_rollouts"], ci_of(total, "b_noise_rollouts"))
    return PolicyNoise(str(result["policy"]), int(result["n_prompts"]), int(result["n_rollouts"]), scale, best)


def _pooled(value: float, ci: list[float | None] | None) -> Pooled:
    if not (is_number(value) and ci and all(is_number(end) for end in ci)):
        return Pooled(None, "it has no interval")
    return Pooled(Estimate(value, *ci))


def policy_noise_table(found: list[PolicyNoise]) -> str:
    """A markdown table; "" without measurements."""
    if not found:
        return ""
    lines = ["| policy | measured on | B_noise, rollouts (95%) | R* (95%) |", "|---|---|---|---|"]
    for one in found:
        split = f"{one.n_prompts} x {one.n_rollouts}"
        lines.append(f"| {one.policy} | {split} | {text(one.b_noise_rollouts)} | {text(one.best_rollouts)} |")
    return "\n".join(lines)

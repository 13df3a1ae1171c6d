"""One policy's gradient noise, as bin/noise wrote it down: what its table and its picture both read."""

import math
from typing import Any

Result = dict[str, Any]  # null stands for a number that means nothing

_LEAST_SPLITS = 3  # of a batch size that is worth a line


def iso_batch(result: Result) -> tuple[int, list[Result]]:
    """The predicted batch size nearest to the measured, in rollouts, and its points by n_rollouts.

    A size of fewer than three splits counts only if no other is there: 200 prompts x 30 rollouts among powers of two.
    """
    points = [point for point in result["predicted"] or [] if is_number(point["trace_cov"])]
    lines: dict[int, list[Result]] = {}
    for point in points:
        lines.setdefault(point["n_prompts"] * point["n_rollouts"], []).append(point)
    if not lines:
        return 0, []
    measured = result["n_prompts"] * result["n_rollouts"]
    sizes = [size for size, line in lines.items() if len(line) >= _LEAST_SPLITS] or list(lines)
    batch = min(sizes, key=lambda size: (abs(math.log(size / measured)), size))
    return batch, sorted(lines[batch], key=lambda point: point["n_rollouts"])


def noise_here(result: Result) -> float | None:
    """The noise of the measured batch's gradient: as predicted, so that it compares with that of other splits."""
    here = (result["n_prompts"], result["n_rollouts"])
    found = [p["trace_cov"] for p in result["predicted"] or [] if (p["n_prompts"], p["n_rollouts"]) == here]
    return found[0] if found and is_number(found[0]) else result["total"]["trace_cov"]


def rollout_variance(zeta1: float | None, zeta2: float | None, n_rollouts: int) -> float | None:
    """tr Cov of a group's gradient given its prompt, 4(R-2)/(R(R-1)) zeta1 + 2/(R(R-1)) zeta2; arXiv:2603.01162."""
    if zeta1 is None or zeta2 is None or n_rollouts < 2:
        return None
    return (4 * (n_rollouts - 2) * zeta1 + 2 * zeta2) / (n_rollouts * (n_rollouts - 1))


def has_best(parts: Result | None) -> bool:
    """Whether R* of a decomposition is resolved."""
    return bool(parts and parts["resolved"] and parts["r_star"]["value"] is not None)


def best_text(parts: Result | None) -> str:
    """R* with its interval, or that it is unresolved."""
    if not has_best(parts):
        return "unresolved"
    return f"{number_text(parts['r_star']['value'])} {interval_text(parts['r_star']['ci'])}".rstrip()


def unresolved_text(total: Result) -> str:
    """Why there is no noise scale, and what would help."""
    needed = needed_text(total)
    return f"unresolved: {needed or '|G|^2 is not told apart from 0'}"


def needed_text(total: Result) -> str:
    """How many prompts would resolve a noise scale; "" if nothing says so."""
    needed = total["prompts_to_resolve"]
    if needed is None:
        return ""
    is_bound = total["grad_sq"] is None or total["grad_sq"] <= 0  # then the upper end of |G|^2 stands for it
    return f"{'more than' if is_bound else 'about'} {number_text(needed)} prompts would resolve it"


def refusal_text(result: Result) -> str:
    """Why the noise is not split, without a full stop."""
    return (result.get("decompose_refused") or "no prediction was made").rstrip(".")


def is_number(value: Any) -> bool:
    """False for null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def number_text(value: float | None) -> str:
    """Three digits, and all those before the point of a number that is not huge; "-" for null."""
    if not is_number(value):
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"


def ci_of(total: Result, field: str) -> list[float | None] | None:
    """The interval of one field of a noise scale, if it has one."""
    return (total["ci"] or {}).get(field)


def interval_text(ci: list[float | None] | None) -> str:
    """ "[low, high]", or nothing for null."""
    if not ci or not all(is_number(end) for end in ci):
        return ""
    return f"[{number_text(ci[0])}, {number_text(ci[1])}]"

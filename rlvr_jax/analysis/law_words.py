"""How values, intervals and targets of the law are written, in text and in figures."""

import math

from rlvr_jax.analysis.fits import Estimate

UNIT_NAMES = {"step": "steps", "update": "updates"}
SHAPE_FORMULAS = {
    "total": "S_min (1 + B_noise / B)",
    "prompts": "S_min (1 + alpha / P)",
    "rollouts_mean": "S_min (1 + beta / R)",
    "rollouts_loo": "S_min (1 + beta / (R-1))",
    "mean": "S_min (1 + alpha / P + beta / (P R))",
    "loo": "S_min (1 + alpha / P + beta / (P (R-1)))",
    "zeta": "S_min (1 + alpha / P + (4 (R-2) z1 + 2 z2) / (P R (R-1)))",
}


def number_text(value: float | None) -> str:
    """Three digits, without an exponent where a person would write none: 0.0123, 4.5, 12300; "-" for None."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite"
    rounded = float(f"{value:.3g}") if abs(value) > 1e-9 else 0.0  # what an optimiser leaves of 0
    return f"{rounded:.0f}" if 100 <= abs(rounded) < 1e9 else f"{rounded:g}"


def interval_text(estimate: Estimate | None) -> str:
    """ "[310, 480]", "< 480" or "> 310" where one end is open, "any" where both are; "" for None."""
    if estimate is None:
        return ""
    is_open_below, is_open_above = not estimate.low > 0, not math.isfinite(estimate.high)
    if is_open_below and is_open_above:
        return "any"
    if is_open_below:
        return f"< {number_text(estimate.high)}"
    if is_open_above:
        return f"> {number_text(estimate.low)}"
    return f"[{number_text(estimate.low)}, {number_text(estimate.high)}]"


def is_bounded(estimate: Estimate | None) -> bool:
    """Whether its interval has two ends: a value of which one side is open is no measurement."""
    return estimate is not None and estimate.low > 0 and math.isfinite(estimate.high)


def target_name(target: float | None, group: str = "") -> str:
    """ "0.45", or "all" for the joint fit of all targets; behind its group's name where it has one."""
    name = "all" if target is None else f"{target:g}"
    return f"{group} {name}" if group else name


def term_name(term: str) -> str:
    """A number of the law with its unit."""
    return {"b_noise": "B_noise, rollouts", "alpha": "alpha, prompts"}.get(term, term)

"""Whether the product N = P R is all that counts, as text: the verdict and the laws that were compared."""

import math
from collections import defaultdict

from rlvr_jax.analysis.compare_laws import COMPARED, LawComparison, compare_laws
from rlvr_jax.analysis.fits import Estimate, LawFit
from rlvr_jax.analysis.law_residuals import aligned
from rlvr_jax.analysis.law_words import SHAPE_FORMULAS, UNIT_NAMES, interval_text, is_bounded, number_text, target_name
from rlvr_jax.analysis.observations import Observation


def split_text(observations: list[Observation], *, unit: str, confidence: float) -> str:
    """A verdict and a table for every target whose runs vary both P and R; "" where none does.

    Args:
        observations: of any targets and groups.
        unit: "step" or "update", what they count.
    """
    by_target: dict[tuple[str, float], list[Observation]] = defaultdict(list)
    for seen in observations:
        by_target[seen.group, seen.target].append(seen)
    parts = []
    for (group, target), found in sorted(by_target.items()):
        if len({seen.n_prompts for seen in found}) > 1 and len({seen.n_rollouts for seen in found}) > 1:
            comparison = compare_laws(found, confidence=confidence)
            parts.append(f"{target_name(target, group)}: {comparison.verdict}")
            if comparison.fits:
                parts.append("\n".join(_table(comparison, found, unit)))
    if not parts:
        return ""
    laws = "\n".join(f"- {shape}: S = {SHAPE_FORMULAS[shape]}" for shape in COMPARED)
    return "\n\n".join(["Is the product N = P R all that counts? The laws compared:", laws, *parts])


def _table(comparison: LawComparison, observations: list[Observation], unit: str) -> list[str]:
    """A line per shape; critical sizes of the best one with both terms."""
    rows = [["law", f"S_min, {UNIT_NAMES[unit]}", "its terms, with intervals", "spread", "AICc"]]
    for shape, law in comparison.fits.items():
        terms = [f"{name} {_term_text(term, law)}" for name, term in law.terms.items()]
        aicc = f"{law.aicc:.1f}" if math.isfinite(law.aicc) else "-"
        spread = f"{law.sigma:.0%}" if math.isfinite(law.sigma) else "-"
        rows.append(
            [shape, number_text(law.s_min.value) if is_bounded(law.s_min) else "-", ", ".join(terms), spread, aicc]
        )
    return aligned(rows) + _critical_lines(comparison, observations)


def _critical_lines(comparison: LawComparison, observations: list[Observation]) -> list[str]:
    shapes = {shape: law for shape, law in comparison.fits.items() if shape in ("mean", "loo") and law.n_reached}
    if not shapes:
        return []
    shape, law = min(shapes.items(), key=lambda item: item[1].aicc)
    if not law.resolved:
        return ["", f'"{shape}" is unresolved: {law.reason}.']
    n_prompts, n_rollouts = _middle([o.n_prompts for o in observations]), _middle([o.n_rollouts for o in observations])
    prompts, rollouts = law.prompt_cbs(n_rollouts), law.rollout_cbs(n_prompts)
    return [
        "",
        f'By "{shape}": twice S_min at {number_text(prompts.value)} prompts {interval_text(prompts)} of {n_rollouts}'
        f" rollouts; at {n_prompts} prompts, twice the steps of endless rollouts at {number_text(rollouts.value)}"
        f" rollouts {interval_text(rollouts)}.",
    ]


def _term_text(term: Estimate, law: LawFit) -> str:
    return f"{number_text(term.value) if law.resolved else 'unresolved'} {interval_text(term)}"


def _middle(values: list[int]) -> int:
    ordered = sorted(set(values))
    return ordered[len(ordered) // 2]

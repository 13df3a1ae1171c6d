"""Does the batch size N = P R suffice, or does the split into prompts and rollouts matter?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from rlvr_jax.analysis.fit_intervals import Estimate
from rlvr_jax.analysis.fits import LawFit, fit_law
from rlvr_jax.analysis.law_shapes import Ratio, law_columns
from rlvr_jax.analysis.observations import Observation

COMPARED = ("total", "mean", "loo", "zeta")
TEST_SIZE = 0.05
SAME = 1.25  # splits whose steps differ by less than this are one batch size in practice
_VARY = "vary both, so that equal N are split differently"


@dataclass(frozen=True)
class LawComparison:
    """The fits of all shapes to the same runs, and what they say together."""

    fits: dict[str, LawFit]
    best: str | None  # of least AICc; shapes within 2 of it are as good
    verdict: str  # a paragraph
    suffices: bool | None = None  # None: the data cannot say
    p: float | None = None  # of N = P R against the law that contains all others
    split_ratio: Estimate | None = None  # S at the most rollouts over S at the fewest, at one N
    n_left_out: int = 0  # runs with one rollout per prompt


def compare_laws(observations: Iterable[Observation], *, confidence: float = 0.9) -> LawComparison:
    """N = P R alone ("total") beside the laws in both, on the same runs of one target.

    "total" is "zeta" without two of its terms, so the likelihood ratio tests it. Both terms are >= 0, and in a world
    where N suffices they lie on that edge: the ratio is then a mixture of chi^2 with 0, 1 and 2 degrees of freedom, and
    the heaviest possible, half 1 and half 2, is taken, each as an F with the runs left over. Runs with one rollout per
    prompt have no group baseline and are left out of every fit.

        refused      p < 0.05
        suffices     not refused, the law in N alone is resolved, and the interval of S(most rollouts) / S(fewest) at
                     one N lies within [1/1.25, 1.25]: where S hardly depends on N, it depends on no split of N either
        cannot say   else: not refusing a law is no evidence for it

    Raises:
        ValueError: as fit_law.
    """
    observations = list(observations)
    kept = [o for o in observations if o.n_rollouts > 1]
    n_left_out = len(observations) - len(kept)
    left_out = ""
    if n_left_out:
        runs = "1 run" if n_left_out == 1 else f"{n_left_out} runs"
        left_out = f" Left out of every fit: {runs} with one rollout per prompt, without a group baseline."
    if observations and not kept:
        return LawComparison(
            {}, None, f"The data cannot say whether N = P R suffices.{left_out}", n_left_out=n_left_out
        )
    fits = {shape: fit_law(kept, shape=shape, confidence=confidence) for shape in COMPARED}
    known = {shape: fit.aicc for shape, fit in fits.items() if math.isfinite(fit.aicc)}
    best = min(known, key=known.get) if known else None
    missing = _missing(kept, fits)
    p = _refusal_p(fits)
    if p is None:
        verdict = f"The data cannot say whether N = P R suffices: {missing or _too_few(fits)}."
        return LawComparison(fits, best, verdict + left_out, n_left_out=n_left_out)

    ratio, at = (None, "") if missing else _split_ratio(kept, fits["zeta"])
    if p < TEST_SIZE:
        suffices, verdict = False, f"N = P R does not suffice (p = {p:.2g} against the law with all terms)."
        verdict += f" {at}." if at else f" How much the split matters is not known: {missing}."
    elif missing:
        suffices, verdict = None, f"The data cannot say whether N = P R suffices: {missing}."
    elif ratio.low >= 1 / SAME and ratio.high <= SAME and not fits["total"].resolved:
        suffices, verdict = None, _only_alike(kept, fits["total"], at)
    elif ratio.low >= 1 / SAME and ratio.high <= SAME:
        suffices = True
        verdict = f"N = P R suffices: a law in N alone is not refused (p = {p:.2g}). {at}."
    else:
        suffices = None
        verdict = (
            f"The data cannot say whether N = P R suffices: a law in N alone is not refused (p = {p:.2g}), but "
            f"{at[0].lower()}{at[1:]}, too wide to call the splits equal; more seeds, or one N at more extreme splits, "
            "would tell."
        )
    if best is not None:
        near = [s for s in COMPARED if s != best and known.get(s, math.inf) < known[best] + 2]
        verdict += f' By AICc "{best}" is best' + (f", with {_listed(near)} within 2 of it." if near else ".")
    return LawComparison(fits, best, verdict + left_out, suffices, p, ratio, n_left_out)


def _only_alike(kept: list[Observation], total: LawFit, at: str) -> str:
    """Splits take as long as each other where nothing shows that the size matters at all."""
    sizes = {o.batch for o in kept if o.is_reached}
    if len(sizes) == 1:
        n = sizes.pop()
        return (
            f"At N = {n} the split makes no difference that counts, and other N were not measured, so the data cannot "
            f"say whether N = P R suffices: S may hardly depend on the batch there. {at}."
        )
    return (
        f"The data cannot say whether N = P R suffices: {at[0].lower()}{at[1:]}, which would also be so where S hardly "
        f"depends on the batch, and no law in N is resolved ({total.reason})."
    )


def _missing(kept: list[Observation], fits: dict[str, LawFit]) -> str:
    """What the design lacks to tell N from its parts, "" if nothing."""
    reached = [o for o in kept if o.is_reached]
    prompts, rollouts = {o.n_prompts for o in reached}, {o.n_rollouts for o in reached}
    if not reached:
        return "no run reached the target"
    if len(rollouts) == 1:
        return f"every run that reached the target had {rollouts.pop()} rollouts per prompt; {_VARY}"
    if len(prompts) == 1:
        return f"every run that reached the target had {prompts.pop()} prompts; {_VARY}"
    return ""


def _too_few(fits: dict[str, LawFit]) -> str:
    return f"{fits['zeta'].n_reached} runs that reached the target are too few to test four numbers"


def _refusal_p(fits: dict[str, LawFit]) -> float | None:
    total, full = fits["total"], fits["zeta"]
    if full.curve is None:
        return None
    n_free = full.curve.n_independent - np.linalg.matrix_rank(
        full.curve.columns_nk / full.curve.columns_nk.mean(axis=0)
    )
    if n_free <= 0:
        return None
    most = max(fit.log_likelihood for fit in fits.values())  # zeta contains them all
    rise = n_free * math.expm1(2 * max(0.0, most - total.log_likelihood) / full.curve.n_independent)
    return 0.5 * float(scipy.stats.f.sf(rise, 1, n_free) + scipy.stats.f.sf(rise / 2, 2, n_free))


def _split_ratio(kept: list[Observation], full: LawFit) -> tuple[Estimate, str]:
    """S at the most rollouts over S at the fewest, both at the geometric mean N of all runs; and it in words."""
    rollouts = [o.n_rollouts for o in kept]
    fewest, most = min(rollouts), max(rollouts)
    n = math.exp(sum(math.log(o.batch) for o in kept) / len(kept))
    rows = law_columns("zeta", [n / most, n / fewest], [most, fewest])
    ratio = full.curve.ratio(Ratio(rows[0], rows[1]))
    words = (
        f"At N = {n:.0f} rollouts, {most} per prompt take {ratio.value:.3g} times the steps of {fewest} per "
        f"prompt ({100 * full.confidence:g}% interval {ratio.low:.3g} to {ratio.high:.3g})"
    )
    return ratio, words


def _listed(names: list[str]) -> str:
    return " and ".join(f'"{n}"' for n in names)

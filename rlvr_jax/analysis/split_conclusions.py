"""Whether the product of prompts and rollouts is all that counts, from the runs of a study."""

import math
from collections import defaultdict
from dataclasses import dataclass

from rlvr_jax.analysis.compare_laws import SAME, TEST_SIZE, LawComparison, compare_laws
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_shapes import Ratio, law_columns
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.study import Study

IN_BOTH = ("loo", "mean", "zeta")  # laws in prompts and rollouts apart
_CANNOT_SAY = "The data cannot say whether N = P R suffices"


@dataclass(frozen=True)
class SplitRatio:
    """Steps of two splits of one N, both of them run, by the law with all terms."""

    few: tuple[int, int]  # prompts, rollouts
    many: tuple[int, int]  # more rollouts of fewer prompts
    ratio: Estimate  # S of `many` / S of `few`


@dataclass(frozen=True)
class SplitConclusion:
    """Whether the product P R is all that counts, at one target, where P and R both vary."""

    target: float
    group: str
    comparison: LawComparison  # of this target alone
    sentence: str  # the whole verdict
    rollouts: tuple[int, int]  # fewest and most per prompt that the laws were compared at
    law: str  # the shape of least AICc among those in both; "": none
    prompt_cbs: dict[int, Estimate | None]  # by n_rollouts, of that law
    rollout_cbs: dict[int, Estimate | None]  # by n_prompts, likewise
    suffices: bool | None = None  # with p corrected for the targets of the group; None: the data cannot say
    p: float | None = None  # corrected
    widest: SplitRatio | None = None  # of the sizes run in two splits, the one that differs most


def split_conclusions(study: Study, *, confidence: float, notes: list[str]) -> list[SplitConclusion]:
    """One per group and target at which both vary; `notes` gets those that could not be looked at.

    Each target is a test, so p is corrected by Holm for those of a group. How much a split matters is read where it was
    run: at every N with two splits, between its fewest and its most rollouts per prompt.

        does not suffice   corrected p < 0.05
        suffices           uncorrected p >= 0.05, the law in N alone is resolved, and all those ratios lie within
                           [1/1.25, 1.25]
        cannot say         else
    """
    found = []
    for group in study.groups:
        compared = []
        for target in study.targets:
            seen = [one for one in study.observations if (one.group, one.target) == (group, target)]
            if not _both_vary(seen):
                continue
            try:
                compared.append((target, seen, compare_laws(seen, confidence=confidence)))
            except ValueError as error:
                name = target_name(target, group)
                notes.append(
                    f"{name}: whether the product of prompts and rollouts suffices was not looked at: {error}."
                )
        corrected = holm([comparison.p for _, _, comparison in compared])
        n_tests = sum(p is not None for p in corrected)
        for (target, seen, comparison), p in zip(compared, corrected, strict=True):
            found.append(_conclusion(target, group, seen, comparison, p, n_tests, study.unit))
    return found


def holm(p_values: list[float | None]) -> list[float | None]:
    """p corrected for the number of tests (Holm 1979): below a size for any true hypothesis in that share of families.

    None stands for no test and stays.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, place) in enumerate(known):
        so_far = max(so_far, min(1.0, (len(known) - rank) * p))
        corrected[place] = so_far
    return corrected


def _conclusion(
    target: float,
    group: str,
    seen: list[Observation],
    comparison: LawComparison,
    p: float | None,
    n_tests: int,
    unit: str,
) -> SplitConclusion:
    fits = comparison.fits
    shape = min((shape for shape in fits if shape in IN_BOTH), key=lambda shape: fits[shape].aicc, default="")
    rollouts = sorted({one.n_rollouts for one in seen} - {1})
    prompts = sorted({one.n_prompts for one in seen if one.n_rollouts > 1})
    measured = p is not None and comparison.split_ratio is not None and not _one_interval(seen)
    ratios = _split_ratios(seen, comparison) if measured else []
    widest = max(ratios, key=lambda one: abs(math.log(one.ratio.value)), default=None)
    suffices, verdict = _verdict(seen, comparison, p, n_tests, ratios, widest, unit)
    return SplitConclusion(
        target,
        group,
        comparison,
        f"{target_name(target, group)}: {verdict}",
        (rollouts[0], rollouts[-1]),
        shape,
        {R: fits[shape].prompt_cbs(R) for R in rollouts} if shape else {},
        {P: fits[shape].rollout_cbs(P) for P in prompts} if shape else {},
        suffices,
        p,
        widest,
    )


def _one_interval(seen: list[Observation]) -> str:
    """Where all runs that got there did so between the same two evaluations, which: then no time was measured."""
    found = {(one.after, one.by) for one in seen if one.is_reached}
    if len(found) == 1 and len(seen) > 1:
        ((after, by),) = found
        return f"({after:g}, {by:g}]" if after < by else ""
    return ""


def _split_ratios(seen: list[Observation], comparison: LawComparison) -> list[SplitRatio]:
    """Of every N that reached the target in two splits or more: its most rollouts per prompt against its fewest."""
    splits_of = defaultdict(set)
    for one in seen:
        if one.is_reached and one.n_rollouts > 1:
            splits_of[one.batch].add((one.n_prompts, one.n_rollouts))
    full = comparison.fits["zeta"].curve
    found = []
    for _, splits in sorted(splits_of.items()):
        many, few = min(splits), max(splits)
        if full is not None and many != few:
            rows = law_columns("zeta", [many[0], few[0]], [many[1], few[1]])
            found.append(SplitRatio(few, many, full.ratio(Ratio(rows[0], rows[1]))))
    return [one for one in found if one.ratio.value > 0 and math.isfinite(one.ratio.value)]


def _verdict(
    seen: list[Observation],
    comparison: LawComparison,
    p: float | None,
    n_tests: int,
    ratios: list[SplitRatio],
    widest: SplitRatio | None,
    unit: str,
) -> tuple[bool | None, str]:
    """(whether N = P R suffices, in words)."""
    if p is None:
        return None, comparison.verdict
    if interval := _one_interval(seen):
        why = f"every run reached it in the same evaluation interval, {interval}; evaluate more often"
        return None, f"{_CANNOT_SAY}: {why}."
    tested = f"p = {p:.2g}" + (f", corrected for {n_tests} targets" if n_tests > 1 else "")
    is_refused = p < TEST_SIZE
    alike = bool(ratios) and all(one.ratio.low >= 1 / SAME and one.ratio.high <= SAME for one in ratios)
    where = (
        _where(widest, unit) if widest else "no two splits of one N got there, so by how much they differ is not seen"
    )
    if is_refused:
        said = f"N = P R does not suffice ({tested}, against the law with all terms): {where}."
        if widest and widest.ratio.low <= 1 <= widest.ratio.high:
            said += " That pair alone does not show it, all runs together do."
        elif alike:
            said += f" All of them lie within a factor of {SAME:g}."
        return False, said + _best_law(comparison)
    if comparison.split_ratio is None:
        return None, comparison.verdict if comparison.suffices is None else f"{_CANNOT_SAY} ({tested})."
    total = comparison.fits["total"]
    if comparison.p < TEST_SIZE:  # Holm is there against refusing too often, not for finding that N suffices
        alone = (
            f"p = {comparison.p:.2g} refuses a law in N alone, but not once corrected for {n_tests} targets ({p:.2g})"
        )
        return None, f"{_CANNOT_SAY}: {alone}; {where}.{_best_law(comparison)}"
    if alike and total.resolved:
        said = (
            f"N = P R suffices among the splits that were run: a law in N alone is not refused ({tested}), and {where}."
        )
        return True, said + _best_law(comparison)
    said = f"{_CANNOT_SAY}: a law in N alone is not refused ({tested}), but "
    if alike:
        said += f"no law in N is resolved either ({total.reason}); {where}."
    elif widest:
        said += f"{where}: too wide or too far from 1 to call splits equal; more seeds would tell."
    else:
        said += f"{where}; run one N in two splits."
    return None, said + _best_law(comparison)


def _where(widest: SplitRatio, unit: str) -> str:
    few, many = widest.few, widest.many
    return (
        f"of the sizes that were run in two splits {few[0] * few[1]} rollouts differ most, where {many[0]} x {many[1]} "
        f"takes {_ratio_text(widest.ratio)} times the {UNIT_NAMES[unit]} of {few[0]} x {few[1]}"
    )


def _ratio_text(ratio: Estimate) -> str:
    return f"{number_text(ratio.value)} {interval_text(ratio)}"


def _best_law(comparison: LawComparison) -> str:
    """Which shapes the runs prefer, by AICc."""
    if comparison.best is None:
        return ""
    least = comparison.fits[comparison.best].aicc
    near = [f'"{s}"' for s, fit in comparison.fits.items() if s != comparison.best and fit.aicc < least + 2]
    return f' By AICc "{comparison.best}" is best' + (f", with {' and '.join(near)} within 2 of it." if near else ".")


def _both_vary(observations: list[Observation]) -> bool:
    """Whether prompts and rollouts take two values each, groups of one rollout aside: they are outside the law."""
    within = [one for one in observations if one.n_rollouts > 1]
    return all(len({getattr(one, field) for one in within}) > 1 for field in ("n_prompts", "n_rollouts"))


def split_headlines(splits: list[SplitConclusion], *, unit: str) -> list[str]:
    """The verdicts in short, targets of one verdict together."""
    alike: dict[tuple, list[SplitConclusion]] = defaultdict(list)
    for split in splits:
        alike[split.group, split.suffices, split.widest is None].append(split)
    return [_headline(of_kind, group, suffices, unit) for (group, suffices, _), of_kind in alike.items()]


def _headline(splits: list[SplitConclusion], group: str, suffices: bool | None, unit: str) -> str:
    targets = ", ".join(f"{split.target:g}" for split in splits)
    verdict = {True: "suffices", False: "does not suffice", None: "may or may not suffice, the data cannot say which,"}
    said = f"{group + ': ' if group else ''}N = P R {verdict[suffices]} at {targets}"
    by_pair: dict[tuple, list[Estimate]] = defaultdict(list)
    for split in splits:
        if split.widest is not None:
            by_pair[split.widest.many, split.widest.few].append(split.widest.ratio)
    if not by_pair:
        return f"{said}."
    times = "; ".join(
        f"{many[0]} x {many[1]} takes {', '.join(map(_ratio_text, ratios))} times the {UNIT_NAMES[unit]} of "
        f"{few[0]} x {few[1]}"
        for (many, few), ratios in by_pair.items()
    )
    mixed = (
        " A critical batch in P R alone is then one of the mixture of splits that were run; those along prompts or "
        "rollouts are not."
    )
    return f"{said}: of splits that were run, {times}.{mixed if suffices is False else ''}"


def why_no_split(observations: list[Observation]) -> str:
    """What the runs have in common, so that nothing can be said; "" without runs."""
    fixed = [
        f"{what} {next(iter(found))} throughout"
        for what, field in (("prompts per batch are", "n_prompts"), ("rollouts per prompt are", "n_rollouts"))
        if len(found := {getattr(one, field) for one in observations if one.n_rollouts > 1}) == 1
    ]
    if not observations:
        return ""
    because = " and ".join(fixed) or "no group of controls varies both"
    return (
        f"Whether N = P R suffices cannot be said: {because}. Runs that vary both, such as those of phases p1 and p2b "
        "given together, would tell."
    )

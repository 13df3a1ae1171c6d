"""Whether the product of prompts and rollouts is all that counts, from the runs of a study."""

from collections import defaultdict
from dataclasses import dataclass

from rlvr_jax.analysis.compare_laws import LawComparison, compare_laws
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.study import Study

IN_BOTH = ("loo", "mean", "zeta")  # laws in prompts and rollouts apart


@dataclass(frozen=True)
class SplitConclusion:
    """Whether the product P R is all that counts, at one target, where P and R both vary."""

    target: float
    group: str
    comparison: LawComparison
    sentence: str  # the whole verdict
    rollouts: tuple[int, int]  # fewest and most per prompt that the laws were compared at
    law: str  # the shape of least AICc among those in both; "": none
    prompt_cbs: dict[int, Estimate | None]  # by n_rollouts, of that law
    rollout_cbs: dict[int, Estimate | None]  # by n_prompts, likewise


def split_conclusions(study: Study, *, confidence: float, notes: list[str]) -> list[SplitConclusion]:
    """One per group and target at which both vary; `notes` gets those that could not be looked at."""
    found = []
    for group in study.groups:
        for target in study.targets:
            seen = [one for one in study.observations if (one.group, one.target) == (group, target)]
            if not _both_vary(seen):
                continue
            try:
                found.append(_conclusion(target, group, seen, confidence))
            except ValueError as error:
                name = target_name(target, group)
                notes.append(
                    f"{name}: whether the product of prompts and rollouts suffices was not looked at: {error}."
                )
    return found


def _conclusion(target: float, group: str, seen: list[Observation], confidence: float) -> SplitConclusion:
    comparison = compare_laws(seen, confidence=confidence)
    fits = comparison.fits
    shape = min((shape for shape in fits if shape in IN_BOTH), key=lambda shape: fits[shape].aicc, default="")
    rollouts = sorted({one.n_rollouts for one in seen} - {1})
    prompts = sorted({one.n_prompts for one in seen if one.n_rollouts > 1})
    return SplitConclusion(
        target,
        group,
        comparison,
        f"{target_name(target, group)}: {comparison.verdict}",
        (rollouts[0], rollouts[-1]),
        shape,
        {R: fits[shape].prompt_cbs(R) for R in rollouts} if shape else {},
        {P: fits[shape].rollout_cbs(P) for P in prompts} if shape else {},
    )


def _both_vary(observations: list[Observation]) -> bool:
    """Whether prompts and rollouts take two values each, groups of one rollout aside: they are outside the law."""
    within = [one for one in observations if one.n_rollouts > 1]
    return all(len({getattr(one, field) for one in within}) > 1 for field in ("n_prompts", "n_rollouts"))


def split_headlines(splits: list[SplitConclusion], *, unit: str) -> list[str]:
    """The verdicts in short, targets of one verdict together."""
    alike: dict[tuple, list[SplitConclusion]] = defaultdict(list)
    for split in splits:
        alike[split.group, split.comparison.suffices, split.comparison.split_ratio is None].append(split)
    return [_headline(of_kind, group, suffices, unit) for (group, suffices, _), of_kind in alike.items()]


def _headline(splits: list[SplitConclusion], group: str, suffices: bool | None, unit: str) -> str:
    targets = ", ".join(f"{split.target:g}" for split in splits)
    verdict = {True: "suffices", False: "does not suffice", None: "may or may not suffice, the data cannot say which,"}
    said = f"{group + ': ' if group else ''}N = P R {verdict[suffices]} at {targets}"
    ratios = [split.comparison.split_ratio for split in splits]
    if ratios[0] is None:
        return f"{said}."
    few, many = splits[0].rollouts
    times = ", ".join(f"{number_text(ratio.value)} {interval_text(ratio)}" for ratio in ratios)
    mixed = (
        " A critical batch in P R alone is then one of the mixture of splits that were run; those along prompts or "
        "rollouts are not."
    )
    return (
        f"{said}: at one N, {many} rollouts per prompt take {times} times the {UNIT_NAMES[unit]} of {few}."
        f"{mixed if suffices is False else ''}"
    )


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

"""A study's answer in a few sentences: what is read first, and perhaps alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlvr_jax.analysis.law_words import interval_text, number_text
from rlvr_jax.analysis.slices import SliceLaw
from rlvr_jax.analysis.split_conclusions import SplitConclusion

_SUFFICES = {
    True: "suffices",
    False: "does not suffice",
    None: "may or may not suffice, which the data cannot say,",
}


def critical_batch_sentence(laws: Sequence[Any], *, confidence: float) -> str:
    """The critical batch over the targets, or where it is unresolved; "" without laws.

    Args:
        laws: of conclusions, with `target`, `group` and `fit`; those of all targets jointly are passed over.
    """
    by_group = _by(laws, lambda law: law.group)
    said = [
        (f"{group}: " if group else "") + _of_group([law for law in of_group if law.target is not None])
        for group, of_group in by_group.items()
        if any(law.target is not None for law in of_group)
    ]
    return f"{'; '.join(said)} ({confidence:.0%} intervals)." if said else ""


def _of_group(laws: list[Any]) -> str:
    known = [law for law in laws if law.fit.fit.resolved]
    targets = f"{len(laws)} target{'s' * (len(laws) > 1)}"
    if not known:
        return f"The critical batch size is unresolved at {'every one of ' * (len(laws) > 1)}{targets}"
    numbers = {law.target: _text(law.fit.fit.b_noise) for law in known}
    (first, at_first), (last, at_last) = next(iter(numbers.items())), list(numbers.items())[-1]
    said = f"The critical batch size is {at_first} rollouts at target {first:g}"
    if len(known) > 1:
        way = _WAYS[_is_rising([law.fit.fit.b_noise.value for law in known])]
        said += f"{way} {at_last} at {last:g}"
    return f"{said}; {len(known)} of {targets} resolved"


_WAYS = {True: ", rising to", False: ", falling to", None: " and"}


def _is_rising(values: list[float]) -> bool | None:
    if values == sorted(values):
        return True
    return False if values == sorted(values, reverse=True) else None


def split_answer(splits: Sequence[SplitConclusion], split_sentence: str) -> str:
    """Whether N = P R suffices, over the targets; where nothing varies, why it cannot be said."""
    if not splits:
        return split_sentence
    said = []
    for (group, suffices), of_kind in _by(splits, lambda s: (s.group, s.suffices)).items():
        ps = [split.p for split in of_kind if split.p is not None]
        beside = f" (p = {' to '.join(dict.fromkeys(f'{end:.2g}' for end in (min(ps), max(ps))))})" if ps else ""
        where = ", ".join(f"{split.target:g}" for split in of_kind)
        said.append(f"{_SUFFICES[suffices]} at {where}{beside}{f' for {group}' if group else ''}")
    return f"The product N = P R of prompts and rollouts alone {'; '.join(said)}."


def unresolved_sentences(laws: Sequence[Any]) -> list[str]:
    """Why laws are unresolved, once for all targets of one reason."""
    open_ones = [law for law in laws if not law.fit.fit.resolved]
    found = _by(open_ones, lambda law: (law.group, law.fit.fit.reason)).items()
    return [
        f"{group + ': ' if group else ''}Unresolved at {', '.join(_name(law.target) for law in of_kind)}"
        f"{_counts(of_kind)}: {reason.rstrip('.')}."
        for (group, reason), of_kind in found
    ]


def _counts(laws: list[Any]) -> str:
    counts = {
        f"{law.fit.fit.n_reached} of {law.fit.fit.n_runs} runs reached it" for law in laws if law.target is not None
    }
    return f" ({counts.pop()})" if len(counts) == 1 else ""


def _name(target: float | None) -> str:
    return "all jointly" if target is None else f"{target:g}"


def slice_headlines(slices: Iterable[SliceLaw]) -> list[str]:
    """Critical prompts and rollouts along each alone as a range over targets; the table has each with its interval."""
    return [_slice_headline(law) for law in slices]


def _slice_headline(law: SliceLaw) -> str:
    name = f"Prompts at {law.fixed} rollouts each" if law.along == "prompts" else f"Rollouts of {law.fixed} prompts"
    place, runs = f"{law.group}: " if law.group else "", f"{law.n_runs} runs"
    if not law.critical:
        return f"{place}{name} alone: unresolved at every target ({runs})."
    ends = list(law.critical.items())
    said = f"critical {_text(ends[0][1])} at {ends[0][0]:g}"
    if len(ends) > 1:
        said += f" to {_text(ends[-1][1])} at {ends[-1][0]:g}"
    missing = [f"{fit.target:g}" for fit in law.fits if fit.target not in law.critical]
    return f"{place}{name} alone: {said}{_unresolved(missing)} ({runs})."


def _unresolved(targets: list[str]) -> str:
    return f", unresolved at {', '.join(targets)}" if targets else ""


def _text(estimate: Any) -> str:
    return f"{number_text(estimate.value)} {interval_text(estimate)}"


def _by(found: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    by: dict[Any, list[Any]] = {}
    for one in found:
        by.setdefault(key(one), []).append(one)
    return by

"""What a table of steps to targets allows one to say, as text."""

import textwrap
from collections import defaultdict
from statistics import fmean

from rlvr_jax.analysis.fit_targets import TargetFit, fit_targets
from rlvr_jax.analysis.fits import LawFit
from rlvr_jax.analysis.law_residuals import aligned, residual_text
from rlvr_jax.analysis.law_split_text import split_text
from rlvr_jax.analysis.law_table import Row, one_update_rows, table_observations
from rlvr_jax.analysis.law_text import law_text
from rlvr_jax.analysis.law_words import SHAPE_FORMULAS, UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.table_notes import table_notes

_COLUMNS = 118
_MOST_EQUAL_SIZES = 4


def law_report(
    rows: list[Row], fits: list[TargetFit], *, name: str, unit: str, shape: str, confidence: float, unused: list[str]
) -> str:
    """Fits under both kinds of residuals, what hangs on how steps are counted, P against R, residuals: markdown.

    Args:
        rows: of `read_table`.
        fits: of `fit_targets` under each of RESIDUALS, of these rows in `unit`.
        name: of the table.
        unused: columns of the table that are not ours.
    """
    observations = table_observations(rows, unit)
    by_counting = _by_counting(rows, fits, unit=unit, confidence=confidence) if shape == "total" else {}
    sections = [
        _heading(rows, name, unit, shape),
        _reading(rows, unused),
        _standing_text(fits, by_counting, unit) if shape == "total" else "",
        law_text(fits, unit=unit),
        _counting_text(rows, by_counting, unit=unit),
        split_text(observations, unit=unit, confidence=confidence),
        residual_text(fits, unit=unit),
    ]
    return _wrapped("\n\n".join(section for section in sections if section))


def _wrapped(text: str) -> str:
    """Lines of a terminal's width, tables left alone."""
    lines = []
    for line in text.split("\n"):
        indent = "  " if line.startswith("- ") else ""
        is_kept = len(line) <= _COLUMNS or line.startswith(("|", "#"))
        lines += [line] if is_kept else textwrap.wrap(line, _COLUMNS, subsequent_indent=indent, break_long_words=False)
    return "\n".join(lines)


def _heading(rows: list[Row], name: str, unit: str, shape: str) -> str:
    sizes = sorted({observation.batch for observation in table_observations(rows, unit)})
    targets = sorted({row.target for row in rows})
    runs = len({row.identity for row in rows})
    size = "an optimiser step's minibatch" if unit == "update" else "a collection"
    span = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else ", ".join(str(size) for size in sizes) or "unknown"
    law = f"S = {SHAPE_FORMULAS[shape]}: {UNIT_NAMES[unit]} to a target; B = P R rollouts of {size}."
    if shape == "total":
        law += " At B = B_noise a run takes twice S_min."
    return (
        f"# The law of {name}, in {UNIT_NAMES[unit]}\n\n"
        f"{law} {runs} run(s), {len(sizes)} batch size(s) {span}, {len(targets)} target(s)"
        f" {', '.join(f'{target:g}' for target in targets[:12])}{', ...' if len(targets) > 12 else ''}."
    )


def _reading(rows: list[Row], unused: list[str]) -> str:
    notes = table_notes(rows)
    if unused:
        notes.append(
            f"Columns left alone: {', '.join(unused)}. Where one of them changes how fast a run learns, name its values"
            " in the column group: groups are fitted apart."
        )
    return "\n".join(f"- {note}" for note in notes)


def _by_counting(rows: list[Row], fits: list[TargetFit], *, unit: str, confidence: float) -> dict[str, list[TargetFit]]:
    """Relative fits in steps, in updates, and of the runs with one update per step; nothing where all have one."""
    single = one_update_rows(rows)
    if len(single) == len(rows):
        return {}
    other = "update" if unit == "step" else "step"
    found = {
        unit: [fit for fit in fits if fit.fit.residuals == "relative"],
        other: fit_targets(table_observations(rows, other), confidence=confidence),
    }
    seen = [one for one in table_observations(rows, unit) if one.updates_per_step == 1]
    return found | {"single": fit_targets(seen, confidence=confidence) if seen else []}


def _standing_text(fits: list[TargetFit], by_counting: dict[str, list[TargetFit]], unit: str) -> str:
    """Which targets are resolved whatever kind of residuals is chosen, and what runs of one update per step say."""
    laws: dict[str, list[LawFit]] = defaultdict(list)
    for fit in fits:
        laws[target_name(fit.target, fit.group)].append(fit.fit)
    both, one, none = [], [], []
    for name, found in laws.items():
        n_resolved = sum(law.resolved for law in found)
        if n_resolved == len(found):
            both.append(f"{name}: {' and '.join(f'{_scale_text(law)} ({law.residuals})' for law in found)}")
        else:
            (one if n_resolved else none).append(name)
    lines = [
        f"- B_noise in rollouts, counting {UNIT_NAMES[unit]}, resolved under both kinds of residuals:"
        f" {'; '.join(both) or 'at no target'}.",
        *([f"- Resolved under one kind only: {', '.join(one)}."] if one else []),
        *([f"- Unresolved under both: {', '.join(none)}."] if none else []),
    ]
    if by_counting:
        single = [fit for fit in by_counting["single"] if fit.fit.resolved]
        named = [f"{target_name(fit.target, fit.group)}: {_scale_text(fit.fit)}" for fit in single]
        lines.append(
            "- By the runs with one update per step alone, for which steps and updates are the same (relative):"
            f" {'; '.join(named) + ' rollouts' if named else 'no target is resolved'}."
        )
    return "\n".join(["What stands:", "", *lines])


def _counting_text(rows: list[Row], by_counting: dict[str, list[TargetFit]], *, unit: str) -> str:
    """Steps against updates, where runs take several updates per step; "" where none does."""
    if not by_counting:
        return ""
    counts = sorted({row.updates_per_step for row in rows})
    several = list(dict.fromkeys(row.run for row in rows if row.updates_per_step > 1))
    keys = ["step", "update", "single"]
    laws = {key: {(fit.group, fit.target): fit.fit for fit in by_counting[key]} for key in keys}
    table = [["B_noise", "all, in steps", "all, in updates", "one update per step", "spreads"]]
    for group, target in dict.fromkeys((fit.group, fit.target) for fit in by_counting[unit]):
        found = [laws[key].get((group, target)) for key in keys]
        spreads = ["-" if law is None or law.n_reached == 0 else f"{law.sigma:.0%}" for law in found]
        scales = ["-" if law is None or law.b_noise is None else _scale_text(law) for law in found]
        table.append([target_name(target, group), *scales, " / ".join(spreads)])
    lines = [
        f"Steps or updates: {', '.join(several[:8])}{' and others' if len(several) > 8 else ''} take"
        f" {', '.join(str(count) for count in counts if count > 1)} updates per step. Counted in steps, such a run's"
        " batch is the whole collection, and that it also made more updates is not in the law; counted in updates, its"
        " batch is the minibatch, and that later updates of a collection learn from older rollouts is not in the law."
        " As far as the table says, only runs with one update per step differ in nothing but their batch size (the"
        " third fit). Residuals are relative; a spread is that of ln S about its fit:",
        "",
        *aligned(table),
    ]
    equal = [*_equal_size_lines(rows, unit="step"), *_equal_size_lines(rows, unit="update")]
    if equal:
        lines += ["", "Equal in a law of the batch alone, at so many updates per step:", "", *equal]
    return "\n".join(lines)


def _scale_text(law: LawFit) -> str:
    """ "310 [210, 480]", or that it is unresolved and the side that is known."""
    interval = "" if law.is_refused else interval_text(law.b_noise)
    return f"{number_text(law.b_noise.value)} {interval}" if law.resolved else f"unresolved {interval}".strip()


def _equal_size_lines(rows: list[Row], *, unit: str) -> list[str]:
    """What one size needed with different numbers of updates per step, at the hardest target that most of them reached.

    In steps that size is the collection, in updates the minibatch: a law of it alone has these equal.
    """
    size, noun = ("n_prompts", "collection") if unit == "step" else ("minibatch_prompts", "minibatch")
    by_size: dict[tuple, dict[float, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        if row.steps is not None:
            time = row.steps * (row.updates_per_step if unit == "update" else 1)
            by_size[row.group, getattr(row, size), row.n_rollouts][row.target][row.updates_per_step].append(time)
    lines = []
    for (group, n_prompts, n_rollouts), by_target in by_size.items():
        target, times = max(by_target.items(), key=lambda item: (len(item[1]), item[0]))
        if len(times) > 1 and len(lines) < _MOST_EQUAL_SIZES:
            means = ", ".join(f"{number_text(fmean(times[count]))} at {count} per step" for count in sorted(times))
            place = f" in {group}" if group else ""
            lines.append(
                f"- the same {noun} of {n_prompts} x {n_rollouts}{place}, {UNIT_NAMES[unit]} to {target:g}: {means}"
            )
    return lines

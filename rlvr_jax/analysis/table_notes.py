"""How a table of steps to targets was read, in sentences."""

import math
from collections import defaultdict

from rlvr_jax.analysis.law_table import Length, Row, ended_at


def table_notes(rows: list[Row]) -> list[str]:
    """Sentences on how the rows were read, where that was a choice."""
    notes = []
    spacings = sorted({row.eval_every for row in rows if row.eval_every})
    if spacings:
        every = " or ".join(f"{spacing:g}" for spacing in spacings)
        example = spacings[0]
        notes.append(
            f"Evaluations lie {every} steps apart: a printed {3 * example:g} means {2 * example:g}-{3 * example:g},"
            f" and {example:g} means at most {example:g}."
        )
        early = _early_text(rows)
        if early:
            notes.append(
                f"Reached by the first evaluation, so that no more than an upper bound is known: {early}. Absolute"
                " residuals take these numbers as exact."
            )
        notes.append(
            "Absolute residuals take a printed number, the latest that it may be, for the time itself: their S_min"
            " is high by about half the spacing."
        )
    if any(row.steps is not None and not row.eval_every for row in rows):
        which = "" if not spacings else " where eval_every is blank"
        notes.append(f"Steps are taken as exact{which}; eval_every says how far evaluations lie apart.")
    cut = [row for row in rows if row.is_minibatch_cut]
    if cut:
        notes.append(
            f"minibatch_prompts is larger than n_prompts for {_listed(_runs_of(cut))}: read as n_prompts, one update"
            " per step."
        )
    return notes + _ending_notes(rows) + _order_notes(rows)


def _ending_notes(rows: list[Row]) -> list[str]:
    """How far the runs went that did not get to a target, where the table does not say so."""
    ends = ended_at(rows)
    by_source: dict[str, list[tuple[Row, Length]]] = defaultdict(list)
    for row in rows:
        if row.steps is None:
            length = ends[row.identity, row.target]
            is_early = length.steps == 0 and length.source != "none"
            by_source["early" if is_early else length.source].append((row, length))
    notes = []
    own, group = (
        [f"{_run_text(row)} > {length.steps:g} steps to {row.target:g}" for row, length in by_source[source]]
        for source in ("own", "group")
    )
    if own:
        notes.append(
            "Not reached, and the table does not say how far the run went (max_steps); it went at least as far as its"
            f" last printed step: {_listed(own, 4)}."
        )
    if group:
        place = " of its group" if len({row.group for row in rows}) > 1 else ""
        notes.append(
            "Not reached, and nothing is printed of the run at any target. It is taken to have gone as far as the last"
            f" step printed for any run{place}, which is right where all were given as many steps; max_steps, as a"
            f" column or a flag, would replace this: {_listed(group, 4)}."
        )
    early, unknown = ([row for row, _ in by_source[kind]] for kind in ("early", "none"))
    if early:
        notes.append(f"Used by no fit: {_listed(_runs_of(early))} ended before the first evaluation.")
    if unknown:
        notes.append(
            f"Used by no fit: {_listed(_runs_of(unknown))} reached no target, and neither max_steps nor another run of"
            " the group says how far it went; give max_steps, as a column or a flag."
        )
    return notes


def _runs_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(_run_text(row) for row in rows))


def _run_text(row: Row) -> str:
    return row.run if row.seed is None else f"{row.run} seed {row.seed}"


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _early_text(rows: list[Row]) -> str:
    """ "7 of 8 runs at 0.4, ...": the targets that at least a quarter of their runs had at the first evaluation."""
    found = []
    for target in sorted({row.target for row in rows}):
        reached = [row for row in rows if row.target == target and row.steps is not None]
        early = [row for row in reached if row.eval_every and row.steps <= row.eval_every]
        if 4 * len(early) >= max(1, len(reached)):
            found.append(f"{len(early)} of {len(reached)} runs at {target:g}")
    return ", ".join(found[:8]) + (f" and at {len(found) - 8} more targets" if len(found) > 8 else "")


def _order_notes(rows: list[Row]) -> list[str]:
    """Runs whose steps neither rise nor fall with the target, as a first crossing must."""
    by_run: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        by_run[row.identity].append(row)
    odd = []
    for run_rows in by_run.values():
        steps = [math.inf if row.steps is None else row.steps for row in sorted(run_rows, key=lambda row: row.target)]
        if steps != sorted(steps) and steps != sorted(steps, reverse=True):
            odd.append(_run_text(run_rows[0]))
    return [f"Check {_listed(odd)}: steps neither rise nor fall from target to target."] if odd else []

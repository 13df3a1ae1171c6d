"""How a table of steps to targets was read, in sentences."""

import math
from collections import defaultdict

from rlvr_jax.analysis.law_table import Row, furthest_steps


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
    if any(row.steps is not None and not row.eval_every for row in rows):
        which = "" if not spacings else " where eval_every is blank"
        notes.append(f"Steps are taken as exact{which}; eval_every says how far evaluations lie apart.")
    unreached = [row for row in rows if row.steps is None]
    furthest = furthest_steps(rows)
    guessed = [row for row in unreached if row.max_steps is None and furthest[row.identity] > 0]
    if guessed:
        bounds = [f"{row.run} > {furthest[row.identity]:g} steps to {row.target:g}" for row in guessed[:4]]
        more = f" and {len(guessed) - 4} more" if len(guessed) > 4 else ""
        notes.append(
            f"Not reached, and the table does not say how far the run went (max_steps); it went at least as far as its"
            f" last printed step: {', '.join(bounds)}{more}."
        )
    unknown = [row for row in unreached if row.max_steps is None and furthest[row.identity] == 0]
    if unknown:
        names = ", ".join(dict.fromkeys(row.run for row in unknown[:8]))
        notes.append(
            f"Left out: {names} reached no target, and no max_steps says how far it went, so nothing is known."
        )
    return notes + _order_notes(rows)


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
            odd.append(run_rows[0].run)
    if not odd:
        return []
    more = f" and {len(odd) - 8} more" if len(odd) > 8 else ""
    return [f"Check {', '.join(odd[:8])}{more}: steps neither rise nor fall from target to target."]

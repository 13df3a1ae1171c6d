"""A table of steps to targets, from any trainer, as observations of the law."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.printable import printable
from rlvr_jax.analysis.table_fields import Fields, column_index, table_fields

NEEDED = ("run", "n_prompts", "n_rollouts", "target", "steps")
OPTIONAL = ("minibatch_prompts", "eval_every", "max_steps", "seed", "group")
UNITS = ("step", "update")
_STEPS_RANGE = (1e-3, 1e12)  # of printed steps: beyond it, they are something else
_NOT_REACHED = ("", "-", "–", "—", "nan", "na", "n/a", "none", "null")  # of `steps`, in lower case


@dataclass(frozen=True)
class Row:
    """One line: one run, one target."""

    line: int  # in the file, from 1, which is the header's
    run: str
    n_prompts: int  # of a collection
    n_rollouts: int
    target: float
    steps: float | None  # collections; None: not reached
    minibatch_prompts: int  # of an update, at most n_prompts: then it is one update per step
    eval_every: float | None  # steps; None: `steps` is exact
    max_steps: float | None  # how far the run went; None: not said
    seed: int | None
    group: str
    is_minibatch_cut: bool = False  # the table has a larger one than n_prompts

    @property
    def updates_per_step(self) -> int:
        return self.n_prompts // self.minibatch_prompts

    @property
    def identity(self) -> tuple[str, str, int | None]:
        """What all rows of one run share."""
        return self.group, self.run, self.seed


@dataclass(frozen=True)
class Length:
    """How many steps a run is known, or taken, to have made."""

    steps: float  # of its last evaluation; 0: it had none
    source: str  # "max_steps", "own" (its last printed step), "group" (of any run of its group), "none"


def read_table(path: str | Path, *, eval_every: float | None = None, max_steps: float | None = None) -> list[Row]:
    """The rows of a CSV file, checked; columns may lie in any order.

    Comma, semicolon or tab between fields, with or without a byte-order mark; behind a semicolon 0,5 is 0.5.
    Blank `steps` (or -, nan, NA): the run did not reach the target.

    Args:
        path: of a UTF-8 file with the columns NEEDED and any of OPTIONAL; others are left alone (`unused_columns`).
        eval_every: spacing of evaluations in steps, for a table without that column.
        max_steps: how far every run went, likewise.

    Raises:
        ValueError: naming file, line, value and fix.
        OSError: the file cannot be read.
    """
    header, lines, has_decimal_comma = table_fields(path, needed=NEEDED)
    index = column_index(path, header, needed=NEEDED, optional=OPTIONAL)
    for name, value in (("eval_every", eval_every), ("max_steps", max_steps)):
        if value is not None and name in index:
            raise ValueError(f"{path} has a column {name}: leave --{name}={value:g} out, or the column")
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name}={value:g} is not a number of steps above 0")
    rows = []
    for line, fields in lines:
        if len(fields) != len(header):
            raise ValueError(
                f"{path} line {line} has {len(fields)} fields where the header has {len(header)}; a blank is kept as"
                " an empty field between separators"
            )
        row = Fields(f"{path} line {line}", {name: fields[at].strip() for name, at in index.items()}, has_decimal_comma)
        rows.append(_row(row, line, eval_every, max_steps))
    if not rows:
        raise ValueError(f"{path} has a header and no rows; a row is one run and one target")
    _check_runs(path, rows)
    return rows


def unused_columns(path: str | Path) -> list[str]:
    """Names in the header that are not ours."""
    names = table_fields(path, needed=NEEDED)[0]
    return [_one_line(name) for name in names if name and name not in NEEDED + OPTIONAL]


def table_observations(rows: list[Row], unit: str) -> list[Observation]:
    """What the rows say of the law, in order.

    With evaluations every E steps, a printed s means (s - E, s]: 75 read every 25 is 50-75, and 25 is at most 25.
    Without, s is exact. A run that did not reach a target went on to `max_steps`, or, where the table does not say,
    at least as far as its own last printed step at another target: that is certain. Where neither is known, the slow
    runs of a size would go and the fast ones stay if it were dropped, so it is taken to have gone as far as the last
    step printed for any run of its group. Where that too is unknown, or the run ended before its first evaluation, it
    lies in (0, inf], which no fit uses and every fit counts. `table_notes` says which runs these are.

    Args:
        rows: of `read_table`.
        unit: "step", a collection of n_prompts; or "update", an optimiser step of minibatch_prompts, of which a
            collection holds n_prompts / minibatch_prompts, all of them counted as trained when it is evaluated.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is none of {', '.join(UNITS)}")
    ends = ended_at(rows)
    found = []
    for row in rows:
        count = row.updates_per_step if unit == "update" else 1
        if row.steps is None:
            after, at, by = ends[row.identity, row.target].steps, None, math.inf
        else:
            at, by = row.steps * count, row.steps * count
            after = row.steps - (row.eval_every or 0.0)
        found.append(
            Observation(
                run=row.run,
                n_prompts=row.minibatch_prompts if unit == "update" else row.n_prompts,
                n_rollouts=row.n_rollouts,
                target=row.target,
                at=at,
                after=max(0.0, after) * count,
                by=by,
                seed=row.seed,
                group=row.group,
                updates_per_step=row.updates_per_step,
            )
        )
    return found


def ended_at(rows: list[Row]) -> dict[tuple, Length]:
    """By run and target, where it was not reached: the last evaluation that is known not to have seen it."""
    printed: dict[tuple, float] = defaultdict(float)
    said: dict[tuple, float] = defaultdict(float)
    in_group: dict[str, float] = defaultdict(float)
    for row in rows:
        printed[row.identity] = max(printed[row.identity], row.steps or 0.0)
        said[row.identity] = max(said[row.identity], row.max_steps or 0.0)
        in_group[row.group] = max(in_group[row.group], row.steps or 0.0)
    found = {}
    for row in rows:
        if row.steps is not None:
            continue
        most = row.max_steps or said[row.identity]
        if most:
            length = Length(max(most, 0.0 if row.max_steps else printed[row.identity]), "max_steps")
        elif printed[row.identity]:
            length = Length(printed[row.identity], "own")
        else:
            length = Length(in_group[row.group], "group" if in_group[row.group] else "none")
        if row.eval_every:  # nobody looked after the last of them
            length = Length(row.eval_every * math.floor(length.steps / row.eval_every + 1e-9), length.source)
        found[row.identity, row.target] = length
    return found


def one_update_rows(rows: list[Row]) -> list[Row]:
    """The rows whose runs take one update per step: there a step and an update are the same."""
    return [row for row in rows if row.updates_per_step == 1]


def _one_line(text: str) -> str:
    """What a terminal and a line of markdown can show."""
    return printable(" ".join(text.split()))


def _row(fields: Fields, line: int, eval_every: float | None, max_steps: float | None) -> Row:
    counts = {name: fields.count(name) for name in ("n_prompts", "n_rollouts")}
    target = fields.number("target", "a number", is_positive=False)
    for name, value in counts.items() | {("target", target)}:
        if value is None:
            raise ValueError(f"{fields.place}: {name} is blank; every row needs it")
    run = _one_line(fields.text["run"])
    if not run:
        raise ValueError(f"{fields.place}: run is blank; rows of one run share its name")
    steps = None
    if fields.text["steps"].lower() not in _NOT_REACHED:
        wanted = "a number of steps above 0; leave it blank where the target was not reached"
        steps = fields.number("steps", wanted)
        if not _STEPS_RANGE[0] <= steps <= _STEPS_RANGE[1]:
            raise fields.fault("steps", f"a number of steps, {_STEPS_RANGE[0]:g} to {_STEPS_RANGE[1]:g}")
    asked = fields.count("minibatch_prompts") or counts["n_prompts"]
    minibatch = min(asked, counts["n_prompts"])
    if counts["n_prompts"] % minibatch:
        raise ValueError(
            f"{fields.place}: minibatch_prompts={minibatch} does not divide n_prompts={counts['n_prompts']}: updates"
            " would differ in size; it is the prompts of one optimiser step, blank where that is the whole collection"
        )
    spacing = fields.number("eval_every", "a number of steps above 0") if "eval_every" in fields.text else eval_every
    if steps is not None and spacing and not math.isclose(steps / spacing, round(steps / spacing), abs_tol=1e-6):
        raise ValueError(
            f"{fields.place}: steps={steps:g} is not a multiple of eval_every={spacing:g}: steps are those of the"
            " evaluation that saw the target; leave eval_every out (or blank in this row) where they are exact"
        )
    furthest = max_steps
    if "max_steps" in fields.text:
        furthest = fields.number("max_steps", "a number of steps above 0")
    if steps is not None and furthest is not None and steps > furthest:
        raise ValueError(f"{fields.place}: steps={steps:g} lie beyond max_steps={furthest:g}, where the run ended")
    seed = fields.number("seed", "a whole number", is_positive=False)
    if seed is not None and seed != int(seed):
        raise fields.fault("seed", "a whole number")
    return Row(
        line=line,
        run=run,
        **counts,
        target=target,
        steps=steps,
        minibatch_prompts=minibatch,
        eval_every=spacing,
        max_steps=furthest,
        seed=None if seed is None else int(seed),
        group=_one_line(fields.text.get("group", "")),
        is_minibatch_cut=asked > minibatch,
    )


def _check_runs(path: str | Path, rows: list[Row]) -> None:
    """One row per run and target, and one size per run."""
    seen: dict[tuple, Row] = {}
    sizes: dict[tuple, Row] = {}
    for row in rows:
        first = seen.setdefault((row.identity, row.target), row)
        if first is not row:
            seed = "" if row.seed is None else f" seed {row.seed}"
            raise ValueError(
                f"{path} lines {first.line} and {row.line} both hold run {row.run}{seed} at target {row.target:g};"
                " repeated runs need a column seed, or names of their own"
            )
        first = sizes.setdefault(row.identity, row)
        for name in ("n_prompts", "n_rollouts", "minibatch_prompts"):
            if getattr(first, name) != getattr(row, name):
                raise ValueError(
                    f"{path} lines {first.line} and {row.line}: run {row.run} has {name}={getattr(first, name)} and"
                    f" {getattr(row, name)}; runs of different sizes need different names"
                )

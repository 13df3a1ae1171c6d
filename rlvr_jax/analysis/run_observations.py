"""What runs say about the law: one observation per run and target."""

import math
from collections import Counter, defaultdict
from pathlib import Path

from rlvr_jax.analysis.controls import controls, rate_in_use
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.targets import UNITS, evaluations


def run_observations(
    records: list[RunRecord],
    *,
    unit: str,
    smooth: int = 1,
    group_of: dict[Path, str] | None = None,
    notes: list[str] | None = None,
) -> list[Observation]:
    """One observation per run and target, by rising target and run.

    A run that is not at a target at its last evaluation, finished or not, was there later than that. One that was at it
    before training says nothing of the batch and is left out. Of a grid of learning rates the one whose runs reached a
    target first counts, chosen for each split and target; best of several, it is a little too good.

    Args:
        unit: "update": times are optimiser updates and the batch is a minibatch; "step": both are of collections.
        smooth: targets are looked for in the trailing mean of so many evaluations; 1: in the evaluations themselves.
        group_of: what `controls` says; None: asked here.
        notes: sentences about what was left out are added to it.

    Raises ValueError for another unit, or smooth below 1.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is none of {', '.join(UNITS)}")
    if smooth < 1:
        raise ValueError(f"smooth={smooth} is no number of evaluations; use 1 for none, or 2, 3, ...")
    said: list[str] = [] if notes is None else notes
    groups = controls(records).group_of if group_of is None else group_of
    names = run_names(records)
    targets = all_targets(records)
    found: dict[tuple, list[Observation]] = defaultdict(list)  # by target, group, split and rate
    at_start: Counter = Counter()
    for record in records:
        evaluated = evaluations(record, smooth=smooth)
        for target in targets:
            crossing = evaluated.crossing(target)
            if crossing is None or (crossing.updates is None and crossing.after == 0):
                continue  # not evaluated after its start
            if crossing.by == 0:
                at_start[target] += 1
                continue
            n_prompts = record.minibatch_prompts if unit == "update" else record.n_prompts
            is_grid = record.config["optimizer.lr_rule"] == "grid"
            key = (target, groups[record.folder], record.n_prompts, record.n_rollouts, record.minibatch_prompts)
            found[*key, rate_in_use(record) if is_grid else None].append(
                Observation(
                    run=names[record.folder],
                    n_prompts=n_prompts,
                    n_rollouts=record.n_rollouts,
                    target=target,
                    at=None if crossing.updates is None else evaluated.in_unit(unit, crossing.updates),
                    after=0.0 if crossing.after is None else evaluated.in_unit(unit, crossing.after),
                    by=math.inf if crossing.by is None else evaluated.in_unit(unit, crossing.by),
                    seed=record.seed,
                    group=groups[record.folder],
                    updates_per_step=max(1, record.n_prompts // record.minibatch_prompts),
                )
            )
    said += [
        f"{n} run(s) were at {target:g} before training: that target says nothing of their batch, and they are left "
        "out of its law."
        for target, n in sorted(at_start.items())
    ]
    kept = _best_rates(found, said)
    return sorted(kept, key=lambda observation: (observation.target, observation.group, observation.run))


def of_one_estimator(
    observations: list[Observation], records: list[RunRecord]
) -> tuple[list[Observation], list[Observation]]:
    """(observations of one law, those of runs with one rollout per prompt and another baseline than their group's).

    A group of one rollout has no mean of its own. With the batch's mean in its place the gradient is another estimate,
    and its steps follow another curve than those of runs with group baselines. A baseline that all runs have, such as
    a batch's in every run, is none of another kind, and neither is that of a group with nothing but such runs.
    """
    names = run_names(records)
    advantage_of = {names[record.folder]: record.config.get("algo.advantage") for record in records}
    of_groups: dict[str, set] = defaultdict(set)  # baselines of runs with several rollouts
    for seen in observations:
        if seen.n_rollouts > 1:
            of_groups[seen.group].add(advantage_of[seen.run])
    kept, others = [], []
    for seen in observations:
        baselines = of_groups[seen.group]
        own = advantage_of[seen.run]
        is_other = seen.n_rollouts == 1 and bool(baselines) and (own is None or own not in baselines)
        (others if is_other else kept).append(seen)
    return kept, others


def _best_rates(found: dict[tuple, list[Observation]], notes: list[str]) -> list[Observation]:
    by_split: dict[tuple, dict] = defaultdict(dict)
    for (*split, rate), observations in found.items():
        by_split[tuple(split)][rate] = observations
    kept = []
    chosen: dict[float, list[str]] = defaultdict(list)
    for (target, _, n_prompts, n_rollouts, _), by_rate in sorted(by_split.items(), key=lambda item: item[0]):
        rate = min(by_rate, key=lambda rate: _slowness(by_rate[rate]))
        kept += by_rate[rate]
        if len(by_rate) > 1:
            chosen[target].append(f"{n_prompts} x {n_rollouts}: {rate:g} of {len(by_rate)}")
    notes += [
        f"Learning rate that reached {target:g} first, on average over its runs: {'; '.join(texts)}. "
        "The best of several is a little too good, by chance."
        for target, texts in chosen.items()
    ]
    return kept


def _slowness(observations: list[Observation]) -> tuple[float, float]:
    """A rate at which more runs get there comes first, then the one where they do so sooner."""
    reached = [observation.at for observation in observations if observation.is_reached]
    missed = 1 - len(reached) / len(observations)
    return missed, sum(reached) / len(reached) if reached else -max(o.after for o in observations)


def all_targets(records: list[RunRecord]) -> tuple[float, ...]:
    """Every target that any of the runs was given, rising: a run is read at those of the others too."""
    return tuple(sorted({float(target) for record in records for target in record.config["eval.targets"]}))


def run_names(records: list[RunRecord]) -> dict[Path, str]:
    """A name for every run's folder: its point, with its study or its folder where that is not its own."""
    points = Counter(record.point for record in records)
    names = Counter(record.name for record in records)
    return {
        record.folder: record.point
        if points[record.point] == 1
        else record.name
        if names[record.name] == 1
        else str(record.folder)
        for record in records
    }

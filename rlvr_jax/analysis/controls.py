"""Which settings tell runs apart, and whether they may share a table, a law, or neither."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_jax.analysis.read_runs import RunRecord, shown

POINT = ("study", "point", "seed", "batch.n_prompts", "batch.n_rollouts", "batch.minibatch_prompts")
# what changes how a run is computed, recorded or watched, and not what it comes to at an update
HARMLESS = ("checkpoint.", "log.", "placement.", "noise.", "n_updates", "batch.microbatch_prompts")
HARMLESS += ("eval.every_updates", "eval.milestones", "eval.targets", "eval.k")
HARMLESS += ("model.remat", "model.logprob_chunk_mib", "sampling.rollouts_at_once", "sampling.bucket_tokens")
HARMLESS += ("task.answer_workers", "task.reward_workers", "task.code.n_processes", "task.judge.concurrency")
HARMLESS += ("task.judge.cache_folder", "task.judge.budget_", "task.judge.api_key_env", "task.judge.base_url")
# accuracies of runs that differ in these are different quantities
REFUSED = ("task.", "model.", "eval.")
RATES = ("optimizer.peak_lr", "lora.peak_lr")


@dataclass(frozen=True)
class Controls:
    """Runs by what was held fixed; a law is fitted to one group, never across two."""

    group_of: dict[Path, str]  # folder of a run -> the settings that its group has of its own, "" if there is one group
    notes: list[str]


def controls(records: list[RunRecord]) -> Controls:
    """Groups of runs that differ in nothing but point, seed and settings without effect.

    A learning rate that follows a rule over batch sizes is no difference, and neither are the rates of a grid. One
    rollout per prompt has no group mean, so the batch's mean in its place is none either.

    Raises ValueError naming a setting by which accuracies cannot be compared.
    """
    settings = [_settings(record) for record in records]
    _one_baseline(records, settings)
    names = list(dict.fromkeys(name for one in settings for name in one))
    recorded = {name: {str(one[name]) for one in settings if name in one} for name in names}
    for name in names:
        if name.startswith(REFUSED) and len(recorded[name]) > 1:
            raise ValueError(
                f"the runs differ in {name} ({', '.join(sorted(recorded[name]))}) and cannot share a table; "
                "report them apart"
            )
    varied = [name for name in names if len(recorded[name]) > 1]
    labels = [
        ", ".join(f"{name}={shown(one[name])}" if name in one else f"{name} not recorded" for name in varied)
        for one in settings
    ]
    return Controls(
        {record.folder: label for record, label in zip(records, labels, strict=True)},
        [*_difference_notes(varied, labels), *_older_notes(records), *_sameness_notes(records)],
    )


def _settings(record: RunRecord) -> dict[str, Any]:
    """What a run is controlled by."""
    config = record.config
    kept = {name: value for name, value in config.items() if name not in POINT and not name.startswith(HARMLESS)}
    if config.get("optimizer.schedule", "constant") != "constant" and not config.get("optimizer.decay_updates"):
        kept["optimizer.decay_updates"] = config["n_updates"]  # 0 stands for it
    if config["optimizer.lr_rule"] == "grid":
        for name in (*RATES, "optimizer.lr_grid"):  # which may have been extended
            kept.pop(name, None)
    return kept


def _one_baseline(records: list[RunRecord], settings: list[dict[str, Any]]) -> None:
    """Gives runs of one rollout per prompt the baseline of the others, where these agree."""
    name = "algo.advantage"
    of_groups = {one.get(name) for record, one in zip(records, settings, strict=True) if record.n_rollouts > 1}
    if len(of_groups) == 1:
        for record, one in zip(records, settings, strict=True):
            if record.n_rollouts == 1 and one.get(name) == "batch_mean":
                one[name] = next(iter(of_groups))


def _difference_notes(varied: list[str], labels: list[str]) -> list[str]:
    if not varied:
        return []
    groups = "; ".join(f"{label} ({n} run(s))" for label, n in Counter(labels).items())
    return [f"The runs differ in {', '.join(varied)}: groups that are fitted apart: {groups}."]


def _older_notes(records: list[RunRecord]) -> list[str]:
    """On fields that some run.json do not hold."""
    every = {name for record in records for name in record.run.get("config", {})}
    lacking = defaultdict(list)
    for record in records:
        missing = sorted(every - set(record.run.get("config", {})))
        if missing:
            lacking[", ".join(missing)].append(record.point)
    return [
        f"run.json of {len(points)} run(s) ({some(points)}) is of an older version without {fields}: "
        "taken to be as in the others, or as that version did it."
        for fields, points in lacking.items()
    ]


def _sameness_notes(records: list[RunRecord]) -> list[str]:
    """On fingerprints that should be equal; they are no settings, so that nothing is refused for them."""
    notes = []
    for field, what in (("starting_params", "starting parameters"), ("task_data", "data files")):
        found = Counter(str(record.run[field]) for record in records if record.run.get(field))
        if len(found) > 1:
            counts = ", ".join(f"{value} ({n} run(s))" for value, n in found.items())
            notes.append(f"The runs do not all have the same {what} ({counts}): their times are not of one experiment.")
    return notes


def rate_in_use(record: RunRecord) -> float | None:
    """The peak learning rate that a run was trained with."""
    return record.plan.get("peak_lr") or record.config.get("optimizer.peak_lr")


def learning_rate_text(records: list[RunRecord]) -> str:
    """How the learning rate followed the batch: "constant, 0.0002 at every batch size"."""
    texts = {}
    factors = {factor for record in records for factor in record.config.get("optimizer.lr_grid") or ()}
    for record in records:
        rule, reference = record.config["optimizer.lr_rule"], record.config.get("optimizer.lr_reference_rollouts")
        stated = record.config.get("optimizer.peak_lr")
        if rule == "constant":
            rate = rate_in_use(record)
            texts["constant, not recorded" if rate is None else f"constant, {rate:g} at every batch size"] = None
        elif rule == "grid":
            texts[f"grid of {len(factors)} rates at every batch size, the best of them at each target"] = None
        else:
            power = "square root of the batch" if rule == "sqrt" else "batch"
            texts[f"{rule}, {stated:g} at {reference} rollouts per update and proportional to the {power}"] = None
    return "; ".join(texts)


def some(names: list[str]) -> str:
    """ "a, b, c and 4 more"."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

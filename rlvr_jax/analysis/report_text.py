"""A study's report as markdown that also reads well on a terminal."""

from collections.abc import Callable

from rlvr_jax.analysis.conclusions import Conclusions
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.iso_batches import IsoBatch
from rlvr_jax.analysis.law_checks import law_checks_text
from rlvr_jax.analysis.law_text import law_text
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.policy_noise import policy_noise_table
from rlvr_jax.analysis.predicted_words import noise_grid, prediction_table, steps_table
from rlvr_jax.analysis.seeds import Ratio
from rlvr_jax.analysis.study import Study
from rlvr_jax.analysis.summary import (
    PointSummary,
    mean_and_spread,
    samples_to_target,
    steps_to_target,
    updates_to_target,
)  # fmt: skip

_TERMS = {"b_noise": "B_noise"}


def report_text(study: Study, conclusions: Conclusions) -> str:
    """Conclusion first, then the numbers behind it, then what was left out."""
    sections = [
        f"# {study.name}",
        _about(study),
        _bullets("## Conclusions", conclusions.headline),
        _bullets("These hold under:", conclusions.conditions),
        points_text(study),
        _law(conclusions),
        _slices(conclusions),
        _splits(conclusions),
        _iso_batches(conclusions),
        _predicted(conclusions),
        _policy_noise(conclusions),
        f"## Branches of one checkpoint\n\n{conclusions.branches}" if conclusions.branches else "",
        "\n".join(["## Order of points", "", *conclusions.orders]) if conclusions.orders else "",
        _bullets("## Notes", conclusions.notes),
    ]
    return "\n\n".join(section for section in sections if section)


def _about(study: Study) -> str:
    config = study.records[0].config
    spacings = sorted({str(record.config["eval.every_updates"]) for record in study.records})
    return (
        f"Held-out {config['eval.target_metric']} on task {config['task.name']}, "
        f"{config['eval.n_problems'] or 'all'} problems, evaluated every {' or '.join(spacings)} updates. "
        f"{len(study.records)} run(s)."
    )


def points_text(study: Study) -> str:
    """The table of points, and how long each took to every target."""
    if not study.points:
        return "No run was evaluated after its start: there is no accuracy to report."
    is_several = any(record.updates_per_step > 1 for record in study.records)
    parts = [
        "## Points",
        "Mean ± standard deviation over seeds. Updates to target are interpolated between evaluations. "
        "Noise-to-signal is a ratio of averages over training, its 95% interval a jackknife over seeds "
        "(over measurements with fewer than 3 seeds, which is too narrow if they are alike).",
        "\n".join(_point_table(study)),
    ]
    if study.targets:
        parts += ["Rollouts drawn until the target:", "\n".join(times_table(study, samples_to_target))]
        if is_several:
            parts += ["Steps (collections) until the target:", "\n".join(times_table(study, steps_to_target))]
    return "\n\n".join(parts)


def _point_table(study: Study) -> list[str]:
    ks = sorted({k for record in study.records for k in record.config["eval.k"]})
    names = ["greedy", *(f"pass@{k}" for k in ks)]
    header = ["prompts x rollouts", "seeds", "start", *(f"updates to {target:g}" for target in study.targets)]
    rows = [[*header, *(f"final {name}" for name in names), "noise-to-signal"]]
    for point in study.points:
        finals = [run.final_evaluation for run in point.finished]
        starts = [run.start_accuracy for run in point.runs if run.start_accuracy is not None]
        rows.append(
            [
                point.name,
                f"{point.seeds_text} ({', '.join(str(run.record.seed) for run in point.runs)})",
                mean_and_spread(starts),
                *(updates_to_target(point, i) for i in range(len(study.targets))),
                *(mean_and_spread([final[name] for final in finals if name in final]) for name in names),
                _ratio_text(point.noise_to_signal, any(run.trace_cov for run in point.runs)),
            ]
        )
    return table_lines(rows)


def times_table(study: Study, text: Callable[[PointSummary, int], str]) -> list[str]:
    """Every point by target, as `text` writes it."""
    rows = [["prompts x rollouts", *(f"{target:g}" for target in study.targets)]]
    rows += [[point.name, *(text(point, i) for i in range(len(study.targets)))] for point in study.points]
    return table_lines(rows)


def _ratio_text(ratio: Ratio, is_measured: bool) -> str:
    if not is_measured:
        return "not measured"
    return "unresolved" if ratio.value is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _law(conclusions: Conclusions) -> str:
    if not conclusions.laws:
        return ""
    return "\n\n".join(
        [
            "## The law",
            f"S(B) = S_min (1 + B_noise / B): {UNIT_NAMES[conclusions.unit]} to a target, B = prompts x rollouts. At "
            f"B = B_noise a run takes twice S_min. Learning rate: {conclusions.learning_rate}.",
            law_text(conclusions.fits, unit=conclusions.unit),
            law_checks_text(conclusions.fits, unit=conclusions.unit),
        ]
    )


def _slices(conclusions: Conclusions) -> str:
    """Critical prompts and rollouts from the runs along each alone, with why some are unresolved."""
    if not conclusions.slices:
        return ""
    lines = []
    for law in conclusions.slices:
        lines.append(f"- {law.sentence}")
        by_reason: dict[str, list[str]] = {}
        for fit in law.fits:
            if not fit.fit.resolved:
                by_reason.setdefault(fit.fit.reason, []).append(f"{fit.target:g}")
        lines += [f"  - unresolved at {', '.join(targets)}: {reason}" for reason, targets in by_reason.items()]
    about = (
        "S = S_min (1 + alpha / P) along prompts, S = S_min (1 + beta / (R - 1)) along rollouts: a run takes twice its "
        "least at alpha prompts, or at 1 + beta rollouts. Nothing is taken for granted about how the two combine."
    )
    return "\n\n".join(["## Along prompts or rollouts alone", about, "\n".join(lines)])


def _splits(conclusions: Conclusions) -> str:
    splits = conclusions.splits
    if not splits:
        return ""
    laws = [["target", "law", "terms", "spread", "AICc"]]
    sizes: dict[str, dict[str, str]] = {}
    for split in splits:
        name = target_name(split.target, split.group)
        for shape, law in split.comparison.fits.items():
            terms = ", ".join(f"{_TERMS.get(term, term)} {_estimate_text(e)}" for term, e in law.terms.items())
            laws.append([name, shape, terms or "-", f"{law.sigma:.0%}", f"{law.aicc:.1f}"])
        for kind, found in (
            ("prompts at {} rollouts each", split.prompt_cbs),
            ("rollouts of {} prompts", split.rollout_cbs),
        ):
            for number, estimate in found.items():
                cells = sizes.setdefault(kind.format(number), {})
                cells[name] = "-" if estimate is None else _estimate_text(estimate)
    names = [target_name(split.target, split.group) for split in splits]
    header = ["critical", *(f"{name} (law {split.law})" for name, split in zip(names, splits, strict=True))]
    parts = [
        "## Prompts and rollouts apart",
        "\n".join(f"- {split.sentence}" for split in splits),
        "Laws: total, 1 + B_noise/(P R); mean, 1 + alpha/P + beta/(P R); loo, 1 + alpha/P + beta/(P (R-1)); zeta, "
        "1 + alpha/P + (4 (R-2) z1 + 2 z2)/(P R (R-1)); each times S_min. The lower AICc, the better.",
        "\n".join(table_lines(laws)),
    ]
    if sizes:
        rows = [header, *([kind, *(cells.get(name, "-") for name in names)] for kind, cells in sizes.items())]
        parts += [
            "Critical prompts at fixed rollouts, and rollouts at fixed prompts: with so many a run takes twice as long "
            "as with endlessly many (below 1: one is enough, as far as this law goes).",
            "\n".join(table_lines(rows)),
        ]
    return "\n\n".join(parts)


def _estimate_text(estimate: Estimate) -> str:
    """ "310 [210, 480]"; the bound alone where one end is open, and nothing but that where both are."""
    interval = interval_text(estimate)
    if interval.startswith("["):
        return f"{number_text(estimate.value)} {interval}"
    return "unresolved" if interval == "any" else interval


def _iso_batches(conclusions: Conclusions) -> str:
    """A table per batch size with a column per target, then the orders that were found."""
    if not conclusions.iso_batches:
        return ""
    unit, confidence = UNIT_NAMES[conclusions.unit], f"{conclusions.confidence:.0%}"
    parts = ["## Same batch, split in different ways", f"In {unit}, mean over runs with its {confidence} interval."]
    by_batch: dict[tuple[str, int], list[IsoBatch]] = {}
    for iso in conclusions.iso_batches:
        by_batch.setdefault((iso.group, iso.batch), []).append(iso)
    for (group, batch), isos in by_batch.items():
        names = list(dict.fromkeys(name for iso in isos for name, _ in iso.rows))
        cells = [dict(iso.rows) for iso in isos]
        header = ["prompts x rollouts", *(f"{unit} to {iso.target:g}" for iso in isos)]
        rows = [header, *([name, *(of_target.get(name, "-") for of_target in cells)] for name in names)]
        by_sentence: dict[str, list[str]] = {}
        for iso in isos:
            for sentence in iso.orders:
                by_sentence.setdefault(sentence, []).append(f"{iso.target:g}")
        parts += [
            f"### {batch} rollouts{f' [{group}]' if group else ''}",
            "\n".join(table_lines(rows)),
            "\n".join(f"- To {', '.join(targets)}: {sentence}" for sentence, targets in by_sentence.items()),
        ]
    return "\n\n".join(parts)


def _noise_grids(conclusions: Conclusions) -> list[str]:
    """Of the highest target of each group: its averages are over the longest way."""
    chosen = {found.group: found for found in conclusions.predictions if found.metric == "gradient"}
    parts = []
    for found in chosen.values():
        if grid := noise_grid(found):
            name = target_name(found.target, found.group)
            parts += [f"Noise over signal, tr Cov / |G|², of a batch on the way to {name}; *: was run.", grid]
    return parts


def _policy_noise(conclusions: Conclusions) -> str:
    if not conclusions.policy_noise:
        return ""
    what = "Measured by bin/noise on these policies alone, where the law above averages over the way to a target."
    return "\n\n".join(["## Gradient noise of single policies", what, policy_noise_table(conclusions.policy_noise)])


def _predicted(conclusions: Conclusions) -> str:
    if not conclusions.predictions:
        return ""
    return "\n\n".join(
        [
            "## Predicted from gradient noise",
            "B_noise = mean S / mean |G|², averaged over what was measured on the way to the target, apart and then "
            "divided. Steps of the best size then follow 1 + B_noise/B; steps divided by their gradient's size, as "
            "Adam's are, its square root, where the loss is straight. A hyperbola through either, at the splits that "
            "were run, has the B that compares with the fitted one. Intervals hold what scatters between measurements, "
            "not whether these steps are those the optimiser took.",
            steps_table(conclusions.steps_rows),
            prediction_table(conclusions.predictions),
            *_noise_grids(conclusions),
            "\n".join(f"- {sentence}" for sentence in conclusions.predicted_sentences),
        ]
    )


def table_lines(rows: list[list[str]]) -> list[str]:
    """A markdown table with its columns aligned; the first row is the header."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _bullets(title: str, sentences: list[str]) -> str:
    return "\n".join([title, "", *(f"- {sentence}" for sentence in sentences)]) if sentences else ""

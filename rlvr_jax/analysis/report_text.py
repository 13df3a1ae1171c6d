"""A study's report as markdown that also reads well on a terminal."""

from collections.abc import Callable

from rlvr_jax.analysis.conclusions import Conclusions
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_checks import law_checks_text
from rlvr_jax.analysis.law_text import law_text
from rlvr_jax.analysis.law_words import UNIT_NAMES, interval_text, number_text, target_name
from rlvr_jax.analysis.policy_noise import policy_noise_table
from rlvr_jax.analysis.predicted_words import noise_grid, prediction_table, steps_table
from rlvr_jax.analysis.seeds import Ratio
from rlvr_jax.analysis.split_conclusions import SplitConclusion
from rlvr_jax.analysis.study import Study
from rlvr_jax.analysis.summary import (
    PointSummary,
    mean_and_spread,
    samples_to_target,
    steps_to_target,
    updates_to_target,
)  # fmt: skip


def report_text(study: Study, conclusions: Conclusions) -> str:
    """Conclusion first, then the numbers behind it, then what was left out."""
    sections = [
        f"# {study.name}",
        _about(study),
        _answer(conclusions),
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
    return (
        f"Held-out {config['eval.target_metric']} on task {config['task.name']}, "
        f"{config['eval.n_problems'] or 'all'} problems, evaluated every {spacings_text(study)} updates. "
        f"{len(study.records)} run(s)."
    )


def spacings_text(study: Study) -> str:
    """ "5", "5 or 10", "2 to 128": updates between evaluations, of all runs."""
    found = sorted({record.config.get("eval.every_updates") or 0 for record in study.records} - {0})
    return f"{found[0]} to {found[-1]}" if len(found) > 2 else " or ".join(map(str, found))


def _answer(conclusions: Conclusions) -> str:
    """The answer in sentences, its numbers as a table, and what more there is to say."""
    parts = [_bullets("## Conclusions", conclusions.answer)]
    if table := steps_table(conclusions.steps_rows):
        parts += [
            "Critical batch in rollouts: of the law fitted to observed steps, and of the same curve through steps as "
            "gradient noise predicts them. Misses by: the typical factor between predicted and observed steps, with "
            "one level for all runs left free.",
            table,
        ]
    parts.append("\n".join(f"- {sentence}" for sentence in conclusions.headline))
    return "\n\n".join(part for part in parts if part)


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
    targets = sorted({fit.target for law in conclusions.slices for fit in law.fits})
    rows = [["alone", "runs", *(f"{target:g}" for target in targets)]]
    reasons: dict[str, list[str]] = {}
    for law in conclusions.slices:
        name = f"prompts at {law.fixed} rollouts" if law.along == "prompts" else f"rollouts of {law.fixed} prompts"
        name = f"{law.group}: {name}" if law.group else name
        cells = [_estimate_text(law.critical[target]) if target in law.critical else "-" for target in targets]
        rows.append([name, str(law.n_runs), *cells])
        for fit in law.fits:
            if not fit.fit.resolved:
                reasons.setdefault(fit.fit.reason, []).append(f"{name} at {fit.target:g}")
    about = (
        "S = S_min (1 + alpha / P) along prompts, S = S_min (1 + beta / (R - 1)) along rollouts: a run takes twice its "
        "least at alpha prompts, or at 1 + beta rollouts. Nothing is taken for granted about how the two combine."
    )
    why = "\n".join(f"- Unresolved: {', '.join(names)}: {reason}." for reason, names in reasons.items())
    parts = ["## Along prompts or rollouts alone", about, "\n".join(table_lines(rows)), why]
    return "\n\n".join(part for part in parts if part)


def _splits(conclusions: Conclusions) -> str:
    """The verdicts and what they rest on; terms and critical numbers of every law are on the page."""
    splits = conclusions.splits
    if not splits:
        return ""
    parts = ["## Prompts and rollouts apart", _verdicts(splits, conclusions.unit)]
    shapes = list(dict.fromkeys(shape for split in splits for shape in split.comparison.fits))
    rows = [["AICc (spread)", *(target_name(split.target, split.group) for split in splits)]]
    for shape in shapes:
        laws = [split.comparison.fits.get(shape) for split in splits]
        rows.append([shape, *(f"{law.aicc:.1f} ({law.sigma:.0%})" if law else "-" for law in laws)])
    if shapes:
        parts += [
            "Laws: total, 1 + B_noise/(P R); mean, 1 + alpha/P + beta/(P R); loo, 1 + alpha/P + beta/(P (R-1)); zeta, "
            "1 + alpha/P + (4 (R-2) z1 + 2 z2)/(P R (R-1)); each times S_min. The lower AICc, the better; in brackets "
            "the spread of ln S between runs. Terms, and critical prompts and rollouts by them, are in report.html.",
            "\n".join(table_lines(rows)),
        ]
    return "\n\n".join(parts)


def _verdicts(splits: list[SplitConclusion], unit: str) -> str:
    """A row per target where the test could be made, a sentence for each other, and once what was left out."""
    rows = [["target", "N = P R", "p", f"{UNIT_NAMES[unit]} of two splits of one N that differ most"]]
    sentences = []
    for split in splits:
        if split.p is None or split.widest is None:
            sentences.append(f"- {split.sentence}")
            continue
        verdict = {True: "suffices", False: "does not suffice", None: "cannot say"}[split.suffices]
        few, many = split.widest.few, split.widest.many
        pair = f"{many[0]} x {many[1]} / {few[0]} x {few[1]}: {_estimate_text(split.widest.ratio)}"
        rows.append([target_name(split.target, split.group), verdict, f"{split.p:.2g}", pair])
    n_left_out = max(split.comparison.n_left_out for split in splits)
    left_out = f"Left out: {n_left_out} run(s) with one rollout per prompt, without a group baseline."
    about = "p: of a law in N alone against the law with all terms, corrected for the targets (Holm)."
    parts = [about, "\n".join(table_lines(rows))] if rows[1:] else []
    parts += ["\n".join(sentences), left_out * bool(n_left_out)]
    return "\n\n".join(part for part in parts if part)


def _estimate_text(estimate: Estimate) -> str:
    """ "310 [210, 480]"; the bound alone where one end is open, and nothing but that where both are."""
    interval = interval_text(estimate)
    if interval.startswith("["):
        return f"{number_text(estimate.value)} {interval}"
    return "unresolved" if interval == "any" else interval


def _iso_batches(conclusions: Conclusions) -> str:
    """One row per split of a batch size, one column per target; a star where it is sooner than another split."""
    if not conclusions.iso_batches:
        return ""
    unit, confidence = UNIT_NAMES[conclusions.unit], f"{conclusions.confidence:.0%}"
    targets = sorted({iso.target for iso in conclusions.iso_batches})
    cells: dict[tuple[str, int, str], dict[float, str]] = {}
    remarks: dict[str, list[str]] = {}
    for iso in conclusions.iso_batches:
        sooner = {order.split(" before ")[0] for order in iso.orders[1:]}
        for name, time in iso.rows:
            cells.setdefault((iso.group, iso.batch, name), {})[iso.target] = time + " *" * (name in sooner)
        if "pairs differ" not in iso.orders[0] or ";" in iso.orders[0]:  # not every pair was compared
            remarks.setdefault(iso.orders[0], []).append(f"{iso.batch} rollouts to {iso.target:g}")
    rows = [["rollouts", "prompts x rollouts", *(f"{target:g}" for target in targets)]]
    counts = {f" ({time.n_runs} runs)" for iso in conclusions.iso_batches for time in iso.times}
    behind = counts.pop() if len(counts) == 1 else ""
    rows += [
        [
            f"{batch}{f' [{group}]' if group else ''}",
            name,
            *(of_target.get(target, "-").replace(behind, "") for target in targets),
        ]
        for (group, batch, name), of_target in cells.items()
    ]
    parts = [
        "## Same batch, split in different ways",
        f"In {unit}, mean over {behind.strip(' ()') or 'runs'} with its {confidence} interval. *: sooner than another "
        "split of that size, beyond seed spread (Tukey HSD, 95% over all pairs of a size).",
        "\n".join(table_lines(rows)),
        "\n".join(f"- {', '.join(places)}: {remark}" for remark, places in remarks.items()),
    ]
    return "\n\n".join(part for part in parts if part)


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
            "Adam's are, its square root, where the loss is straight. The curves compared above are hyperbolas through "
            "either, at the splits that the fitted law is of. Intervals hold what scatters between measurements, not "
            "whether these steps are those the optimiser took.",
            prediction_table([found for found in conclusions.predictions if found.metric == "gradient"]),
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

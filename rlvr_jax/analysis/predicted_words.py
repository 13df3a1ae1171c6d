"""What predictions from gradient noise say, as markdown."""

import math

from rlvr_jax.analysis.law_words import interval_text, number_text, target_name
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.predict import Prediction
from rlvr_jax.analysis.predicted_rows import StepsRow

_METRIC_WORDS = {"gradient": "", "adam": " in Adam's metric"}


def steps_table(rows: list[StepsRow]) -> str:
    """The B_noise of hyperbolas through predicted steps beside the fitted one, a markdown row per target; "" without.

    In brackets: the typical factor by which predicted steps miss the observed ones, one level for all runs left free.
    """
    lines = [f"| {' | '.join(cells)} |" for cells in steps_cells(rows)]
    return "\n".join([lines[0], f"|{'---|' * (lines[0].count('|') - 1)}", *lines[1:]]) if lines else ""


def steps_cells(rows: list[StepsRow]) -> list[list[str]]:
    """The same as cells, the first row its header; [] without a number. Targets without one have no row."""
    rows = [row for row in rows if row.is_fit_resolved or any(found.is_resolved for found in row.predicted.values())]
    if not rows:
        return []
    of_target = {(row.target, row.group, row.metric): row for row in rows}
    has_adam = any(row.metric == "adam" for row in rows)
    head = ["target", "fitted", "steps divided by their gradient's size (misses by)"]
    head += ["steps of the best size (misses by)"] + ["divided by their size in Adam's metric (misses by)"] * has_adam
    table = [head]
    for target, group in dict.fromkeys((row.target, row.group) for row in rows):
        plain, adam = (of_target.get((target, group, metric)) for metric in _METRIC_WORDS)
        of_fit = plain or adam
        cells = [target_name(target, group), text(Pooled(of_fit.fitted if of_fit.is_fit_resolved else None))]
        cells += [_curve_text(plain, steps) for steps in STEPS_NAMES]
        table.append(cells + [_curve_text(adam, "normalised")] * has_adam)
    return table


def _curve_text(row: StepsRow | None, steps: str) -> str:
    """ "74.8 [71.9, 77.9] (× 1.11)"; "-" where that metric was not measured."""
    if row is None:
        return "-"
    miss = row.misses.get(steps, math.nan)
    return text(row.predicted[steps]) + (f" (× {miss:.2f})" if math.isfinite(miss) else "")


def steps_verdict(rows: list[StepsRow], predictions: list[Prediction]) -> str:
    """One sentence: which of the predicted curves observed steps are nearer to, or what noise was measured; "" without.

    The nearer curve is the one that misses observed steps by the smaller factor at every target.
    """
    rows = [row for row in rows if row.metric == "gradient"]
    known = [row for row in rows if all(math.isfinite(row.misses.get(steps, math.nan)) for steps in STEPS_NAMES)]
    if not known:
        return _measured_sentence(rows, predictions)
    nearer = {min(STEPS_NAMES, key=row.misses.get) for row in known}
    said = []
    for steps in sorted(STEPS_NAMES, key=lambda steps: steps not in nearer):
        numbers = [row.predicted[steps].estimate.value for row in known]
        misses = _range([row.misses[steps] for row in known], ".2f")
        said.append(f"{_range(numbers, '.3g')} rollouts for {STEPS_NAMES[steps]}, {{}} by a factor of {misses}")
    runs = _range([row.runs_predicted for row in known], "d")
    verdict = "the first are the nearer" if len(nearer) == 1 else "neither are the nearer at every target"
    first, second = said[0].format("which miss the observed steps"), said[1].format("which miss them")
    return f"Gradient noise of {runs} runs predicts a critical batch of {first}, and {second}: {verdict}."


STEPS_NAMES = {
    "normalised": "steps divided by their gradient's size, as Adam's",
    "best_size": "steps of the best size",
}


def _measured_sentence(rows: list[StepsRow], predictions: list[Prediction]) -> str:
    """B_noise where it was measured, on the longest way: what gradients say without a curve of steps."""
    found = [one for one in predictions if one.metric == "gradient"]
    if not found:
        return ""
    last = found[-1]
    why = last.as_fitted["normalised"].reason
    at = [one for one in last.noise if one.is_measured and one.rollouts.is_resolved]
    if not at:
        reason = next((one.rollouts.reason for one in last.noise if one.is_measured), why)
        return f"Gradient noise predicts no critical batch: {reason or why}."
    numbers = ", ".join(f"{text(one.rollouts)} rollouts at R = {one.n_rollouts} ({one.n_runs} runs)" for one in at)
    beside = f"; {why}" if why else ""
    return f"Gradient noise on the way to {target_name(last.target, last.group)}: B_noise {numbers}{beside}."


def _range(values: list[float], how: str) -> str:
    """ "1.10 to 1.15", or the one number that all are."""
    ends = list(dict.fromkeys(format(end, how) for end in (min(values), max(values))))
    return " to ".join(ends)


def prediction_table(predictions: list[Prediction]) -> str:
    """B_noise in rollouts at every R, and how the noise splits, as two markdown tables; "" without predictions.

    Of an R that nobody ran, S comes from prompt noise and rollout noise, which a star says.
    """
    if not predictions:
        return ""
    rollouts = sorted({at.n_rollouts for found in predictions for at in found.noise})
    lines = [f"| B_noise, rollouts | {' | '.join(f'R = {R}' for R in rollouts)} |", f"|{'---|' * (len(rollouts) + 1)}"]
    for found in predictions:
        cells = []
        for R in rollouts:
            at = found.at(R)
            cells.append("-" if at is None else text(at.rollouts) + " *" * (not at.is_measured))
        lines.append(f"| {_name(found)} | {' | '.join(cells)} |")
    about = "B_noise in prompts is this over R; \\*: S from prompt and rollout noise, that R was not run"
    if 1 in rollouts:
        about += "; at R = 1 the baseline is the mean of the batch"
    return "\n".join([*lines, "", f"{about}. {weights_sentence(predictions)}", "", *_split_lines(predictions)]).rstrip()


def weights_sentence(predictions: list[Prediction]) -> str:
    """How the averages are weighted, and of how many runs they are in effect; S of each R is of the runs at that R."""
    found = [one for one in predictions if one.metric == "gradient"] or predictions
    of_units = [
        f"{one.n_effective:.2g} of {len(one.runs)}" if one.unit == "run" else f"{one.n_effective:.2g} stretches of runs"
        for one in found
    ]
    sizes: dict[int, set[int]] = {}
    for one in found:
        for at in one.noise:
            if at.n_runs:
                sizes.setdefault(at.n_rollouts, set()).add(at.n_runs)
    of_size = ", ".join(f"R = {R}: {_range(sorted(counts), 'd')}" for R, counts in sorted(sizes.items()))
    return (
        "A measurement weighs by its pairs of prompts, P (P - 1), over the squared noise at its R, so large batches "
        f"count most: |G|² has the weight of {' / '.join(dict.fromkeys(of_units))} runs of equal weight, target by "
        f"target. S is of the runs at that R alone ({of_size} runs)."
    ).replace("stretches of runs runs of equal weight", "stretches of runs of equal weight")


def _split_lines(predictions: list[Prediction]) -> list[str]:
    """Where noise was decomposed: its parts over |G|^2, in prompts, and what they say of R."""
    rows = []
    for found in predictions:
        if not any(term.is_resolved for term in found.terms.values()) and not found.best_rollouts.is_resolved:
            continue
        parts = [text(found.terms[name]) for name in ("alpha", "zeta1", "zeta2")]
        best = [text(found.best_rollouts), text(found.critical_rollouts)]
        rows.append(f"| {' | '.join([_name(found), *parts, *best, str(found.n_measurements)])} |")
    if not rows:
        return []
    head = (
        "| target | V_prompt/G² | zeta1/G² | zeta2/G² | R*, least noise at a fixed P R | R of equal parts | measured |"
    )
    return [head, "|---|---|---|---|---|---|---|", *rows]


def noise_grid(found: Prediction) -> str:
    """tr Cov / |G|^2 of the batch gradient by prompts and rollouts, as a markdown table; "" where |G|^2 is unresolved.

    At 1 noise and signal are equal. Prompts are those that were run, their doubles and halves; a star: it was run.
    """
    rollouts = [at.n_rollouts for at in found.noise if at.n_rollouts > 1 and at.prompts.is_resolved]
    run = sorted(found.splits)
    prompts = sorted({scaled for P, _ in run for scaled in (P // 2, P, 2 * P) if scaled > 0})
    if not rollouts:
        return ""
    lines = [f"| prompts | {' | '.join(f'R = {R}' for R in rollouts)} |", f"|{'---|' * (len(rollouts) + 1)}"]
    for P in prompts:
        cells = [number_text(found.noise_to_signal(P, R)) + " *" * ((P, R) in run) for R in rollouts]
        lines.append(f"| {' | '.join([str(P), *cells])} |")
    return "\n".join(lines)


def prediction_sentences(predictions: list[Prediction]) -> list[str]:
    """What the intervals hold, what is unresolved and why, and what was left out; alike targets in one sentence."""
    targets_of: dict[str, list[str]] = {}
    for found in predictions:
        units = (
            "runs" if found.unit == "run" else "stretches of single runs, so the spread between seeds is not in them"
        )
        said = [f"{found.confidence:.0%} intervals of predictions are jackknifes over {units}"]
        if found.metric == "gradient" and not found.best_rollouts.is_resolved:
            said.append(f"the best number of rollouts per prompt is unresolved: {found.best_rollouts.reason}")
        for sentence in [*said, *found.notes]:
            targets_of.setdefault(sentence, []).append(_name(found))
    return [
        f"{sentence[0].upper()}{sentence[1:]}."
        if len(names) == len(predictions) > 1
        else f"To {', '.join(dict.fromkeys(names))}: {sentence}."
        for sentence, names in targets_of.items()
    ]


def _name(found: Prediction) -> str:
    return target_name(found.target, found.group) + _METRIC_WORDS[found.metric]


def text(pooled: Pooled) -> str:
    """ "310 [210, 480]" or "unresolved"."""
    if pooled.estimate is None:
        return "unresolved"
    return f"{number_text(pooled.estimate.value)} {interval_text(pooled.estimate)}"

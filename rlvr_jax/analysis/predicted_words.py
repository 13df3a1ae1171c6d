"""What predictions from gradient noise say, as markdown."""

import math

from rlvr_jax.analysis.law_words import interval_text, number_text, target_name
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.predict import Prediction
from rlvr_jax.analysis.predicted_rows import StepsRow

_METRIC_WORDS = {"gradient": "", "adam": " in Adam's metric"}


def steps_table(rows: list[StepsRow]) -> str:
    """The B_noise of hyperbolas through predicted steps beside the fitted one, as a markdown table; "" without rows.

    "misses by" is the typical factor between predicted and observed steps, with one level for all runs left free.
    """
    if not rows:
        return ""
    head = ["target", "fitted", "steps divided by their size (Adam)", "/ fitted", "misses by"]
    head += ["steps of the best size", "/ fitted", "misses by", "runs"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [target_name(row.target, row.group) + _METRIC_WORDS[row.metric]]
        cells.append(text(Pooled(row.fitted if row.is_fit_resolved else None)))
        for steps in ("normalised", "best_size"):
            miss = row.misses.get(steps, math.nan)
            cells += [text(row.predicted[steps]), text(Pooled(row.ratios[steps])) if steps in row.ratios else "-"]
            cells.append(f"× {miss:.2f}" if math.isfinite(miss) else "-")
        lines.append(f"| {' | '.join([*cells, str(row.runs_predicted)])} |")
    return "\n".join(lines)


def prediction_table(predictions: list[Prediction]) -> str:
    """B_noise at every R, and how the noise splits, as two markdown tables; "" without predictions.

    Of an R that nobody ran, S comes from prompt noise and rollout noise, and the row says so.
    """
    if not predictions:
        return ""
    lines = ["| target | R | B_noise, prompts | B_noise, rollouts | S at this R | runs |", "|---|---|---|---|---|---|"]
    for found in predictions:
        for at in found.noise:
            how = "measured" if at.is_measured else "from its parts"
            how += ", the batch's mean as baseline" * (at.n_rollouts == 1)
            cells = [_name(found), str(at.n_rollouts), text(at.prompts), text(at.rollouts), how, str(len(found.runs))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_split_lines(predictions)]).rstrip()


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

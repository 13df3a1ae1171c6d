"""What a study allows one to say, as plain data: the text and the page render this and nothing else."""

from dataclasses import dataclass

from rlvr_jax.analysis.compare_laws import LawComparison, compare_laws
from rlvr_jax.analysis.controls import learning_rate_text
from rlvr_jax.analysis.fit_targets import TargetFit, fit_targets
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.iso_batches import IsoBatch, iso_batches
from rlvr_jax.analysis.law_text import law_sentence
from rlvr_jax.analysis.law_words import UNIT_NAMES, target_name
from rlvr_jax.analysis.noise_series import study_noise
from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.predict import Prediction, predict
from rlvr_jax.analysis.predicted_rows import PredictedRow, StepsRow, compare_predicted, compare_steps
from rlvr_jax.analysis.predicted_words import prediction_sentences
from rlvr_jax.analysis.seeds import Order, resolved_orders
from rlvr_jax.analysis.study import Study

__all__ = ["Conclusions", "IsoBatch", "LawConclusion", "SplitConclusion", "conclude"]


@dataclass(frozen=True)
class LawConclusion:
    """The law at one target (None: all targets jointly) and of one group of controls."""

    target: float | None
    group: str  # "": the study has one group
    fit: TargetFit  # shape "total": B is n_prompts x n_rollouts
    sentence: str


@dataclass(frozen=True)
class SplitConclusion:
    """Whether the product P R is all that counts, at one target, where P and R both vary."""

    target: float
    group: str
    comparison: LawComparison
    sentence: str
    prompt_cbs: dict[int, Estimate | None]  # by n_rollouts, from the better two-dimensional law
    rollout_cbs: dict[int, Estimate | None]  # by n_prompts, likewise


@dataclass(frozen=True)
class Conclusions:
    """Sentences are markdown without links or images, one claim each; numbers are beside them as data."""

    headline: list[str]  # what one reads first: critical batch per target, or unresolved and why
    conditions: list[str]  # under which these hold: learning-rate rule, unit, smoothing, seeds, optimiser
    unit: str
    confidence: float
    learning_rate: str  # "constant, 0.0002 at every batch size"
    laws: list[LawConclusion]
    splits: list[SplitConclusion]
    split_sentence: str  # where there is nothing to compare: why, and what would do; else ""
    iso_batches: list[IsoBatch]
    orders: list[str]  # of points, by speed and by final accuracy
    predictions: list[Prediction]
    predicted_rows: list[PredictedRow]  # predicted beside fitted, at every R that was run
    steps_rows: list[StepsRow]  # predicted beside fitted, over all splits that were run
    predicted_sentences: list[str]
    notes: list[str]  # what was left out and why

    @property
    def fits(self) -> list[TargetFit]:
        """Of the law in P R alone, as text and figures take them."""
        return [law.fit for law in self.laws]


def conclude(study: Study, *, confidence: float = 0.9) -> Conclusions:
    """Everything the report says beyond its tables."""
    notes = list(study.notes)
    laws = _laws(study, confidence, notes)
    splits = _splits(study, confidence, notes)
    split_sentence = "" if splits else _why_no_split(study.observations)
    predictions = predict(study_noise(study.records), study.observations, unit=study.unit, confidence=confidence)
    predicted_rows = compare_predicted(predictions, [law.fit for law in laws if law.target is not None])
    steps_rows = compare_steps(predictions, [law.fit for law in laws if law.target is not None])
    return Conclusions(
        headline=[
            *(law.sentence for law in laws),
            *(split.sentence for split in splits),
            *([split_sentence] if split_sentence else []),
            *(row.sentence for row in steps_rows if row.metric == "gradient"),
        ],
        conditions=_conditions(study),
        unit=study.unit,
        confidence=confidence,
        learning_rate=learning_rate_text(study.records),
        laws=laws,
        splits=splits,
        split_sentence=split_sentence,
        iso_batches=iso_batches(study.observations, unit=study.unit, confidence=confidence),
        orders=point_orders(study),
        predictions=predictions,
        predicted_rows=predicted_rows,
        steps_rows=steps_rows,
        predicted_sentences=[*(row.sentence for row in steps_rows), *prediction_sentences(predictions)],
        notes=notes,
    )


def _laws(study: Study, confidence: float, notes: list[str]) -> list[LawConclusion]:
    laws = []
    for group in study.groups:
        seen = [one for one in study.observations if one.group == group]
        if not seen:
            continue
        try:
            fits = fit_targets(seen, shape="total", residuals="relative", confidence=confidence)
        except (ValueError, NotImplementedError) as error:
            notes.append(f"No law{f' of {group}' if group else ''}: {error}.")
            continue
        laws += [
            LawConclusion(fit.target, fit.group, fit, f"{law_sentence(fit, unit=study.unit)}.".replace("..", "."))
            for fit in fits
        ]
    return laws


def _splits(study: Study, confidence: float, notes: list[str]) -> list[SplitConclusion]:
    found = []
    for group in study.groups:
        for target in study.targets:
            seen = [one for one in study.observations if (one.group, one.target) == (group, target)]
            if not _both_vary(seen):
                continue
            name = target_name(target, group)
            try:
                comparison = compare_laws(seen, confidence=confidence)
            except (ValueError, NotImplementedError) as error:
                notes.append(f"{name}: whether the product of prompts and rollouts suffices was not looked at: {error}.")
                continue
            shape = min(
                (shape for shape in comparison.fits if shape in ("loo", "mean", "zeta")),
                key=lambda shape: comparison.fits[shape].aicc,
                default=None,
            )
            law = comparison.fits.get(shape)
            rollouts, prompts = ({getattr(one, f) for one in seen} for f in ("n_rollouts", "n_prompts"))
            found.append(
                SplitConclusion(
                    target,
                    group,
                    comparison,
                    f"{name}: {comparison.verdict}",
                    {R: law.prompt_cbs(R) for R in sorted(rollouts) if R > 1} if law else {},
                    {P: law.rollout_cbs(P) for P in sorted(prompts)} if law else {},
                )
            )
    return found


def _both_vary(observations: list[Observation]) -> bool:
    """Whether prompts and rollouts take two values each, groups of one rollout aside: they are outside the law."""
    within = [one for one in observations if one.n_rollouts > 1]
    return all(len({getattr(one, field) for one in within}) > 1 for field in ("n_prompts", "n_rollouts"))


def _why_no_split(observations: list[Observation]) -> str:
    if not observations:
        return ""
    fixed = [
        f"{what} per {per} {'are' if n > 1 else 'is'} {n} throughout"
        for what, per, field in (("prompts", "batch", "n_prompts"), ("rollouts", "prompt", "n_rollouts"))
        if len(found := {getattr(one, field) for one in observations if one.n_rollouts > 1}) == 1
        for n in found
    ]
    return (
        f"Whether the product of prompts and rollouts is all that counts cannot be said: {' and '.join(fixed)}. Runs that "
        "vary both, such as those of phases p1 and p2b given together, would tell."
        if fixed
        else ""
    )


def point_orders(study: Study) -> list[str]:
    """Which points stand above which, by speed and by final accuracy, of finished runs."""
    finished = [point for point in study.points if point.finished]
    if not finished:
        return []
    speed = {point.name: [run.mean_accuracy for run in point.finished] for point in finished}
    final = {point.name: [run.final_accuracy for run in point.finished] for point in finished}
    return [*_orders("mean accuracy over training (speed)", speed), *_orders("final accuracy", final)]


def _orders(what: str, values_by_point: dict[str, list[float]]) -> list[str]:
    orders, sentence = resolved_orders(values_by_point)
    return [f"Order by {what}: {sentence}.", *(f"- {_order_text(order)}" for order in orders)]


def _order_text(order: Order) -> str:
    return f"{order.better} above {order.worse} by {order.difference:.3f} [{order.low:.3f}, {order.high:.3f}]"


def _conditions(study: Study) -> list[str]:
    """What the conclusions are about, and what they take for granted."""
    spacings = sorted({record.config["eval.every_updates"] for record in study.records} - {0})
    counted = "an update's batch is its minibatch" if study.unit == "update" else "a step's batch is its collection"
    sentences = [
        f"Learning rate: {learning_rate_text(study.records)}. The law is that of this rule: another one has another.",
        f"Time is counted in {UNIT_NAMES[study.unit]}; {counted}, in rollouts.",
    ]
    if spacings:
        known = "known to lie between two evaluations, " + " or ".join(f"{n}" for n in spacings) + " updates apart"
        sentences.append(f"When a run reached a target is {known}; the fit uses that interval, tables interpolate.")
    if study.smooth > 1:
        sentences.append(
            f"Targets are looked for in the trailing mean of {study.smooth} evaluations, which looks ahead at nothing and "
            f"lags behind a rising accuracy by about {(study.smooth - 1) / 2:g} evaluation(s)."
        )
    seeds = sorted({record.seed for record in study.records})
    sentences.append(f"{len(study.records)} run(s), seed(s) {', '.join(map(str, seeds))}; seeds of a point share its start.")
    return sentences

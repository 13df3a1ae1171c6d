"""What a study allows one to say, as plain data: the text and the page render this and nothing else."""

from dataclasses import dataclass

from rlvr_jax.analysis.branch_text import branch_section, branch_sentence
from rlvr_jax.analysis.branches import TOLERANCE, branch_studies
from rlvr_jax.analysis.controls import learning_rate_text
from rlvr_jax.analysis.early_crossings import early_crossings
from rlvr_jax.analysis.fit_targets import TargetFit, fit_targets
from rlvr_jax.analysis.iso_batches import IsoBatch, iso_batches
from rlvr_jax.analysis.law_text import law_sentence
from rlvr_jax.analysis.law_words import UNIT_NAMES
from rlvr_jax.analysis.noise_series import study_noise
from rlvr_jax.analysis.order_text import order_lines
from rlvr_jax.analysis.policy_noise import PolicyNoise, find_policy_noise
from rlvr_jax.analysis.predict import Prediction, predict
from rlvr_jax.analysis.predicted_rows import PredictedRow, StepsRow, compare_predicted, compare_steps
from rlvr_jax.analysis.predicted_words import prediction_sentences, steps_verdict
from rlvr_jax.analysis.short_answer import (
    critical_batch_sentence,
    slice_headlines,
    split_answer,
    unresolved_sentences,
)
from rlvr_jax.analysis.slices import SliceLaw, slice_laws
from rlvr_jax.analysis.split_conclusions import SplitConclusion, split_conclusions, split_headlines, why_no_split
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
class Conclusions:
    """Sentences are markdown without links or images, one claim each; numbers are beside them as data."""

    answer: list[str]  # read first: critical batch, whether N = P R suffices, what gradient noise predicts
    headline: list[str]  # more: branches, what is unresolved and why, prompts and rollouts alone, how splits compare
    conditions: list[str]  # under which these hold: learning-rate rule, unit, smoothing, seeds, optimiser
    unit: str
    confidence: float
    learning_rate: str  # "constant, 0.0002 at every batch size"
    laws: list[LawConclusion]
    slices: list[SliceLaw]  # along prompts or rollouts alone, where both vary
    splits: list[SplitConclusion]
    split_sentence: str  # where there is nothing to compare: why, and what would do; else ""
    iso_batches: list[IsoBatch]
    orders: list[str]  # of points, by speed and by final accuracy
    predictions: list[Prediction]
    predicted_rows: list[PredictedRow]  # predicted beside fitted, at every R that was run
    steps_rows: list[StepsRow]  # predicted beside fitted, over all splits that were run
    predicted_sentences: list[str]
    policy_noise: list[PolicyNoise]  # what bin/noise measured of these runs' policies
    notes: list[str]  # what was left out and why
    branches: str = ""  # markdown on branches of one checkpoint: sentences and a table; "": there are none

    @property
    def fits(self) -> list[TargetFit]:
        """Of the law in P R alone, as text and figures take them."""
        return [law.fit for law in self.laws]


def conclude(study: Study, *, confidence: float = 0.9) -> Conclusions:
    """Everything the report says beyond its tables."""
    notes = list(study.notes)
    laws = _laws(study, confidence, notes)
    splits = split_conclusions(study, confidence=confidence, notes=notes)
    everything = [*study.observations, *study.other_observations]
    slices = slice_laws(everything, confidence=confidence)
    split_sentence = "" if splits else why_no_split(study.observations)
    folders = {place / "noise" for record in study.records for place in (record.folder, record.folder.parent)}
    policy_noise = find_policy_noise(sorted(folders), notes=notes)
    predictions = predict(study_noise(study.records), study.observations, unit=study.unit, confidence=confidence)
    predicted_rows = compare_predicted(predictions, [law.fit for law in laws if law.target is not None])
    steps_rows = compare_steps(predictions, [law.fit for law in laws if law.target is not None])
    branches = branch_studies(study.records, confidence=confidence, notes=notes)
    limits = {"tolerance": TOLERANCE, "confidence": confidence}
    answer = [critical_batch_sentence(laws, confidence=confidence), split_answer(splits, split_sentence)]
    answer.append(steps_verdict(steps_rows, predictions))
    return Conclusions(
        answer=[*(branch_sentence(branch, **limits) for branch in branches), *(said for said in answer if said)],
        headline=[
            *unresolved_sentences(laws),
            *slice_headlines(slices),
            *split_headlines(splits, unit=study.unit),
        ],
        conditions=_conditions(study),
        unit=study.unit,
        confidence=confidence,
        learning_rate=learning_rate_text(study.records),
        laws=laws,
        slices=slices,
        splits=splits,
        split_sentence=split_sentence,
        iso_batches=iso_batches(everything, unit=study.unit, confidence=confidence),
        orders=point_orders(study),
        predictions=predictions,
        predicted_rows=predicted_rows,
        steps_rows=steps_rows,
        predicted_sentences=prediction_sentences(predictions),
        policy_noise=policy_noise,
        notes=[*notes, *early_crossings(study)],
        branches=branch_section(branches, **limits),
    )


def _laws(study: Study, confidence: float, notes: list[str]) -> list[LawConclusion]:
    laws = []
    for group in study.groups:
        seen = [one for one in study.observations if one.group == group]
        if not seen:
            continue
        try:
            fits = fit_targets(seen, shape="total", residuals="relative", confidence=confidence)
        except ValueError as error:
            notes.append(f"No law{f' of {group}' if group else ''}: {error}.")
            continue
        laws += [
            LawConclusion(fit.target, fit.group, fit, f"{law_sentence(fit, unit=study.unit)}.".replace("..", "."))
            for fit in fits
        ]
    return laws


def point_orders(study: Study) -> list[str]:
    """Which points stand above which, by speed and by final accuracy, of finished runs."""
    finished = [point for point in study.points if point.finished]
    if not finished:
        return []
    speed = {point.name: [run.mean_accuracy for run in point.finished] for point in finished}
    final = {point.name: [run.final_accuracy for run in point.finished] for point in finished}
    return [*order_lines("mean accuracy over training (speed)", speed), *order_lines("final accuracy", final)]


def _conditions(study: Study) -> list[str]:
    """What the conclusions are about, and what they take for granted."""
    spacings = sorted({record.config["eval.every_updates"] for record in study.records} - {0})
    counted = "an update's batch is its minibatch" if study.unit == "update" else "a step's batch is its collection"
    sentences = [
        f"Learning rate: {learning_rate_text(study.records)}. The law is that of this rule: another one has another.",
        f"Time is counted in {UNIT_NAMES[study.unit]}; {counted}, in rollouts.",
    ]
    if spacings:
        known = "taken to lie between two evaluations, " + " or ".join(f"{n}" for n in spacings) + " updates apart"
        sentences.append(f"When a run reached a target is {known}; the fit uses that interval, tables interpolate.")
    if study.smooth > 1:
        sentences.append(
            f"Targets are looked for in the trailing mean of {study.smooth} evaluations, which looks ahead at nothing "
            f"and lags behind a rising accuracy by about {(study.smooth - 1) / 2:g} evaluation(s): every S is later by "
            "that, which makes S_min too large. It takes out evaluations that were at a target by luck, which came "
            "sooner the more evaluations a run had on its way, so most of all in small batches."
        )
    n_others = len({seen.run for seen in study.other_observations})
    if n_others:
        sentences.append(
            f"{n_others} run(s) with one rollout per prompt have another baseline, for a group of one has no mean of "
            "its own: theirs is another estimate of the gradient. They are in the tables, and not in the law in P R, "
            "in its prediction, or in laws of prompts and rollouts apart."
        )
    seeds = sorted({run.record.seed for point in study.points for run in point.runs})
    n_evaluated = sum(len(point.runs) for point in study.points)
    of_all = "" if n_evaluated == len(study.records) else f" of {len(study.records)}, those evaluated after their start"
    sentences.append(
        f"{n_evaluated} run(s){of_all}, seed(s) {', '.join(map(str, seeds))}; seeds of a point share its start."
    )
    return sentences

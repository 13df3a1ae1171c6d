"""What a study allows one to say, as plain data: the text and the page render this and nothing else."""

from dataclasses import dataclass, field
from typing import Any

from rlvr_jax.analysis.study import Study


@dataclass(frozen=True)
class LawConclusion:
    """The law at one target (None: all targets jointly) and of one group of controls."""

    target: float | None
    group: str  # "": the study has one group
    fit: Any  # TargetFit of fit_targets, shape "total": B is n_prompts x n_rollouts
    sentence: str  # "0.70: critical batch 310 rollouts [210, 480] (90%), 15 runs, ..." or "unresolved: ..."


@dataclass(frozen=True)
class SplitConclusion:
    """Whether the product P R is all that counts, at one target, where P and R both vary."""

    target: float
    group: str
    comparison: Any  # LawComparison of compare_laws
    sentence: str


@dataclass(frozen=True)
class IsoBatch:
    """Points with one product P R: the same batch size split in different ways."""

    batch: int
    group: str
    target: float
    rows: list[tuple[str, str]]  # point name, updates to the target with its interval
    orders: list[str]  # sentences: Tukey over all pairs


@dataclass(frozen=True)
class Conclusions:
    """Sentences are markdown without links or images, one claim each; numbers are beside them as data."""

    headline: list[str]  # what one reads first: critical batch per target, or unresolved and why
    conditions: list[str]  # under which these hold: learning-rate rule, unit, smoothing, seeds, optimiser
    unit: str
    confidence: float
    learning_rate: str  # "constant 2e-4 at every batch size"
    laws: list[LawConclusion]
    splits: list[SplitConclusion]
    iso_batches: list[IsoBatch]
    orders: list[str] = field(default_factory=list)  # of points, by speed and final accuracy
    predictions: Any = None  # of predict, or None
    predicted_rows: list[Any] = field(default_factory=list)  # of compare_predicted: predicted beside fitted
    predicted_sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def conclude(study: Study, *, confidence: float = 0.9) -> Conclusions:
    """Everything the report says beyond its tables."""
    return Conclusions(
        headline=[],
        conditions=[],
        unit=study.unit,
        confidence=confidence,
        learning_rate="",
        laws=[],
        splits=[],
        iso_batches=[],
        notes=list(study.notes),
    )

"""The law of each target, and of all targets of one group together."""

from dataclasses import dataclass

from rlvr_jax.analysis.fits import Estimate, LawFit


@dataclass(frozen=True)
class TargetFit:
    target: float | None
    group: str
    fit: LawFit
    s_min_by_target: dict[float, Estimate] | None = None


def fit_targets(observations, *, shape="total", residuals="relative", confidence=0.9) -> list[TargetFit]:
    raise NotImplementedError("under way")

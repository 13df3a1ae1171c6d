"""Does N = P R suffice, or must the split be known?"""

from dataclasses import dataclass

from rlvr_jax.analysis.fits import LawFit


@dataclass(frozen=True)
class LawComparison:
    fits: dict[str, LawFit]
    best: str | None
    verdict: str


def compare_laws(observations, *, confidence=0.9) -> LawComparison:
    raise NotImplementedError("under way")

"""Critical prompts at fixed rollouts and critical rollouts at fixed prompts, from the runs along each alone."""

from collections import defaultdict
from dataclasses import dataclass

from rlvr_jax.analysis.fit_targets import TargetFit, fit_targets
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_words import interval_text, number_text
from rlvr_jax.analysis.observations import Observation

_FEWEST_SIZES = 3  # two numbers are fitted


@dataclass(frozen=True)
class SliceLaw:
    """The law along prompts or along rollouts, the other held fixed."""

    along: str  # "prompts" or "rollouts"
    fixed: int  # rollouts per prompt, or prompts
    group: str
    n_runs: int
    fits: list[TargetFit]  # one per target
    critical: dict[float, Estimate]  # by target, in `along`; only where resolved

    @property
    def sentence(self) -> str:
        """ "Prompts at 4 rollouts each: critical 10.4 [8, 13] at 0.6; unresolved at 0.8 (14 runs, 90% intervals)." """
        name = "Prompts at {} rollouts each" if self.along == "prompts" else "Rollouts of {} prompts"
        place = f"{self.group}: " if self.group else ""
        found = [
            f"{number_text(estimate.value)} {interval_text(estimate)} at {target:g}"
            for target, estimate in self.critical.items()
        ]
        missing = [f"{fit.target:g}" for fit in self.fits if fit.target not in self.critical]
        said = [f"critical {', '.join(found)}"] * bool(found) + [f"unresolved at {', '.join(missing)}"] * bool(missing)
        confidence = f"{self.fits[0].fit.confidence:.0%} intervals"
        return f"{place}{name.format(self.fixed)} alone: {'; '.join(said)} ({self.n_runs} runs, {confidence})."


def slice_laws(observations: list[Observation], *, confidence: float) -> list[SliceLaw]:
    """One per fixed number with three sizes or more along it; along prompts, where a group has other runs besides.

        along prompts    S = S_min (1 + alpha / P),       critical P = alpha
        along rollouts   S = S_min (1 + beta / (R - 1)),  critical R = 1 + beta, at least two rollouts

    They take nothing for granted about how prompts and rollouts combine. S_min along rollouts still has the noise of
    its prompts in it.
    """
    found = []
    by_group: dict[str, list[Observation]] = defaultdict(list)
    for seen in observations:
        by_group[seen.group].append(seen)
    for group, of_group in by_group.items():
        for along, held, shape in (
            ("prompts", "n_rollouts", "prompts"),
            ("rollouts", "n_prompts", "rollouts_loo"),
        ):
            kept = [one for one in of_group if along == "prompts" or one.n_rollouts > 1]
            for fixed in sorted({getattr(one, held) for one in kept}):
                of_slice = [one for one in kept if getattr(one, held) == fixed]
                sizes = {one.batch for one in of_slice}
                is_new = along == "rollouts" or len(of_slice) < len(of_group)  # else it is the law in P R itself
                if len(sizes) >= _FEWEST_SIZES and is_new:
                    found.append(_slice_law(along, fixed, group, of_slice, shape, confidence))
    return found


def _slice_law(along: str, fixed: int, group: str, seen: list[Observation], shape: str, confidence: float) -> SliceLaw:
    fits = [fit for fit in fit_targets(seen, shape=shape, confidence=confidence) if fit.target is not None]
    critical = {
        fit.target: fit.fit.prompt_cbs(fixed) if along == "prompts" else fit.fit.rollout_cbs(fixed)
        for fit in fits
        if fit.fit.resolved
    }
    return SliceLaw(along, fixed, group, len({one.run for one in seen}), fits, critical)

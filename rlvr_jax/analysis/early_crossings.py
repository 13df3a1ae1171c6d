"""Runs that stood at a target once and fell below it again: first crossings that luck may have made."""

from statistics import fmean

from rlvr_jax.analysis.study import Study

N_AFTER = 3  # evaluations


def early_crossings(study: Study) -> list[str]:
    """One sentence over the targets, with how many of the runs that reached each stood below it afterwards; or none.

    A run counts where the mean of its next N_AFTER evaluations is below the target. A first crossing of a noisy curve
    comes too early, the more so the slower the curve rises and the more often it is evaluated: S of small batches is
    then too small, and B_noise with it. Targets are found without looking ahead, so nothing is changed here.
    """
    found = []
    for index, target in enumerate(study.targets):
        reached, fell = 0, 0
        for run in (run for point in study.points for run in point.runs):
            by = run.crossings[index].by
            after = [a for u, a in zip(run.evaluated.updates, run.evaluated.accuracies, strict=True) if u > (by or 0)]
            if by is None or len(after) < N_AFTER:
                continue
            reached += 1
            fell += fmean(after[:N_AFTER]) < target
        if fell:
            found.append(f"{fell} of {reached} to {target:g}")
    if not found:
        return []
    remedy = "" if study.smooth >= N_AFTER else f"; --smooth={N_AFTER} reads targets from a trailing mean instead"
    return [
        f"Reached, and in the mean of the next {N_AFTER} evaluations below the target again: {', '.join(found)}. "
        f"A lucky evaluation makes such an S too small, that of small batches most, and B_noise too small with "
        f"it{remedy}."
    ]

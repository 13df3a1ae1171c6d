"""What branches of one checkpoint say of the critical batch there, in sentences and a table."""

from collections.abc import Sequence
from statistics import fmean

from rlvr_jax.analysis.branches import UNDECIDED, BranchStudy, CriticalBatch


def branch_sentence(study: BranchStudy, *, tolerance: float, confidence: float) -> str:
    """The critical batch at the checkpoint, or why it is unresolved, with the runs behind it."""
    seeds = sorted(set(study.n_seeds.values()))
    n_seeds = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    runs = (
        f"branches of {study.trunk} at update {study.update}, {study.rollouts:.0f} rollouts each, "
        f"{len(study.n_seeds)} batch sizes with {n_seeds} seed(s), learning-rate rule {study.rule}"
    )
    allowed = f"{tolerance:g} allowed, {confidence:.0%} intervals over seeds"
    return (
        f"Branched training ({runs}): by held-out error the critical batch {_where(study.by_error)}; "
        f"by training reward it {_where(study.by_reward)} ({allowed})."
    )


def _where(found: CriticalBatch) -> str:
    undecided = [str(one.batch) for one in found.compared if one.verdict == UNDECIDED]
    known = "is unresolved"
    if found.low is not None and found.high is not None:
        known = f"lies between {found.low} and {found.high} rollouts per update"
    elif found.low is not None:
        known = f"lies above {found.low} rollouts per update"
    elif found.high is not None:
        known = f"lies below {found.high} rollouts per update"
    why = f": {found.reason}" if found.reason else ""
    return known + why + (f" ({', '.join(undecided)} undecided)" if undecided else "")


def branch_section(studies: Sequence[BranchStudy], *, tolerance: float, confidence: float) -> str:
    """Markdown: for each checkpoint the sentence, and a line per batch size."""
    parts = []
    for study in studies:
        head = (
            "| rollouts per update | seeds | peak learning rate | held-out error | beyond smaller batches | verdict |"
        )
        lines = [head, "|---" * 6 + "|"]
        for one in study.by_error.compared:
            beyond = "" if one.difference is None else f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
            rate = study.rates[one.batch]
            rate_text = "" if rate is None else f"{rate:.3g}"
            lines.append(
                f"| {one.batch} | {len(one.values)} | {rate_text} | {fmean(one.values):.4f} "
                f"| {beyond} | {one.verdict or 'the smallest'} |"
            )
        sentence = branch_sentence(study, tolerance=tolerance, confidence=confidence)
        parts.append("\n".join([sentence, "", *(lines if study.by_error.compared else [])]).rstrip())
    if parts:
        parts.append(
            "Such a critical batch is where a loss begins to show beyond what is allowed. At B_noise of the law a run "
            "needs twice the rollouts, so B_noise is usually the larger of the two."
        )
    return "\n\n".join(parts)

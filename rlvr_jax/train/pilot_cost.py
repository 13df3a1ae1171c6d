"""What a point and a study cost, and the table that says so."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rlvr_jax.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class PointCost:
    """What one point takes, in seconds, tokens and bytes."""

    step_s: float
    noise_s: float  # of a measured step, beyond another; 0 where none is measured
    evaluation_s: float
    save_s: float  # that a checkpoint holds the run up
    start_s: float  # of every start: tracing, reading programs from disk, opening files, the last checkpoint
    compile_s: float  # once for all points of this kind
    step_tokens: float  # prompt tokens once per prompt, and completion tokens
    n_steps: int
    n_measurements: int
    n_evaluations: int
    n_saves: int  # at most: the best are saved when they are found
    n_bytes: float  # at its end

    @property
    def run_s(self) -> float:
        """From its start to its end, without compiling."""
        return (
            self.start_s
            + self.n_steps * self.step_s
            + self.n_measurements * self.noise_s
            + self.n_evaluations * self.evaluation_s
            + self.n_saves * self.save_s
        )


def save_cost(hold_s: float, whole_s: float, *, between_s: float) -> float:
    """What a save holds the run up, which waits for the one before.

    Args:
        hold_s: until a save returns, the rest of it going on behind.
        whole_s: until it is complete on disk.
        between_s: from one save to the next.
    """
    return max(hold_s, whole_s - between_s)


def cost_table(points: Sequence[TrainConfig], kinds: Sequence[str], costs: dict[str, PointCost]) -> str:
    """One line per different point."""
    head = ("point", "runs", "s/step", "steps", "+s measured", "times", "s/evaluation", "times", "compile s", "a run")
    lines: list[tuple[Any, ...]] = [head]
    for kind, cost in costs.items():
        first = points[kinds.index(kind)]
        often = (cost.n_steps, cost.n_measurements, cost.n_evaluations)
        times = [f"{value:.3g}" for value in (cost.step_s, cost.noise_s, cost.evaluation_s)]
        pairs = [cell for pair in zip(times, often, strict=True) for cell in pair]
        lines.append((first.point_name, kinds.count(kind), *pairs, f"{cost.compile_s:.0f}", duration(cost.run_s)))
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            ["", f"{line[0]:<{widths[0]}}", *(f"{cell!s:>{w}}" for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def study_text(costs: Sequence[PointCost], *, compile_s: float, n_devices: int) -> str:
    """What all points take together, one after the other."""
    total_s = sum(cost.run_s for cost in costs) + compile_s
    tokens = sum(cost.n_steps * cost.step_tokens for cost in costs)
    gib = sum(cost.n_bytes for cost in costs) / 2**30
    return (
        f"the study, {len(costs)} run(s) one after the other: {duration(total_s)} on {n_devices} device(s), "
        f"{total_s * n_devices / 3600:.3g} device-hours; {duration(compile_s)} of it is compiling, which this pilot "
        f"has done if the study runs here; {tokens:.3g} tokens; {gib:.2g} GiB of disk\n"
        "  as the first steps were: rollouts that get longer take longer"
    )


def duration(seconds: float) -> str:
    """In the unit that a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

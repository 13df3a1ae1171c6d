"""When a fitted law may be quoted, and in plain words why not."""

import math
from dataclasses import dataclass

from rlvr_jax.analysis.fit_intervals import Estimate
from rlvr_jax.analysis.observations import Observation

ROOM = 2.0  # the interval ends within a factor of this of the smallest and largest size measured
SPAN = 10.0  # its two ends lie within this factor
REFUSED_P = 0.01  # below it the seeds say that the curve is another


@dataclass(frozen=True)
class Knee:
    """The size at which S is twice its least, and the sizes that were measured."""

    name: str
    unit: str
    estimate: Estimate
    sizes: tuple[float, ...]


def why_unresolved(
    knee: Knee,
    terms: dict[str, Estimate],
    observations: list[Observation],
    *,
    n_runs: int,
    lack_of_fit_p: float | None,
    n_free: int,
) -> str:
    """Nothing ("") where the data carry the law, else one sentence: what is missing and what would give it.

    Resolved means that the interval of the knee has two ends, within [smallest / 2, 2 largest] of the sizes measured
    and within a factor of 10 of each other, from one size more than the law has numbers, and that the seeds do not
    refuse the curve (p < 0.01).
    Two ends alone are too little: where all B lie beyond 10 B_noise, S still falls by a tenth, and an interval misses 0
    far more often than in 5% of studies. But its lower end stays below the true B_noise in 95%, so below smallest / 10;
    likewise its upper end above 10 largest where all B lie below B_noise / 10. Simulated in bench/fit_coverage.py.
    """
    found = _first_reason(knee, terms, observations, lack_of_fit_p, n_free)
    n_censored = n_runs - sum(o.is_reached for o in observations)
    if found and n_censored:
        many = (
            "times a target was never reached"
            if len({o.target for o in observations}) > 1
            else "never reached the target"
        )
        return f"{found} ({n_censored} of {n_runs} {many})"
    return found


def _first_reason(
    knee: Knee, terms: dict[str, Estimate], observations: list[Observation], p: float | None, n_free: int
) -> str:
    too_little = _too_little(knee, terms, observations)
    if too_little:
        return too_little
    if n_free <= 0:
        return f"{len(observations)} runs are too few for the law's own numbers; add seeds or sizes"
    if p is not None and p < REFUSED_P:
        if len({o.target for o in observations}) > 1:
            return f"the targets prefer different {knee.name} (p = {p:.2g}); read them one by one"
        return f"seeds differ less than the law misses the points (p = {p:.2g}); S follows another curve"
    open_end = _open_end(knee)
    unbounded = [name for name, estimate in terms.items() if math.isinf(estimate.high)]
    if not open_end and unbounded:
        return f"{' and '.join(unbounded)} cannot be told from the rest of the law; add splits of other products"
    return open_end


def _too_little(knee: Knee, terms: dict[str, Estimate], observations: list[Observation]) -> str:
    """What the design lacks, whatever the runs did."""
    if len(terms) > 1:
        for name in ("n_prompts", "n_rollouts"):
            values = {getattr(o, name) for o in observations}
            if len(values) == 1:
                return f"{name} is {values.pop()} in all runs, so the law's terms cannot be told apart; vary it"
    reached = [(size, o) for size, o in zip(knee.sizes, observations, strict=True) if o.is_reached]
    if len({(o.after, o.by) for _, o in reached}) == 1 and reached[0][1].after < reached[0][1].by:
        o = reached[0][1]
        return f"every run reached it in the same evaluation interval, ({o.after:g}, {o.by:g}]; evaluate more often"
    least = len(terms) + 2
    for kept, what, cure in (
        (reached, "reached the target", f"the law needs at least {least}"),
        ([(s, o) for s, o in reached if o.after > 0], "took longer than to a first evaluation", "evaluate more often"),
    ):
        if len(terms) > 1:
            n_places, places = len({(o.n_prompts, o.n_rollouts) for _, o in kept}), "split"
        else:
            n_places, places = len({s for s, _ in kept}), "size"
        if n_places < least:
            found = f" ({', '.join(f'{s:g}' for s in sorted({s for s, _ in kept}))} {knee.unit})" if kept else ""
            return f"only {n_places} {places if n_places == 1 else places + 's'} {what}{found}; {cure}"
    return ""


def _open_end(knee: Knee) -> str:
    e, smallest, largest = knee.estimate, min(knee.sizes), max(knee.sizes)
    is_low_open, is_high_open = e.low < smallest / ROOM, e.high > largest * ROOM
    measured = f"{smallest:g} to {largest:g} {knee.unit}"
    if is_low_open and is_high_open:
        return f"the runs scatter too much to place {knee.name} within {measured}; add seeds"
    if is_low_open:
        known = f"only {knee.name} < {rounded(e.high)} is known"
        return f"S hardly depends on size from {measured}: {known}; measure smaller sizes"
    if is_high_open:
        known = f"only {knee.name} > {rounded(e.low)} is known"
        return f"S still falls with size at the largest of {measured}: {known}; measure larger sizes"
    if e.high > SPAN * e.low:
        more = math.ceil(10 * (math.log(e.high / e.low) / math.log(SPAN)) ** 2) / 10
        return (
            f"{knee.name} lies anywhere from {rounded(e.low)} to {rounded(e.high)} {knee.unit}; "
            f"about {more:g} times as many runs would place it within a factor of {SPAN:g}"
        )
    return ""


def rounded(value: float) -> str:
    """Three digits that count, without an exponent up to a million."""
    return f"{float(f'{value:.3g}'):g}"

"""Studies whose law is known, written without the fit: numpy, the formula and the clock of an evaluation."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlvr_jax.analysis.observations import Observation

BATCHES = (125, 250, 500, 1000, 2000, 4000, 8000)


def total_law(s_min: float, b_noise: float) -> Callable[[int, int], float]:
    return lambda p, r: s_min * (1.0 + b_noise / (p * r))


def loo_law(s_min: float, alpha: float, beta: float) -> Callable[[int, int], float]:
    return lambda p, r: s_min * (1.0 + alpha / p + beta / (p * (r - 1)))


def simulated(
    rng: np.random.Generator,
    law: Callable[[int, int], float],
    sizes: list[tuple[int, int]],
    *,
    n_seeds: int = 3,
    noise: float = 0.15,
    is_log_normal: bool = True,
    every: int = 25,
    n_steps: int = 1500,
    target: float = 0.5,
) -> list[Observation]:
    """One observation per size and seed: read at the first evaluation after it happened, or never within n_steps."""
    study = []
    for p, r in sizes:
        for seed in range(n_seeds):
            luck = rng.standard_normal()
            factor = math.exp(noise * luck) if is_log_normal else max(1.0 + noise * luck, 0.05)
            steps = law(p, r) * factor
            run = f"np{p}_nr{r}_seed{seed}"
            k = math.ceil(steps / every)
            if k * every > n_steps:
                study.append(Observation(run, p, r, target, None, n_steps, math.inf, seed))
            else:
                study.append(Observation(run, p, r, target, k * every, (k - 1) * every, k * every, seed))
    return study


def write_table(study: list[Observation], path: Path, *, every: int = 25) -> None:
    """The study as a table with a blank for what was not reached, which says nowhere how far runs went."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("run", "n_prompts", "n_rollouts", "target", "steps", "eval_every", "seed"))
        for o in study:
            table.writerow((o.run, o.n_prompts, o.n_rollouts, o.target, "" if o.at is None else o.at, every, o.seed))


def exact(law: Callable[[int, int], float], sizes: list[tuple[int, int]], target: float = 0.5) -> list[Observation]:
    """Runs without noise, read at every moment."""
    return [Observation(f"np{p}_nr{r}", p, r, target, law(p, r), law(p, r), law(p, r)) for p, r in sizes]

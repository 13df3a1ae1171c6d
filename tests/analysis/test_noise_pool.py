import math

import numpy as np
import pytest

from rlvr_jax.analysis.noise_pool import Measurements, NoisePool

NOTHING = {name: np.full(4, math.nan) for name in ("v_prompt", "zeta1", "zeta2")}


def test_intervals_cover_the_truth():
    """15 runs of 5 sizes; |G|^2 of one measurement scatters by 60/P, as where noise outweighs the signal of 1."""
    rng, n_repeats, hits, values = np.random.default_rng(0), 300, 0, []
    for _ in range(n_repeats):
        measured = []
        for n_prompts in (8, 16, 32, 64, 128):
            for seed in range(3):
                trace_cov = 160 * (1 + 0.5 * rng.normal(size=4) / math.sqrt(n_prompts))
                grad_sq = 1 + 60 / n_prompts * rng.normal(size=4)
                measured.append(Measurements(f"{n_prompts}_{seed}", n_prompts, 4, trace_cov, grad_sq, **NOTHING))
        pool = NoisePool(measured, confidence=0.9)
        found = pool.estimate(lambda m: m.trace_cov[4] / m.grad_sq, "the noise").estimate
        values.append(found.value)
        hits += found.low <= 160 <= found.high
    assert np.mean(values) == pytest.approx(160, rel=0.03)
    assert 0.86 <= hits / n_repeats <= 0.95  # 0.9, and twice its binomial error of 0.017


def test_without_a_signal_it_is_unresolved():
    """A mean of ratios of the same measurements is some number, and wrong."""
    rng, n_resolved = np.random.default_rng(0), 0
    for _ in range(100):
        grad_sq = rng.normal(size=(6, 4))
        measured = [Measurements(f"s{i}", 16, 4, np.full(4, 160.0), grad_sq[i], **NOTHING) for i in range(6)]
        found = NoisePool(measured, confidence=0.9).estimate(lambda m: m.trace_cov[4] / m.grad_sq, "the noise")
        n_resolved += found.is_resolved and found.estimate.high < 10 * found.estimate.low
    assert n_resolved <= 15

import numpy as np
import pytest
from simulated_studies import exact, loo_law, simulated, total_law

from rlvr_jax.analysis.compare_laws import compare_laws
from rlvr_jax.analysis.observations import Observation

GRID = [(p, r) for p in (16, 64, 256) for r in (2, 8, 32)]


def comparison(law, sizes, seed=0, **settings):
    settings = {"every": 5, "n_steps": 10_000} | settings
    return compare_laws(simulated(np.random.default_rng(seed), law, sizes, **settings))


def test_where_only_the_product_counts_n_suffices():
    """4 studies, nominal error 5%; the interval of the split lies within 1.25 where the noise is 8%."""
    found = [comparison(total_law(100.0, 1000.0), GRID, seed, noise=0.08) for seed in range(4)]
    assert [c.suffices for c in found] == [True] * 4
    assert all(c.verdict.startswith("N = P R suffices") for c in found)
    assert sum(c.split_ratio.low <= 1 <= c.split_ratio.high for c in found) >= 3
    assert {c.best for c in found} == {"total"}


def test_where_prompts_count_n_does_not_suffice_and_the_verdict_says_by_how_much():
    """S = 100 (1 + 60/P + 300/(P (R-1))); N = 512: 16 x 32 takes 1 + 3.75 + .605 = 5.355, 256 x 2 takes 2.406."""
    found = [comparison(loo_law(100.0, 60.0, 300.0), GRID, seed) for seed in range(3)]
    assert [c.suffices for c in found] == [False] * 3
    assert all(c.p < 1e-3 for c in found)
    assert all(c.split_ratio.low <= 5.355 / 2.406 <= c.split_ratio.high for c in found)
    assert "At N = 512 rollouts, 32 per prompt take" in found[0].verdict
    assert all(c.best in ("loo", "mean") for c in found)


@pytest.mark.parametrize("law", [loo_law(200.0, 4.0, 0.0), loo_law(200.0, 0.0, 30.0)], ids=["prompts", "rollouts"])
def test_where_s_hardly_depends_on_the_batch_alike_splits_are_no_evidence_for_n(law):
    sizes = [(p, r) for p in (64, 256, 1024) for r in (2, 8, 32)]
    found = comparison(law, sizes, every=25)
    assert found.split_ratio.low >= 1 / 1.25  # as alike as it takes
    assert found.split_ratio.high <= 1.25
    assert found.suffices is None
    assert "no law in N is resolved (S hardly depends on size" in found.verdict


def test_splits_of_one_n_say_nothing_of_other_n():
    sizes = [(2048 // r, r) for r in (2, 4, 8, 16, 32, 64)]
    found = comparison(total_law(100.0, 1000.0), sizes, noise=0.05)
    assert found.suffices is None
    assert found.verdict.startswith("At N = 2048 the split makes no difference that counts, and other N were not")


def test_few_noisy_runs_cannot_say():
    found = comparison(total_law(100.0, 1000.0), [(32, 2), (16, 8), (64, 4), (8, 16)], n_seeds=2, noise=0.4)
    assert found.suffices is None
    assert found.verdict.startswith("The data cannot say")
    assert "more seeds" in found.verdict


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([(p, 8) for p in (16, 32, 64, 128, 256)], "every run that reached the target had 8 rollouts per prompt"),
        ([(64, r) for r in (2, 4, 8, 16, 64)], "every run that reached the target had 64 prompts"),
    ],
)
def test_a_design_that_varies_one_of_them_cannot_say(sizes, said):
    found = comparison(total_law(100.0, 1000.0), sizes)
    assert found.suffices is None
    assert said in found.verdict


def test_all_shapes_are_fitted_to_the_same_runs():
    """One rollout per prompt has no group baseline: left out of every fit, and said."""
    law = loo_law(100.0, 60.0, 300.0)
    alone = Observation("np64_nr1", 64, 1, 0.5, 900, 900, 900)
    found = compare_laws([*exact(law, GRID), alone])
    assert {fit.n_runs for fit in found.fits.values()} == {9}
    assert found.n_left_out == 1
    assert "1 run with one rollout per prompt" in found.verdict
    assert compare_laws([alone]).fits == {}


def test_richer_laws_are_at_least_as_likely():
    fits = comparison(loo_law(100.0, 60.0, 300.0), GRID, 7).fits
    assert fits["total"].log_likelihood <= fits["mean"].log_likelihood + 1e-6
    assert max(fits["mean"].log_likelihood, fits["loo"].log_likelihood) <= fits["zeta"].log_likelihood + 1e-6


def test_runs_that_never_arrive_cannot_say():
    never = [Observation(f"{p}x{r}", p, r, 0.5, None, 1000, np.inf) for p, r in GRID]
    assert compare_laws(never).verdict == "The data cannot say whether N = P R suffices: no run reached the target."

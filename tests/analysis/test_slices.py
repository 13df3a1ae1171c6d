"""Critical prompts at fixed rollouts, and critical rollouts at fixed prompts."""

import pytest

from rlvr_jax.analysis.observations import Observation
from rlvr_jax.analysis.slices import slice_laws

FACTORS = (0.97, 1.0, 1.03)  # of three seeds


def law(P, R):  # at 4 rollouts each 20 (1 + (10 + 30 / 3) / P): 20 prompts; of 30 prompts 1 + 30 / (30 + 10): 1.75
    return 20 * (1 + 10 / P + 30 / (P * (R - 1)))


def runs(splits, *, target=0.5):
    return [
        Observation(f"{P}_{R}_{seed}", P, R, target, f * law(P, R), f * law(P, R), f * law(P, R), seed=seed)
        for P, R in splits
        for seed, f in enumerate(FACTORS)
    ]


PROMPTS, ROLLOUTS = [(6, 4), (12, 4), (24, 4), (48, 4)], [(2, 2), (2, 3), (2, 8), (2, 32)]


def test_each_is_fitted_from_its_own_runs():
    found = slice_laws(runs([*PROMPTS, *ROLLOUTS]), confidence=0.9)
    assert [(one.along, one.fixed, one.n_runs) for one in found] == [("prompts", 4, 12), ("rollouts", 2, 12)]
    prompts, rollouts = (one.critical[0.5] for one in found)
    assert prompts.low < 20 < prompts.high
    # of 2 prompts: 1 + 30 / (2 + 10) = 3.5
    assert rollouts.low < 3.5 < rollouts.high
    assert prompts.high / prompts.low < 1.3
    assert found[0].sentence.startswith("Prompts at 4 rollouts each alone: critical ")
    assert found[0].sentence.endswith("] at 0.5 (12 runs, 90% intervals).")
    assert found[1].sentence.startswith("Rollouts of 2 prompts alone: critical ")


def test_what_cannot_be_told_is_named_and_has_no_number():
    far = [(1000, 4), (2000, 4), (4000, 4)]  # all far above 20
    (found,) = slice_laws(runs([*far, (2, 2)]), confidence=0.9)
    assert found.critical == {}
    assert found.sentence == "Prompts at 4 rollouts each alone: unresolved at 0.5 (9 runs, 90% intervals)."


def test_rollouts_of_as_many_prompts_throughout_have_a_law_of_their_own():
    (found,) = slice_laws(runs(ROLLOUTS), confidence=0.9)
    assert found.critical[0.5].low < 3.5 < found.critical[0.5].high


@pytest.mark.parametrize("splits", [PROMPTS, PROMPTS[:2] + ROLLOUTS[:2], [(8, 1), (8, 2), (8, 4), (16, 2)]])
def test_a_slice_that_is_the_whole_or_has_two_sizes_is_none(splits):
    assert slice_laws(runs([s for s in splits if s[1] > 1]), confidence=0.9) == []

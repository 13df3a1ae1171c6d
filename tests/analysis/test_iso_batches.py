"""One batch size split in different ways."""

import math

import numpy as np
import pytest

from rlvr_jax.analysis.iso_batches import iso_batches
from rlvr_jax.analysis.observations import Observation


def runs(n_prompts, n_rollouts, times, *, target=0.6):
    return [
        Observation(f"{n_prompts}_{seed}", n_prompts, n_rollouts, target, at, at or 100.0, at or math.inf, seed=seed)
        for seed, at in enumerate(times)
    ]


def split(observations):
    return iso_batches(observations, unit="update", confidence=0.9)


def test_an_interval_worked_by_hand():
    # mean 20, standard deviation 2, of 4: standard error 1; t(95%, 3 degrees) = 2.3534
    times = [20 - math.sqrt(6), 20.0, 20.0, 20 + math.sqrt(6)]  # squared deviations 6 + 6, over 3 degrees: 4
    (iso,) = split([*runs(8, 4, times), *runs(4, 8, [50.0])])
    assert (iso.batch, [time.name for time in iso.times]) == (32, ["8 x 4", "4 x 8"])
    first, second = iso.times
    np.testing.assert_allclose([first.mean, first.low, first.high], [20, 17.6466, 22.3534], rtol=1e-5)
    assert first.text == "20 [17.6, 22.4] (4 runs)"
    assert second.text == "50 (1 run)"


def test_a_split_with_a_run_that_did_not_get_there_has_no_mean_and_no_order():
    (iso,) = split([*runs(8, 4, [20.0, 21.0]), *runs(4, 8, [30.0, 31.0]), *runs(2, 16, [40.0, None])])
    assert iso.rows[2] == ("2 x 16", "> 100 (1 of 2 runs got there)")
    assert "1 split(s) with runs that did not get there are not compared" in iso.orders[0]
    assert len(iso.orders) == 2


def test_the_sooner_split_is_named_first():
    (iso,) = split([*runs(8, 4, [30.0, 31.0, 32.0]), *runs(4, 8, [20.0, 21.0, 22.0])])
    assert iso.orders[0].startswith("1 of 1 pairs differ beyond seed spread")
    # difference 10; t(97.5%, 4 degrees) = 2.776 times sqrt(2 / 3) = 2.267
    assert iso.orders[1] == "4 x 8 before 8 x 4 by 10 updates [7.73, 12.3]."


@pytest.mark.parametrize("other", [runs(4, 4, [1.0]), runs(8, 4, [2.0]), runs(4, 8, [1.0], target=0.7)])
def test_other_products_and_other_targets_are_no_split_of_it(other):
    assert split([*runs(8, 4, [1.0]), *other]) == []

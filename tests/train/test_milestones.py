import math

import pytest

from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.milestones import WINDOW_UPDATES, milestone_means, milestone_text, updates_to_targets
from rlvr_jax.train.validate import validate


def test_means_are_over_the_last_updates_and_leave_out_what_has_no_value():
    rows = [
        {"update": 100 - WINDOW_UPDATES, "reward/mean": 50.0, "rewards/win/mean": 1.0},  # just too early
        {"update": 101 - WINDOW_UPDATES, "reward/mean": 1.0, "rewards/win/mean": 0.25, "rewards/win/std": 9.0},
        {"update": 99, "reward/mean": None, "rewards/win/mean": math.nan, "rewards/win/weighted_mean": 9.0},
        {"update": 100, "reward/mean": 2.0, "rewards/win/mean": 0.75, "loss/total": 9.0},
        {"update": 101, "reward/mean": 50.0, "rewards/win/mean": 1.0},
    ]
    means = milestone_means(rows, update=100)
    assert means == {"milestone/reward": 1.5, "milestone/win": 0.5, "milestone/n_updates": 3}
    assert milestone_text(means, update=100) == "milestone 100, mean of the last 3 updates: reward 1.500, win 0.500"


def test_a_milestone_of_no_rows_says_so():
    assert milestone_means([], update=5) == {"milestone/n_updates": 0}
    assert milestone_text({"milestone/n_updates": 0}, update=5).startswith("milestone 5, mean of the last 0 updates")


@pytest.mark.parametrize(("milestones", "message"), [((3,), "use multiples"), ((0,), "count from 1"), ((2, 6), None)])
def test_milestones_are_ends_of_steps_also_beyond_the_end(tiny_config, milestones, message):
    tiny_config.n_updates, tiny_config.batch.epochs_per_buffer, tiny_config.eval.milestones = 2, 2, milestones
    if message is None:
        validate(tiny_config)
    else:
        with pytest.raises(ConfigError, match=message):
            validate(tiny_config)


def test_targets_that_were_reached_have_their_update():
    # 0.5 is three quarters of the way from 0.2 at 0 to 0.6 at 10, 0.65 half of that from 15 to 20
    accuracies = {0: 0.2, 5: None, 10: 0.6, 15: 0.6, 20: 0.7}
    evals = [{"update": update, "eval/t/pass@1": accuracy} for update, accuracy in accuracies.items()]
    reached = updates_to_targets(evals, metric="eval/t/pass@1", targets=(0.5, 0.65, 0.8))
    assert reached == pytest.approx({"cbs/updates_to_0.5": 7.5, "cbs/updates_to_0.65": 17.5})
    assert updates_to_targets([], metric="eval/t/pass@1", targets=(0.5,)) == {}

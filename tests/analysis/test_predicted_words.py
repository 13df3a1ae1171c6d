import math

import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.predicted_rows import StepsRow
from rlvr_jax.analysis.predicted_words import noise_grid, prediction_sentences, prediction_table, steps_table


@pytest.fixture
def predictions():
    """B_noise 4 + 16/(R - 1) prompts at two targets, measured at R = 5."""
    parts = {"v_prompt": [2.0, 2.0], "zeta1": [2.0, 2.0], "zeta2": [8.0, 8.0]}
    runs = [
        measured_run(f"s{i}", n_rollouts=5, trace_cov=[4.0, 4.0], grad_sq=[0.5, 0.5], updates=(1.0, 11.0)) | parts
        for i in range(3)
    ]
    observations = [seen(f"s{i}", target=t, at=a) for t, a in ((0.6, 10.0), (0.7, 20.0)) for i in range(3)]
    return predict(runs, [*observations, seen("s0", target=0.8, at=None)])


def test_the_tables_hold_every_r_and_the_split(predictions):
    lines = prediction_table(predictions).splitlines()
    assert "| 0.6 | 5 | 8 [8, 8] | 40 [40, 40] | measured | 3 |" in lines
    assert "| 0.7 | 2 | 20 [20, 20] | 40 [40, 40] | from its parts | 3 |" in lines
    assert "| 0.7 | 4 [4, 4] | 4 [4, 4] | 16 [16, 16] | 3 [3, 3] | 5 [5, 5] | 6 |" in lines  # R* and R of equal parts
    assert prediction_table([]) == ""


def test_the_grid_has_noise_over_signal_at_every_split(predictions):
    lines = noise_grid(predictions[0]).splitlines()
    assert lines[0] == "| prompts | R = 2 | R = 4 | R = 5 | R = 8 | R = 16 | R = 32 | R = 64 |"
    # (4 + 16 / (R - 1)) / P; the observations are of 16 x 4
    assert lines[2].startswith("| 8 | 2.5 | 1.17 | 1 | 0.786 | 0.633 |")
    assert lines[3].startswith("| 16 | 1.25 | 0.583 * | 0.5 |")
    assert lines[4].startswith("| 32 | 0.625 |")


def test_what_holds_for_all_targets_is_said_once(predictions):
    assert prediction_sentences(predictions) == ["90% intervals of predictions are jackknifes over runs."]


def test_steps_stand_beside_the_fit():
    row = StepsRow(
        target=0.6, group="", metric="adam", fitted=Estimate(50.0, 40.0, 60.0), is_fit_resolved=True,
        predicted={"normalised": Pooled(Estimate(60.0, 55.0, 65.0)), "best_size": Pooled(None, "no signal")},
        ratios={"normalised": Estimate(1.2, 0.9, 1.6)}, misses={"normalised": 1.13, "best_size": math.nan},
        runs_fitted=9, runs_predicted=8, sentence="",
    )  # fmt: skip
    assert steps_table([row]).splitlines()[2] == (
        "| 0.6 in Adam's metric | 50 [40, 60] | 60 [55, 65] | 1.2 [0.9, 1.6] | × 1.13 | unresolved | - | - | 8 |"
    )

import dataclasses
import math

import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.noise_pool import Pooled
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.predicted_rows import StepsRow
from rlvr_jax.analysis.predicted_words import (
    noise_grid,
    prediction_sentences,
    prediction_table,
    steps_table,
    steps_verdict,
    weights_sentence,
)


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
    assert lines[0] == "| B_noise, rollouts | R = 2 | R = 4 | R = 5 | R = 8 | R = 16 | R = 32 | R = 64 |"
    # R (4 + 16/(R - 1)); only R = 5 was run
    assert lines[2].startswith("| 0.6 | 40 [40, 40] * | 37.3 [37.3, 37.3] * | 40 [40, 40] | 50.3 [50.3, 50.3] * |")
    assert lines[3].startswith("| 0.7 | 40 [40, 40] * |")
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
    plain = dataclasses.replace(row, metric="gradient", misses={"normalised": 1.2, "best_size": math.nan})
    assert steps_table([plain, row]).splitlines()[2] == (
        "| 0.6 | 50 [40, 60] | 60 [55, 65] (× 1.20) | unresolved | 60 [55, 65] (× 1.13) |"
    )
    assert steps_table([plain]).splitlines()[2] == "| 0.6 | 50 [40, 60] | 60 [55, 65] (× 1.20) | unresolved |"
    assert steps_table([]) == ""


def steps_row(target, *, misses):
    return StepsRow(
        target=target, group="", metric="gradient", fitted=Estimate(50.0, 40.0, 60.0), is_fit_resolved=True,
        predicted={
            "normalised": Pooled(Estimate(60.0, 55.0, 65.0)),
            "best_size": Pooled(Estimate(300.0, 200.0, 450.0)),
        },
        ratios={}, misses=dict(zip(("normalised", "best_size"), misses, strict=True)),
        runs_fitted=9, runs_predicted=8, sentence="",
    )  # fmt: skip


def test_the_verdict_names_the_curve_that_misses_less_and_none_where_targets_differ():
    nearer = steps_verdict([steps_row(0.6, misses=(1.1, 1.5)), steps_row(0.7, misses=(1.2, 1.4))], [])
    assert nearer == (
        "Gradient noise of 8 runs predicts a critical batch of 60 rollouts for steps divided by their gradient's size, "
        "as Adam's, which miss the observed steps by a factor of 1.10 to 1.20, and 300 rollouts for steps of the best "
        "size, which miss them by a factor of 1.40 to 1.50: the first are the nearer."
    )
    best = steps_verdict([steps_row(0.6, misses=(1.5, 1.1))], [])
    assert best.index("of the best size") < best.index("divided by")
    mixed = steps_verdict([steps_row(0.6, misses=(1.1, 1.5)), steps_row(0.7, misses=(1.5, 1.4))], [])
    assert mixed.endswith("neither are the nearer at every target.")


def test_where_there_is_no_curve_the_measured_noise_is_said(predictions):
    said = steps_verdict([], predictions)
    assert said == (
        "Gradient noise on the way to 0.7: B_noise 40 [40, 40] rollouts at R = 5 (3 runs); "
        "one batch size was run, so there is no curve to compare."
    )
    assert steps_verdict([], []) == ""


def test_the_weights_of_the_averages_are_said():
    """Pairs of prompts 2, 6 and 6 at one noise: 14^2 / (4 + 36 + 36) = 2.58 runs."""
    runs = [measured_run(f"{i}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for i, P in enumerate((2, 3, 3))]
    found = predict(runs, [seen(f"{i}", n_prompts=P) for i, P in enumerate((2, 3, 3))])
    said = weights_sentence(found)
    assert "the weight of 2.6 of 3 runs of equal weight" in said
    assert said.endswith("(R = 4: 3 runs).")

import math
from types import SimpleNamespace

import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.predicted_rows import agreement, compare_predicted, compare_steps, level_and_miss, ratio_of


def target_fit(b_noise, *, target=0.6, resolved=True, reason="", prompt_cbs=None):
    """What compare_predicted reads of a fit."""
    fit = SimpleNamespace(
        b_noise=b_noise,
        resolved=resolved,
        reason=reason,
        n_runs=3,
        points=[SimpleNamespace(observation=seen("s0"))],
        prompt_cbs=lambda n_rollouts: prompt_cbs,
    )
    return TargetFit(target, "", fit)


def prediction_of_40():
    """40 rollouts with an interval of 16.9 to 94.9, as in test_predict."""
    runs = [measured_run(f"s{i}", trace_cov=[20.0], grad_sq=[1.0 + i]) for i in range(3)]
    return predict(runs, [seen("s0"), seen("s1"), seen("s2")])


def test_the_ratio_adds_interval_halves_in_quadrature_on_the_logarithm():
    found = ratio_of(Estimate(8.0, 8 / math.e**0.3, 8 * math.e**0.3), Estimate(2.0, 2 / math.e**0.4, 2 * math.e**0.4))
    assert found.value == pytest.approx(4.0)
    assert (found.low, found.high) == (pytest.approx(4 / math.e**0.5), pytest.approx(4 * math.e**0.5))


def test_an_open_end_of_the_fit_opens_the_other_end_of_the_ratio():
    found = ratio_of(Estimate(8.0, 4.0, 16.0), Estimate(2.0, 0.0, math.inf))
    assert (found.low, found.high) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Estimate(1.1, 0.5, 1.8), "they agree within a factor of 2"),  # 1 / 0.5
        (Estimate(1.5, 0.8, 3.0), "they agree within a factor of 3"),
        (Estimate(3.0, 1.5, 6.0), "they differ, the prediction is at least 1.5 times as large"),
        (Estimate(0.2, 0.1, 0.4), "they differ, the fitted one is at least 2.5 times as large"),
        (Estimate(1.0, 0.01, 100.0), "too uncertain to tell a factor of ten"),
        (Estimate(1.0, 0.0, math.inf), "too uncertain to tell a factor of ten"),
    ],
)
def test_agreement_is_read_from_the_interval(ratio, words):
    assert agreement(ratio) == words


def test_a_prediction_stands_beside_the_fit_of_its_target_at_the_measured_r():
    (row,) = compare_predicted(
        prediction_of_40(), [target_fit(Estimate(20.0, 10.0, 40.0)), target_fit(None, target=None)]
    )
    assert (row.target, row.n_rollouts, row.ratio.value) == (0.6, 4, pytest.approx(2.0))
    assert row.sentence == (
        "0.6, R = 4: predicted 40 [16.9, 94.9], fitted 20 [10, 40] rollouts, ratio 2 [0.661, 6.05]: "
        "they agree within a factor of 6.1."  # quadrature: ln 2 / 0.8636 -> 1.1073; 2 exp(+-1.1073)
    )


def test_an_unresolved_side_is_said_with_its_reason():
    (row,) = compare_predicted(prediction_of_40(), [target_fit(None, resolved=False, reason="Every batch is large.")])
    assert row.ratio is None
    assert (
        row.sentence
        == "0.6, R = 4: predicted 40 [16.9, 94.9] rollouts; the fitted law is unresolved: Every batch is large."
    )


def test_a_law_of_two_terms_is_compared_by_its_critical_prompts():
    (row,) = compare_predicted(prediction_of_40(), [target_fit(None, prompt_cbs=Estimate(5.0, 4.0, 6.0))])
    assert row.fitted == Estimate(20.0, 16.0, 24.0)
    assert row.ratio.value == pytest.approx(2.0)


def test_hyperbolas_through_predicted_steps_stand_beside_the_fitted_one():
    sizes = (2, 8, 64)  # B_noise = 4 prompts = 16 rollouts, exactly
    runs = [measured_run(f"{P}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for P in sizes]
    predictions = predict(runs, [seen(f"{P}", n_prompts=P) for P in sizes])
    (row,) = compare_steps(predictions, [target_fit(Estimate(8.0, 4.0, 20.0)), target_fit(None, target=None)])
    assert row.ratios["best_size"].value == pytest.approx(2.0, rel=1e-4)
    assert row.ratios["normalised"].value < 1
    assert row.sentence.startswith("0.6: critical batch by gradient noise ")
    assert "16 [16, 16] rollouts if steps have the best size (ratio 2 [0.8, 4]: they agree within a factor of 4)" in (
        row.sentence
    )
    assert row.sentence.endswith("; fitted 8 [4, 20].")
    (row,) = compare_steps(predictions, [target_fit(Estimate(8.0, 0.0, 16.0), resolved=False, reason="Few.")])
    assert row.ratios == {}
    assert row.sentence.endswith("; the fitted law is unresolved.")


def test_a_level_is_free_and_the_rest_is_predicted():
    runs = [measured_run(f"{P}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for P in (2, 4)]
    (found,) = predict([*runs, measured_run("8", n_prompts=8, trace_cov=[4.0], grad_sq=[1.0])], [seen("2"), seen("8")])
    # 1 + 4/P is 3, 2 and 1.5; observed 10 times that, but for a factor e at the last
    observed = [
        seen("2", n_prompts=2, at=30.0),
        seen("4", n_prompts=4, at=20.0),
        seen("8", n_prompts=8, at=15.0 * math.e),
    ]
    level, miss = level_and_miss(found, observed, steps="best_size")
    assert level == pytest.approx(10 * math.e ** (1 / 3))
    assert miss == pytest.approx(math.exp(math.sqrt(1 / 3)))  # of 0, 0 and 1: variance 1/3


def test_one_batch_size_has_no_curve_but_its_measured_noise_is_said():
    runs = [measured_run(f"{i}", n_prompts=8, trace_cov=[4.0], grad_sq=[1.0]) for i in range(3)]
    predictions = predict(runs, [seen(f"{i}", n_prompts=8) for i in range(3)])
    (row,) = compare_steps(predictions, [target_fit(Estimate(8.0, 0.0, 20.0), resolved=False, reason="Few.")])
    assert "one batch size was run, so there is no curve to compare; " in row.sentence
    assert "B_noise measured on the way: 16 [16, 16] rollouts at R = 4 (3 run(s), 90% interval)" in row.sentence

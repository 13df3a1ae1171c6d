"""Fits in words and as records, from fits written by hand."""

import dataclasses
import json
import math

import pytest
from law_fits import REASON, at_target, law, seen

from rlvr_jax.analysis.fit_targets import TargetFit
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.law_text import law_record, law_sentence, law_text
from rlvr_jax.analysis.law_words import interval_text, number_text, target_name

RUNS = [seen(32, 100), seen(64, 60), seen(128, 45), seen(256, None, ran=20)]


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_resolved_law_is_a_line_with_both_intervals_and_its_runs():
    text = law_text([at_target(0.5, law(RUNS, s_min=20, b_noise=1200))], unit="step")
    (line,) = lines_with(text, "| 0.5")
    assert cells(line) == ["0.5", "relative", "3 of 4", "1200", "[800, 1800]", "20", "[16, 25]", "10%"]
    assert "Unresolved" not in text
    assert "kind of residuals:" not in text  # there is one kind


def test_an_unresolved_law_has_no_number_but_the_side_that_is_known_and_the_reason():
    fit = law(RUNS, s_min=20, b_noise=1234, interval=(700, math.inf), reason=REASON)
    text = law_text([at_target(0.5, fit)], unit="update")
    (line,) = lines_with(text, "| 0.5")
    assert cells(line)[3:5] == ["unresolved", "> 700"]
    assert f"- 0.5 (relative): {REASON}" in text
    assert "1234" not in text
    assert "S_min, updates" in text


def test_of_an_unresolved_law_no_s_min_is_quoted_and_of_a_refused_one_no_interval():
    fit = law(RUNS, s_min=20, b_noise=1200, reason=REASON)
    (line,) = lines_with(law_text([at_target(0.5, fit)], unit="step"), "| 0.5")
    assert cells(line)[3:7] == ["unresolved", "[800, 1800]", "-", "[16, 25]"]
    refused = dataclasses.replace(fit, is_refused=True)
    (line,) = lines_with(law_text([at_target(0.5, refused)], unit="step"), "| 0.5")
    assert cells(line)[3:7] == ["unresolved", "", "-", ""]


def test_what_hangs_on_the_residuals_is_said():
    def pair(target, relative, absolute, **open_end):
        return [
            at_target(target, law(RUNS, s_min=20, b_noise=relative)),
            at_target(target, law(RUNS, s_min=20, b_noise=absolute, residuals="absolute", **open_end)),
        ]

    text = law_text(
        [*pair(0.4, 600, 700), *pair(0.5, 3000, 1000), *pair(0.6, 600, 700, interval=(0, 900), reason=REASON)],
        unit="step",
    )
    assert "- 0.5: best fits of B_noise: 3000 (relative) and 1000 (absolute), a factor 3.0 apart." in text
    assert "- 0.6: resolved under relative residuals only." in text
    assert not lines_with(text, "- 0.4")
    # 3000 / 1.5 lies above 600 * 1.5; 1000 / 1.5 does not lie above 700 * 1.5
    assert "- B_noise of targets, intervals apart under relative residuals only: 0.5 above 0.4, 0.5 above 0.6." in text
    assert len(lines_with(text, "| 0.5")) == 2
    agreed = law_text([*pair(0.4, 600, 700), *pair(0.5, 700, 800)], unit="step")
    assert "- Under neither kind do the intervals of B_noise of any two targets lie apart." in agreed
    assert not lines_with(agreed, "- 0.4")
    alone = law_text(pair(0.4, 600, 700), unit="step")
    assert "- Nothing: verdicts agree, and no number is a factor 1.5 apart." in alone


def test_the_joint_fit_has_an_s_min_for_each_target():
    joint = law([*RUNS, seen(32, 200, target=0.6)], s_min=20, b_noise=1200)
    by_target = {0.5: Estimate(20, 16, 25), 0.6: Estimate(40, 32, 50)}
    fit = TargetFit(None, "", joint, by_target)
    text = law_text([fit], unit="step")
    (line,) = lines_with(text, "| all")
    assert cells(line)[2:4] == ["4 of 5", "1200"]
    assert "in steps: 20 [16, 25] at 0.5, 40 [32, 50] at 0.6" in text
    assert law_record(fit, unit="step")["s_min_by_target"]["0.6"] == {"value": 40, "ci": [32, 50]}
    assert law_record(fit, unit="step")["target"] is None


def test_a_record_is_json_with_finite_numbers_and_null_for_what_is_open():
    fit = at_target(0.5, law(RUNS, s_min=20, b_noise=1200, interval=(0, math.inf), reason=REASON), group="x")
    record = json.loads(json.dumps(law_record(fit, unit="step"), allow_nan=False))
    assert (record["target"], record["group"], record["unit"], record["residuals_kind"]) == (
        0.5,
        "x",
        "step",
        "relative",
    )
    assert (record["b_noise"], record["b_noise_prompts"], record["ci"]) == (1200, 150, [0, None])
    assert (record["s_min"], record["s_min_ci"]) == (20, [16, 25])
    assert (record["resolved"], record["reason"], record["confidence"]) == (False, REASON, 0.9)
    assert record["aicc"] is None
    # fitted 20 (1 + 1200 / 256) = 113.75, and so on
    assert record["residuals"] == pytest.approx(
        [math.log(100 / 113.75), math.log(60 / 66.875), math.log(45 / 43.4375), None]
    )
    assert record["points"][3] == {
        "run": "B2048",
        "n_prompts": 256,
        "n_rollouts": 8,
        "batch": 2048,
        "target": 0.5,
        "steps": None,
        "after": 20,
        "by": None,
        "seed": None,
        "fitted": pytest.approx(20 * (1 + 1200 / 2048)),
        "residual": None,
    }
    no_number = at_target(0.5, law(RUNS, s_min=20, b_noise=math.inf, interval=(700, math.inf), reason=REASON))
    assert law_record(no_number, unit="step")["b_noise"] is None


def test_a_sentence_holds_interval_and_runs_or_the_reason():
    resolved = at_target(0.5, law(RUNS, s_min=20, b_noise=1200))
    expected = "0.5: critical batch size 1200 rollouts [800, 1800] (90% interval; 3 of 4 runs reached it; in steps)"
    assert law_sentence(resolved, unit="step") == expected
    open_end = at_target(0.5, law(RUNS, s_min=20, b_noise=1200, reason=REASON), group="x")
    expected = f"x 0.5: the critical batch size is unresolved (3 of 4 runs reached it): {REASON}"
    assert law_sentence(open_end, unit="step") == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12300"), (99.96, "100"), (4.567, "4.57"), (0.01234, "0.0123"), (math.inf, "infinite"), (None, "-")],
)
def test_numbers_have_three_digits(value, text):
    assert number_text(value) == text


def test_intervals_say_which_end_is_open():
    ends = [(310, 480), (0, 480), (310, math.inf), (0, math.inf)]
    assert [interval_text(Estimate(1, *end)) for end in ends] == ["[310, 480]", "< 480", "> 310", "any"]
    assert [target_name(0.5), target_name(None), target_name(0.5, "x")] == ["0.5", "all", "x 0.5"]

"""The answer in sentences, from fits written by hand."""

from types import SimpleNamespace

import pytest
from law_fits import at_target, law, seen

from rlvr_jax.analysis.compare_laws import LawComparison
from rlvr_jax.analysis.fits import Estimate
from rlvr_jax.analysis.short_answer import (
    critical_batch_sentence,
    slice_headlines,
    split_answer,
    unresolved_sentences,
)
from rlvr_jax.analysis.slices import SliceLaw
from rlvr_jax.analysis.split_conclusions import SplitConclusion


def of_law(target, b_noise, *, reason="", group=""):
    fit = law([seen(4, 64.0, target=target or 0.5)], s_min=16.0, b_noise=b_noise, reason=reason)
    return SimpleNamespace(target=target, group=group, fit=at_target(target, fit, group))


def of_split(target, suffices, p):
    return SplitConclusion(
        target, "", LawComparison({}, None, ""), f"{target}: why", (2, 8), "", {}, {}, suffices=suffices, p=p
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((40.0, 60.0, 90.0), "40 [26.7, 60] rollouts at target 0.6, rising to 90 [60, 135] at 0.8; 3 of 3 targets"),
        ((90.0, 60.0, 40.0), "90 [60, 135] rollouts at target 0.6, falling to 40 [26.7, 60] at 0.8; 3 of 3 targets"),
        ((40.0, 90.0, 60.0), "40 [26.7, 60] rollouts at target 0.6 and 60 [40, 90] at 0.8; 3 of 3 targets"),
    ],
)
def test_the_critical_batch_is_a_range_over_targets(values, said):
    laws = [of_law(target, value) for target, value in zip((0.6, 0.7, 0.8), values, strict=True)]
    joint = of_law(None, 50.0)
    sentence = critical_batch_sentence([*laws, joint], confidence=0.9)
    assert sentence == f"The critical batch size is {said} resolved (90% intervals)."


def test_what_is_unresolved_is_counted_and_its_reason_said_once():
    laws = [of_law(0.6, 40.0), of_law(0.7, 977.0, reason="too few runs"), of_law(0.8, 978.0, reason="too few runs")]
    sentence = critical_batch_sentence(laws, confidence=0.9)
    assert "40 [26.7, 60] rollouts at target 0.6; 1 of 3 targets resolved" in sentence
    assert "97" not in sentence
    assert unresolved_sentences(laws) == ["Unresolved at 0.7, 0.8 (1 of 1 runs reached it): too few runs."]
    nothing = critical_batch_sentence(laws[1:], confidence=0.9)
    assert nothing == "The critical batch size is unresolved at every one of 2 targets (90% intervals)."
    assert critical_batch_sentence([], confidence=0.9) == ""


def test_verdicts_on_the_split_are_put_together_by_kind():
    splits = [of_split(0.6, False, 0.01), of_split(0.7, None, 0.2), of_split(0.8, False, 0.03)]
    assert split_answer(splits, "") == (
        "The product N = P R of prompts and rollouts alone does not suffice at 0.6, 0.8 (p = 0.01 to 0.03); "
        "may or may not suffice, which the data cannot say, at 0.7 (p = 0.2)."
    )
    assert split_answer([], "nothing varies") == "nothing varies"


def test_a_slice_is_a_range_and_names_what_it_leaves_open():
    fits = [at_target(target, law([seen(4, 64.0)], s_min=16.0, b_noise=9.0)) for target in (0.6, 0.7, 0.8)]
    critical = {0.6: Estimate(10.0, 8.0, 12.0), 0.7: Estimate(20.0, 18.0, 22.0)}
    found = SliceLaw("prompts", 4, "", 15, fits, critical)
    assert slice_headlines([found]) == [
        "Prompts at 4 rollouts each alone: critical 10 [8, 12] at 0.6 to 20 [18, 22] at 0.7, unresolved at 0.8 "
        "(15 runs)."
    ]

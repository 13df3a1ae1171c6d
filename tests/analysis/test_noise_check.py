import math

import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.noise_check import check_noise
from rlvr_jax.analysis.predict_figure import noise_check_figure


def source(name, v=8.0, v_prompt=2.0, updates=(1.0,), **changes):
    """8 prompts x 5 rollouts, V_rollout(R) = v/(R - 1): zeta1 = v/4, zeta2 = v."""
    n = len(updates)
    run = measured_run(name, n_prompts=8, n_rollouts=5, trace_cov=[4.0] * n, grad_sq=[1.0] * n, updates=updates)
    return run | {"v_prompt": [v_prompt] * n, "zeta1": [v / 4] * n, "zeta2": [v] * n} | changes


def other(name, trace_cov, updates=(1.0,)):
    return measured_run(
        name, n_prompts=16, n_rollouts=3, trace_cov=trace_cov, grad_sq=[1.0] * len(trace_cov), updates=updates
    ) | {"why_no_split": "prompt and rollout noise are told apart from 4 rollouts per prompt on"}


def test_noise_of_another_split_is_predicted_from_the_parts():
    runs = [*(source(f"a{i}") for i in range(3)), *(other(f"b{i}", [6.4]) for i in range(3))]
    check = check_noise(runs, [seen(run.run) for run in runs])
    assert (check.source_prompts, check.source_rollouts, check.source_runs) == (8, 5, ("a0", "a1", "a2"))
    (point,) = check.points
    assert (point.n_prompts, point.n_rollouts, point.runs) == (16, 3, ("b0", "b1", "b2"))
    assert point.predicted.estimate.value == pytest.approx(6 / 16)  # (2 + 8/2) / 16
    assert point.measured.estimate.value == pytest.approx(6.4 / 16)


def test_both_sides_are_of_the_same_stretch_of_accuracy():
    """The source learns slowly and the other fast: equal updates would be other policies."""
    runs = [
        source("a", updates=(1.0, 15.0, 25.0)) | {"v_prompt": [2.0, 20.0, 9e9]},
        other("b", [6.4, 64.0], (1.0, 5.0)),
    ]
    times = {"a": (10.0, 20.0), "b": (4.0, 6.0)}
    observations = [
        seen(run, target=t, at=at) for run, ats in times.items() for t, at in zip((0.6, 0.7), ats, strict=True)
    ]
    first, second = check_noise(runs, observations).points
    assert (first.target, first.predicted.estimate.value) == (0.6, pytest.approx(6 / 16))
    assert first.measured.estimate.value == pytest.approx(0.4)
    assert (second.target, second.predicted.estimate.value) == (0.7, pytest.approx(24 / 16))
    assert second.measured.estimate.value == pytest.approx(4.0)
    assert math.isinf(second.measured.estimate.high)  # one measurement: a value without an interval


def test_the_split_with_most_rollouts_that_was_decomposed_is_the_source():
    wide = measured_run("wide", n_rollouts=64, trace_cov=[4.0], grad_sq=[1.0]) | {
        "why_no_split": "noise.decompose=false"
    }
    broad = source("broad", n_prompts=64, n_rollouts=4)
    runs = [broad, source("a"), wide, other("b", [6.4])]
    check = check_noise(runs, [seen(run.run) for run in runs])
    assert check.source_rollouts == 5
    assert check_noise([other("b", [6.4])], [seen("b")]) is None


def test_the_figure_is_drawn_where_there_is_a_point(tmp_path):
    runs = [*(source(f"a{i}") for i in range(3)), *(other(f"b{i}", [6.4]) for i in range(3))]
    check = check_noise(runs, [seen(run.run) for run in runs])
    assert noise_check_figure(check, tmp_path / "check.png")
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    alone = check_noise(runs[:3], [seen(run.run) for run in runs[:3]])
    assert alone.points == ()
    assert not noise_check_figure(alone, tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()

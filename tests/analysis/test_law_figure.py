"""The picture of the law, from fits written by hand."""

import dataclasses
import math

import matplotlib.image
import numpy as np
import pytest
from law_fits import REASON, at_target, law, seen
from matplotlib.collections import PolyCollection

from rlvr_jax.analysis import law_figure as module
from rlvr_jax.analysis.fits import LawFit
from rlvr_jax.analysis.law_figure import law_figure

EASY = [seen(32, 50, every=25), seen(64, 25, every=25), seen(128, 25, every=25), seen(256, 12)]
HARD = [seen(32, None, ran=400, target=0.6), seen(64, 300, target=0.6), seen(128, 250, target=0.6)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, as objects."""
    import matplotlib.figure

    figures, save = [], matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    monkeypatch.setattr(module, "_DPI", 30)
    return figures


def curves(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) == 41]


def marks(axes, marker):
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return [place for line in lines for place in zip(line.get_xdata(), line.get_ydata(), strict=True)]


@pytest.mark.filterwarnings("error")
def test_steps_stand_left_examples_right_and_scales_below(tmp_path, drawn):
    resolved = law(EASY, s_min=10, b_noise=1000)
    open_end = law(HARD, s_min=200, b_noise=3000, interval=(900, math.inf), reason=REASON)
    law_figure([at_target(0.5, resolved), at_target(0.6, open_end)], tmp_path / "law.png", unit="step")
    assert matplotlib.image.imread(tmp_path / "law.png").std() > 0.05  # not blank
    steps, examples, strip, _ = drawn[0].axes
    left, right = curves(steps)[0], curves(examples)[0]
    batch = np.asarray(left.get_xdata(), float)
    np.testing.assert_allclose(left.get_ydata(), 10 * (1 + 1000 / batch))
    np.testing.assert_allclose(right.get_ydata(), 10 * (batch + 1000))
    assert (batch[0], batch[-1]) == pytest.approx((256, 2048))
    assert [line.is_dashed() for line in curves(steps)] == [False, True]
    assert sum(isinstance(drawn_as, PolyCollection) for drawn_as in steps.collections) == 1  # resolved
    labels = [text.get_text() for text in steps.get_xticklabels()]
    assert labels == ["256", "512", "1024", "2048"]
    remarks = [text.get_text() for text in strip.texts]
    assert remarks == ["1000 [667, 1500]", "unresolved, > 900"]
    assert marks(strip, "o") == [(1000, 0)]  # no dot for the unresolved one
    assert [text.get_text() for text in strip.get_yticklabels()] == ["0.5", "0.6"]
    assert (steps.get_ylabel(), examples.get_ylabel()) == ("steps to target", "rollouts to target")


def test_marks_tell_how_well_a_time_is_known(tmp_path, drawn):
    fits = [at_target(0.5, law(EASY, s_min=10, b_noise=1000)), at_target(0.6, law(HARD, s_min=200, b_noise=3000))]
    law_figure(fits, tmp_path / "law.png", unit="update")
    steps, examples = drawn[0].axes[:2]
    assert marks(steps, "v") == [pytest.approx((512, 25)), pytest.approx((1024, 25))]
    assert marks(steps, "o")[:2] == [pytest.approx((256, 50)), pytest.approx((2048, 12))]
    assert marks(steps, "^") == [pytest.approx((256, 400))]
    assert marks(examples, "^") == [pytest.approx((256, 400 * 256))]
    (bar,) = (bar for bars in steps.collections if hasattr(bars, "get_segments") for bar in bars.get_segments())
    np.testing.assert_allclose(bar, [[256, 25], [256, 50]])
    assert steps.get_ylabel() == "updates to target"


def test_groups_have_panels_of_their_own_and_one_kind_of_residuals_is_drawn(tmp_path, drawn):
    fits = [
        at_target(0.5, law(EASY, s_min=10, b_noise=1000), "slow"),
        at_target(0.5, law(EASY, s_min=10, b_noise=1000, residuals="absolute"), "slow"),
        at_target(0.5, law(EASY, s_min=5, b_noise=500), "fast"),
    ]
    law_figure(fits, tmp_path / "law.png", unit="step")
    assert len(drawn[0].axes) == 8
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles[0] == "slow: steps to target, S(B)"
    assert titles[4] == "fast: steps to target, S(B)"
    assert "relative residuals" in drawn[0].get_suptitle()
    assert len(curves(drawn[0].axes[0])) == 1


def test_a_law_of_prompts_and_rollouts_apart_has_a_line_for_every_number_of_rollouts(tmp_path, drawn):
    both = [seen(32, 50), seen(64, 40, n_rollouts=4), seen(128, 25)]
    fit = law(both, s_min=10, b_noise=1000)
    object.__setattr__(fit, "shape", "loo")
    law_figure([at_target(0.5, fit)], tmp_path / "law.png", unit="step")
    steps = drawn[0].axes[0]
    (line,) = curves(steps)  # 4 rollouts were measured with one number of prompts
    np.testing.assert_allclose(line.get_ydata(), 10 * (1 + 1000 / np.asarray(line.get_xdata(), float)))
    assert line.get_xdata()[[0, -1]] == pytest.approx([32 * 8, 128 * 8])
    assert [text.get_text() for text in steps.texts] == ["R=8"]
    assert len(marks(steps, "o")) == 3


def test_a_refused_law_has_no_interval_and_a_run_of_unknown_length_no_mark(tmp_path, drawn):
    unknown = dataclasses.replace(seen(64, None, ran=1), after=0.0)
    refused = dataclasses.replace(law([*EASY, unknown], s_min=10, b_noise=1000, reason=REASON), is_refused=True)
    law_figure([at_target(0.5, refused)], tmp_path / "law.png", unit="step")
    steps, _, strip, _ = drawn[0].axes
    assert [text.get_text() for text in strip.texts] == ["unresolved"]
    assert not strip.get_lines()
    assert not marks(steps, "^")
    law_figure(
        [at_target(0.5, law([unknown], s_min=math.nan, b_noise=math.nan, reason=REASON))],
        tmp_path / "law.png",
        unit="step",
    )


def test_nothing_reached_is_drawn_without_a_curve(tmp_path, drawn):
    never = [seen(32, None, ran=100), seen(64, None, ran=100)]
    fit = law(never, s_min=math.nan, b_noise=math.nan, interval=(0, math.inf), reason="none of 2 runs reached it")
    law_figure([at_target(0.5, fit)], tmp_path / "law.png", unit="step")
    assert not curves(drawn[0].axes[0])
    assert drawn[0].axes[2].texts[0].get_text() == "unresolved, any"
    assert isinstance(fit, LawFit)

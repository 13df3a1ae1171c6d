import math

import numpy as np
import pytest
from written_runs import write_run

from rlvr_jax.analysis.noise_over_training import Window, averages, noise_part_figure, noise_scale_figure, noise_scales
from rlvr_jax.analysis.study import read_study

NOISE = ("gns/trace_cov", "gns/grad_sq", "gns/prompt_var", "gns/zeta1", "gns/zeta2")


def points_of(tmp_path, *runs, split=(8, 4)):
    """One point; of each run the rows (S, |G|^2, V_prompt, zeta1, zeta2) at updates 2, 4, ..., one seed each."""
    for seed, rows in enumerate(runs):
        noise = [dict(zip(NOISE, row, strict=True)) for row in rows]
        accuracies = (0.2, *[0.5] * len(rows))
        write_run(tmp_path, point=f"s{seed}", seed=seed, split=split, accuracies=accuracies, noise=noise)
    return read_study([tmp_path]).points


def test_windows_pool_all_seeds(tmp_path):
    # two updates, two seeds: windows of one update each, the first and the last; updates 2 and 4
    rest = (1.0, 6.0)
    first, second = [(9.0, 1.0, 2.0, *rest), (9.0, 2.0, 4.0, *rest)], [(9.0, 3.0, 8.0, *rest), (9.0, 0.0, 0.0, *rest)]
    (point,) = points_of(tmp_path, first, second)
    assert averages(point, "grad_sq") == [Window(2.0, 2, 2.0), Window(4.0, 2, 1.0)]
    assert averages(point, "v_prompt") == [Window(2.0, 2, 5.0), Window(4.0, 2, 2.0)]
    # V_rollout at R = 4: (4 * 2 * 1 + 2 * 6) / (4 * 3) = 5/3
    assert [window.value for window in averages(point, "v_rollout")] == pytest.approx([5 / 3, 5 / 3])


def test_an_average_of_three_has_an_interval(tmp_path):
    (point,) = points_of(tmp_path, *[[(1.0, value, 1.0, 1.0, 1.0)] for value in (1.0, 2.0, 3.0)])
    (window,) = averages(point, "grad_sq")
    half = 1.96 * 1.0 / math.sqrt(3)  # standard deviation 1
    assert (window.value, window.low, window.high) == pytest.approx((2.0, 2 - half, 2 + half))


def test_a_negative_average_stays_negative(tmp_path):
    (point,) = points_of(tmp_path, [(1.0, -2.0, -3.0, 1.0, 1.0)])
    assert [w.value for w in averages(point, "grad_sq")] == [-2.0]
    assert [w.value for w in averages(point, "v_prompt")] == [-3.0]


def test_the_noise_scale_is_a_ratio_of_averages_in_rollouts(tmp_path):
    # mean S = 20, mean |G|^2 = 2: B = 4 * 10; the mean of ratios would be 4 * (10 + 20 + 6.67) / 3
    (point,) = points_of(tmp_path, *[[(s, g, 1.0, 1.0, 1.0)] for s, g in ((10.0, 1.0), (20.0, 1.0), (30.0, 4.0))])
    (window,) = noise_scales(point)
    assert window.value == pytest.approx(4 * 20 / 2)
    assert window.low < window.value < window.high


@pytest.mark.parametrize("grad_sq", [(1.0, 1.0), (1.0, -1.0, -3.0)])  # too few; not positive
def test_a_noise_scale_that_is_not_resolved_stays_in_its_place(tmp_path, grad_sq):
    (point,) = points_of(tmp_path, *[[(10.0, g, 1.0, 1.0, 1.0)] for g in grad_sq])
    assert [(w.update, w.n_measured, w.value) for w in noise_scales(point)] == [(2.0, len(grad_sq), None)]


def test_a_long_run_has_eight_windows_of_equal_length(tmp_path):
    (point,) = points_of(tmp_path, [(1.0, float(i), 1.0, 1.0, 1.0) for i in range(16)])  # updates 2, 4, ..., 32
    windows = averages(point, "grad_sq")
    assert [window.n_measured for window in windows] == [2] * 8
    assert [window.value for window in windows] == [0.5 + 2 * i for i in range(8)]
    assert windows[0].update == 3.0


def test_with_two_rollouts_prompts_and_rollouts_are_not_told_apart(tmp_path):
    points = points_of(tmp_path, [(10.0, 1.0, 7.0, 1.0, 1.0)] * 3, split=(8, 2))
    assert averages(points[0], "v_prompt") == []
    assert averages(points[0], "grad_sq") != []
    path = tmp_path / "v.png"
    assert noise_part_figure(points, path, field="v_prompt", title="t", axis="a") == ["8 x 2"]
    assert not path.exists()


def test_what_is_unresolved_is_a_cross_at_the_foot(tmp_path):
    import matplotlib.image

    points = points_of(tmp_path / "runs", [(10.0, 1.0, 1.0, 1.0, 1.0)] * 2)
    path = tmp_path / "b.png"
    assert noise_scale_figure(points, path) == []  # measured, though not resolved
    pixels = matplotlib.image.imread(path)[:, :, :3]
    pixels = pixels[: int(0.85 * len(pixels))]  # without the legend, which is below
    first_colour = np.array([0.239, 0.208, 0.547])  # at 0.05 of turbo
    assert (np.abs(pixels - first_colour).max(axis=2) < 0.02).sum() > 20

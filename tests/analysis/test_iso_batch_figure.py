import math

import matplotlib.image
import numpy as np
from law_fits import seen

from rlvr_jax.analysis.iso_batch_figure import iso_batch_figure, split_sizes

BLUE = np.array([31, 119, 180]) / 255  # of the first target


def has_blue(path):
    return bool((np.abs(matplotlib.image.imread(path)[:, :, :3] - BLUE).max(axis=2) < 0.02).any())


def test_only_sizes_that_were_split_in_two_ways_count():
    runs = [seen(P, 10.0, n_rollouts=R) for P, R in ((64, 4), (32, 8), (128, 4), (64, 4))]
    assert split_sizes(runs) == {256: [runs[0], runs[3], runs[1]]}
    assert split_sizes([runs[0], runs[3], runs[2]]) == {}


def test_one_panel_per_size_and_a_line_per_target(tmp_path):
    sizes = {
        N: [seen(N // R, 10.0 * R, n_rollouts=R, target=target) for R in (2, 4) for target in (0.5, 0.6)]
        for N in (64, 128, 256)
    }
    iso_batch_figure(dict(list(sizes.items())[:1]), tmp_path / "one.png", unit="update")
    iso_batch_figure(sizes, tmp_path / "three.png", unit="step")
    one, three = (matplotlib.image.imread(tmp_path / name) for name in ("one.png", "three.png"))
    assert three.shape[1] > 1.3 * one.shape[1]
    assert has_blue(tmp_path / "one.png")


def test_splits_that_no_run_got_there_with_are_drawn_where_they_ended(tmp_path):
    runs = [seen(32, None, ran=50.0, n_rollouts=2), seen(16, None, ran=50.0, n_rollouts=4)]
    assert all(math.isinf(run.by) for run in runs)
    iso_batch_figure({64: runs}, tmp_path / "a.png", unit="update")
    assert (tmp_path / "a.png").stat().st_size > 5000

"""The picture of one noise measurement, from results written by hand."""

import copy

import matplotlib.image
import numpy as np
import pytest
from noise_results import REASON, make_result, refused_result, unresolved_result, v_rollout

from rlvr_jax.analysis.noise_figure import noise_figure, save_noise_figure
from rlvr_jax.analysis.noise_report import noise_table

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def labels_of(axes):
    return axes.get_legend_handles_labels()[1]


def data_of(axes, label):
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.array(line.get_xdata(), float), np.array(line.get_ydata(), float)


def paths_below(tree, path=()):
    """The paths of everything that is no dict."""
    if not isinstance(tree, dict):
        return [path]
    return [found for key, value in tree.items() for found in paths_below(value, (*path, key))]


@pytest.mark.parametrize("make", [make_result, unresolved_result, refused_result])
def test_no_null_breaks_the_table_or_the_figure(make):
    result = make()
    result["predicted"] = [point for point in result["predicted"] if point["n_prompts"] == 256]
    paths = paths_below({name: result[name] for name in ("n_problems", "total", "per_group", "decompose", "predicted")})
    for path in [*paths, ("total", "ci"), ("decompose",), ("per_group",)]:
        broken = copy.deepcopy(result)
        parent = broken
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = None
        assert "None" not in noise_table(broken), path
        if path[0] != "per_group" and path[:2] != ("total", "ci"):
            noise_figure(broken)
    for name in ("trace_cov", "lo", "hi"):
        broken = result | {"predicted": [point | {name: None} for point in result["predicted"]]}
        assert "None" not in noise_table(broken)
        noise_figure(broken)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "result",
    [make_result(P=200, R=30), unresolved_result(V=-0.004), unresolved_result(V=-5.0), refused_result()],
    ids=["resolved", "negative", "all negative", "refused"],
)
def test_the_figure_is_written(result, tmp_path):
    path = tmp_path / "noise.png"
    save_noise_figure(result, path)
    assert path.read_bytes().startswith(PNG_MAGIC)
    assert matplotlib.image.imread(path).std() > 0.1  # not blank


def test_the_figure_shows_the_splits_and_one_batch_size():
    figure = noise_figure(make_result())
    splits, iso_batch = figure.axes[:2]
    (mesh,) = (found for found in splits.collections if hasattr(found, "get_coordinates"))
    assert mesh.get_array().shape == (7, 7)
    assert mesh.get_array()[2, 4] == pytest.approx((0.04 + v_rollout(32)) / 256)  # rows 64, 128, 256
    assert [text.get_text() for text in splits.get_xticklabels()] == ["2", "4", "8", "16", "32", "64", "128"]
    assert [text.get_text() for text in splits.get_yticklabels()][:2] == ["64", "128"]
    assert "8192" in splits.get_title()
    log2_rollouts, predicted = data_of(iso_batch, "predicted")
    np.testing.assert_allclose(log2_rollouts, range(1, 8))
    np.testing.assert_allclose(predicted[4], (0.04 + v_rollout(32)) / 256)
    np.testing.assert_allclose(data_of(iso_batch, "its prompt noise")[1][4], 0.04 / 256)
    np.testing.assert_allclose(data_of(iso_batch, "its rollout noise")[1][4], v_rollout(32) / 256)
    np.testing.assert_allclose(data_of(iso_batch, "measured"), ([5], [(0.04 + v_rollout(32)) / 256]))
    for axes in (splits, iso_batch):
        x, _ = data_of(axes, "R* = 6.92 [5.2, 9.7]")
        np.testing.assert_allclose(2 ** x[0], 1 + np.sqrt(35))
    assert "B_noise = 23.8 prompts [19.1, 29.8]" in figure.get_suptitle()


def test_a_batch_between_the_predicted_sizes_is_shown_on_the_nearest():
    axes = noise_figure(make_result(P=200, R=30)).axes[1]
    assert "measured" not in labels_of(axes)
    (above,) = axes.child_axes
    assert "8192 rollouts in all; 6000 were measured" in above.get_xlabel()
    np.testing.assert_allclose(data_of(axes, "predicted")[0], range(1, 8))


@pytest.mark.parametrize("change", [{"resolved": False}, {"r_star": {"value": None, "ci": [None, None]}}])
def test_a_best_split_needs_a_value_and_to_be_resolved(change):
    result = make_result()
    result["decompose"] |= change
    assert "R* unresolved" in labels_of(noise_figure(result).axes[1])


def test_no_noise_at_all_is_a_line_at_zero():
    result = unresolved_result()
    for total in (result["total"], *result["per_group"].values()):
        total |= {"trace_cov": 0.0, "trace_cov_group": 0.0, "grad_sq": 0.0, "prompts_to_resolve": None}
    result["predicted"] = [point | {"trace_cov": 0.0, "lo": 0.0, "hi": 0.0} for point in result["predicted"]]
    assert data_of(noise_figure(result).axes[1], "predicted")[1].tolist() == [0.0] * 7


def test_the_measured_batch_lies_on_its_lines():
    splits = noise_figure(make_result()).axes[0]
    (dot,) = (line for line in splits.get_lines() if line.get_marker() == "o")
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (5, 8)
    (thick,) = (line for line in splits.get_lines() if line.get_linewidth() == 2.0)
    np.testing.assert_allclose(np.array(thick.get_xdata()) + np.array(thick.get_ydata()), 13)  # 2^13 rollouts


def test_the_figure_draws_no_unresolved_best():
    figure = noise_figure(unresolved_result())
    assert "R* unresolved" in labels_of(figure.axes[0])
    assert "R* unresolved" in labels_of(figure.axes[1])
    assert "B_noise unresolved: about 1234 prompts would resolve it" in figure.get_suptitle()


def test_a_negative_prediction_has_no_colour_but_a_curve():
    splits, iso_batch = noise_figure(unresolved_result(V=-0.004)).axes[:2]
    (mesh,) = (found for found in splits.collections if hasattr(found, "get_coordinates"))
    is_shown = ~np.ma.getmaskarray(mesh.get_array())[0]
    assert is_shown.tolist() == [-0.004 + v_rollout(2**k) > 0 for k in range(1, 8)]
    assert not is_shown.all()
    assert iso_batch.get_yscale() == "linear"
    assert data_of(iso_batch, "predicted")[1].min() < 0


def test_without_a_decomposition_the_figure_shows_the_noise_over_prompts():
    figure = noise_figure(refused_result())
    (axes,) = figure.axes
    assert REASON in " ".join(axes.get_title().split())
    S = 0.04 + v_rollout(2)
    log2_prompts, noise = data_of(axes, "noise of a batch of P' prompts × 2")
    np.testing.assert_allclose(noise, S / 2**log2_prompts)
    x, _ = data_of(axes, f"B_noise = {S / 0.002:.0f} prompts")
    np.testing.assert_allclose(2 ** x[0], S / 0.002)  # where the noise meets the signal
    np.testing.assert_allclose(data_of(axes, "|G|², the signal")[1], 0.002)
    unresolved = noise_figure(refused_result(is_resolved=False)).axes[0]
    assert labels_of(unresolved) == ["noise of a batch of P' prompts × 2", "measured"]


def test_the_measured_dot_lies_on_the_prediction_where_problems_are_few():
    result = make_result()
    here = 0.5 * (0.04 + v_rollout(32)) / 256  # of the finite population; S / P knows nothing of it
    for point in result["predicted"]:
        point["trace_cov"] *= 0.5
    np.testing.assert_allclose(data_of(noise_figure(result).axes[1], "measured"), ([5], [here]))

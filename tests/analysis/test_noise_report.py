"""The table and the picture of one noise measurement, from results written by hand."""

import copy
import math

import matplotlib.image
import numpy as np
import pytest

from rlvr_jax.analysis.noise_report import noise_figure, noise_table, save_noise_figure

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ZETA1, ZETA2 = 0.05, 0.8
REASON = "prompt and rollout noise need at least 4 rollouts per prompt, there are 2"


def v_rollout(R):
    return 4 * (R - 2) / (R * (R - 1)) * ZETA1 + 2 / (R * (R - 1)) * ZETA2


def total_of(S, grad_sq, *, P, R, is_resolved=True):
    B = S / grad_sq
    scales = {"b_noise_prompts": B, "b_noise_rollouts": B * R, "noise_to_signal": B / P}
    return {
        "trace_cov": S / P, "trace_cov_group": S, "grad_sq": grad_sq, "resolved": is_resolved,
        "ci": {name: [0.8 * scale, 1.25 * scale] if is_resolved else None for name, scale in scales.items()},
        "prompts_to_resolve": None if is_resolved else 1234.4, "effective_prompts": 201, "n_nonfinite_rollouts": 0,
    } | {name: scale if is_resolved else None for name, scale in scales.items()}  # fmt: skip


def make_result(*, P=256, R=32, V=0.04, is_resolved=True):
    """V_prompt 0.04 and V_rollout(32) = 0.1/16.5 + 0.1/62 = 0.00766: S = 0.0477. R* = 1 + sqrt(1.4 / 0.04) = 6.92."""
    S, r_star = V + v_rollout(R), 1 + math.sqrt(1.4 / abs(V))
    predicted = []
    for p in (2**k for k in range(6, 13)):
        for r in (2**k for k in range(1, 8)):
            noise = (V + v_rollout(r)) / p
            predicted.append(
                {"n_prompts": p, "n_rollouts": r, "trace_cov": noise, "lo": 0.8 * noise, "hi": 1.2 * noise}
            )
    return {
        "n_prompts": P, "n_rollouts": R, "policy": "runs/digits/np256 update 120", "n_problems": 18_000,
        "total": total_of(S, 0.002, P=P, R=R, is_resolved=is_resolved),
        "per_group": {
            "embedding": total_of(0.25 * S, 0.001, P=P, R=R, is_resolved=is_resolved),
            "mlp": total_of(0.75 * S, 0.001, P=P, R=R, is_resolved=False),
        },
        "decompose": {
            "v_prompt": {"value": V, "ci": [0.7 * V, 1.3 * V]}, "zeta1": {"value": ZETA1, "ci": [0.04, 0.06]},
            "zeta2": {"value": ZETA2, "ci": [0.7, 0.9]}, "r_star": {"value": r_star, "ci": [5.2, 9.7]},
            "resolved": True, "critical_rollouts": 9.41,
            "best_rollouts_by_cost": {"cost_per_prompt": 1.0, "cost_per_rollout": 0.25, "n_rollouts": 11},
        },
        "predicted": predicted,
    }  # fmt: skip


def unresolved_result(**change):
    result = make_result(is_resolved=False, **change)
    result["decompose"] |= {
        "resolved": False, "r_star": {"value": None, "ci": None}, "critical_rollouts": None,
        "best_rollouts_by_cost": None,
    }  # fmt: skip
    result["decompose"]["v_prompt"]["ci"] = [-0.01, 0.09]
    return result


def refused_result(**change):
    return make_result(R=2, **change) | {"decompose": None, "decompose_refused": REASON, "predicted": []}


def line_with(text, words):
    """The one line that contains all the words."""
    found = [line for line in text.splitlines() if all(word in line for word in words.split("|"))]
    assert len(found) == 1, (words, text)
    return " ".join(found[0].split())


def labels_of(axes):
    return axes.get_legend_handles_labels()[1]


def data_of(axes, label):
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.array(line.get_xdata(), float), np.array(line.get_ydata(), float)


def test_the_table_says_what_was_measured():
    text = noise_table(make_result())
    assert "runs/digits/np256 update 120" in text
    assert "256 prompts x 32 rollouts, of 18000 problems; 201 prompts have" in text
    # B = 0.04766 / 0.002 = 23.83, interval 0.8 and 1.25 times that
    assert line_with(text, "B_noise|in prompts").endswith("23.8 [19.1, 29.8]")
    assert line_with(text, "B_noise|in rollouts").endswith("763 [610, 953]")
    assert line_with(text, "noise-to-signal").endswith("0.0931 [0.0745, 0.116]")
    assert line_with(text, "one group's gradient").endswith("0.0477")
    assert line_with(text, "this batch's gradient").endswith("0.000186")
    assert line_with(text, "squared gradient").endswith("0.002")
    assert "unresolved" not in line_with(text, "noise-to-signal")


def test_the_table_shares_the_noise_out_between_prompts_and_rollouts():
    text = noise_table(make_result())
    # 0.04 / 0.04766 = 84%
    assert line_with(text, "prompt noise, V_prompt").endswith("0.04 84% [0.028, 0.052]")
    assert line_with(text, "rollout noise, V_rollout(32)").endswith("0.00766 16%")
    assert line_with(text, "R*, rollouts per prompt").endswith("6.92 [5.2, 9.7]")
    assert line_with(text, "rollout noise equals prompt noise").endswith("9.41")
    assert line_with(text, "fixed cost").endswith("cost_per_prompt 1, cost_per_rollout 0.25, n_rollouts 11")
    assert "not told apart from 0" not in text


def test_the_table_shows_every_group_of_parameters():
    text = noise_table(make_result())
    # embedding: a quarter of S, half of |G|^2, B = 0.25 * 0.04766 / 0.001
    assert line_with(text, "embedding") == "embedding 25% 50% 11.9 [9.53, 14.9]"
    assert line_with(text, "mlp") == "mlp 75% 50% unresolved about 1234 prompts would resolve it"


def test_the_table_follows_one_batch_size_and_marks_the_best_split():
    text = noise_table(make_result())
    assert "8192 rollouts" in line_with(text, "Predicted")
    # V_rollout(8) = 24/56*.05 + 2/56*.8 = 0.05 -> 0.09/1024 = 8.79e-5; at 256 x 32 it is 0.000186 = 2.12 times that
    assert line_with(text, "1024 x 8").endswith("8.79e-05 1.00 [7.03e-05, 0.000105] <- least noise")
    assert line_with(text, "256 x 32").endswith("0.000186 2.12 [0.000149, 0.000223] <- measured")
    splits = [line.split()[:3] for line in text[text.index("times the least") :].splitlines()[1:]]
    assert splits == [[str(8192 // r), "x", str(r)] for r in (2, 4, 8, 16, 32, 64, 128)]
    assert text.count("<-") == 2


def test_a_batch_between_the_predicted_sizes_takes_the_nearest_and_says_so():
    text = noise_table(make_result(P=200, R=30))
    assert "8192 rollouts (6000 measured)" in line_with(text, "Predicted")
    assert "<- measured" not in text
    axes = noise_figure(make_result(P=200, R=30)).axes[1]
    assert "measured" not in labels_of(axes)
    (above,) = axes.child_axes
    assert "8192 rollouts in all; 6000 were measured" in above.get_xlabel()


def test_what_is_unresolved_is_said_with_what_would_resolve_it():
    text = noise_table(unresolved_result())
    assert "Noise scale B_noise: unresolved: about 1234 prompts would resolve it." in text
    assert "in prompts" not in text
    assert line_with(text, "R*, rollouts per prompt").endswith("unresolved")
    assert "V_prompt is not told apart from 0" in text
    assert "rollout noise equals" not in text
    assert "<- least noise" not in text
    assert "R* is unresolved, so which of these has the least noise is not known" in text
    assert line_with(text, "embedding") == "embedding 25% - unresolved about 1234 prompts would resolve it"


def test_the_number_of_prompts_that_would_resolve_it_may_be_unknown():
    result = unresolved_result()
    for total in (result["total"], *result["per_group"].values()):
        total["prompts_to_resolve"] = None
    text = noise_table(result)
    assert "Noise scale B_noise: unresolved: |G|^2 is not told apart from 0." in text
    assert "about" not in text


@pytest.mark.parametrize("change", [{"resolved": False}, {"r_star": {"value": None, "ci": [None, None]}}])
def test_a_best_split_needs_a_value_and_to_be_resolved(change):
    result = make_result()
    result["decompose"] |= change
    text = noise_table(result)
    assert line_with(text, "R*, rollouts per prompt").endswith("unresolved")
    assert "<- least noise" not in text
    assert "R* unresolved" in labels_of(noise_figure(result).axes[1])


def test_an_interval_of_nulls_is_left_empty():
    result = make_result()
    result["decompose"]["zeta1"]["ci"] = [None, None]
    assert line_with(noise_table(result), "zeta1").endswith("zeta1 0.05")


def test_intervals_stand_in_one_column():
    lines = noise_table(make_result()).splitlines()
    first = next(i for i, line in enumerate(lines) if line.endswith("95% interval"))
    assert {line.index("[") for line in lines[first + 1 : first + 4]} == {lines[first].index("95%")}


def test_equal_rewards_everywhere_are_zeros_and_unresolved():
    result = unresolved_result()
    for total in (result["total"], *result["per_group"].values()):
        total |= {"trace_cov": 0.0, "trace_cov_group": 0.0, "grad_sq": 0.0, "prompts_to_resolve": None}
    for name in ("v_prompt", "zeta1", "zeta2"):
        result["decompose"][name] = {"value": 0.0, "ci": [0.0, 0.0]}
    result["predicted"] = [point | {"trace_cov": 0.0, "lo": 0.0, "hi": 0.0} for point in result["predicted"]]
    text = noise_table(result)
    assert line_with(text, "one group's gradient").endswith(" 0")
    assert line_with(text, "prompt noise, V_prompt") == "prompt noise, V_prompt 0 - [0, 0]"
    assert data_of(noise_figure(result).axes[1], "predicted")[1].tolist() == [0.0] * 7


def test_a_refused_decomposition_gives_its_reason():
    text = noise_table(refused_result())
    assert REASON in " ".join(text.split())
    assert "V_prompt" not in text
    assert "Predicted" not in text


def test_rollouts_that_were_not_finite_are_counted():
    result = make_result()
    assert "not finite" not in noise_table(result)
    result["total"]["n_nonfinite_rollouts"] = 3
    assert "3 rollouts left out" in noise_table(result)


def test_negative_estimates_are_shown_as_such():
    text = noise_table(unresolved_result(V=-0.004))
    assert line_with(text, "prompt noise, V_prompt").startswith("prompt noise, V_prompt -0.004 -109%")
    assert line_with(text, "128 x 64").split()[3:5] == ["-4.12e-06", "-"]  # no multiple of a negative noise


@pytest.mark.parametrize("make", [make_result, unresolved_result, refused_result])
def test_a_terminal_of_100_columns_holds_the_table(make):
    result = make()
    result["decompose_refused"] = " ".join([REASON] * 5)
    assert max(len(line) for line in noise_table(result).splitlines()) <= 100


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

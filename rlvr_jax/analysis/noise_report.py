"""One policy's gradient noise, as bin/noise wrote it down: a table for a terminal and a picture."""

import math
import textwrap
from pathlib import Path
from typing import Any

Result = dict[str, Any]  # null stands for a number that means nothing

_COLUMNS = 100
_DPI = 130
_PROMPT_COLOUR, _ROLLOUT_COLOUR, _TOTAL_COLOUR, _BEST_COLOUR = "tab:blue", "tab:orange", "black", "crimson"


def noise_table(result: Result) -> str:
    """The result as text that a terminal of 100 columns holds."""
    sections = [_heading(result), _total(result), _parts(result), _parameter_groups(result), _splits(result)]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _heading(result: Result) -> list[str]:
    total = result["total"]
    sentence = f"{result['n_prompts']} prompts x {result['n_rollouts']} rollouts"
    if result["n_problems"] is not None:
        sentence += f", of {result['n_problems']} problems"
    if total["effective_prompts"] is not None:
        sentence += f"; {total['effective_prompts']} prompts have rollouts of unequal reward, the others no gradient"
    if total["n_nonfinite_rollouts"]:
        sentence += f"; {total['n_nonfinite_rollouts']} rollouts left out: their gradient is not finite"
    return [f"Gradient noise of {result['policy']}", *_wrapped(f"{sentence}.")]


def _total(result: Result) -> list[str]:
    total = result["total"]
    rows = [["", "value", "95% interval"]]
    if total["resolved"]:
        for name, field in (
            ("noise scale B_noise = S / |G|^2, in prompts", "b_noise_prompts"),
            ("noise scale in rollouts, B_noise R", "b_noise_rollouts"),
            ("noise-to-signal of this batch, B_noise / P", "noise_to_signal"),
        ):
            rows.append([name, _number(total[field]), _interval(_ci(total, field))])
    rows.append(["noise of one group's gradient, S", _number(total["trace_cov_group"]), ""])
    rows.append(["noise of this batch's gradient, S / P", _number(total["trace_cov"]), ""])
    rows.append(["squared gradient |G|^2", _number(total["grad_sq"]), ""])
    unresolved = [] if total["resolved"] else [f"Noise scale B_noise: {_unresolved(total)}.", ""]
    return [*unresolved, *_aligned(rows)]


def _parts(result: Result) -> list[str]:
    parts, R = result["decompose"], result["n_rollouts"]
    if parts is None:
        return _wrapped(f"Not decomposed: {_refusal(result)}.")
    v_prompt, zeta1, zeta2 = (parts[name]["value"] for name in ("v_prompt", "zeta1", "zeta2"))
    v_rollout = _rollout_variance(zeta1, zeta2, R)
    whole = None if None in (v_prompt, v_rollout) else v_prompt + v_rollout
    rows = [
        [f"Where S comes from, at {R} rollouts per prompt", "value", "share", "95% interval"],
        ["prompt noise, V_prompt", _number(v_prompt), _share(v_prompt, whole), _interval(parts["v_prompt"]["ci"])],
        [f"rollout noise, V_rollout({R})", _number(v_rollout), _share(v_rollout, whole), ""],
        ["  zeta1", _number(zeta1), "", _interval(parts["zeta1"]["ci"])],
        ["  zeta2", _number(zeta2), "", _interval(parts["zeta2"]["ci"])],
    ]
    lines = [*_aligned(rows), "", f"R*, rollouts per prompt with the least noise at a fixed batch: {_best(parts)}"]
    if parts["critical_rollouts"] is not None:
        lines.append(f"rollout noise equals prompt noise at R = {_number(parts['critical_rollouts'])}")
    if parts["best_rollouts_by_cost"]:
        costs = (f"{key} {_plain(value)}" for key, value in parts["best_rollouts_by_cost"].items())
        lines += _wrapped(f"least noise at a fixed cost: {', '.join(costs)}")
    if _interval(parts["v_prompt"]["ci"]) and parts["v_prompt"]["ci"][0] <= 0:
        lines.append("V_prompt is not told apart from 0; more prompts would narrow its interval.")
    return lines


def _parameter_groups(result: Result) -> list[str]:
    if not result["per_group"]:
        return []
    total = result["total"]
    rows = [["Parameters", "share of S", "share of |G|^2", "B_noise, prompts", "95% interval"]]
    for name, group in result["per_group"].items():
        share_of_signal = _share(group["grad_sq"], total["grad_sq"]) if total["resolved"] else "-"
        shares = [_share(group["trace_cov_group"], total["trace_cov_group"]), share_of_signal]
        if group["resolved"]:
            rows.append([name, *shares, _number(group["b_noise_prompts"]), _interval(_ci(group, "b_noise_prompts"))])
        else:
            needed = group["prompts_to_resolve"]
            about = "" if needed is None else f"about {_number(needed)} prompts would resolve it"
            rows.append([name, *shares, "unresolved", about])
    return _aligned(rows)


def _splits(result: Result) -> list[str]:
    """Predicted noise along the line of one batch size."""
    batch, line = _iso_batch(result)
    if not line:
        return []
    measured = (result["n_prompts"], result["n_rollouts"])
    values = [point["trace_cov"] for point in line]
    least = min(values)
    is_best_known = _has_best(result["decompose"])
    rows = [["prompts x rollouts", "tr Cov", "times the least", "95% interval", ""]]
    for point in line:
        split = (point["n_prompts"], point["n_rollouts"])
        marks = ["<- measured"] * (split == measured)
        marks += ["<- least noise"] * (is_best_known and point["trace_cov"] == least)
        ratio = f"{point['trace_cov'] / least:.2f}" if least > 0 else "-"
        interval = _interval([point["lo"], point["hi"]])
        rows.append([f"{split[0]} x {split[1]}", _number(point["trace_cov"]), ratio, interval, " ".join(marks)])
    near = "" if batch == math.prod(measured) else f" ({math.prod(measured)} measured)"
    title = f"Predicted noise of the batch gradient, {batch} rollouts{near} split differently"
    unknown = [] if is_best_known else ["R* is unresolved, so which of these has the least noise is not known."]
    return [title, *_aligned(rows), *unknown]


def noise_figure(result: Result) -> Any:
    """The result as a matplotlib Figure.

    Predicted noise over every split and along one batch size; without a prediction, noise over n_prompts.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    points = [point for point in result["predicted"] or [] if _is_number(point["trace_cov"])]
    figure = Figure(figsize=(13.0, 5.4) if points else (8.0, 5.2), layout="constrained")
    total = result["total"]
    scale = f"B_noise {_unresolved(total)}"
    if total["resolved"]:
        interval = _interval(_ci(total, "b_noise_prompts"))
        scale = f"B_noise = {_number(total['b_noise_prompts'])} prompts {interval}"
    title = f"Gradient noise of {result['policy']}, {result['n_prompts']} × {result['n_rollouts']}"
    figure.suptitle("\n".join([*textwrap.wrap(title, 110 if points else 80), scale]), fontsize=11)
    if not points:
        _draw_over_prompts(figure.subplots(), result)
        return figure
    left, right = figure.subplots(1, 2)
    _draw_splits(figure, left, result, points)
    _draw_iso_batch(right, result)
    return figure


def save_noise_figure(result: Result, path: Path) -> None:
    """Writes `noise_figure` as a PNG."""
    noise_figure(result).savefig(path, dpi=_DPI, format="png")


def _draw_splits(figure: Any, axes: Any, result: Result, points: list[Result]) -> None:
    """Heat map of tr Cov over (R', P') with lines of equal noise and of equal batch size."""
    import numpy as np
    from matplotlib.colors import LogNorm

    rollouts = sorted({point["n_rollouts"] for point in points})
    prompts = sorted({point["n_prompts"] for point in points})
    trace_cov = np.full((len(prompts), len(rollouts)), np.nan)
    for point in points:
        if point["trace_cov"] > 0:  # an estimate may be negative, and has no colour then
            trace_cov[prompts.index(point["n_prompts"]), rollouts.index(point["n_rollouts"])] = point["trace_cov"]
    axes.set_facecolor("0.85")
    x, y = np.log2(rollouts), np.log2(prompts)
    if np.isfinite(trace_cov).any():
        mesh = axes.pcolormesh(x, y, trace_cov, norm=LogNorm(), cmap="viridis", shading="nearest")
        figure.colorbar(mesh, ax=axes, label="tr Cov of the batch gradient")
        here = result["total"]["trace_cov"]
        # of the logarithm, which is close to linear between the points of the grid
        doublings = np.log2(trace_cov / (here if _is_number(here) and here > 0 else np.nan))
        levels = [k for k in range(-20, 21, 2) if (doublings < k).any() and (doublings > k).any()]
        if levels and min(trace_cov.shape) > 1:
            lines = axes.contour(x, y, doublings, levels=levels, colors="white", linewidths=1, linestyles="-")
            axes.clabel(lines, fmt=lambda k: f"×{2**k:g}" if k >= 0 else f"×1/{2**-k:g}", fontsize=8)
    _log2_axis(axes.xaxis, rollouts)
    _log2_axis(axes.yaxis, prompts)
    P, R = result["n_prompts"], result["n_rollouts"]
    ends = np.array(axes.get_xlim())
    for k in range(-20, 21, 2):
        axes.plot(ends, math.log2(P * R) + k - ends, color="white", linestyle="--", linewidth=2.0 if k == 0 else 0.6)
    _draw_best(axes, result)
    axes.plot(math.log2(R), math.log2(P), "o", color=_TOTAL_COLOUR, markeredgecolor="white", markersize=9, zorder=5)
    axes.set(xlabel="rollouts per prompt R'", ylabel="prompts P'")
    same_noise = "predicted noise; solid lines: times the noise measured (dot)"
    axes.set_title(f"{same_noise}\ndashed: the same number of rollouts in all, thick: {P * R}", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")


def _draw_iso_batch(axes: Any, result: Result) -> None:
    """Predicted noise over R' at one batch size, and the two parts it is made of."""
    batch, line = _iso_batch(result)
    x, values = [math.log2(point["n_rollouts"]) for point in line], [point["trace_cov"] for point in line]
    bands = [point for point in line if _is_number(point["lo"]) and _is_number(point["hi"])]
    lows, highs = [point["lo"] for point in bands], [point["hi"] for point in bands]
    band_x = [math.log2(point["n_rollouts"]) for point in bands]
    axes.fill_between(band_x, lows, highs, color=_TOTAL_COLOUR, alpha=0.15, linewidth=0, label="95% interval")
    axes.plot(x, values, color=_TOTAL_COLOUR, marker=".", label="predicted")
    parts = result["decompose"]
    if parts and None not in (parts["zeta1"]["value"], parts["zeta2"]["value"]):
        zetas = parts["zeta1"]["value"], parts["zeta2"]["value"]
        of_rollouts = [_rollout_variance(*zetas, point["n_rollouts"]) / point["n_prompts"] for point in line]
        of_prompts = [value - part for value, part in zip(values, of_rollouts, strict=True)]
        axes.plot(x, of_prompts, color=_PROMPT_COLOUR, linestyle="--", label="its prompt noise")
        axes.plot(x, of_rollouts, color=_ROLLOUT_COLOUR, linestyle="--", label="its rollout noise")
    measured, here = result["n_prompts"] * result["n_rollouts"], result["total"]["trace_cov"]
    if measured == batch and _is_number(here):
        axes.plot(math.log2(result["n_rollouts"]), here, "o", color=_TOTAL_COLOUR, markersize=9, label="measured")
    _log2_axis(axes.xaxis, [point["n_rollouts"] for point in line])
    above = axes.secondary_xaxis("top")
    above.set_xticks(x, [f"{point['n_prompts']}" for point in line])
    near = "" if measured == batch else f"; {measured} were measured"
    above.set_xlabel(f"prompts P' ({batch} rollouts in all{near})")
    _draw_best(axes, result)
    if min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 4, max([*values, *highs]) * 1.6)  # what falls below is a part that hardly counts
    else:
        axes.axhline(0.0, color="grey", linewidth=0.6)
    axes.set(xlabel="rollouts per prompt R'", ylabel="tr Cov of the batch gradient")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8)


def _draw_over_prompts(axes: Any, result: Result) -> None:
    """S / P' over P' at the measured rollouts; it meets |G|^2 at the noise scale."""
    total, P = result["total"], result["n_prompts"]
    prompts = [2**k for k in range(max(0, round(math.log2(P)) - 5), round(math.log2(P)) + 6)]
    if _is_number(total["trace_cov"]) and total["trace_cov"] > 0:
        x, noise = [math.log2(p) for p in prompts], [total["trace_cov"] * P / p for p in prompts]
        axes.plot(x, noise, color=_TOTAL_COLOUR, label=f"noise of a batch of P' prompts × {result['n_rollouts']}")
        axes.plot(math.log2(P), total["trace_cov"], "o", color=_TOTAL_COLOUR, markersize=9, label="measured")
        axes.set_yscale("log")
    _log2_axis(axes.xaxis, prompts)
    if total["resolved"] and _is_number(total["grad_sq"]):
        axes.axhline(total["grad_sq"], color=_PROMPT_COLOUR, label="|G|², the signal")
        label = f"B_noise = {_number(total['b_noise_prompts'])} prompts"
        _draw_estimate(axes, total["b_noise_prompts"], _ci(total, "b_noise_prompts"), label)
    axes.set_title("\n".join(textwrap.wrap(f"not decomposed: {_refusal(result)}", 90)), fontsize=9)
    axes.set(xlabel="prompts P'", ylabel="tr Cov of the batch gradient")
    axes.grid(alpha=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _draw_best(axes: Any, result: Result) -> None:
    """R* with its interval, or a remark that it is unresolved."""
    parts = result["decompose"]
    label = f"R* {'= ' if _has_best(parts) else ''}{_best(parts)}"
    if _has_best(parts):
        _draw_estimate(axes, parts["r_star"]["value"], parts["r_star"]["ci"], label)
    else:
        axes.plot([], [], " ", label=label)


def _draw_estimate(axes: Any, value: float | None, ci: list[float | None] | None, label: str) -> None:
    """A vertical line on a log2 axis, with its interval."""
    if not _is_number(value):
        return
    if _interval(ci):
        axes.axvspan(math.log2(ci[0]), math.log2(ci[1]), color=_BEST_COLOUR, alpha=0.15, linewidth=0)
    axes.axvline(math.log2(value), color=_BEST_COLOUR, linewidth=1.4, label=label)


def _log2_axis(axis: Any, values: list[int]) -> None:
    """For data plotted by their log2, which contours need: plain numbers, half a step wider than the values."""
    axis.set_ticks([math.log2(value) for value in values], [f"{value}" for value in values])
    low, high = math.log2(values[0]) - 0.5, math.log2(values[-1]) + 0.5
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})


def _iso_batch(result: Result) -> tuple[int, list[Result]]:
    """The predicted batch size nearest to the measured, in rollouts, and its points by n_rollouts."""
    points = [point for point in result["predicted"] or [] if _is_number(point["trace_cov"])]
    if not points:
        return 0, []
    measured = result["n_prompts"] * result["n_rollouts"]
    sizes = sorted({point["n_prompts"] * point["n_rollouts"] for point in points})
    batch = min(sizes, key=lambda size: abs(math.log(size / measured)))
    line = [point for point in points if point["n_prompts"] * point["n_rollouts"] == batch]
    return batch, sorted(line, key=lambda point: point["n_rollouts"])


def _rollout_variance(zeta1: float | None, zeta2: float | None, n_rollouts: int) -> float | None:
    """tr Cov of a group's gradient given its prompt, 4(R-2)/(R(R-1)) zeta1 + 2/(R(R-1)) zeta2; arXiv:2603.01162."""
    if zeta1 is None or zeta2 is None or n_rollouts < 2:
        return None
    return (4 * (n_rollouts - 2) * zeta1 + 2 * zeta2) / (n_rollouts * (n_rollouts - 1))


def _unresolved(total: Result) -> str:
    if total["prompts_to_resolve"] is None:
        return "unresolved: |G|^2 is not told apart from 0"
    return f"unresolved: about {_number(total['prompts_to_resolve'])} prompts would resolve it"


def _has_best(parts: Result | None) -> bool:
    return bool(parts and parts["resolved"] and parts["r_star"]["value"] is not None)


def _best(parts: Result | None) -> str:
    if not _has_best(parts):
        return "unresolved"
    return f"{_number(parts['r_star']['value'])} {_interval(parts['r_star']['ci'])}".rstrip()


def _refusal(result: Result) -> str:
    return (result.get("decompose_refused") or "no prediction was made").rstrip(".")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value: float | None) -> str:
    """Three digits, and all those before the point of a number that is not huge; "-" for null."""
    if not _is_number(value):
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"


def _plain(value: Any) -> str:
    return _number(value) if value is None or isinstance(value, (int, float)) else str(value)


def _ci(total: Result, field: str) -> list[float | None] | None:
    return (total["ci"] or {}).get(field)


def _interval(ci: list[float | None] | None) -> str:
    if not ci or not all(_is_number(end) for end in ci):
        return ""
    return f"[{_number(ci[0])}, {_number(ci[1])}]"


def _share(part: float | None, whole: float | None) -> str:
    if not (_is_number(part) and _is_number(whole) and whole > 0):
        return "-"
    return f"{100 * part / whole:.0f}%"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns: the first to the left, numbers to the right, intervals and what follows them to the left."""
    n_left = rows[0].index("95% interval")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < i < n_left else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines

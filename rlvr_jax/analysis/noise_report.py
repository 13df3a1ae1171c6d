"""One policy's gradient noise, as bin/noise wrote it down, as a table for a terminal."""

import math
import textwrap

from rlvr_jax.analysis.noise_result import (
    Result,
    best_text,
    ci_of,
    has_best,
    interval_text,
    is_number,
    iso_batch,
    needed_text,
    number_text,
    refusal_text,
    rollout_variance,
    unresolved_text,
)

_COLUMNS = 100


def noise_table(result: Result) -> str:
    """The result as text that a terminal of 100 columns holds."""
    sections = [_heading, _total, _adam, _parts, _parameter_groups, _splits]
    return "\n\n".join("\n".join(lines) for section in sections if (lines := section(result)))


def _heading(result: Result) -> list[str]:
    total = result["total"]
    sentence = f"{result['n_prompts']} prompts x {result['n_rollouts']} rollouts"
    if result["n_problems"] is not None:
        sentence += f", of {result['n_problems']} problems"
    if total["effective_prompts"] == result["n_prompts"]:
        sentence += "; every prompt has rollouts of unequal reward"
    elif total["effective_prompts"] is not None:
        sentence += f"; {total['effective_prompts']} prompts have rollouts of unequal reward, the others no gradient"
    if total.get("n_ungraded_prompts"):
        sentence += f"; {total['n_ungraded_prompts']} prompts left out: they could not be graded"
    if total["n_nonfinite_rollouts"]:
        sentence += (
            f"; {total.get('n_nonfinite_prompts') or 'some'} prompts left out: "
            f"the gradient of {total['n_nonfinite_rollouts']} of their rollouts is not finite"
        )
    return [f"Gradient noise of {result['policy']}", *_wrapped(f"{sentence}.")]


def _total(result: Result) -> list[str]:
    return _scale_rows(result["total"], "")


def _adam(result: Result) -> list[str]:
    return _scale_rows(result["adam"], "In Adam's metric, gradients / (sqrt(v) + eps)") if result.get("adam") else []


def _scale_rows(total: Result, title: str) -> list[str]:
    rows = [["", "value", "95% interval"]]
    if total["resolved"]:
        for name, field in (
            ("noise scale B_noise = S / |G|^2, in prompts", "b_noise_prompts"),
            ("noise scale in rollouts, B_noise R", "b_noise_rollouts"),
            ("noise-to-signal of this batch, B_noise / P", "noise_to_signal"),
        ):
            rows.append([name, number_text(total[field]), interval_text(ci_of(total, field))])
    rows.append(["noise of one group's gradient, S", number_text(total["trace_cov_group"]), ""])
    rows.append(["noise of this batch's gradient, S / P", number_text(total["trace_cov"]), ""])
    rows.append(["squared gradient |G|^2", number_text(total["grad_sq"]), ""])
    unresolved = [] if total["resolved"] else [f"Noise scale B_noise: {unresolved_text(total)}.", ""]
    return [*filter(None, [title]), *unresolved, *_aligned(rows)]


def _parts(result: Result) -> list[str]:
    parts, R = result["decompose"], result["n_rollouts"]
    if parts is None:
        return _wrapped(f"Not decomposed: {refusal_text(result)}.")
    v_prompt, zeta1, zeta2 = (parts[name]["value"] for name in ("v_prompt", "zeta1", "zeta2"))
    v_rollout = rollout_variance(zeta1, zeta2, R)
    whole = None if None in (v_prompt, v_rollout) else v_prompt + v_rollout
    rows = [
        [f"Where S comes from, at {R} rollouts per prompt", "value", "share", "95% interval"],
        [
            "prompt noise, V_prompt",
            number_text(v_prompt),
            _share(v_prompt, whole),
            interval_text(parts["v_prompt"]["ci"]),
        ],
        [f"rollout noise, V_rollout({R})", number_text(v_rollout), _share(v_rollout, whole), ""],
        ["  zeta1", number_text(zeta1), "", interval_text(parts["zeta1"]["ci"])],
        ["  zeta2", number_text(zeta2), "", interval_text(parts["zeta2"]["ci"])],
    ]
    alone = ["Of the policy term alone: KL and entropy terms are in the noise above, not here."]
    lines = alone if parts.get("is_policy_term_alone") else []
    lines += [*_aligned(rows), "", f"R*, rollouts per prompt with the least noise at a fixed batch: {best_text(parts)}"]
    if parts["critical_rollouts"] is not None:
        lines.append(f"rollout noise equals prompt noise at R = {number_text(parts['critical_rollouts'])}")
    if by_cost := parts["best_rollouts_by_cost"]:
        best = "unresolved" if by_cost["n_rollouts"] is None else f"R = {number_text(by_cost['n_rollouts'])}"
        if by_cost["n_rollouts"] is not None and by_cost["n_rollouts"] == by_cost.get("looked_up_to"):
            best += " or more"
        costs = (number_text(by_cost[f"cost_per_{what}"]) for what in ("prompt", "rollout"))
        lines.append("least noise at a fixed cost, {} per prompt and {} per rollout: {}".format(*costs, best))
    if interval_text(parts["v_prompt"]["ci"]) and parts["v_prompt"]["ci"][0] <= 0:
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
            rows.append(
                [name, *shares, number_text(group["b_noise_prompts"]), interval_text(ci_of(group, "b_noise_prompts"))]
            )
        else:
            rows.append([name, *shares, "unresolved", needed_text(group)])
    return _aligned(rows)


def _splits(result: Result) -> list[str]:
    """Predicted noise along the line of one batch size."""
    batch, line = iso_batch(result)
    if not line:
        return []
    measured = (result["n_prompts"], result["n_rollouts"])
    values = [point["trace_cov"] for point in line]
    least = min(values)
    is_best_known = has_best(result["decompose"])
    rows = [["prompts x rollouts", "tr Cov", "times the least", "95% interval", ""]]
    for point in line:
        split = (point["n_prompts"], point["n_rollouts"])
        marks = ["<- measured"] * (split == measured)
        marks += ["<- least noise"] * (is_best_known and point["trace_cov"] == least)
        ratio = f"{point['trace_cov'] / least:.2f}" if least > 0 else "-"
        interval = interval_text([point["lo"], point["hi"]])
        rows.append([f"{split[0]} x {split[1]}", number_text(point["trace_cov"]), ratio, interval, " ".join(marks)])
    near = "" if batch == math.prod(measured) else f" ({math.prod(measured)} measured)"
    title = f"Predicted noise of the batch gradient, {batch} rollouts{near} split differently"
    unknown = [] if is_best_known else ["R* is unresolved, so which of these has the least noise is not known."]
    return [title, *_aligned(rows), *unknown, *_finite_population(result, line)]


def _finite_population(result: Result, line: list[Result]) -> list[str]:
    """Said where it changes a tenth of the prompt noise or more."""
    n_problems = result["n_problems"]
    if n_problems is None or 10 * max(point["n_prompts"] for point in line) < n_problems:
        return []
    return [f"A batch here has none of the {n_problems} problems twice: large ones are less noisy than S / P says."]


def _share(part: float | None, whole: float | None) -> str:
    if not (is_number(part) and is_number(whole) and whole > 0):
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

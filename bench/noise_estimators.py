#!/usr/bin/env python3
"""The noise estimators on two problems whose truth is known: bias, coverage of intervals, how often unresolved.

    bench/noise_estimators.py                       four tables, on the CPU
    bench/noise_estimators.py --json=results.json   and the same as JSON

The problems are those of tests/noise/toy_problems.py: Gaussian scores and rewards, and a softmax bandit of 200 contexts
whose policy often takes one action. Every repeat draws a new batch. Bias is in percent of the truth, with its standard
error; coverage is of nominal 95% intervals, of B_noise and R* among the repeats that are resolved. Bars: bias within 2%
(or two standard errors), coverage of B_noise 0.92 to 0.98 at P >= 2 B_noise. Where prompts do not differ R* is infinite
and must be called unresolved: in at most 5 of 100 batches is it not. The command fails if a bar is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "noise"))

import jax
import jax.numpy as jnp
import numpy as np
from toy_problems import GaussianRewards, SoftmaxBandit, gaussian_rewards, softmax_bandit

from rlvr_jax.noise.decompose import decomposition, group_moments, predicted_trace_cov
from rlvr_jax.noise.gram import leave_one_out_weights, weighted_sq_norms
from rlvr_jax.noise.noise_scale import noise_scale

PROBLEMS = ("gaussian", "bandit")
RATIOS = (0.25, 0.5, 1, 2, 4, 8)  # P / B_noise
SPLITS = (2, 4, 8, 16, 64)
ROLLOUTS_AT_ONCE = 200_000  # memory only
N_PARAMS = 16
BIAS_BAR, COVERAGE_BARS = 0.02, (0.92, 0.98)
FALSELY_RESOLVED_BAR = 0.05

Problem = GaussianRewards | SoftmaxBandit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=16_000, help="of the noise scale; of its parts half as many")
    parser.add_argument("--n_prompts", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--n_rollouts", type=int, default=8)
    parser.add_argument("--n_rollouts_split", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--bandit_seed", type=int, default=1, help="another number, another bandit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    jax.config.update("jax_platforms", "cpu")
    rng = np.random.default_rng(args.seed)
    print("noise scale: P / B_noise, bias of S and |G|^2, resolved repeats, coverage of B_noise's interval")
    scale_rows = print_table(scale_rows_of(args, rng))
    print("\nparts: bias, at P = 2 B_noise")
    part_rows = list(part_rows_of(args, rng))
    print_table([{**about(row), **row["bias"]} for row in part_rows])
    print("\nparts: coverage of the intervals")
    print_table([{**about(row), **row["coverage"], "R* resolved": row["resolved"]} for row in part_rows])
    print("\nprompts that do not differ, V_prompt = 0: how often R*, which is infinite, is called resolved")
    alike_rows = print_table(alike_rows_of(args, rng))
    misses = scale_misses(scale_rows) + part_misses(part_rows) + alike_misses(alike_rows)
    print("\n" + ("\n".join(misses) if misses else "all bars reached"))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        rows = {"noise_scale": scale_rows, "parts": part_rows, "alike": alike_rows, "misses": misses}
        args.json.write_text(json.dumps({"jax": jax.__version__, **settings, **rows}, indent=1) + "\n")
    return 1 if misses else 0


def make_problem(name: str, *, n_rollouts: int, b_noise: float, bandit_seed: int) -> Problem:
    """One whose noise scale at n_rollouts is b_noise prompts."""
    if name == "gaussian":
        return gaussian_rewards(n_params=N_PARAMS, n_rollouts=n_rollouts, b_noise=b_noise)
    return softmax_bandit(
        n_contexts=200, n_actions=6, n_params=N_PARAMS, n_rollouts=n_rollouts, b_noise=b_noise, seed=bandit_seed
    )  # fmt: skip


def batch_statistics(score_PRD: jax.Array, reward_PR: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """What noise_scale takes, and the Gram matrices."""
    is_kept_PR = jnp.ones(reward_PR.shape, bool)
    weight_PR = leave_one_out_weights(reward_PR, is_kept_PR)
    gram_PRR = jnp.einsum("pjd,pkd->pjk", score_PRD, score_PRD)
    g_PD = jnp.einsum("pr,prd->pd", weight_PR, score_PRD)
    sum_D = g_PD.sum(axis=0)
    sq_norm_P = weighted_sq_norms(gram_PRR, weight_PR, is_kept_PR)
    return (sq_norm_P, jnp.square(sum_D).sum(), g_PD @ sum_D, jnp.ones(len(g_PD), bool)), gram_PRR


@jax.jit
@jax.vmap
def measure_scale(score_PRD: jax.Array, reward_PR: jax.Array) -> Any:
    statistics, _ = batch_statistics(score_PRD, reward_PR)
    return noise_scale(*statistics)


@jax.jit
@jax.vmap
def measure_parts(score_PRD: jax.Array, reward_PR: jax.Array) -> Any:
    statistics, gram_PRR = batch_statistics(score_PRD, reward_PR)
    found = decomposition(group_moments(gram_PRR, reward_PR, jnp.ones(reward_PR.shape, bool)), *statistics)
    return found, predicted_trace_cov(found, n_prompts=1, n_rollouts=np.array(SPLITS), n_problems=None)


def repeated(measure: Callable, problem: Problem, rng: np.random.Generator, repeats: int, P: int, R: int) -> Any:
    """The results of `measure` on so many batches, stacked."""
    at_once = min(repeats, max(1, ROLLOUTS_AT_ONCE // (P * R)))
    parts = [measure(*problem.draw(rng, at_once, P, R)) for _ in range(-(-repeats // at_once))]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:repeats], *parts)


def scale_rows_of(args: argparse.Namespace, rng: np.random.Generator) -> Iterator[dict]:
    R = args.n_rollouts
    for name in PROBLEMS:
        for P in args.n_prompts:
            for ratio in RATIOS:
                row = {"problem": name, "prompts": P, "rollouts": R, "P/B": ratio}
                try:
                    problem = make_problem(name, n_rollouts=R, b_noise=P / ratio, bandit_seed=args.bandit_seed)
                except ValueError:  # every problem has a least and a greatest noise scale
                    continue
                got, truth = repeated(measure_scale, problem, rng, args.repeats, P, R), problem.truth
                is_covered = (got.low_prompts <= P / ratio) & (got.high_prompts >= P / ratio)
                yield row | {
                    "S %": bias(got.trace_cov, truth.trace_cov(R)),
                    "|G|^2 %": bias(got.grad_sq, truth.grad_sq),
                    "unresolved": float(1 - got.is_resolved.mean()),
                    "coverage": float(is_covered[got.is_resolved].mean()),
                    "high/B": float(np.median((got.high_prompts / got.b_noise_prompts)[got.is_resolved])),
                }


def part_rows_of(args: argparse.Namespace, rng: np.random.Generator) -> Iterator[dict]:
    for name in PROBLEMS:
        for P in args.n_prompts:
            for R in args.n_rollouts_split:
                problem = make_problem(name, n_rollouts=R, b_noise=P / 2, bandit_seed=args.bandit_seed)
                found, predicted = repeated(measure_parts, problem, rng, args.repeats // 2, P, R)
                truth = problem.truth
                parts = {
                    "|G|^2": (found.grad_sq, truth.grad_sq), "V_prompt": (found.v_prompt, truth.v_prompt),
                    "zeta1": (found.zeta1, truth.zeta1), "zeta2": (found.zeta2, truth.zeta2),
                }  # fmt: skip
                for place, split in enumerate(SPLITS):
                    of_split = jax.tree.map(lambda leaf, place=place: leaf[:, place], predicted)
                    parts[f"S({split})"] = (of_split, truth.trace_cov(split))
                covered_r_star = coverage(found.r_star, truth.r_star)[found.is_r_star_resolved]
                yield {
                    "problem": name, "prompts": P, "rollouts": R,
                    "bias": {key: bias(interval.value, true) for key, (interval, true) in parts.items()},
                    "coverage": {key: float(coverage(*pair).mean()) for key, pair in parts.items()}
                    | {"R*": float(covered_r_star.mean())},
                    "resolved": float(found.is_r_star_resolved.mean()),
                }  # fmt: skip


def alike_rows_of(args: argparse.Namespace, rng: np.random.Generator) -> Iterator[dict]:
    problem = GaussianRewards(np.full(N_PARAMS, 0.25), np.zeros(N_PARAMS), 1.0)
    for P in args.n_prompts:
        for R in args.n_rollouts_split:
            found, _ = repeated(measure_parts, problem, rng, args.repeats // 2, P, R)
            yield {
                "problem": "gaussian", "prompts": P, "rollouts": R,
                "V_prompt > 0": float((found.v_prompt.value > 0).mean()),
                "R* resolved": float(found.is_r_star_resolved.mean()),
            }  # fmt: skip


def bias(values: np.ndarray, true: float) -> list[float]:
    """[relative bias, its standard error], in percent."""
    return [100 * float(values.mean() / true - 1), 100 * float(values.std() / len(values) ** 0.5 / true)]


def coverage(interval: Any, true: float) -> np.ndarray:
    return (interval.low <= true) & (interval.high >= true)


def about(row: dict) -> dict:
    return {name: row[name] for name in ("problem", "prompts", "rollouts")}


def is_biased(measured: list[float]) -> bool:
    """Beyond the bar and beyond what chance explains."""
    return abs(measured[0]) > max(100 * BIAS_BAR, 2 * measured[1])


def scale_misses(rows: list[dict]) -> list[str]:
    misses = []
    for row in rows:
        where = f"{row['problem']}, {row['prompts']} prompts, P/B = {row['P/B']}"
        misses += [f"{where}: {key} {row[key][0]:.1f}" for key in ("S %", "|G|^2 %") if is_biased(row[key])]
        if row["P/B"] >= 2 and not COVERAGE_BARS[0] <= row["coverage"] <= COVERAGE_BARS[1]:
            misses.append(f"{where}: coverage of B_noise {row['coverage']:.3f}")
    return misses


def part_misses(rows: list[dict]) -> list[str]:
    return [
        f"{row['problem']}, {row['prompts']} x {row['rollouts']}: bias of {key} {measured[0]:.1f} +- {measured[1]:.1f}%"
        for row in rows
        for key, measured in row["bias"].items()
        if is_biased(measured)
    ]


def alike_misses(rows: list[dict]) -> list[str]:
    return [
        f"no prompt noise, {row['prompts']} x {row['rollouts']}: R* resolved in {row['R* resolved']:.3f} of batches"
        for row in rows
        if row["R* resolved"] > FALSELY_RESOLVED_BAR
    ]


def print_table(rows: list[dict] | Iterator[dict]) -> list[dict]:
    """Prints rows as they come and returns them."""
    printed = []
    for row in rows:
        shown = {name: shown_number(value) for name, value in row.items()}
        widths = {name: max(len(name), 13 if isinstance(value, list) else 8) for name, value in row.items()}
        if not printed:
            print("  ".join(f"{name:>{widths[name]}}" for name in shown))
        print("  ".join(f"{value:>{widths[name]}}" for name, value in shown.items()), flush=True)
        printed.append(row)
    return printed


def shown_number(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.1f} +- {value[1]:.1f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Fits of studies whose law is known: bias, coverage of intervals, how often resolved, how often the verdict is wrong.

    bench/fit_coverage.py                       three tables, on one CPU core
    bench/fit_coverage.py --json=results.json   and the same as JSON

The studies are drawn by tests/analysis/simulated_studies.py, which does not use the fit: S = S_min (1 + B_noise / B)
with log-normal noise (or S (1 + noise eps)), read at the next evaluation, never where the run ends before it. "From a
table" they pass through a CSV file that says nowhere how far the runs went. Estimates
are given over the truth, coverage is of nominal 90% intervals. Bars, where the batches lie around the knee: mean within
5%, coverage 0.85 to 0.95, resolved in 90%; where all miss it: unresolved in 90%. Of the comparison of laws: N = P R
called insufficient in at most 10% where it suffices, and called sufficient in at most 5% where it does not. The command
fails if a bar is missed.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "analysis"))

import numpy as np
import scipy
from simulated_studies import BATCHES, loo_law, simulated, total_law, write_table

from rlvr_jax.analysis.compare_laws import compare_laws
from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.fits import Estimate, fit_law
from rlvr_jax.analysis.law_table import read_table, table_observations
from rlvr_jax.analysis.observations import Observation

COARSE = (*(256 * 2**k for k in range(6)), 65536)
BIAS_BAR, COVERAGE_BARS, RESOLVED_BAR = 0.05, (0.85, 0.95), 0.9
REFUSED_BAR, ACCEPTED_BAR = 0.1, 0.05

# name: S_min, B_noise, batches, what simulated() takes, what is claimed of it
STUDIES = {
    "S_min 100": (100, 1000, BATCHES, {}, "knee"),
    "S_min 200": (200, 1000, BATCHES, {}, "knee"),
    "S_min 400": (400, 1000, BATCHES, {}, "knee"),
    "S_min 200, normal noise": (200, 1000, BATCHES, {"is_log_normal": False}, "knee"),
    "S_min 400, normal noise": (400, 1000, BATCHES, {"is_log_normal": False}, "knee"),
    "S_min 150, from a table": (150, 1000, BATCHES, {}, "knee"),
    "S_min 200, from a table": (200, 1000, BATCHES, {}, "knee"),
    "S_min 300, from a table": (300, 1000, BATCHES, {}, "knee"),
    "S_min 400, from a table": (400, 1000, BATCHES, {}, "knee"),
    "all B >= 10 B_noise": (200, 1000, tuple(10_000 * 2**k for k in range(7)), {}, "missed"),
    "all B <= B_noise / 10": (3, 1000, (2, 3, 6, 12, 25, 50, 100), {"n_steps": 3000}, "missed"),
    "one seed": (200, 1000, BATCHES, {"n_seeds": 1}, ""),
    "one seed, coarse": (20, 4000, COARSE, {"n_seeds": 1, "noise": 0.2, "n_steps": 4000}, ""),
}
DESIGNS = {
    "3 x 3 of P and R": [(p, r) for p in (16, 64, 256) for r in (2, 8, 32)],
    "N = 1024": [(512, 2), (256, 4), (128, 8), (64, 16), (32, 32)],
    "R = 8": [(p, 8) for p in (16, 32, 64, 128, 256)],
    "P = 64": [(64, r) for r in (2, 4, 8, 16, 64)],
}
ALPHA, BETA = 60.0, 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="of each study; of a comparison a quarter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    print("one law: estimates / truth, coverage, resolved; 3 seeds, 15% noise, read every 25 steps, 1500 steps to run")
    one_law = print_table(one_law_rows(args))
    print("\ntwo targets of the same runs (their noise correlates by so much): coverage of the joint B_noise")
    joint = print_table(joint_rows(args))
    print("\nN = P R or the split: what compare_laws says, and coverage under the law that is true")
    comparison = print_table(comparison_rows(args))
    misses = one_law_misses(one_law) + comparison_misses(comparison)
    print("\n" + ("\n".join(misses) if misses else "all bars reached"))
    if args.json:
        rows = {"one_law": one_law, "joint": joint, "comparison": comparison, "misses": misses}
        settings = {"numpy": np.__version__, "scipy": scipy.__version__, "repeats": args.repeats, "seed": args.seed}
        args.json.write_text(json.dumps(settings | rows, indent=1) + "\n")
    return 1 if misses else 0


def one_law_rows(args: argparse.Namespace) -> Iterator[dict]:
    for name, (s_min, b_noise, batches, settings, claim) in STUDIES.items():
        rng, start = np.random.default_rng(args.seed), time.process_time()
        law, sizes = total_law(s_min, b_noise), [(b, 1) for b in batches]
        studies = [simulated(rng, law, sizes, **settings) for _ in range(args.repeats)]
        if name.endswith("from a table"):
            studies = [from_table(study) for study in studies]
        fits = [fit_law(study) for study in studies]
        b, s = (np.array([getattr(f, key).value for f in fits]) for key in ("b_noise", "s_min"))
        p = [f.lack_of_fit_p for f in fits if f.lack_of_fit_p is not None]
        yield {
            "study": name, "claim": claim,
            "never": float(np.mean([(f.n_runs - f.n_reached) / f.n_runs for f in fits])),
            "B mean": finite(np.mean(b) / b_noise), "B median": finite(np.median(b) / b_noise),
            "B covered": covered([f.b_noise for f in fits], b_noise),
            "S mean": float(np.mean(s) / s_min), "S median": float(np.median(s) / s_min),
            "S covered": covered([f.s_min for f in fits], s_min),
            "resolved": float(np.mean([f.resolved for f in fits])),
            "refused 5%": float(np.mean(np.array(p) < 0.05)) if p else None,
            "ms": 1e3 * (time.process_time() - start) / args.repeats,
        }  # fmt: skip


def from_table(study: list[Observation]) -> list[Observation]:
    """The study as bin/fit reads it from a CSV file without max_steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.csv"
        write_table(study, path)
        return table_observations(read_table(path), "step")


def joint_rows(args: argparse.Namespace) -> Iterator[dict]:
    """The second target takes 3 times as long; a run's luck at it is, in part, that at the first."""
    for correlation in (0.0, 0.7, 1.0):
        rng, fits = np.random.default_rng(args.seed), []
        for _ in range(args.repeats // 4):
            study = []
            for b in BATCHES:
                for seed in range(3):
                    first, other = rng.standard_normal(2)
                    second = correlation * first + math.sqrt(1 - correlation**2) * other
                    for target, s_min, luck in ((0.5, 50.0, first), (0.7, 150.0, second)):
                        law = total_law(s_min * math.exp(0.15 * luck), 1000.0)
                        (seen,) = simulated(rng, law, [(b, 1)], n_seeds=1, noise=0.0, target=target)
                        study.append(dataclasses.replace(seen, run=f"b{b}_seed{seed}", seed=seed))
            fits.append(fit_targets(study)[-1].fit)
        yield {
            "correlation": correlation,
            "B mean": float(np.mean([f.b_noise.value for f in fits]) / 1000),
            "B covered": covered([f.b_noise for f in fits], 1000),
            "resolved": float(np.mean([f.resolved for f in fits])),
        }


def comparison_rows(args: argparse.Namespace) -> Iterator[dict]:
    laws = {"N = P R": total_law(100, 1000), "loo": loo_law(100, ALPHA, BETA)}
    truths = {
        "alpha": lambda f: (f.terms["alpha"], ALPHA), "beta": lambda f: (f.terms["beta"], BETA),
        "P*(8)": lambda f: (f.prompt_cbs(8), ALPHA + BETA / 7),
        "R*(64)": lambda f: (f.rollout_cbs(64), 1 + BETA / (64 + ALPHA)),
    }  # fmt: skip
    for design, sizes in DESIGNS.items():
        for law_name, law in laws.items():
            rng, start, n = np.random.default_rng(args.seed), time.process_time(), max(1, args.repeats // 4)
            found = [compare_laws(simulated(rng, law, sizes, every=10, n_steps=3000)) for _ in range(n)]
            said, best = Counter(c.suffices for c in found), Counter(c.best for c in found)
            row = {
                "design": design, "truth": law_name, "suffices": said[True] / n, "does not": said[False] / n,
                "cannot say": said[None] / n, "best": best.most_common(1)[0][0],
            }  # fmt: skip
            is_loo = law_name == "loo"
            for name, pair in truths.items():
                pairs = [pair(c.fits["loo"]) for c in found] if is_loo else []
                row[name] = float(np.mean([e.low <= true <= e.high for e, true in pairs])) if pairs else None
            yield row | {"ms": 1e3 * (time.process_time() - start) / n}


def finite(value: float) -> float | None:
    """None of an average that contains an infinite estimate, which JSON cannot say."""
    return float(value) if np.isfinite(value) else None


def covered(estimates: list[Estimate], true: float) -> float:
    return float(np.mean([e.low <= true <= e.high for e in estimates]))


def one_law_misses(rows: list[dict]) -> list[str]:
    misses = []
    for row in rows:
        if row["claim"] == "knee":
            averages = [
                f"{row['study']}: {key} {row[key]:.3f}" for key in ("B mean", "S mean") if abs(row[key] - 1) > BIAS_BAR
            ]
            low, high = COVERAGE_BARS
            intervals = [
                f"{row['study']}: {k} {row[k]:.3f}" for k in ("B covered", "S covered") if not low <= row[k] <= high
            ]
            misses += averages + intervals
            if row["resolved"] < RESOLVED_BAR:
                misses.append(f"{row['study']}: resolved {row['resolved']:.3f}")
        if row["claim"] == "missed" and row["resolved"] > 1 - RESOLVED_BAR:
            misses.append(f"{row['study']}: resolved {row['resolved']:.3f}")
    return misses


def comparison_misses(rows: list[dict]) -> list[str]:
    misses = []
    for row in rows:
        key, bar = ("does not", REFUSED_BAR) if row["truth"] == "N = P R" else ("suffices", ACCEPTED_BAR)
        if row[key] > bar:
            misses.append(f'{row["design"]}, truth {row["truth"]}: "{key}" in {row[key]:.3f}')
    return misses


def print_table(rows: Iterator[dict]) -> list[dict]:
    done = []
    for row in rows:
        if not done:
            print("  ".join(f"{key:>10}" if k else f"{key:<24}" for k, key in enumerate(row)))
        cells = [f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v) for v in row.values()]
        print("  ".join(f"{cell:>10}" if k else f"{cell:<24}" for k, cell in enumerate(cells)), flush=True)
        done.append(row)
    return done


if __name__ == "__main__":
    sys.exit(main())

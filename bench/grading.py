#!/usr/bin/env python3
"""Answer checking: agreement with labels, completions per second, and what hostile completions cost.

    bench/grading.py --gsm8k=completions.jsonl --math=completions.jsonl     files as bin/grade reads them, with labels
    bench/grading.py --n_hostile=10000                                      hostile completions alone

Throughput is of one process that checks (two workers for algebra). A hostile completion is a power tower, a huge
factorial, a megabyte of text, unbalanced braces, Unicode digits, NUL bytes, ... bare, boxed or in dollars, against
golds of several kinds. Fails if agreement is below 0.995 (GSM8K) or 0.985 (MATH), if fewer than 2,000 GSM8K
completions pass per second, if a hostile one is called correct, if all of them cost more than their time limits
allow, or if a worker is left behind.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rlvr_jax.tasks.answer_checker import AnswerChecker
from rlvr_jax.tasks.grade_lines import Totals, graded_lines

LEAST = {"gsm8k": 0.995, "math": 0.985}
LEAST_PER_S = 2_000
AT_LEAST_ROWS = 10_000  # of a file that is timed; it is read again until there are so many
GOLDS = ("5", "x^2+1", r"\frac{1}{2}", "(1,2)", r"\{3,4\}", "x<1", r"\sqrt{2}", "10!")
WRAPPINGS = ("{}", "\\boxed{{{}}}", "${}$", "The answer is {}", "#### {}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, help="labelled completions of GSM8K")
    parser.add_argument("--math", type=Path, help="labelled completions of MATH")
    parser.add_argument("--n_hostile", type=int, default=0)
    parser.add_argument("--limit_s", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args()
    found, faults = {}, []
    for task, path in (("gsm8k", args.gsm8k), ("math", args.math)):
        if path:
            found[task] = labelled(task, path, limit_s=args.limit_s)
            print(f"{task}: {found[task]}", flush=True)
            if found[task]["agreement"] < LEAST[task]:
                faults.append(f"{task}: agreement {found[task]['agreement']:.4f} is below {LEAST[task]}")
    if "gsm8k" in found and found["gsm8k"]["per_s"] < LEAST_PER_S:
        faults.append(f"{found['gsm8k']['per_s']} GSM8K completions per second are fewer than {LEAST_PER_S}")
    if args.n_hostile:
        found["hostile"] = hostile(args.n_hostile, limit_s=args.limit_s)
        print(f"hostile: {found['hostile']}")
        faults += found["hostile"]["faults"]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


def labelled(task: str, path: Path, *, limit_s: float) -> dict:
    """Agreement with the labels of a file and its speed, workers' start included."""
    totals, n_passes = Totals(), 0
    checker = AnswerChecker(task, policy=(), limit_s=limit_s, n_processes=2)
    start, start_cpu = time.monotonic(), time.process_time()
    while totals.n_lines < AT_LEAST_ROWS:
        with path.open("rb") as file:
            for _ in graded_lines(file, str(path), checker, totals, bad_rows="stop"):
                pass
        n_passes += 1
        if n_passes == 1:
            first_s, n_first = time.monotonic() - start, totals.n_lines
    seconds = time.monotonic() - start
    checker.close()
    if not totals.n_labels:
        raise SystemExit(f"{path} has no labels: fields `correct` with true or false")
    return {
        "rows": n_first,
        "agreement": totals.n_agreed / totals.n_labels,
        "first_pass_per_s": round(n_first / first_s),  # with algebra; later passes know its results
        "per_s": round(totals.n_lines / seconds),
        "per_cpu_s": round(totals.n_lines / (time.process_time() - start_cpu)),  # of this process, the workers' aside
        "timeouts": totals.n_timeouts,
    }


def hostile(n: int, *, limit_s: float) -> dict:
    """What n hostile completions cost."""
    n_workers = 2
    checker = AnswerChecker("math", policy=(), limit_s=limit_s, n_processes=n_workers)
    pairs = hostile_pairs(n)
    faults, reasons = [], Counter()
    start = time.monotonic()
    for first in range(0, n, 500):
        batch = pairs[first : first + 500]
        for (completion, gold), verdict in zip(batch, checker.check(batch), strict=True):
            reasons[verdict.reason.partition(": ")[2] or verdict.reason] += 1
            if verdict.is_correct:
                faults.append(f"{completion[:80]!r} is called equal to {gold!r}")
    seconds = time.monotonic() - start
    pids = [process.pid for process in checker._pool._processes]
    checker.close()
    time.sleep(0.5)
    faults += [f"worker {pid} is left behind" for pid in pids if pid and Path(f"/proc/{pid}").exists()]
    if seconds > n * limit_s / n_workers:
        faults.append(f"{seconds:.0f} s are more than the time limits of {n} completions allow")
    return {
        "completions": n,
        "seconds": round(seconds, 1),
        "timeouts": checker.n_timeouts,
        "died": checker.n_failures,
        "reasons": dict(reasons.most_common()),
        "faults": faults,
    }


def hostile_pairs(n: int) -> list[tuple[str, str]]:
    """n different hostile completions, each with a gold that it does not equal."""
    rng = random.Random(0)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < n:
        k = rng.randint(6, 60)
        for text in hostile_texts(k, rng):
            pairs.append((rng.choice(WRAPPINGS).format(text), rng.choice(GOLDS)))
    return pairs[:n]


def hostile_texts(k: int, rng: random.Random) -> list[str]:
    """One of each kind, of size k."""
    return [
        "^{".join(["9"] * k) + "}" * (k - 1),
        f"{rng.randint(10**3, 10**9)}!",
        "7" * rng.randint(100, 100_000) + "!",
        "(" * 50 * k + "8" + ")" * 50 * k,
        "{" * 20 * k,
        "}" * 20 * k + "\\boxed{",
        "x" * (1_000_000 if k == 60 else 5_000),
        "\u0663" * k,
        "a\0b\0" * k,
        "\\frac{1}{" * k + "7" + "}" * k,
        "\\sqrt{" * k + "7" + "}" * k,
        f"\\int_0^{{{k}}} e^{{x^{k}}} dx",
        f"\\sum_{{n=1}}^{{10^{{{k}}}}} n^{{-3}}",
        "\\prod_{n=1}^{99999} (x+n)",
        f"(x+7)^{{{rng.randint(100, 99_999)}}}",
        f"10^{{{rng.randint(100, 10**7)}}}",
        f"2^{{2^{{{k}}}}}",
        f"\\binom{{{10**k}}}{{{10 ** (k // 2)}}}",
        " " * rng.randint(1, 50_000) + "answer is",
        "$" * (2 * k + 1),
        "\\begin{pmatrix}" * k,
        "\n".join(["answer:"] * 20 * k),
        "\\" * 5 * k,
        "\\{" + ",".join(map(str, range(10 * k))) + "\\}",
        "((((x!)!)!)!)",
        f"\\log_{{{k}}} {'9' * k}",
        f"\\sqrt[{k}]{{x+\\sqrt[{k}]{{x}}}}",
        "\ud800" * k,
        "sin(" * k,
        "+".join(f"\\frac{{1}}{{x+{j}}}" for j in range(k)),
        "*".join(f"(x+{j})" for j in range(k)),
        f"x^{{{k}}}-" + "+".join(f"x^{{{j}}}" for j in range(k)) + "=0",
        "f(" * k + "x" + ")" * k,
        f"\\Gamma({k}!)",
        f"{k}!!!!!!",
        "\\cup".join(f"[{2 * j},{2 * j + 1})" for j in range(k)),
        f"x^{k}+{k}x<{k}",
    ]


if __name__ == "__main__":
    sys.exit(main())

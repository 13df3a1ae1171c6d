#!/usr/bin/env python3
"""Does one measurement predict the noise of every split? Predicted against measured with fresh prompts and rollouts.

    bench/noise_prediction.py                                      configs/cbs_p2c.py:tiny, its starting policy
    bench/noise_prediction.py --checkpoint=runs/cbs_p2c_tiny/...   a policy that has been trained
    bench/noise_prediction.py --json=results.json                  and the table as JSON

Runs bin/noise once at 256 x 32, which predicts tr Cov of one group's gradient at 2, 4, 8 and 16 rollouts, and once for
each of these with other prompts and rollouts, many of them, which measures it. Fails beyond 10% error or where the
interval is wider than 20% to either side.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cbs_p2c.py:tiny")
    parser.add_argument("--checkpoint")
    parser.add_argument("--n_prompts", type=int, default=256)
    parser.add_argument("--n_rollouts", type=int, default=32)
    parser.add_argument("--direct_prompts", type=int, default=8192)
    parser.add_argument("--direct_rollouts", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = noise(args, Path(folder), n_prompts=args.n_prompts, n_rollouts=args.n_rollouts, seed=0)
        of_group = {row["n_rollouts"]: row for row in one["predicted"] if row["n_prompts"] == 1}
        print(f"{one['policy']}: predicted from {args.n_prompts} x {args.n_rollouts}")
        print(f"{'rollouts':>8}{'predicted':>11}{'interval':>18}{'half-width':>12}{'measured':>10}{'error':>8}")
        rows = []
        for n_rollouts in args.direct_rollouts:
            direct = noise(args, Path(folder), n_prompts=args.direct_prompts, n_rollouts=n_rollouts, seed=1)
            row, measured = of_group[n_rollouts], direct["total"]["trace_cov_group"]
            half_width = (row["hi"] - row["lo"]) / 2 / row["trace_cov"]
            error = row["trace_cov"] / measured - 1
            rows.append(row | {"measured": measured, "half_width": half_width, "error": error})
            interval = f"[{row['lo']:.4g}, {row['hi']:.4g}]"
            print(f"{n_rollouts:>8}{row['trace_cov']:>11.4g}{interval:>18}{half_width:>12.1%}{measured:>10.4g}{error:>8.1%}",
                  flush=True)  # fmt: skip
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items() if name != "json"}
        content = settings | {"total": one["total"], "decompose": one["decompose"], "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(abs(row["error"]) > 0.10 or row["half_width"] > 0.20 for row in rows))


def noise(args: argparse.Namespace, folder: Path, *, n_prompts: int, n_rollouts: int, seed: int) -> dict:
    """What bin/noise writes with --json."""
    name, started = f"np{n_prompts}_nr{n_rollouts}", time.monotonic()
    command = [sys.executable, str(ROOT / "bin" / "noise"), f"--config={args.config}", f"--out={folder / name}",
               f"--json={folder / name}.json", f"--n_prompts={n_prompts}", f"--n_rollouts={n_rollouts}",
               f"--seed={seed}", *([f"--checkpoint={args.checkpoint}"] if args.checkpoint else [])]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"  {n_prompts} x {n_rollouts} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return json.loads((folder / f"{name}.json").read_text())


if __name__ == "__main__":
    sys.exit(main())

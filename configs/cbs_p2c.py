"""Iso-batch study: one number of rollouts per update, split as n_prompts x n_rollouts in several ways.

    bin/train --config=cbs_p2c.py:tiny        the built-in model, 256 rollouts per update, 5 splits, 3 seeds
    bin/train --config=cbs_p2c.py            OLMo-2-1B on OpenMathInstruct-2, 2048 rollouts, 6 splits; needs GPU and Hub

Measured (:tiny, by `make train`): 2026-11-21, 2-core CPU, 7 min 37 s with installation and warm start. Held-out
pass@1 0.404 -> 0.882 after 120 updates at 64 x 4 (mean of 3 seeds), 0.834 at 8 x 32.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {  # (n_prompts, n_rollouts) by size; the product never changes
    "tiny": [(128, 2), (64, 4), (32, 8), (16, 16), (8, 32)],
    None: [(2048, 1), (1024, 2), (512, 4), (256, 8), (128, 16), (64, 32)],
}
N_UPDATES = 1000


def get_config(arg: str | None = None) -> c.TrainConfig:
    return _cbs.phase_config("p2c", arg, n_updates=N_UPDATES)


def sweep(arg: str | None = None) -> list[dict]:
    """One point per split, and per seed of the tiny study."""
    return _cbs.phase_sweep(get_config(arg).study, arg, SPLITS[arg])

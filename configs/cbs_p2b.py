"""Critical batch size along n_rollouts: 1 to 64 rollouts of each of 128 prompts.

    bin/train --config=cbs_p2b.py:tiny         the built-in model: 1 to 32 rollouts of 32 prompts, 3 seeds
    bin/train --config=cbs_p2b.py              OLMo-2-1B on OpenMathInstruct-2; needs a GPU and the Hub

Measured (:tiny): 2026-11-22, 2-core CPU shared with other work, 49 min 9 s (24 min 59 s of CPU time). bin/report: of 32
prompts 1.8 [1.6, 2.1] rollouts are critical at a held-out pass@1 of 0.6 and 2.4 [2.2, 2.6] at 0.8 (90% intervals). The
OLMo-2-1B study is not measured yet.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {  # (n_prompts, n_rollouts) by size
    "tiny": [(32, 1), (32, 2), (32, 4), (32, 8), (32, 16), (32, 32)],
    None: [(128, 1), (128, 2), (128, 4), (128, 8), (128, 16), (128, 32), (128, 64)],
}
N_UPDATES = 1000


def get_config(arg: str | None = None) -> c.TrainConfig:
    return _cbs.phase_config("p2b", arg, n_updates=N_UPDATES)


def sweep(arg: str | None = None) -> list[dict]:
    """One point per split, and per seed of the tiny study."""
    return _cbs.phase_sweep(get_config(arg).study, arg, SPLITS[arg])

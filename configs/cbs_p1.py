"""Critical batch size along n_prompts: 32 to 1024 prompts at 8 rollouts each.

    bin/train --config=cbs_p1.py:tiny         the built-in model: 8 to 128 prompts at 4 rollouts, 3 seeds
    bin/train --config=cbs_p1.py              OLMo-2-1B on OpenMathInstruct-2; needs a GPU and the Hub

Measured (:tiny): 2026-11-22, 2-core CPU shared with other work, 26 min 37 s (15 min 43 s of CPU time). bin/report: the
critical batch is 43 [33, 57] rollouts at a held-out pass@1 of 0.6 and 134 [117, 155] at 0.8 (90% intervals). The
OLMo-2-1B study is not measured yet.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {  # (n_prompts, n_rollouts) by size
    "tiny": [(8, 4), (16, 4), (32, 4), (64, 4), (128, 4)],
    None: [(32, 8), (64, 8), (128, 8), (256, 8), (512, 8), (1024, 8)],
}
N_UPDATES = 2400  # the longest published run to 0.60 took so many, at 256 rollouts


def get_config(arg: str | None = None) -> c.TrainConfig:
    return _cbs.phase_config("p1", arg, n_updates=N_UPDATES)


def sweep(arg: str | None = None) -> list[dict]:
    """One point per split, and per seed of the tiny study."""
    return _cbs.phase_sweep(get_config(arg).study, arg, SPLITS[arg])

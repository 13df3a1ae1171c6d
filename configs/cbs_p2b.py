"""Critical batch size along n_rollouts: 1 to 64 rollouts of each of 128 prompts.

    bin/train --config=cbs_p2b.py:tiny         the built-in model: 1 to 32 rollouts of 32 prompts, 3 seeds
    bin/train --config=cbs_p2b.py              OLMo-2-1B on OpenMathInstruct-2; needs a GPU and the Hub

Not measured yet.
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

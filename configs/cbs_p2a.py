"""Critical batch size along n_prompts at a second number of rollouts: 32 to 512 prompts at 16.

    bin/train --config=cbs_p2a.py:tiny         the built-in model: 8 to 64 prompts at 16 rollouts, 3 seeds
    bin/train --config=cbs_p2a.py              OLMo-2-1B on OpenMathInstruct-2; needs a GPU and the Hub

Not measured yet.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {  # (n_prompts, n_rollouts) by size
    "tiny": [(8, 16), (16, 16), (32, 16), (64, 16)],
    None: [(32, 16), (64, 16), (128, 16), (256, 16), (512, 16)],
}
N_UPDATES = 1000


def get_config(arg: str | None = None) -> c.TrainConfig:
    return _cbs.phase_config("p2a", arg, n_updates=N_UPDATES)


def sweep(arg: str | None = None) -> list[dict]:
    """One point per split, and per seed of the tiny study."""
    return _cbs.phase_sweep(get_config(arg).study, arg, SPLITS[arg])

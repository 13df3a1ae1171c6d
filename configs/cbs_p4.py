"""Scale-up: REINFORCE++ at three learning rates, on MATH with OLMo-2-1B.

    bin/train --config=cbs_p4.py:tiny         the built-in model on sums, 64 prompts x 4 rollouts, 3 rates, 3 seeds
    bin/train --config=cbs_p4.py              OLMo-2-1B on MATH, evaluated on MATH-500; needs a GPU and the Hub

Measured (:tiny): 2026-11-22, 2-core CPU shared with other work, 5 min. Held-out pass@1 0.404 -> 0.832 at rate
1e-4, 0.891 at 2e-4, 0.824 at 1e-3 after 120 updates (means of 3 seeds). The OLMo-2-1B study is not measured yet.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {"tiny": [(64, 4)], None: [(256, 8)]}  # (n_prompts, n_rollouts) by size
LR_GRID = (0.5, 1.0, 5.0)  # of 1e-6: 5e-7, 1e-6, 5e-6; of the tiny study's 2e-4: 1e-4, 2e-4, 1e-3
N_UPDATES = 500


def get_config(arg: str | None = None) -> c.TrainConfig:
    config = _cbs.phase_config("p4", arg, n_updates=N_UPDATES)
    config.algo.advantage = "reinforce++"
    config.optimizer.lr_rule, config.optimizer.lr_grid = "grid", LR_GRID
    if arg is None:
        config.study = "cbs_p4_olmo1b_math"
        config.task = c.TaskConfig(name="math", bad_rows="skip")
        config.eval.n_problems = 500
    return config


def sweep(arg: str | None = None) -> list[dict]:
    """One point, which the grid of rates makes three, and per seed of the tiny study."""
    return _cbs.phase_sweep(get_config(arg).study, arg, SPLITS[arg])

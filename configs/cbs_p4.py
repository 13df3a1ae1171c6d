"""Scale-up: REINFORCE++ at three learning rates, on MATH with OLMo-2-1B.

    bin/train --config=cbs_p4.py:tiny         the built-in model on sums, 64 prompts x 4 rollouts, 3 rates, 3 seeds
    bin/train --config=cbs_p4.py              OLMo-2-1B on MATH, evaluated on MATH-500; needs a GPU and the Hub

Not measured yet.
"""

import _cbs

from rlvr_jax.train import config as c

SPLITS = {"tiny": [(64, 4)], None: [(256, 8)]}  # (n_prompts, n_rollouts) by size
PEAK_LRS = {"tiny": (1e-4, 2e-4, 1e-3), None: (5e-7, 1e-6, 5e-6)}
N_UPDATES = 500


def get_config(arg: str | None = None) -> c.TrainConfig:
    config = _cbs.phase_config("p4", arg, n_updates=N_UPDATES)
    config.algo.advantage = "reinforce++"
    if arg is None:
        config.study = "cbs_p4_olmo1b_math"
        config.task = c.TaskConfig(name="math", bad_rows="skip")
        config.eval.n_problems = 500
    return config


def sweep(arg: str | None = None) -> list[dict]:
    """One point per learning rate, and per seed of the tiny study."""
    study = get_config(arg).study
    points = []
    for point in _cbs.phase_sweep(study, arg, SPLITS[arg]):
        name = f"{study}_np{point['batch.n_prompts']}_nr{point['batch.n_rollouts']}"
        seed = f"_s{point['seed']}" if arg else ""
        points += [
            point | {"optimizer.peak_lr": peak_lr, "point": f"{name}_lr{peak_lr:g}{seed}"} for peak_lr in PEAK_LRS[arg]
        ]
    return points

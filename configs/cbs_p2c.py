"""Iso-batch study: one number of rollouts per update, split as n_prompts x n_rollouts in several ways.

    bin/train --config=cbs_p2c.py:tiny        the built-in model, 256 rollouts per update, 5 splits, 3 seeds
    bin/train --config=cbs_p2c.py             OLMo-2-1B, 2048 rollouts; refused until checkpoints can be loaded

Measured (:tiny, by `make train`): 2026-11-21, 2-core CPU, 6 min 41 s with installation and warm start. Held-out
pass@1 0.445 -> 0.921 after 120 updates at 64 x 4 (mean of 3 seeds), 0.885 at 8 x 32.
"""

from rlvr_jax.train import config as c

SPLITS = {  # (n_prompts, n_rollouts) by size; the product never changes
    "tiny": [(128, 2), (64, 4), (32, 8), (16, 16), (8, 32)],
    None: [(1024, 2), (512, 4), (256, 8), (128, 16), (64, 32)],
}
SEEDS = {"tiny": (0, 1, 2), None: (0,)}


def get_config(arg: str | None = None) -> c.TrainConfig:
    if arg == "tiny":
        return c.TrainConfig(
            study="cbs_p2c_tiny",
            n_updates=120,
            optimizer=c.OptimizerConfig(peak_lr=2e-4),
            noise=c.NoiseConfig(every_updates=10),
        )
    if arg is None:
        return c.TrainConfig(
            study="cbs_p2c",
            model=c.ModelConfig(name="olmo2-1b"),
            batch=c.BatchConfig(n_prompts=1024, n_rollouts=2),
        )
    raise c.ConfigError(
        [f"cbs_p2c.py:{arg} is unknown; use cbs_p2c.py:tiny (built-in model) or cbs_p2c.py (OLMo-2-1B)"]
    )


def sweep(arg: str | None = None) -> list[dict]:
    """One point per split and seed; the first seed of every split comes first."""
    return [
        {"batch.n_prompts": n_prompts, "batch.n_rollouts": n_rollouts, "seed": seed}
        for seed in SEEDS[arg]
        for n_prompts, n_rollouts in SPLITS[arg]
    ]

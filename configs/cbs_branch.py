"""Branched training: several batch sizes from one checkpoint, equally many rollouts for each.

    bin/train --config=cbs_branch.py:tiny_trunk      the run to branch off: the built-in model, 40 updates
    bin/train --config=cbs_branch.py:tiny            8 to 512 prompts at 4 rollouts from there, 5 seeds
    bin/train --config=cbs_branch.py:trunk           the same with OLMo-2-1B; needs a GPU and the Hub
    bin/train --config=cbs_branch.py
    bin/train --config=cbs_branch.py:tiny --config.study=NAME --config.start.checkpoint=runs/STUDY/POINT/checkpoints/N

A branch keeps the trunk's optimiser. Its rate grows with the root of its rollouts, as the method asks for with Adam
(arXiv:2505.23971), so that a larger batch is not compared at a rate that is too small for it;
--config.optimizer.lr_rule changes that. The critical batch is the largest that is no worse than smaller ones after the
same rollouts: bin/report runs/cbs_branch_tiny.

Measured (:tiny): 2026-11-22, 2-core CPU shared with other work, about 40 min. From 0.745 at the checkpoint, held-out
pass@1 after 16,384 rollouts is 0.889 at 32 rollouts per update, 0.885 at 64, 0.884 at 128, 0.872 at 256, 0.829 at 2048
(means of 5 seeds): by held-out error the critical batch lies between 128 and 256 rollouts (with 3 seeds: below 256).
By training reward it is unresolved: below 512. The OLMo-2-1B study is not measured yet.
"""

import dataclasses

import _cbs

from rlvr_jax.train import config as c

TRUNK = {"tiny": (64, 4), None: (128, 8)}  # (n_prompts, n_rollouts) by size
N_PROMPTS = {"tiny": (8, 16, 32, 64, 128, 256, 512), None: (32, 64, 128, 256, 512, 1024)}
N_UPDATES = {"tiny": 40, None: 100}  # of the trunk
ROLLOUTS = {"tiny": 16_384, None: 65_536}  # of a branch
N_EVALUATIONS = 4  # of a branch, beside that of its start
SEEDS = {"tiny": (0, 1, 2, 3, 4), None: (0, 1)}


def get_config(arg: str | None = None) -> c.TrainConfig:
    size, is_trunk = _parsed(arg)
    n_prompts, n_rollouts = TRUNK[size]
    config = _cbs.olmo_config("branch", n_updates=N_UPDATES[size]) if size is None else _cbs.tiny_config("branch")
    study = config.study
    config.n_updates = N_UPDATES[size]
    config.batch = c.BatchConfig(n_prompts=n_prompts, n_rollouts=n_rollouts)
    config.checkpoint = c.CheckpointConfig(every_updates=0, keep_newest=1, keep_best=0)
    if is_trunk:
        config.study = f"{study}_trunk"
        return config
    config.start.checkpoint = f"runs/{study}_trunk/{study}_trunk_np{n_prompts}_nr{n_rollouts}_s0"
    config.optimizer = dataclasses.replace(
        config.optimizer, lr_rule="sqrt", lr_reference_rollouts=n_prompts * n_rollouts
    )
    config.eval.n_problems = 0  # all: what is compared are small differences
    config.noise.every_updates = 0  # the trunk measures it
    return config


def sweep(arg: str | None = None) -> list[dict]:
    """One point per number of prompts and seed; a trunk is one."""
    size, is_trunk = _parsed(arg)
    if is_trunk:
        return [{}]
    n_rollouts, points = TRUNK[size][1], []
    for seed in SEEDS[size]:
        for n_prompts in N_PROMPTS[size]:
            n_updates = ROLLOUTS[size] // (n_prompts * n_rollouts)
            points.append(
                {
                    "batch.n_prompts": n_prompts,
                    "n_updates": n_updates,
                    "eval.every_updates": n_updates // N_EVALUATIONS,
                    "seed": seed,
                }
            )
    return points


def _parsed(arg: str | None) -> tuple[str | None, bool]:
    """The size, and whether it is the trunk of that size. Raises ConfigError at another argument."""
    known = {None: (None, False), "trunk": (None, True), "tiny": ("tiny", False), "tiny_trunk": ("tiny", True)}
    if arg not in known:
        raise c.ConfigError([f"cbs_branch.py:{arg} is unknown; use one of {', '.join(filter(None, known))}, or none"])
    return known[arg]

"""MATH: problems of five levels and seven subjects, with formulas as answers.

    bin/train --config=math.py:tiny           the built-in model on small problems made here; no download
    bin/train --config=math.py                OLMo-2-1B on MATH, evaluated on MATH-500; needs a GPU, not measured yet

Measured (:tiny): 2026-11-21, 2-core CPU busy with other work, 3 min 29 s of CPU time with the warm start. On 250
held-out problems pass@1 0.375 -> 0.701, greedy 0.696 -> 0.752, maj@4 0.462 -> 0.744 after 80 updates; pass@1 by level
0.441, 0.239, 0.532, 0.514, 0.202 -> 0.897, 0.522, 0.955, 0.882, 0.355.
"""

from _olmo import olmo_controls

from rlvr_jax.train import config as c


def get_config(arg: str | None = None) -> c.TrainConfig:
    if arg not in (None, "tiny"):
        raise c.ConfigError([f"math.py:{arg} is unknown; use math.py:tiny (built-in model) or math.py (OLMo-2-1B)"])
    return tiny_config() if arg else olmo_config()


def olmo_config() -> c.TrainConfig:
    """The published controls at 64 x 8."""
    return c.TrainConfig(
        study="math",
        n_updates=500,
        task=c.TaskConfig(name="math"),
        batch=c.BatchConfig(n_prompts=64, n_rollouts=8),
        sampling=c.SamplingConfig(max_prompt_tokens=1024, max_new_tokens=2048, long_prompts="leave_out"),
        **olmo_controls(),
        eval=c.EvalConfig(every_updates=25, n_problems=500, n_samples=4, k=(1, 4)),
    )


def tiny_config() -> c.TrainConfig:
    """A two-layer transformer with characters as tokens; one kind of problem per level."""
    return c.TrainConfig(
        study="math_tiny",
        n_updates=80,
        task=c.TaskConfig(name="math", path="builtin:small", template="{problem}\n"),
        warmstart=c.WarmstartConfig(n_updates=1200, n_correct_updates=1000, batch_size=64, peak_lr=5e-3, p_correct=0.6),
        batch=c.BatchConfig(n_prompts=32, n_rollouts=8),
        sampling=c.SamplingConfig(max_new_tokens=24),
        optimizer=c.OptimizerConfig(peak_lr=3e-4),
        eval=c.EvalConfig(every_updates=20, n_problems=250, n_samples=4, k=(1, 4)),
    )

"""GSM8K: word problems with a number as answer.

    bin/train --config=gsm8k.py:tiny          the built-in model on word problems made here; no download
    bin/train --config=gsm8k.py               OLMo-2-1B on GSM8K; needs a GPU and the Hub, not measured yet

Measured (:tiny): 2026-11-21, 2-core CPU busy with other work, 3 min 13 s of CPU time with the warm start. On 128
held-out problems pass@1 0.377 -> 0.773, greedy 0.805 -> 0.883, maj@8 0.606 -> 0.827 after 80 updates.
"""

from _olmo import olmo_controls

from rlvr_jax.train import config as c


def get_config(arg: str | None = None) -> c.TrainConfig:
    if arg not in (None, "tiny"):
        raise c.ConfigError([f"gsm8k.py:{arg} is unknown; use gsm8k.py:tiny (built-in model) or gsm8k.py (OLMo-2-1B)"])
    return tiny_config() if arg else olmo_config()


def olmo_config() -> c.TrainConfig:
    """The published controls at 64 x 8."""
    return c.TrainConfig(
        study="gsm8k",
        n_updates=500,
        task=c.TaskConfig(name="gsm8k"),
        batch=c.BatchConfig(n_prompts=64, n_rollouts=8),
        sampling=c.SamplingConfig(max_prompt_tokens=1024, max_new_tokens=1024, long_prompts="leave_out"),
        **olmo_controls(),
        eval=c.EvalConfig(every_updates=25, n_problems=1319, n_samples=4, k=(1, 4)),
    )


def tiny_config() -> c.TrainConfig:
    """A two-layer transformer with characters as tokens; one or two steps of arithmetic."""
    return c.TrainConfig(
        study="gsm8k_tiny",
        n_updates=80,
        task=c.TaskConfig(name="gsm8k", path="builtin:small", template="{question}\n"),
        model=c.ModelConfig(width=64, mlp_width=192),
        warmstart=c.WarmstartConfig(n_updates=800, n_correct_updates=600, batch_size=64, peak_lr=6e-3, p_correct=0.6),
        batch=c.BatchConfig(n_prompts=32, n_rollouts=8),
        sampling=c.SamplingConfig(max_new_tokens=24),
        optimizer=c.OptimizerConfig(peak_lr=3e-4),
        eval=c.EvalConfig(every_updates=20, n_problems=128, n_samples=8),
    )

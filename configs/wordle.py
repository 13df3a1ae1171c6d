"""Wordle."""

from rlvr_jax.train import config as c


def get_config(arg: str | None = None) -> c.TrainConfig:
    return c.TrainConfig(
        study="wordle_tiny",
        n_updates=100,
        task=c.TaskConfig(
            name="wordle", n_words=75, n_turns=4, reward_weights=(0.5, 0.5, 0.5, 0.5, 1.0)
        ),
        warmstart=c.WarmstartConfig(n_updates=600, n_correct_updates=300, batch_size=128, peak_lr=4e-3, p_correct=0.3),
        batch=c.BatchConfig(n_prompts=15, n_rollouts=16),
        sampling=c.SamplingConfig(max_new_tokens=45, bucket_tokens=16),
        optimizer=c.OptimizerConfig(peak_lr=3e-4),
        eval=c.EvalConfig(n_problems=15, every_updates=20),
    )

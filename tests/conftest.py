"""Settings every test runs under, and the small run that many of them share."""

import os
from pathlib import Path

# before jax is imported anywhere: tests of placement need several devices
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

from rlvr_jax.train import config as c

jax.config.update("jax_numpy_rank_promotion", "raise")
# compiling is most of the suite's time, and its two processes compile much the same
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".xla_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def tiny_config() -> c.TrainConfig:
    """Seconds, not minutes: 2 layers of width 16, 8 prompts x 4 rollouts, one device, no warm start."""
    return c.TrainConfig(
        study="tiny",
        n_updates=4,
        task=c.TaskConfig(name="digits", operators="+", operand_max=20),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        optimizer=c.OptimizerConfig(peak_lr=1e-3, warmup_updates=2),
        noise=c.NoiseConfig(every_updates=2, sketch_width=64),
        eval=c.EvalConfig(every_updates=2, n_problems=16, n_samples=4, k=(1, 4)),
        checkpoint=c.CheckpointConfig(every_updates=2),
        log=c.LogConfig(rollouts_every_updates=2),
        placement=c.PlacementConfig(data=1),
    )

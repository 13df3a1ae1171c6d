"""Settings every test runs under, and the small run that many of them share."""

import os
from pathlib import Path

# before jax is imported anywhere: tests of placement need several devices
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# compiling is most of the suite's time: 14 s of a measured update become 8 without LLVM's optimisations
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

from rlvr_jax.train import config as c
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.starting_policy import starting_params

jax.config.update("jax_numpy_rank_promotion", "raise")
# compiling is most of the suite's time, and its two processes compile much the same
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent / ".xla_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def make_tiny_config() -> c.TrainConfig:
    """Seconds, not minutes: 2 layers of width 16, 8 prompts x 4 rollouts, one device.

    After its short warm start some rollouts are right and some are wrong, so that gradients are not 0.
    """
    return c.TrainConfig(
        study="tiny",
        n_updates=4,
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(width=16, n_layers=2, n_heads=2, n_kv_heads=1, mlp_width=32),
        warmstart=c.WarmstartConfig(n_updates=150, n_correct_updates=0, batch_size=64, peak_lr=1e-2, warmup_updates=10),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        optimizer=c.OptimizerConfig(peak_lr=1e-3, warmup_updates=2),
        noise=c.NoiseConfig(every_updates=2, sketch_width=64),
        eval=c.EvalConfig(every_updates=2, n_problems=3, n_samples=4, k=(1, 4)),
        checkpoint=c.CheckpointConfig(every_updates=2),
        log=c.LogConfig(rollouts_every_updates=2),
        placement=c.PlacementConfig(data=1),
    )


@pytest.fixture
def tiny_config() -> c.TrainConfig:
    """One of its own for a test to change."""
    return make_tiny_config()


@pytest.fixture(scope="module")
def module_config() -> c.TrainConfig:
    """One for a whole file; copy it before changing it."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory):
    """The policy that runs of the tiny config start from."""
    config, folder = make_tiny_config(), tmp_path_factory.mktemp("warmstart")
    return starting_params(config, assemble(config), folder, progress=Progress("warm start").update)

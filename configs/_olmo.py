"""Controls that every run of OLMo-2-1B shares: those of the published critical-batch-size protocol."""

from typing import Any

from rlvr_jax.train import config as c


def olmo_controls() -> dict[str, Any]:
    """Fields of a TrainConfig, made anew for each."""
    return {
        "model": c.ModelConfig(name="olmo2-1b", uses_chat_template=True, compute_dtype="bfloat16", remat="full"),
        "warmstart": c.WarmstartConfig(enabled=False),
        "algo": c.AlgoConfig(advantage="grpo", kl_coef=0.001, averaging="token"),
        "optimizer": c.OptimizerConfig(peak_lr=1e-6),
    }

"""What cannot work, or may surprise, in how noise is measured."""

import math

from rlvr_jax.noise.decompose import MIN_ROLLOUTS
from rlvr_jax.train.config import TrainConfig


def noise_problems(config: TrainConfig) -> list[str]:
    """One message per setting that cannot work, with the fix."""
    noise = config.noise
    if noise.every_updates == 0:
        return []
    problems = _naive_problems(noise.naive_minibatches, config)
    if noise.keep_sketches and not can_decompose(config):
        problems.append(
            f"noise.keep_sketches=True keeps what a split into prompt and rollout noise is made of; with "
            f"noise.decompose={noise.decompose} and batch.n_rollouts={config.batch.n_rollouts} there is none: use "
            f"noise.decompose=True and batch.n_rollouts={MIN_ROLLOUTS} or more"
        )
    return problems


def noise_warnings(config: TrainConfig) -> list[str]:
    """What works but may surprise."""
    noise, n_rollouts, warnings = config.noise, config.batch.n_rollouts, []
    if noise.every_updates == 0:
        return []
    if noise.decompose and not can_decompose(config):
        warnings.append(
            f"batch.n_rollouts={n_rollouts}: the noise is measured, but not split into that of prompts and that of "
            f"rollouts, which needs two pairs without a rollout in common; use {MIN_ROLLOUTS} rollouts or more"
        )
    if config.sampling.max_rounds > 1:
        warnings.append(
            f"sampling.max_rounds={config.sampling.max_rounds}: the noise measured is that of the filtered batch, "
            "without most of the groups that have no gradient"
        )
    if config.algo.truncated == "mask":
        warnings.append(
            "algo.truncated='mask': the noise measured weighs every prompt alike, however many of its rollouts are "
            f"kept; a prompt with fewer than 2 is left out, with fewer than {MIN_ROLLOUTS} it says nothing of the split"
        )
    return warnings


def can_decompose(config: TrainConfig) -> bool:
    """Whether the noise is split into that of prompts and of rollouts."""
    return config.noise.decompose and config.batch.n_rollouts >= MIN_ROLLOUTS


def _naive_problems(K: int, config: TrainConfig) -> list[str]:
    n_prompts = config.batch.n_prompts
    if K == 1:
        return ["noise.naive_minibatches=1 has no spread; use 2 or more, or 0 for no gns/naive"]
    if K < 2 or (n_prompts % K == 0 and n_prompts >= 2 * K):
        return []
    working = [k for k in range(2, n_prompts // 2 + 1) if n_prompts % k == 0]
    above = math.lcm(2 * K, config.batch.minibatch_prompts or 1, config.batch.microbatch_prompts or 1)
    fix = f"noise.naive_minibatches={min(working, key=lambda k: abs(k - K))}" if working else f"batch.n_prompts={above}"
    return [
        f"batch.n_prompts={n_prompts} cannot be cut into noise.naive_minibatches={K} equal parts of 2 prompts or more; "
        f"use {fix}, or noise.naive_minibatches=0 for no gns/naive"
    ]

"""Sums with a learning journal's settings: few problems, a KL penalty, group sizes, mixtures, curricula.

    bin/train --config=arithmetic.py:tiny            the built-in model
    bin/train --config=arithmetic.py:tiny_VARIANT    another setting, see VARIANTS
    bin/train --config=arithmetic.py:tiny_claims     what the journal found, tried again: docs/arithmetic_journal.md
    bin/train --config=arithmetic.py:VARIANT         Qwen2.5-0.5B; needs a GPU and the Hub; not measured

Measured (:tiny_claims): 2026-11-21, 2-core CPU very busy with other work, 33 min for 18 points and 3 warm starts.
Held-out pass@1 0.154 -> 0.465 after 100 updates (base, mean of 3 seeds), 0.528 without KL, 0.090 with 100 problems.
"""

from rlvr_jax.train import config as c

KINDS = ("arithmetic", "counting", "comparison")
HALF_SUMS = (0.5, 0.25, 0.25)
KINDS_500 = ("arithmetic n_problems=250", "counting n_problems=125 operand_max=10", "comparison n_problems=125")
DR_GRPO = {"algo.advantage": "centred", "algo.averaging": "constant_length"}

# what each changes: GRPO with beta 0.1 and 16 rollouts of each prompt, numbers 0-20; 500 problems with + - *, or when
# tiny all sums, as the built-in model learns to add numbers that it has not seen
VARIANTS = {
    "base": {},
    "numbers_to_10": {"task.operand_max": 10, "task.n_problems": 0},
    "problems_100": {"task.n_problems": 100},
    "all_problems": {"task.n_problems": 0},
    "dr_grpo": DR_GRPO,
    "unscaled": {"algo.advantage": "centred"},  # rewards are not divided by their group's standard deviation
    "beta_0": {"algo.kl_coef": 0.0},
    "beta_02": {"algo.kl_coef": 0.2},
    "rollouts_4": {"batch.n_rollouts": 4},
    "rollouts_4_of_8": {"batch.n_rollouts": 4, "batch.n_prompts": 8},  # of 8 prompts: a quarter of the rollouts
    "rollouts_64": {"batch.n_rollouts": 64},
    "temperature_07": {"sampling.temperature": 0.7},
    "temperature_1": {"sampling.temperature": 1.0},
    "partial_credit": {"task.rewards": ("partial",)},
    "mixed": {"task.name": "mixture", "task.mixture": KINDS_500, "task.mixture_weights": HALF_SUMS},
    "difficulties": {
        "task.name": "mixture",
        "task.n_problems": 0,
        "task.mixture": ("arithmetic operand_max=10", "arithmetic"),
    },
    "curriculum": {
        "task.stages": (
            "operators=+ operand_max=10",
            "operators=+-* operand_max=10",
            "operators=+-* operand_max=20",
        )
    },
    "mixed_curriculum": {
        "task.name": "mixture",
        "task.mixture": KINDS,
        "task.mixture_weights": HALF_SUMS,
        "task.stages": ("operand_max=5", "operand_max=10", "operand_max=20"),
    },
    "threshold": {"algo.select": "threshold", "algo.select_threshold": 0.5},
    "best_of_4": {"algo.select": "best_of_n", "algo.select_n": 4},
}
CLAIMS = ("base", "beta_0", "rollouts_4", "rollouts_4_of_8", "dr_grpo", "problems_100", "mixed")


def get_config(arg: str | None = None) -> c.TrainConfig:
    size, variant = _read(arg)
    config = _tiny() if size else _journal()
    config.study = f"arithmetic_{size}{variant}"
    for field, value in _changes(config, "base" if variant == "claims" else variant).items():
        c.set_field(config, field, value)
    return config


def sweep(arg: str | None = None) -> list[dict]:
    """Of "claims" one point per variant that a claim needs, and per seed; the first seed of each comes first."""
    if _read(arg)[1] != "claims":
        return [{}]
    config, points = get_config(arg), []
    for seed in (0, 1, 2):
        for name in CLAIMS:
            point = {"point": f"{config.study}_{name}_s{seed}", "seed": seed, **_changes(config, name)}
            if any(field.startswith("task.") for field in point):
                point["study"] = f"{config.study}_{name}"  # bin/report compares runs of one task
            points.append(point)
    return points


def _read(arg: str | None) -> tuple[str, str]:
    """("tiny_" or "", the variant). Raises ConfigError at an unknown one."""
    first, _, rest = (arg or "").partition("_")
    size, variant = ("tiny_", rest or "base") if first == "tiny" else ("", arg or "base")
    if variant not in (*VARIANTS, "claims"):
        raise c.ConfigError(
            [f"arithmetic.py:{arg} is unknown; use tiny or tiny_VARIANT with one of {', '.join(VARIANTS)}, claims"]
        )
    return size, variant


def _changes(config: c.TrainConfig, variant: str) -> dict:
    """Of a variant, with as many rollouts per update unless it says how many prompts, and stages of equal length."""
    changes = dict(VARIANTS[variant])
    n_rollouts = changes.get("batch.n_rollouts", config.batch.n_rollouts)
    if "task.stages" in changes:
        n_prompts = config.n_updates * config.batch.n_prompts
        changes |= {"task.n_problems": 0, "task.stage_prompts": (n_prompts // 3, n_prompts // 3)}
    return {"batch.n_prompts": config.batch.n_prompts * config.batch.n_rollouts // n_rollouts} | changes


def _tiny() -> c.TrainConfig:
    return c.TrainConfig(
        n_updates=100,
        task=c.TaskConfig(name="arithmetic", operators="+", operand_max=20),
        model=c.ModelConfig(width=48, mlp_width=128),
        warmstart=c.WarmstartConfig(n_updates=600, n_correct_updates=450, batch_size=128, peak_lr=8e-3),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=16),
        sampling=c.SamplingConfig(max_new_tokens=5, bucket_tokens=32),
        algo=c.AlgoConfig(advantage="grpo", averaging="sequence", kl_coef=0.1),
        optimizer=c.OptimizerConfig(peak_lr=1e-3, warmup_updates=5, schedule="linear"),
        eval=c.EvalConfig(every_updates=50, n_problems=0, n_samples=8),
        checkpoint=c.CheckpointConfig(every_updates=0, keep_best=0),
    )


def _journal() -> c.TrainConfig:
    return c.TrainConfig(
        n_updates=300,
        task=c.TaskConfig(name="arithmetic", operators="+-*", operand_max=20, n_problems=500),
        model=c.ModelConfig(name="qwen2.5-0.5b", compute_dtype="bfloat16"),
        warmstart=c.WarmstartConfig(enabled=False),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=16),
        sampling=c.SamplingConfig(temperature=0.8, max_new_tokens=32),
        algo=c.AlgoConfig(advantage="grpo", averaging="sequence", kl_coef=0.1),
        optimizer=c.OptimizerConfig(peak_lr=1e-6, warmup_updates=10, schedule="linear"),
        eval=c.EvalConfig(every_updates=25, n_problems=0, n_samples=8),
    )

"""What the critical-batch-size studies share, at two sizes: OLMo-2-1B, and the built-in model on sums (tiny).

OLMo-2-1B trains on OpenMathInstruct-2's GSM8K part, every question once, and is evaluated on GSM8K's test set; test
questions among the others are left out. Controls of the published protocol: learning rate 1e-6, KL 0.001, one epoch per
collection, prompts up to 1024 and responses up to 2048 tokens, temperature 1, the same initial checkpoint and data seed
at every point. An update takes at most MINI_BATCH rollouts; a larger collection is taken in several updates.
"""

from _olmo import olmo_controls

from rlvr_jax.train import config as c

MINI_BATCH = 2048  # rollouts
LAW_PHASES = ("p1", "p2a", "p2b")  # that change the batch; the others compare runs with equal ones


def olmo_config(phase: str, *, n_updates: int) -> c.TrainConfig:
    """A phase on OLMo-2-1B and OpenMathInstruct-2."""
    return c.TrainConfig(
        study=f"cbs_{phase}_olmo1b_omi",
        n_updates=n_updates,
        # a question has many solutions there, and a few rows are no use
        task=c.TaskConfig(name="omi", repeated_prompts="skip", bad_rows="skip"),
        sampling=c.SamplingConfig(max_prompt_tokens=1024, max_new_tokens=2048),
        **olmo_controls(),
        noise=c.NoiseConfig(every_updates=25),
        eval=c.EvalConfig(
            every_updates=25,
            n_problems=1319,
            n_samples=1,
            k=(1,),
            target_metric="greedy",
            targets=(0.40, 0.45, 0.50, 0.55, 0.60, 0.65),
        ),
        checkpoint=c.CheckpointConfig(every_updates=100, keep_newest=1),
    )


def tiny_config(phase: str) -> c.TrainConfig:
    """The same protocol on the built-in model and two-digit sums."""
    return c.TrainConfig(
        study=f"cbs_{phase}_tiny",
        n_updates=120,
        optimizer=c.OptimizerConfig(peak_lr=2e-4),
        noise=c.NoiseConfig(every_updates=10),
    )


def tiny_law_config(phase: str) -> c.TrainConfig:
    """The same, for a study that a law is fitted to.

    Evaluated often, since a target's update is known no better, and measured often, since the noise up to a target is
    an average of what was measured before it. 0.8 is about where the smallest batch ends at this constant rate.
    """
    config = tiny_config(phase)
    config.n_updates = 250
    config.noise = c.NoiseConfig(every_updates=3, optimizer_metric=True)
    config.eval.every_updates = 5
    config.eval.targets = (0.6, 0.65, 0.7, 0.75, 0.8)
    return config


def phase_config(phase: str, arg: str | None, *, n_updates: int) -> c.TrainConfig:
    """The config of a phase, which its sweep splits. Raises ConfigError at an argument other than "tiny"."""
    if arg not in (None, "tiny"):
        raise c.ConfigError(
            [f"cbs_{phase}.py:{arg} is unknown; use cbs_{phase}.py:tiny (built-in model) or cbs_{phase}.py (OLMo-2-1B)"]
        )
    if arg is None:
        return olmo_config(phase, n_updates=n_updates)
    return tiny_law_config(phase) if phase in LAW_PHASES else tiny_config(phase)


def phase_sweep(study: str, arg: str | None, splits: list[tuple[int, int]]) -> list[dict]:
    """One point per (n_prompts, n_rollouts), and per seed of the tiny study; the first seed of each comes first."""
    points = []
    for seed in (0, 1, 2) if arg else (0,):
        for n_prompts, n_rollouts in splits:
            point = {"batch.n_prompts": n_prompts, "batch.n_rollouts": n_rollouts, "seed": seed}
            if n_rollouts == 1:  # a group of one has no mean of its own
                point["algo.advantage"] = "batch_mean"
            if n_prompts * n_rollouts > MINI_BATCH:
                point["batch.minibatch_prompts"] = MINI_BATCH // n_rollouts
            if arg is None:
                point["point"] = f"{study}_np{n_prompts}_nr{n_rollouts}"
            points.append(point)
    return points

"""Gradient noise along one run, as arrays: what predictions and figures both read."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlvr_jax.analysis.noise_result import rollout_variance
from rlvr_jax.analysis.read_runs import RunRecord
from rlvr_jax.analysis.run_observations import run_names

MIN_SPLIT_ROLLOUTS = 4  # E<h_12, h_34> needs four rollouts of one prompt

_COLUMNS = {
    "trace_cov": "gns/trace_cov",
    "grad_sq": "gns/grad_sq",
    "b_noise_prompts": "gns/b_noise_prompts",
    "v_prompt": "gns/prompt_var",
    "zeta1": "gns/zeta1",
    "zeta2": "gns/zeta2",
    "adam_trace_cov": "gns/adam/trace_cov",
    "adam_grad_sq": "gns/adam/grad_sq",
}


@dataclass(frozen=True)
class NoiseSeries:
    """One entry per measured update, ascending; NaN where a number was not measured or means nothing.

    The noise is that of on-policy leave-one-out gradients before clipping, whatever the update made of them, so
    numbers of runs with other R or other losses compare. At one rollout per prompt the baseline is the batch's mean.
    """

    run: str
    n_prompts: int  # measured at once: those of a collection
    n_rollouts: int
    updates: np.ndarray  # f64[M], as are all below
    steps: np.ndarray  # the collection that each update belongs to
    trace_cov: np.ndarray  # S, of one prompt's gradient
    grad_sq: np.ndarray  # |G|^2; unbiased, so it may be negative
    b_noise_prompts: np.ndarray  # S / |G|^2 of this measurement alone; NaN: unresolved
    v_prompt: np.ndarray
    zeta1: np.ndarray
    zeta2: np.ndarray
    adam_trace_cov: np.ndarray  # of gradients divided by Adam's sqrt(v) + eps
    adam_grad_sq: np.ndarray
    why_no_split: str = ""  # why prompt and rollout noise of this run say nothing about its |G|^2

    @property
    def v_rollout(self) -> np.ndarray:
        """V_rollout at the run's own R, from zeta1 and zeta2."""
        if self.n_rollouts < 2:
            return np.full_like(self.zeta1, math.nan)
        return np.asarray(rollout_variance(self.zeta1, self.zeta2, self.n_rollouts))

    @property
    def is_resolved(self) -> np.ndarray:
        """bool[M], whether one measurement alone told |G|^2 apart from 0."""
        return np.isfinite(self.b_noise_prompts)


def study_noise(records: list[RunRecord]) -> list[NoiseSeries]:
    """`noise_series` of every run, under the names its observations have."""
    names = run_names(records)
    return [noise_series(record, run=names[record.folder]) for record in records]


def noise_series(record: RunRecord, *, run: str = "") -> NoiseSeries:
    """What a run measured of its gradient noise; empty arrays if it measured none.

    Args:
        run: what it is called; "": its own name.
    """
    found = record.series(*_COLUMNS.values())
    columns = {name: found[column] for name, column in _COLUMNS.items()}
    is_measured = np.isfinite(columns["trace_cov"]) & np.isfinite(columns["grad_sq"])
    return NoiseSeries(
        run=run or record.name,
        n_prompts=record.n_prompts,
        n_rollouts=record.n_rollouts,
        updates=found.updates[is_measured],
        steps=np.ceil(found.updates / record.updates_per_step)[is_measured],
        **{name: values[is_measured] for name, values in columns.items()},
        why_no_split=_why_no_split(record.config),
    )


def _why_no_split(config: dict[str, Any]) -> str:
    """Settings of older runs may lack a field: it was then what it is by default."""
    n_rollouts = config["batch.n_rollouts"]
    if n_rollouts < MIN_SPLIT_ROLLOUTS:
        return f"prompt and rollout noise are told apart from {MIN_SPLIT_ROLLOUTS} rollouts per prompt on"
    if not config.get("noise.decompose", True):
        return "noise.decompose=false"
    has_kl = config.get("algo.kl_coef", 0.0) > 0 and config.get("algo.kl_in", "loss") == "loss"
    if has_kl or config.get("algo.entropy_coef", 0.0) > 0:
        # prompt and rollout noise are then those of the policy term, |G|^2 is that of the whole loss
        return "the loss has a KL or entropy term, which prompt and rollout noise leave out"
    return ""

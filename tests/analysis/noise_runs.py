"""Runs with a few noise measurements, made up by hand."""

import dataclasses
import math

import numpy as np

from rlvr_jax.analysis.noise_series import NoiseSeries
from rlvr_jax.analysis.observations import Observation


class Run(NoiseSeries):
    def __or__(self, changes: dict) -> "Run":
        arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in changes.items()}
        return dataclasses.replace(self, **arrays)


def measured_run(run, *, trace_cov, grad_sq, n_prompts=16, n_rollouts=4, updates=(1.0,), steps=None) -> Run:
    nothing = {name: np.full(len(trace_cov), math.nan) for name in ("v_prompt", "zeta1", "zeta2", "b_noise_prompts")}
    adam = {name: np.full(len(trace_cov), math.nan) for name in ("adam_trace_cov", "adam_grad_sq")}
    return Run(
        run=run,
        n_prompts=n_prompts,
        n_rollouts=n_rollouts,
        updates=np.array(updates),
        steps=np.array(updates if steps is None else steps),
        trace_cov=np.array(trace_cov),
        grad_sq=np.array(grad_sq),
        **nothing,
        **adam,
    )


def seen(run, *, target=0.6, at=10.0, group="", n_prompts=16, n_rollouts=4, is_exact=False) -> Observation:
    """Reached at `at`, or (None) not reached in 100."""
    ends = (at - (not is_exact), at) if at is not None else (100.0, math.inf)
    return Observation(run, n_prompts, n_rollouts, target, at, *ends, group=group)

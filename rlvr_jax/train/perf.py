"""Seconds, tokens per second, memory and compilations."""

import resource
import time

import jax

from rlvr_jax.train.batch_plan import BatchPlan

# dense bf16 peak in FLOP/s, from the vendor's data sheets; other devices report no mfu
_PEAK_FLOPS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}


_compilations_s: list[float] = []  # of this process; jax offers no way to ask afterwards


@jax.monitoring.register_event_duration_secs_listener
def _on_event(event: str, duration_s: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations_s.append(duration_s)


def compile_count() -> int:
    """How many programs XLA compiled, or loaded from its cache, in this process."""
    return len(_compilations_s)


def compile_seconds() -> float:
    """How long that took."""
    return sum(_compilations_s)


class LapTimer:
    """Seconds from one call to the next, with those of compilation put aside."""

    def __init__(self):
        self._last_s, self._compiled_s, self._put_aside_s = time.monotonic(), compile_seconds(), 0.0

    def lap_s(self) -> float:
        """Since the last call, without compilation."""
        now_s, compiled_s = time.monotonic(), compile_seconds()
        lap_s, compile_s = now_s - self._last_s, compiled_s - self._compiled_s
        self._last_s, self._compiled_s = now_s, compiled_s
        self._put_aside_s += compile_s
        return max(0.0, lap_s - compile_s)  # programs can compile in parallel

    def compile_s(self) -> float:
        """Put aside since the last call of this."""
        put_aside_s, self._put_aside_s = self._put_aside_s, 0.0
        return put_aside_s


def step_metrics(
    plan: BatchPlan, *, sample_s: float, reward_s: float, train_s: float, compile_s: float, n_tokens: int
) -> dict[str, float]:
    """perf/ metrics of one step. Compilation is a time of its own and counts in no throughput.

    Args:
        sample_s: from the end of the update before to the rollouts being drawn.
        reward_s: decoding and rewarding them on the host, and all further rounds of dynamic sampling.
        train_s: from then to the end of the step's updates.
        n_tokens: prompt tokens once per prompt and completion tokens of the collection.
    """
    device = jax.local_devices()[0]
    peak = _PEAK_FLOPS.get(device.device_kind)
    epochs = plan.updates_per_step * plan.minibatch_prompts / plan.n_prompts
    step_s = sample_s + reward_s + train_s
    # 2 FLOP per parameter and token forward, twice that backward: Kaplan et al., arXiv:2001.08361 sec. 2.1. Half of
    # the latter is the gradient of the weights, and so of those that are trained
    flops = ((2 + 4 * epochs) * plan.n_parameters + 2 * epochs * plan.n_trained_parameters) * n_tokens
    return {
        "perf/step_s": step_s,
        "perf/sample_s": sample_s,
        "perf/reward_s": reward_s,
        "perf/train_s": train_s,
        "perf/compile_s": compile_s,
        "perf/sample_tok_s": n_tokens / sample_s if sample_s > 0 else float("nan"),
        "perf/train_tok_s": epochs * n_tokens / train_s if train_s > 0 else float("nan"),
        "perf/mfu": flops / step_s / (peak * plan.n_devices) if peak and step_s > 0 else float("nan"),
        "perf/peak_gib": peak_memory_gib(device),
    }


def peak_memory_gib(device: jax.Device) -> float:
    """Of the device where it says so, else of this process (Linux counts ru_maxrss in KiB)."""
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

from types import SimpleNamespace

import jax
import pytest

from rlvr_jax.train import perf
from rlvr_jax.train.perf import LapTimer, step_metrics


def test_laps_leave_compilation_out_and_add_it_up(monkeypatch):
    now, compiled = [100.0], [7.0]
    monkeypatch.setattr(perf.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(perf, "compile_seconds", lambda: compiled[0])
    timer = LapTimer()
    now[0], compiled[0] = 110.0, 10.0  # ten seconds, three of them compiling
    assert timer.lap_s() == pytest.approx(7.0)
    now[0] = 112.0
    assert timer.lap_s() == pytest.approx(2.0)
    now[0], compiled[0] = 113.0, 12.0  # two programs at once in one second
    assert timer.lap_s() == 0.0
    assert timer.compile_s() == pytest.approx(5.0)
    assert timer.compile_s() == 0.0


@pytest.mark.parametrize(("n_trained", "flops"), [(100, 50 * (2 + 6) * 100), (10, 50 * ((2 + 4) * 100 + 2 * 10))])
def test_gradients_of_frozen_weights_are_no_work(monkeypatch, n_trained, flops):
    # 100 parameters, 50 tokens: 2 per parameter to sample, 2 forward, 2 back to the inputs, 2 to those that are trained
    monkeypatch.setattr(perf, "_PEAK_FLOPS", {jax.devices()[0].device_kind: 1e6})
    plan = SimpleNamespace(
        n_parameters=100, n_trained_parameters=n_trained, updates_per_step=1, minibatch_prompts=8, n_prompts=8,
        n_devices=2,
    )  # fmt: skip
    found = step_metrics(plan, sample_s=1.0, reward_s=0.5, train_s=2.5, compile_s=9.0, n_tokens=50)
    assert found["perf/mfu"] == pytest.approx(flops / 4 / 2e6)

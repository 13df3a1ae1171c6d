import pytest

from rlvr_jax.train import perf
from rlvr_jax.train.perf import LapTimer


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

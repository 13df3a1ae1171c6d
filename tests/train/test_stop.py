import pytest

from rlvr_jax.train import stop as stop_module
from rlvr_jax.train.stop import StopRequest


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the request was made, set by the test."""
    now = [0.0]
    monkeypatch.setattr(stop_module.time, "monotonic", lambda: 1000.0 + now[0])
    return now


def test_without_a_limit_only_a_signal_ends_a_run(clock):
    stop = StopRequest()
    clock[0] = 1e9
    assert not stop.is_due(next_s=1e9)
    stop.ask(143)
    assert stop.is_due(next_s=0.0)
    assert stop.exit_code == 143


@pytest.mark.parametrize(
    ("limit_s", "next_s", "last_s"),
    [
        (3600, 60, 3600 - 60 - 180),  # 5% of an hour
        (60, 5, 60 - 5 - 10),  # at least 10 s
        (86_400, 300, 86_400 - 300 - 600),  # at most 10 min
    ],
)
def test_the_last_step_begins_in_time_to_end_and_be_saved(clock, limit_s, next_s, last_s):
    stop = StopRequest()
    stop.limit(limit_s)
    clock[0] = last_s - 1
    assert not stop.is_due(next_s=next_s)
    clock[0] = last_s + 1
    assert stop.is_due(next_s=next_s)
    assert stop.exit_code == 75


def test_a_signal_before_the_limit_keeps_its_own_exit_code(clock):
    stop = StopRequest()
    stop.limit(100)
    stop.ask(130)
    clock[0] = 1e6
    assert stop.is_due(next_s=0.0)
    assert stop.exit_code == 130


def test_a_signal_that_comes_while_processes_agree_is_not_lost(monkeypatch):
    stop = StopRequest()

    def largest(n):
        stop.ask(143)  # as a signal handler does
        return n

    monkeypatch.setattr(stop_module, "largest", largest)
    assert not stop.is_due(next_s=0.0)  # the others do not know of it yet
    assert stop.is_due(next_s=0.0)
    assert stop.exit_code == 143


def test_what_another_process_was_asked_is_done_here_too(monkeypatch):
    stop = StopRequest()
    monkeypatch.setattr(stop_module, "largest", lambda n: max(n, 75))
    assert stop.is_due(next_s=0.0)
    assert stop.exit_code == 75

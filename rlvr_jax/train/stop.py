"""Ending a run before its last update: on a signal, or before a time limit."""

import signal
import time

from rlvr_jax.train.processes import largest

OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
_MARGIN_FRAC, _MARGIN_S = 0.05, (10.0, 600.0)  # of the limit, at least and at most


class Stopped(Exception):
    """The run was asked to end; its state is saved."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether a run should end now. It is asked after every step, when everything can be saved."""

    def __init__(self):
        self._limit_s: float | None = None
        self._started_s = time.monotonic()
        self.exit_code: int | None = None  # of a request that was made

    def limit(self, limit_s: float) -> None:
        """Ends the run in time for the process to be gone `limit_s` seconds after this object was made."""
        self._limit_s = limit_s

    def ask(self, exit_code: int) -> None:
        """Ends the run after the step in progress."""
        self.exit_code = exit_code

    def is_due(self, *, next_s: float) -> bool:
        """True if asked, or if something that takes `next_s` seconds could not be finished and saved in time.

        Saving is given 5% of the limit, at least 10 s and at most 10 min. All processes have to ask, and all get the
        same answer: a signal may reach one of them, and their clocks differ.
        """
        if self.exit_code is None and self._limit_s is not None:
            margin_s = min(max(_MARGIN_FRAC * self._limit_s, _MARGIN_S[0]), _MARGIN_S[1])
            if time.monotonic() - self._started_s + next_s + margin_s > self._limit_s:
                self.ask(OUT_OF_TIME)
        agreed = largest(self.exit_code or 0)
        if agreed:
            self.exit_code = agreed
        return agreed > 0  # a signal that came meanwhile is known to this process alone, until the next time


def stop_on_signals(stop: StopRequest) -> None:
    """SIGTERM and Ctrl-C ask for a stop from now on, with the exit codes of a shell; a second Ctrl-C does not wait."""

    def on_signal(number: int, _frame: object) -> None:
        if stop.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # schedulers send SIGTERM twice
        stop.ask(128 + number)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

"""One reward_worker.py as its parent sees it: started, asked, listened to, killed.

Processes of our own rather than multiprocessing: a user's function may hang, crash or eat all
memory, so each must be killable with whatever it started, and what comes back is JSON, no pickle.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_LIMIT_S = 60.0  # of importing the functions
WAKE_S = 0.2  # how often a silent child is looked at: a program it forked may hold its pipes open after its death
_WORKER = Path(__file__).with_name("reward_worker.py")
_CHUNK_BYTES = 1 << 16


class RewardProcess:
    """One child. It is asked one thing at a time and never waited for here: see `news` and `wait_for_news`."""

    def __init__(
        self, functions: Sequence[str], *, folder: str = "", imports: Sequence[str] = (), memory_gib: float = 0.0
    ):
        """Starts nothing yet.

        Args:
            folder: where it runs and first looks for the functions' modules; "" for the current one.
            imports: packages that are there before it says that it is ready.
            memory_gib: of address space; what needs more gets a MemoryError. 0 for no limit.
        """
        self._functions, self._folder = list(functions), folder or os.getcwd()
        self._options = [f"--import={name}" for name in imports] + [f"--memory_gib={memory_gib}"] * (memory_gib > 0)
        # a verifier must not take the accelerator from the trainer
        self._environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self._process: subprocess.Popen | None = None
        self.is_ready = False  # has imported its functions and is not being asked anything
        self.n_asked = 0  # since it was started

    @property
    def is_up(self) -> bool:
        """Started and not known to have ended."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns at once; the first news is {"ready": True}, or a failure."""
        self._unsent, self._received, self.is_ready, self.n_asked = b"", b"", False, 0
        self._process = subprocess.Popen(
            # As a file, not with -m: the current folder comes first on the path only once the worker has its own
            # imports, so that a user's json.py cannot break it. -P keeps the worker's folder off the path.
            [sys.executable, "-P", str(_WORKER), *self._options, *self._functions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches all processes of a terminal; the trainer still wants to save
        )
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._set_limit(START_LIMIT_S)

    def _set_limit(self, limit_s: float) -> None:
        self._limit_s, self._deadline = limit_s, time.monotonic() + limit_s

    def ask(self, request: dict[str, Any], *, limit_s: float) -> None:
        """Sends a request; its answer is the next news."""
        self.is_ready = False
        self.n_asked += 1
        self._set_limit(limit_s)
        self._unsent = json.dumps(request).encode() + b"\n"
        self._send()

    def news(self) -> dict[str, Any] | None:
        """What the child wrote, {"ended": how} if it died, {"late": its limit} past that; None as long as it works.

        Unless `is_ready` afterwards, the child is of no more use: `stop` it.
        """
        self._send()
        has_ended = self._process.poll() is not None  # before reading: what it wrote before its death still counts
        is_at_end = self._receive()
        line, found, rest = self._received.partition(b"\n")
        if found:
            self._received = rest
            self.is_ready, self._deadline = not has_ended, math.inf
            return json.loads(line)
        if has_ended or is_at_end:
            return {"ended": self._how_it_ended()}
        return {"late": self._limit_s} if time.monotonic() > self._deadline else None

    def _send(self) -> None:
        # a child that died does not read: `news` tells
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]

    def _receive(self) -> bool:
        """Reads what there is; true at the end of the pipe."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._process.stdout.fileno(), _CHUNK_BYTES):
                self._received += chunk
            return True
        return False

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=1.0)  # the pipe closes a moment before the process is gone
        except subprocess.TimeoutExpired:
            return "closed its pipe to the trainer"
        if status >= 0:
            return f"exited with status {status}"
        names = {number.value: number.name for number in signal.Signals}  # which has only the first real-time signal
        hint = {signal.SIGKILL: " (out of memory?)", signal.SIGSEGV: " (a crash in native code)"}.get(-status, "")
        return f"was killed by {names.get(-status, f'signal {-status}')}{hint}"

    def hang_up(self) -> None:
        """Lets the child know that nothing more will be asked; it then exits by itself unless it hangs."""
        if self._process is not None:
            self._process.stdin.close()

    def stop(self, *, grace_s: float = 0.0) -> None:
        """Ends the child and every process in its group; with a grace it may first exit by itself."""
        if self._process is None:
            return
        self.hang_up()
        process, self._process, self.is_ready = self._process, None, False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_s)
        # a group keeps its number as long as it has members, so it can be killed after its leader's end
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)  # SIGKILL takes longer only on a hung file system


def wait_for_news(processes: Sequence[RewardProcess]) -> None:
    """Returns when one of the started processes may have news, and at the latest after WAKE_S."""
    timeout_s = WAKE_S
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process._process.stdout, selectors.EVENT_READ)
            if process._unsent:
                selector.register(process._process.stdin, selectors.EVENT_WRITE)
            timeout_s = min(timeout_s, max(0.0, process._deadline - time.monotonic()))
        selector.select(timeout_s)

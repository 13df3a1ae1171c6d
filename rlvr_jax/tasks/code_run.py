"""One completion's code against the tests of its row: two processes, a limit on everything, verdicts per test.

The code runs in a process that can do nothing but compute (tasks/confine.py). The tests run in another one, which
calls the code's functions over a pipe and compares what comes back itself: values of Python's plain types, so that no
object of the code's own is ever asked whether it is equal to what is wanted.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlvr_jax.tasks.code_tests import ROOT, checking_program

_WORKER = """import sys
sys.path.append({root!r})
from rlvr_jax.tasks.code_worker import main
sys.path.pop()
main({file!r}, calls_fd={calls_fd}, replies_fd={replies_fd}, cpu_s={cpu_s}, memory_bytes={memory_bytes})
"""
_PYTHON = (sys.executable, "-I", "-S", "-B")  # without the user's environment, folder or packages
_VERDICTS = ("passed", "failed", "untestable")
_MOST_BYTES = 1 << 16  # of verdicts


@dataclass(frozen=True)
class CodeLimits:
    """Of one completion, all its tests together."""

    wall_s: float
    cpu_s: int
    memory_mib: int


def run_tests(code: str, tests: Sequence[str], limits: CodeLimits) -> list[str]:
    """One of "passed", "failed" and "untestable" per test; those that were not reached in time have failed.

    Raises OSError if no process can be started.
    """
    with contextlib.ExitStack() as open_files:
        folder = Path(open_files.enter_context(tempfile.TemporaryDirectory(prefix="code_")))
        code_file = folder / "code.py"
        code_file.write_text(code, encoding="utf-8", errors="replace")
        pipes = [_pipe(open_files) for _ in range(3)]
        (calls_in, calls_out), (replies_in, replies_out), (verdicts_in, verdicts_out) = pipes
        each = {"cpu_s": limits.cpu_s, "memory_bytes": limits.memory_mib << 20}
        program = checking_program(
            tests,
            calls_fd=calls_out.fileno(),
            replies_fd=replies_in.fileno(),
            verdicts_fd=verdicts_out.fileno(),
            **each,
        )
        ends = {"calls_fd": calls_in.fileno(), "replies_fd": replies_out.fileno()}
        worker = _WORKER.format(root=str(ROOT), file=str(code_file), **ends, **each)
        started = [
            _start([*_PYTHON, "-c", worker], (calls_in, replies_out), folder),
            _start([*_PYTHON, "-"], (calls_out, replies_in, verdicts_out), folder, stdin=subprocess.PIPE),
        ]
        try:
            for file in (calls_in, calls_out, replies_in, replies_out, verdicts_out):
                file.close()  # so that each end of a pipe is one process's
            with contextlib.suppress(BrokenPipeError), started[1].stdin as stdin:
                stdin.write(program.encode("utf-8", "replace"))
            said = _read(verdicts_in.fileno(), until_s=time.monotonic() + limits.wall_s)
        finally:
            for process in started:
                _stop(process)
    verdicts = [line for line in said.decode("ascii", "replace").split("\n")[:-1] if line in _VERDICTS][: len(tests)]
    return verdicts + ["failed"] * (len(tests) - len(verdicts))


def _pipe(open_files: contextlib.ExitStack) -> list[IO[bytes]]:
    modes = ("rb", "wb")
    ends = zip(os.pipe(), modes, strict=True)
    return [open_files.enter_context(os.fdopen(end, mode, buffering=0)) for end, mode in ends]


def _start(
    command: Sequence[str], files: Sequence[IO[bytes]], folder: Path, *, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.DEVNULL,  # whatever is printed, gigabytes included, is never kept
        stderr=subprocess.DEVNULL,
        pass_fds=[file.fileno() for file in files],
        cwd=folder,
        env={},
        start_new_session=True,  # a group to be killed, and no terminal
    )


def _read(fd: int, *, until_s: float) -> bytes:
    """What comes until the end, the time or _MOST_BYTES."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while len(said) < _MOST_BYTES and (left_s := until_s - time.monotonic()) > 0:
            if selector.select(left_s):
                chunk = os.read(fd, _MOST_BYTES)
                if not chunk:
                    break
                said += chunk
    return said


def _stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

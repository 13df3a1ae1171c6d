"""The process that holds the tests: it calls a completion's functions, which live in another process, and judges.

It reads its program, which ends in a call of `check`, from standard input (tasks/code_tests.py writes it), so that
the tests lie in no file that the code could read. It imports nothing of ours but its neighbours.
"""

import builtins
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from rlvr_jax.tasks.confine import confine
from rlvr_jax.tasks.plain_values import NotPlain, decoded, encoded

LONGEST_REPLY = 1 << 20  # characters


class Gone(Exception):
    """The process with the code has ended, or says what it should not."""


class Link:
    """The pipes to the process with the code."""

    def __init__(self, calls_fd: int, replies_fd: int):
        self._calls = os.fdopen(calls_fd, "w", encoding="utf-8")
        self._replies = os.fdopen(replies_fd, encoding="utf-8")

    def begin(self) -> None:
        """Lets the code run."""
        self._send({})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._calls.write(json.dumps(message) + "\n")
            self._calls.flush()
        except OSError as error:
            raise Gone(str(error)) from error

    def reply(self) -> dict[str, Any]:
        try:
            line = self._replies.readline(LONGEST_REPLY)
            reply = json.loads(line) if line.endswith("\n") else None
        except Exception as error:  # not text, not JSON, or nested beyond all depth
            raise Gone(str(error)) from error
        if not isinstance(reply, dict):
            raise Gone("no reply")
        return reply

    def function(self, name: str) -> Callable[..., Any]:
        """What stands for the function `name` in the tests."""

        def call(*arguments: Any, **named: Any) -> Any:
            request = {
                "name": name,
                "arguments": [encoded(value) for value in arguments],
                "named": {key: encoded(value) for key, value in named.items()},
            }
            self._send(request)
            reply = self.reply()
            if "raised" in reply:
                raise _exception(reply["raised"])
            try:
                return decoded(reply["value"])
            except Exception as error:
                raise Gone(str(error)) from error

        return call


def _exception(name: Any) -> Exception:
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    is_ordinary = isinstance(kind, type) and issubclass(kind, Exception)
    return kind() if is_ordinary and kind is not UnicodeDecodeError and kind is not UnicodeEncodeError else Exception()


def check(link: Link, tests: Sequence[Callable[[], None]], *, verdicts_fd: int, cpu_s: int, memory_bytes: int) -> None:
    """Runs the tests and writes a line "passed", "failed" or "untestable" for each, as soon as it is known."""
    confine(cpu_s=cpu_s, memory_bytes=memory_bytes, readable=())
    try:
        link.begin()
        is_there = link.reply().get("ready") is True
    except Gone:
        is_there = False
    for test in tests:
        os.write(verdicts_fd, (_verdict(test) if is_there else "failed").encode() + b"\n")


def _verdict(test: Callable[[], None]) -> str:
    try:
        test()
    except NotPlain:
        return "untestable"  # the test passes something on that cannot be sent
    except BaseException:  # an assertion, or whatever else a wrong value leads to
        return "failed"
    return "passed"

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


class Ended(BaseException):
    """No test can go on after this: not an Exception, which a test that wants one would catch."""


class Link:
    """The pipes to the process with the code."""

    def __init__(self, calls_fd: int, replies_fd: int):
        self._calls = os.fdopen(calls_fd, "w", encoding="utf-8")
        self._replies = os.fdopen(replies_fd, encoding="utf-8")
        self.verdict = ""  # of the present test, if it is known whatever the test makes of it

    def begin(self) -> None:
        """Lets the code run."""
        self._send({})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._calls.write(json.dumps(message) + "\n")
            self._calls.flush()
        except OSError as error:
            raise self._ended() from error

    def _ended(self, verdict: str = "failed") -> Ended:
        self.verdict = verdict
        return Ended()

    def reply(self) -> dict[str, Any]:
        try:
            line = self._replies.readline(LONGEST_REPLY)
            reply = json.loads(line) if line.endswith("\n") else None
        except Exception as error:  # not text, not JSON, or nested beyond all depth
            raise self._ended() from error
        if not isinstance(reply, dict):
            raise self._ended()
        return reply

    def function(self, name: str) -> Callable[..., Any]:
        """What stands for the function `name` in the tests."""

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                request = {
                    "name": name,
                    "arguments": [encoded(value) for value in arguments],
                    "named": {key: encoded(value) for key, value in named.items()},
                }
            except NotPlain as error:  # a TypeError, which a test may want of the code
                raise self._ended("untestable") from error
            self._send(request)
            reply = self.reply()
            if "raised" in reply:
                raise _exception(reply["raised"]) or self._ended()
            try:
                value = decoded(reply["value"])
                if value is None:
                    places = {str(i): argument for i, argument in enumerate(arguments)} | named
                    for place, data in reply["changed"].items():
                        _replace_content(places[place], decoded(data))
            except Exception as error:
                raise self._ended() from error
            return value

        return call


def _exception(name: Any) -> Exception | None:
    """What is raised in a test for what the code raised; None for what ends a program, such as SystemExit."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return Exception()
    if not issubclass(kind, Exception):
        return None
    if issubclass(kind, (StopIteration, StopAsyncIteration)):
        return RuntimeError()  # as in generators: to map and zip in the test it would be the end, and all is well
    for base in kind.__mro__:
        try:
            return base()
        except TypeError:  # such as UnicodeDecodeError, which wants arguments
            continue
    return Exception()


def _replace_content(old: Any, new: Any) -> None:
    """Makes an argument in the test what the code has made of it."""
    if isinstance(old, (list, bytearray)) and type(old) is type(new):
        old[:] = new
    elif isinstance(old, (dict, set)) and isinstance(new, dict if isinstance(old, dict) else set):
        old.clear()
        old.update(new)


def check(link: Link, tests: Sequence[Callable[[], None]], *, verdicts_fd: int, cpu_s: int, memory_bytes: int) -> None:
    """Runs the tests and writes a line "passed", "failed" or "untestable" for each, as soon as it is known."""
    confine(cpu_s=cpu_s, memory_bytes=memory_bytes, readable=())
    try:
        link.begin()
        is_there = link.reply().get("ready") is True
    except Ended:
        is_there = False
    for test in tests:
        os.write(verdicts_fd, (_verdict(link, test) if is_there else "failed").encode() + b"\n")


def _verdict(link: Link, test: Callable[[], None]) -> str:
    link.verdict = ""
    try:
        test()
    except BaseException:  # an assertion, or whatever else a wrong value leads to
        return link.verdict or "failed"
    return link.verdict or "passed"  # a test that catches everything has not passed by that

"""The process that runs a completion's code: calls of its functions in, what they return out, both as JSON lines.

It is confined before the first line of that code runs. The code may do what it likes with this process, these lines
included: all it can achieve is what a reply can say, a value, and whether that is right is judged elsewhere.
"""

import json
import os
import runpy
import sys
from typing import Any

from rlvr_jax.tasks.confine import confine
from rlvr_jax.tasks.plain_values import decoded, encoded


def main(code_file: str, *, calls_fd: int, replies_fd: int, cpu_s: int, memory_bytes: int) -> None:
    """Runs the code, says {"ready": true} or {"raised": name}, then answers calls until there are no more."""
    calls = os.fdopen(calls_fd, encoding="utf-8")
    replies = os.fdopen(replies_fd, "w", encoding="utf-8")

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    sys.argv = [code_file]
    sys.set_int_max_str_digits(0)
    confine(cpu_s=cpu_s, memory_bytes=memory_bytes, readable=[os.path.dirname(code_file)])
    calls.readline()  # the process with the tests has hidden its memory
    try:
        names = runpy.run_path(code_file, run_name="code")  # not "__main__", whose block would wait for input
    except BaseException as error:  # SystemExit too: whatever it raises is the answer
        reply({"raised": _name_in_python(error)})
        return
    reply({"ready": True})
    for line in calls:
        reply(_outcome(names, json.loads(line)))


def _outcome(names: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = [decoded(value) for value in call["arguments"]]
        named = {name: decoded(value) for name, value in call["named"].items()}
        value = names[call["name"]](*arguments, **named)
    except BaseException as error:
        return {"raised": _name_in_python(error)}
    try:
        return {"value": encoded(value)} | ({"changed": _changed(call, arguments, named)} if value is None else {})
    except BaseException:
        return {"is_plain": False}


def _changed(call: dict[str, Any], arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    """What a function made of its arguments, by position or name: one that returns None may work in place."""
    sent = dict(enumerate(call["arguments"])) | call["named"]
    now = {key: encoded(value) for key, value in (dict(enumerate(arguments)) | named).items()}
    return {str(key): data for key, data in now.items() if data != sent[key]}


def _name_in_python(error: BaseException) -> str:
    """The nearest of Python's own exceptions that it is one of: the tests know no other."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")

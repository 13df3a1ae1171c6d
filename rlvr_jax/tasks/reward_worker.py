"""The process that calls a user's reward functions: JSON lines in, JSON lines out.

    python -P reward_worker.py [--import=package] [--memory_gib=2] my_rewards:score ...

First it writes {"ready": true}, or {"failure": why} if a function cannot be used. Then each line
{"function": 0, "prompt": ..., "completions": [...], "answer": ..., "row": {...}} is answered by
{"scores": [...]} or {"failure": why}. It imports nothing of ours, so that it runs as a lone file
(reward_process.py says why).
"""

import difflib
import faulthandler
import importlib
import inspect
import json
import math
import numbers
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

PARAMETERS = ("prompt", "completions", "answer", "row")
LARGEST_SCORE = 1e15  # the squares of such numbers still fit float32, thousands of them summed
GRACE_S = 2.0  # between the trainer's end and this process's


class Refused(Exception):
    """A reward function, or what it returned, that cannot be used; the message says why."""


def main(functions: list[str]) -> None:
    """Imports the functions and answers until the trainer closes its end."""
    lines_in, lines_out = take_over_pipes()
    options = [argument for argument in functions if argument.startswith("--")]
    functions = functions[len(options) :]
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(lines_in, requests), daemon=True).start()
    own_pid = os.getpid()

    def reply(message: dict[str, Any]) -> None:
        if os.getpid() != own_pid:
            os._exit(1)  # the user's function forked and both came back: only one may answer
        lines_out.write(json.dumps(message) + "\n")
        lines_out.flush()

    sys.path.insert(0, os.getcwd())
    for option, _, value in (option.partition("=") for option in options):
        if option == "--import":
            importlib.import_module(value)
        elif option == "--memory_gib":
            limit_memory(float(value))
    rewards = []
    for function in functions:
        try:
            rewards.append(load_reward(function))
        except Refused as refused:
            reply({"failure": f"reward {function}: {refused}"})
            return
    reply({"ready": True})
    while (request := requests.get()) is not None:
        try:
            reply({"scores": call_reward(*rewards[request.pop("function")], request)})
        except Refused as refused:
            reply({"failure": str(refused)})


def limit_memory(gib: float) -> None:
    """Makes allocations beyond so much address space fail here, before the machine has to choose whom to kill."""
    import resource  # not everywhere, and few ask for it

    n_bytes = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def take_over_pipes() -> tuple[TextIO, TextIO]:
    """The two pipes to the trainer as files of our own.

    What the user's code prints goes to stderr instead, and what it reads is empty. The copies are
    not inherited by programs it starts, which could otherwise hold the pipes open.
    """
    lines_in, lines_out = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()  # a crash in native code then says on stderr where
    return lines_in, lines_out


def read_requests(lines_in: TextIO, requests: queue.SimpleQueue) -> None:
    """Queues what the trainer asks; when it is gone, ends this process even in the middle of a call.

    A thread of its own, because a function that hangs would otherwise outlive a killed trainer. The
    functions run in the main thread, where signal.alarm works.
    """
    for line in lines_in:
        requests.put(json.loads(line))
    requests.put(None)
    time.sleep(GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with all processes that the functions started
    os._exit(1)


def load_reward(function: str) -> tuple[Callable, Path, list[str]]:
    """The callable of "module:function", the module's file and the parameters to pass."""
    module_name, _, name = function.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # whatever the user's code raises, SystemExit included, is an answer
        raise Refused(_import_fault(module_name, error)) from error
    file = Path(getattr(module, "__file__", None) or module_name)
    reward = getattr(module, name, None)
    if reward is None:
        known = [known for known, value in vars(module).items() if inspect.isfunction(value)]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        meant = f"did you mean {module_name}:{nearest[0]}?" if nearest else "it defines no function"
        raise Refused(f"{file} has no {name!r}; {meant}")
    if not callable(reward):
        raise Refused(f"{name!r} in {file} is not callable but {_a(reward)}; name a function")
    return reward, file, parameters_to_pass(reward)


def _import_fault(module_name: str, error: BaseException) -> str:
    is_missing_itself = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
    if not is_missing_itself:
        return f"importing {module_name} raised {described(error, None)}"
    here = sorted(file.stem for file in Path.cwd().glob("*.py"))
    nearest = difflib.get_close_matches(module_name, here, n=1, cutoff=0.5)
    meant = f"; did you mean {nearest[0]}?" if nearest else ""
    return (
        f"there is no module {error.name!r}: looked for in the current folder {Path.cwd()}, "
        f"then among the installed packages{meant}"
    )


def parameters_to_pass(reward: Callable) -> list[str]:
    """Which of PARAMETERS a function takes, by name; all of them if it has **kwargs."""
    known = ", ".join(PARAMETERS)
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError) as error:
        raise Refused(f"its parameters cannot be read ({error}); wrap it in a function of {known}") from error
    for parameter in parameters:
        is_optional = parameter.default is not parameter.empty
        if is_optional or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name not in PARAMETERS:
            nearest = difflib.get_close_matches(parameter.name, PARAMETERS, n=1, cutoff=0.5)
            meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise Refused(f"it needs a parameter {parameter.name!r}, but the four that exist are {known}{meant}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise Refused(f"its parameter {parameter.name!r} is positional only, but arguments are passed by name")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return list(PARAMETERS)
    named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    if "completions" not in named:
        raise Refused(f"it takes no 'completions', so it cannot see what it grades; the parameters are {known}")
    return [name for name in PARAMETERS if name in named]


def call_reward(reward: Callable, file: Path, parameters: list[str], request: dict[str, Any]) -> list[float]:
    """The scores of one prompt's completions. Raises Refused if there are none that can be used."""
    n_completions = len(request["completions"])  # before the function can change the list
    try:
        returned = reward(**{name: request[name] for name in parameters})
        return _checked_scores(returned, n_completions)
    except Refused:
        raise
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: an answer like any other
        raise Refused(f"raised {described(error, file)}") from error


def _checked_scores(returned: Any, n_completions: int) -> list[float]:
    wanted = f"a list of {n_completions} numbers, one per completion"
    scores = returned.tolist() if hasattr(returned, "tolist") else returned  # numpy, torch and jax arrays
    if not isinstance(scores, (list, tuple)):
        raise Refused(f"returned {_a(returned)} instead of {wanted}")
    scores = [score.item() if hasattr(score, "item") else score for score in scores]  # scalars of theirs
    for i, score in enumerate(scores):
        if not isinstance(score, numbers.Real):
            raise Refused(f"returned {_a(score)} at index {i} instead of a number")
    if len(scores) != n_completions:
        raise Refused(f"returned {len(scores)} numbers for {n_completions} completions")
    for i, score in enumerate(scores):
        if LARGEST_SCORE < abs(score) < math.inf:
            raise Refused(f"returned a number beyond {LARGEST_SCORE:g} at index {i}; 32-bit floats cannot train on it")
        if not math.isfinite(score):
            raise Refused(f"returned {score} at index {i}; rewards must be finite")
    return [float(score) for score in scores]


def described(error: BaseException, file: Path | None) -> str:
    """Type, message and line of an exception; the line is the last one in `file`, or where it was raised."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's exception class may fail at this, too
        text = "(its message cannot be shown)"
    if len(text) > 300:
        text = text[:300] + "..."
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "<frozen" not in f[0]]
    own = [frame for frame in frames if file and Path(frame.filename) == file] or frames
    at = f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""
    return type(error).__name__ + (f": {text}" if text else "") + at


def _a(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


if __name__ == "__main__":
    main(sys.argv[1:])

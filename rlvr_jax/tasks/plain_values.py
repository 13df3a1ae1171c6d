"""Values of Python's plain types as JSON and back: what code under test and its tests may send each other.

It imports nothing of ours and runs in lone processes.
"""

from collections import Counter, OrderedDict, defaultdict
from typing import Any

_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}


class NotPlain(TypeError):
    """A value of another type, which could behave as it likes."""


def encoded(value: Any) -> Any:
    """What json.dumps takes. Raises NotPlain for a value, or a part of one, that is not of a plain type itself."""
    kind = type(value)  # not isinstance: a class of one's own may say of itself that it equals anything
    if value is None or kind in (bool, str):
        return value
    if kind in (int, float, complex):
        return {kind.__name__: repr(value)}  # digits of any length, infinities and NaN
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind in _SEQUENCES.values():
        return {kind.__name__: [encoded(item) for item in value]}
    if kind in (*_MAPPINGS.values(), defaultdict):
        name = "dict" if kind is defaultdict else kind.__name__  # its default is a function, which cannot be sent
        return {name: [[encoded(key), encoded(item)] for key, item in value.items()]}
    raise NotPlain(f"a value of type {kind.__name__}")


def decoded(data: Any) -> Any:
    """The value of what `encoded` made. Raises ValueError, TypeError or KeyError for anything else."""
    if data is None or isinstance(data, (bool, str)):
        return data
    ((kind, content),) = data.items() if isinstance(data, dict) else [(None, None)]
    if kind in ("int", "float", "complex"):
        return {"int": int, "float": float, "complex": complex}[kind](content)
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind].fromhex(content)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([decoded(item) for item in content])
    if kind in _MAPPINGS:
        return _MAPPINGS[kind]({decoded(key): decoded(item) for key, item in content})
    raise ValueError(f"{kind!r} is no plain type")

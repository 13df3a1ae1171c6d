"""Fields of a config.json, read with a message that names the field where its value cannot be meant."""

import math
from typing import Any


def positive_int(fields: dict[str, Any], name: str) -> int:
    """A whole number above 0. Raises ValueError."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number above 0; correct the config.json")
    return value


def positive_number(fields: dict[str, Any], name: str) -> float:
    """A finite number above 0. Raises ValueError."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be a number above 0; correct the config.json")
    return float(value)


def flag(fields: dict[str, Any], name: str) -> bool:
    """True or false; false where it is absent. Raises ValueError."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false; correct the config.json")
    return value

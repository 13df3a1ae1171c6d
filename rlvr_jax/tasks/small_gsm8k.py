"""Word problems in the form of GSM8K, small enough for the built-in model: each row is a function of its index."""

from math import prod
from typing import Any

_NAMES = ("Tom", "Ann", "Sam", "Eva", "Ben", "Mia", "Max", "Zoe")
_THINGS = ("pens", "cups", "nuts", "hats", "eggs", "keys", "toys", "maps")
_KINDS = ("gets", "gives", "bags", "gets and gives")
_FIRST = range(10, 30)
_SECOND = range(2, 10)
_THIRD = range(2, 10)
_RADICES = (len(_KINDS), len(_NAMES), len(_THINGS), len(_FIRST), len(_SECOND), len(_THIRD))
_N_PLACES = prod(_RADICES)
_STRIDE = 120_227  # coprime to _N_PLACES, near its golden section: neighbouring rows differ in everything


def small_gsm8k_row(index: int) -> dict[str, Any]:
    """Row `index`: one or two steps of adding, taking away or multiplying, each on a line of its own."""
    place, digits = index * _STRIDE % _N_PLACES, []
    for radix in _RADICES:
        place, digit = divmod(place, radix)
        digits.append(digit)
    kind, name, thing = _KINDS[digits[0]], _NAMES[digits[1]], _THINGS[digits[2]]
    a, b, c = _FIRST[digits[3]], _SECOND[digits[4]], _THIRD[digits[5]]
    if kind == "gets":
        text, steps = f"{name} has {a} {thing} and gets {b}.", [f"{a}+{b}={a + b}"]
    elif kind == "gives":
        text, steps = f"{name} has {a} {thing} and gives {b}.", [f"{a}-{b}={a - b}"]
    elif kind == "bags":
        text, steps = f"{name} has {b} bags of {c} {thing}.", [f"{b}*{c}={b * c}"]
    else:
        text = f"{name} has {a} {thing}, gets {b} and gives {c}."
        steps = [f"{a}+{b}={a + b}", f"{a + b}-{c}={a + b - c}"]
    answer = steps[-1].rpartition("=")[2]
    return {"question": f"{text} How many?", "answer": "\n".join([*steps, f"#### {answer}"])}

"""Problems in the form of MATH, small enough for the built-in model: each row is a function of its index."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

_N_OF_A_KIND = 600
_STRIDE = 229  # coprime to that: neighbouring rows differ in every number
N_SMALL_MATH = 5 * _N_OF_A_KIND  # different problems; from then on they repeat


class _Kind(NamedTuple):
    level: int
    subject: str
    build: Callable[..., tuple[str, str, str]]  # (problem, solution, answer) of two or three numbers
    numbers: tuple[tuple[int, ...], ...]


def small_math_row(index: int) -> dict[str, Any]:
    """Row `index`: the kinds take turns, one per level."""
    which, place = index % len(_KINDS), index // len(_KINDS) * _STRIDE % _N_OF_A_KIND
    level, subject, build, numbers = _KINDS[which]
    problem, solution, answer = build(*numbers[place])
    return {
        "problem": problem,
        "solution": solution,
        "answer": answer,
        "level": f"Level {level}",
        "type": subject,
        "unique_id": f"small/{index}",
    }


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _remainder(whole: int, by: int) -> tuple[str, str, str]:
    rest = whole % by
    return f"Find {whole} mod {by}.", f"{whole}-{whole - rest}={_boxed(str(rest))}", str(rest)


def _reduced(top: int, bottom: int) -> tuple[str, str, str]:
    common = math.gcd(top, bottom)
    answer = f"\\frac{{{top // common}}}{{{bottom // common}}}"
    return f"Reduce {top}/{bottom}.", _boxed(answer), answer


def _linear(slope: int, offset: int, root: int) -> tuple[str, str, str]:
    steps = f"{slope}x={slope * root}, x={_boxed(str(root))}"
    return f"Solve {slope}x+{offset}={slope * root + offset}.", steps, str(root)


def _pairs(n: int, more: int) -> tuple[str, str, str]:
    n_pairs = n * (n - 1) // 2
    return f"Find C({n},2)+{more}.", f"{n_pairs}+{more}={_boxed(str(n_pairs + more))}", str(n_pairs + more)


def _interval(middle: int, radius: int) -> tuple[str, str, str]:
    answer = f"({middle - radius},{middle + radius})"
    return f"Solve |x-{middle}|<{radius}.", _boxed(answer), answer


def _grid(*ranges: range) -> tuple[tuple[int, ...], ...]:
    return tuple(itertools.product(*ranges))


_LEAST_TERMS = tuple((a, b) for b in range(2, 14) for a in range(1, b) if math.gcd(a, b) == 1)
_REDUCIBLE = tuple((a * factor, b * factor) for factor in range(2, 13) for a, b in _LEAST_TERMS)
_KINDS = (
    _Kind(1, "Number Theory", _remainder, _grid(range(10, 110), range(2, 8))),
    _Kind(2, "Prealgebra", _reduced, _REDUCIBLE),
    _Kind(3, "Algebra", _linear, _grid(range(2, 10), range(1, 10), range(2, 11))),
    _Kind(4, "Counting & Probability", _pairs, _grid(range(4, 10), range(1, 101))),
    _Kind(5, "Intermediate Algebra", _interval, _grid(range(10, 77), range(1, 10))),
)

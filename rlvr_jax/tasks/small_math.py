"""Problems in the form of MATH, small enough for the built-in model: each row is a function of its index."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

_N_WORDINGS = 4
_N_OF_A_KIND = 400 * _N_WORDINGS
_STRIDE = 617  # coprime to that: neighbouring rows differ in every number
N_SMALL_MATH = 5 * _N_OF_A_KIND  # different problems; from then on they repeat


class _Kind(NamedTuple):
    level: int
    subject: str
    wordings: tuple[str, ...]  # in which {} stands for the numbers in turn
    solved: Callable[..., tuple[tuple[int, ...], str, str]]  # numbers -> (those shown, solution, answer)
    numbers: tuple[tuple[int, ...], ...]


def small_math_row(index: int) -> dict[str, Any]:
    """Row `index`: the kinds take turns, one per level."""
    kind = _KINDS[index % len(_KINDS)]
    which, wording = divmod(index // len(_KINDS) * _STRIDE % _N_OF_A_KIND, _N_WORDINGS)
    shown, solution, answer = kind.solved(*kind.numbers[which])
    return {
        "problem": kind.wordings[wording].format(*shown),
        "solution": solution,
        "answer": answer,
        "level": f"Level {kind.level}",
        "type": kind.subject,
        "unique_id": f"small/{index}",
    }


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _remainder(whole: int, by: int) -> tuple[tuple[int, ...], str, str]:
    rest = whole % by
    return (whole, by), f"{whole}-{whole - rest}={_boxed(str(rest))}", str(rest)


def _reduced(top: int, bottom: int) -> tuple[tuple[int, ...], str, str]:
    common = math.gcd(top, bottom)
    answer = f"\\frac{{{top // common}}}{{{bottom // common}}}"
    return (top, bottom), _boxed(answer), answer


def _linear(slope: int, offset: int, root: int) -> tuple[tuple[int, ...], str, str]:
    steps = f"{slope * root}/{slope}={_boxed(str(root))}"
    return (slope, offset, slope * root + offset), steps, str(root)


def _pairs(n: int, more: int) -> tuple[tuple[int, ...], str, str]:
    n_pairs = n * (n - 1) // 2
    return (n, more), f"{n_pairs}+{more}={_boxed(str(n_pairs + more))}", str(n_pairs + more)


def _interval(middle: int, radius: int) -> tuple[tuple[int, ...], str, str]:
    answer = f"({middle - radius},{middle + radius})"
    return (middle, radius), _boxed(answer), answer


def _grid(*ranges: range) -> tuple[tuple[int, ...], ...]:
    return tuple(itertools.product(*ranges))


def _worded(text: str, words: str) -> tuple[str, ...]:
    return tuple(text.replace("?", word) for word in words.split())


_LEAST_TERMS = tuple((a, b) for b in range(2, 11) for a in range(1, b) if math.gcd(a, b) == 1)
_REDUCIBLE = tuple((a * factor, b * factor) for factor in range(2, 15) for a, b in _LEAST_TERMS)
_KINDS = (
    _Kind(
        1,
        "Number Theory",
        _worded("? {} mod {}.", "Find Give Name State"),
        _remainder,
        _grid(range(10, 90), range(2, 7)),
    ),
    _Kind(2, "Prealgebra", _worded("? {}/{}.", "Reduce Simplify Cancel Shorten"), _reduced, _REDUCIBLE),
    _Kind(
        3, "Algebra", _worded("Solve {}?+{}={}.", "x y n t"), _linear, _grid(range(2, 10), range(1, 6), range(1, 11))
    ),
    _Kind(
        4,
        "Counting & Probability",
        _worded("? C({},2)+{}.", "Find Give Name State"),
        _pairs,
        _grid(range(4, 9), range(1, 81)),
    ),
    _Kind(
        5, "Intermediate Algebra", _worded("Solve |?-{}|<{}.", "x y n t"), _interval, _grid(range(11, 51), range(1, 11))
    ),
)

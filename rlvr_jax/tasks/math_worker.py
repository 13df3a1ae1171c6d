"""What a worker process runs: two answers compared by algebra (math-verify on sympy).

Called as a reward function by reward_worker.py, never in the trainer's own process: sympy may hang or take all
memory, and only a process can be stopped.
"""

import contextlib
import io
import itertools
import logging
import re
from typing import Any

from rlvr_jax.tasks.answer_text import listed, normal_text, split_list
from rlvr_jax.tasks.same_answer import Policy, policy_of, same_normal

SAME, DIFFERENT, UNREADABLE = 1.0, 0.0, -1.0
MOST_CHARACTERS = 1_000
_MOST_DIGITS, _MOST_DEPTH, _MOST_OPERATORS, _MOST_EXPONENT, _MOST_FACTORIAL = 40, 12, 60, 2_000, 500
_POWER_TOWER = re.compile(r"\^[{(]*[^-+*/=,{}()^]{1,8}\^")
_POINTS = (
    ((7, 5), (11, 3), (13, 7), (17, 19)),
    ((23, 29), (3, 31), (37, 11), (41, 13)),
    ((-43, 17), (-5, 19), (-47, 23), (-53, 7)),
    ((29, 9), (-31, 8), (61, 10), (-7, 12)),
    ((-2, 13), (71, 15), (-17, 16), (19, 14)),
)
_FACTORIAL_TOWER = re.compile(r"!\s*[)}\]]*\s*!|(?:Gamma|zeta|log|ln)\W{0,3}\d+!")
_NESTED_FUNCTIONS = re.compile(r"(?:\\[a-z]{2,6}\W{0,2}){3}\w*\^")
_FLOAT_DIGITS = 12  # after the point: 0.3333333333 is not 1/3, a printed double is
_NUMERIC_DIGITS = 15


def compare(completions: list[str], answer: str, row: dict[str, Any]) -> list[float]:
    """SAME, DIFFERENT or UNREADABLE for each completion, which is but its final answer here; `answer` is the gold's."""
    return [_compared(text, answer, policy=row["policy"]) for text in completions]


def _compared(answer: str, gold: str, *, policy: list[str]) -> float:
    chosen = policy_of(policy)
    texts = [normal_text(text, keep_units=chosen.units) for text in (answer, gold)]
    if any(too_costly(text) for text in texts):
        return UNREADABLE
    if (is_same := same_normal(*texts, policy=chosen)) is not None:
        return SAME if is_same else DIFFERENT
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of time limits, which are kept from outside
    with contextlib.redirect_stderr(io.StringIO()):  # the parser prints every syntax error
        return _by_algebra(texts, (answer, gold), policy=chosen)


def _by_algebra(texts: list[str], as_written: tuple[str, str], *, policy: Policy) -> float:
    """The verdict on (answer, gold) in normal spelling, and if that fails as they were written."""
    parts, gold_parts = (listed(text) for text in texts)
    if policy.ordered_lists and len(gold_parts) > 1:
        is_same = len(parts) == len(gold_parts) and all(
            _same_part(part, gold_part, policy) for part, gold_part in zip(parts, gold_parts, strict=True)
        )
        return SAME if is_same else DIFFERENT
    is_readable = False
    for attempt in (
        lambda: _same_on_the_whole(*texts),
        lambda: _same_on_the_whole(*as_written),
        lambda: _same_one_by_one(*texts, policy=policy),
        lambda: _same_ranges(*texts),
    ):
        try:
            is_same = attempt()
        except MemoryError:
            raise  # this process is of no more use
        except Exception:  # sympy raises what it likes on what it cannot do
            continue
        if is_same:
            return SAME
        is_readable = is_readable or is_same is not None
    return DIFFERENT if is_readable else UNREADABLE


def _same_on_the_whole(answer: str, gold: str) -> bool | None:
    """None if one of them cannot be read."""
    parsed, parsed_gold = _parsed(answer), _parsed(gold)
    if not parsed or not parsed_gold:
        return None
    integers = [_integer(found[0]) for found in (parsed, parsed_gold)]
    if None not in integers:
        return integers[0] == integers[1]  # exactly: floats cannot tell 10^100 from 10^100+1
    return _verified(parsed_gold, parsed) or _same_at_points(parsed_gold[0], parsed[0])


def _integer(expression: Any) -> int | None:
    import sympy

    value = expression.doit() if isinstance(expression, sympy.Expr) and not expression.free_symbols else None
    return int(value) if isinstance(value, sympy.Integer) else None


def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    text = re.sub(r"\$|\\[()\[\]]", " ", text)
    return parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)


def _verified(gold: list[Any], answer: list[Any]) -> bool:
    from math_verify import verify

    return verify(
        gold,
        answer,
        float_rounding=_FLOAT_DIGITS,
        numeric_precision=_NUMERIC_DIGITS,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )


def _same_one_by_one(answer: str, gold: str, *, policy: Policy) -> bool:
    """Lists matched element by element, which math-verify only tries in one order."""
    parts, gold_parts = listed(answer), listed(gold)
    if not 1 < len(parts) == len(gold_parts) <= 5:
        return False
    is_same = [[_same_part(part, gold_part, policy) for gold_part in gold_parts] for part in parts]
    orders = itertools.permutations(range(len(parts)))
    return any(all(is_same[i][j] for i, j in enumerate(order)) for order in orders)


def _same_part(part: str, gold: str, policy: Policy) -> bool:
    if (is_same := same_normal(part, gold, policy=policy)) is not None:
        return is_same
    return bool(_same_on_the_whole(part, gold))


def _same_at_points(gold: Any, answer: Any) -> bool:
    """Whether two expressions agree wherever both are real, what simplification cannot always show.

    Constants are compared to 25 digits, which may be complex; expressions at points of both signs.
    """
    import sympy

    if not all(isinstance(expression, sympy.Expr) for expression in (gold, answer)):
        return False
    # the parser leaves i a symbol
    gold, answer = (
        expression.subs({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})
        for expression in (gold, answer)
    )
    names = sorted(symbol.name for symbol in gold.free_symbols)
    if names != sorted(symbol.name for symbol in answer.free_symbols) or len(names) > 4:
        return False
    n_compared = 0
    for point in _POINTS if names else ((),):
        values = []
        for expression in (gold, answer):
            at = {symbol: sympy.Rational(*point[names.index(symbol.name)]) for symbol in expression.free_symbols}
            # floats such as 0.5 are meant exactly
            value = sympy.nsimplify(expression.subs(at), rational=True).evalf(25)
            if not value.is_number or not value.is_finite:
                return False
            values.append(complex(value))
        if any(value != value or (names and abs(value.imag) > 1e-12) for value in values):
            continue
        if abs(values[0] - values[1]) > 1e-12 * max(1e-3, abs(values[0])):
            return False
        n_compared += 1
    return n_compared >= (3 if names else 1)


def _same_ranges(answer: str, gold: str) -> bool:
    """Whether inequalities such as x<2,x>3 say the same as a union of intervals."""
    if not any(any(mark in text for mark in ("<", ">", r"\le", r"\ge")) for text in (answer, gold)):
        return False
    ranges = [_range(text) for text in (answer, gold)]
    return None not in ranges and ranges[0] == ranges[1]


def _range(text: str) -> Any:
    """The set of reals that a list of inequalities or a union of intervals describes; None for anything else.

    A comma is read as "or", but where that would leave all reals (1<x, x<2) as "and".
    """
    import sympy

    union, common = sympy.S.EmptySet, sympy.S.Reals
    for part in split_list(text):
        parsed = [found for found in _parsed(part) if isinstance(found, sympy.Basic)]
        if not parsed:
            return None
        if isinstance(parsed[0], sympy.Set):
            described = parsed[0]
        elif isinstance(parsed[0], sympy.core.relational.Relational | sympy.And) and len(parsed[0].free_symbols) == 1:
            described = parsed[0].as_set()
        else:
            return None
        union, common = union | described, common & described
    return common if union == sympy.S.Reals else union


def too_costly(text: str) -> bool:
    """Whether an answer is longer, deeper or larger than any that people give: algebra is not tried on it."""
    if len(text) > MOST_CHARACTERS or re.search(rf"\d{{{_MOST_DIGITS + 1},}}", text) or _depth(text) > _MOST_DEPTH:
        return True
    if len(re.findall(r"[-+*/&,<>^!]|\\(?:frac|cdot|times|cup)", text)) > _MOST_OPERATORS or text.count("\\frac") > 15:
        return True
    if any(pattern.search(text) for pattern in (_POWER_TOWER, _FACTORIAL_TOWER, _NESTED_FUNCTIONS)):
        return True
    exponents = [int(digits) for digits in re.findall(r"\^[\s{(]*-?\s*(\d+)", text)]
    has_variable = re.search(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", text)
    has_relation = re.search(r"[<>]|\\[lg]e(?![a-z])", text)
    if max(exponents, default=0) > (4 if has_relation else 60 if has_variable else _MOST_EXPONENT):
        return True
    found = re.findall(r"(?:binom|Gamma|zeta)[^\d]{0,4}(\d+)|(\d+)[\s)}]*!", text)
    arguments = [int(of_function or of_factorial) for of_function, of_factorial in found]
    return max(arguments, default=0) > _MOST_FACTORIAL


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest

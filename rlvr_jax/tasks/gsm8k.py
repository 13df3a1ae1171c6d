"""Grade-school math (GSM8K, arXiv:2110.14168): the final number of a solution."""

import re
from collections.abc import Sequence
from decimal import Decimal

# a minus is a sign only where nothing that could be subtracted from stands before it: "3-5" ends in 5
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)",
    re.ASCII,
)
_MARKS = ("####", "\\boxed{")
_MOST_CHARACTERS = 2_000  # of a text, from its end: an answer stands there, and a hostile text costs no more


def final_number(text: str) -> Decimal | None:
    """The number after the last "####", else the one in the last \\boxed{}, else the last of all; None without one.

    1,234, $18, 42. and 42.00 are read as people mean them; only the last 2,000 characters are looked at.
    """
    text = text[-_MOST_CHARACTERS:]
    for mark in _MARKS:
        _, is_there, after = text.rpartition(mark)
        if is_there and (found := _NUMBER.search(after)):
            return _value(found[0])
    numbers = _NUMBER.findall(text)
    return _value(numbers[-1]) if numbers else None


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("$", ""))


def same_final_number(completions: Sequence[str], answer: str) -> list[float]:
    """1.0 for each completion whose final number equals the answer's, else 0.0.

    Raises ValueError if the answer, a row's own, holds no number.
    """
    gold = final_number(answer)
    if gold is None:
        raise ValueError(f"the answer {answer[:80]!r} holds no number; correct the row")
    return [float(final_number(completion) == gold) for completion in completions]

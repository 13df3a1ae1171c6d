"""Numbers as people write them, exactly: 1,234 and 42. and $18 and 3\\frac12 and 50\\% are fractions, not floats."""

import re
from dataclasses import dataclass
from fractions import Fraction

MOST_CHARACTERS = 200  # of one number; longer digit strings are text
_LARGEST_EXPONENT = 60  # of 10: 10^99999 as an exact number would take all memory

DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)"  # no thousands begin with 0
_DECIMAL = rf"(?:{DIGITS}(?:\.\d*)?|\.\d+)"
_CURRENCY = r"(?:US\$|\\\$|\$|€|£|¥|₹)"
_SIGN = r"[-+−–]"
_PLAIN = re.compile(
    rf"""(?P<sign>{_SIGN})?\s*{_CURRENCY}?\s*(?P<inner_sign>{_SIGN})?\s*
    (?:
        (?P<decimal>{_DECIMAL})
        (?:\s*(?:\\times|\\cdot|\*|×)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<power>[-+−]?\d+)\s*\}}|(?P<short_power>-?\d+))
          |[eE](?P<e_power>[-+]?\d+)
          |\s*/\s*(?P<below>{_DECIMAL})
          |(?:\s*\\frac\s*|\s+)(?P<mixed>\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}}|\d+\s*/\s*\d+)
        )?
      | \\frac\s*\{{\s*(?P<top_sign>{_SIGN})?\s*(?P<top>{_DECIMAL})\s*\}}\s*
        \{{\s*(?P<bottom_sign>{_SIGN})?\s*(?P<bottom>{_DECIMAL})\s*\}}
    )
    \s*{_CURRENCY}?\s*(?P<percent>\\?%)?""",
    re.ASCII | re.VERBOSE,
)
# A minus is a sign only where nothing that could be subtracted from stands before it: "3-5" ends in 5.
_IN_TEXT = re.compile(
    rf"(?<!\bm)(?<!\b[ckm]m)(?<!\bft)(?:(?<![\w)\]}}%])[-−])?{_CURRENCY}?(?:(?<![\w)\]}}%$])[-−])?(?:{DIGITS}(?:\.\d+)?(?:/[1-9]\d*(?![\d/.])|[eE][-+]?\d{{1,2}}(?!\w))?|(?<!\d)\.\d+)",
    re.ASCII,
)


@dataclass(frozen=True)
class PlainNumber:
    """A number and how it was written."""

    value: Fraction  # as written: 50 for "50%"
    is_percent: bool = False
    n_decimals: int | None = None  # digits after the point; None unless it was a plain decimal
    is_reduced: bool = True  # false for 2/4 and 6/3


def plain_number(text: str) -> PlainNumber | None:
    """The number that the whole text is, None if it is anything else.

    Reads signs, thousands separators, currency and percent signs, decimals with a trailing point,
    a/b, \\frac{a}{b}, mixed numbers, 1.5e3 and 1.5 \\times 10^{3}.
    """
    if len(text) > MOST_CHARACTERS or not (found := _PLAIN.fullmatch(text.strip())):
        return None
    group = found.groupdict()
    if group["sign"] and group["inner_sign"]:
        return None
    is_negative = (group["sign"] or group["inner_sign"] or "+") != "+"
    power = group["power"] or group["short_power"] or group["e_power"]
    n_decimals, is_reduced = None, True
    if group["top"]:
        value, is_reduced = _ratio(group["top"], group["bottom"])
        is_negative ^= (group["top_sign"] or "+") != "+"
        is_negative ^= (group["bottom_sign"] or "+") != "+"
    elif group["below"]:
        value, is_reduced = _ratio(group["decimal"], group["below"])
    elif group["mixed"]:
        if "." in group["decimal"]:
            return None
        part, is_reduced = _ratio(*re.findall(r"\d+", group["mixed"]))
        value = None if part is None else _decimal(group["decimal"]) + part
    else:
        value = _decimal(group["decimal"])
        n_decimals = len(group["decimal"].partition(".")[2])
        if power:
            exponent = int(power.replace("−", "-")) if len(power) <= 3 else _LARGEST_EXPONENT + 1
            if abs(exponent) > _LARGEST_EXPONENT:
                return None
            value, n_decimals = value * Fraction(10) ** exponent, None
    if value is None:
        return None
    return PlainNumber(-value if is_negative else value, bool(group["percent"]), n_decimals, is_reduced)


def numbers_in(text: str) -> list[str]:
    """Every decimal number in a text as it stands there, with its sign and currency."""
    return _IN_TEXT.findall(text)


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rstrip(".") or "0")


def _ratio(above: str, below: str) -> tuple[Fraction | None, bool]:
    """The quotient (None over zero) and whether it stands there in lowest terms."""
    top, bottom = _decimal(above), _decimal(below)
    if bottom == 0:
        return None, True
    value = top / bottom
    return value, (value.numerator, value.denominator) == (top, bottom) and value.denominator != 1

"""What an answer can be read as: a formula or number itself, and in a sentence what the sentence says it is."""

import re

from rlvr_jax.tasks.answer_text import CHANGING_WORDS
from rlvr_jax.tasks.plain_number import numbers_in

MATH = re.compile(
    # in \[...\] and \(...\) no second one opens: a thousand of them that nothing closes are not each read to the end
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$(.{1,2000}?)(?<!\\)\$"
    r"|\\\[((?:(?!(?<!\\)\\\[).){1,2000}?)\\\]|\\\(((?:(?!(?<!\\)\\\().){1,2000}?)\\\)",
    re.DOTALL,
)
SAYS = re.compile(r"\b(?:is|are|equals|be|was)\b[:\s]*")
_CHOICE_AND_VALUE = re.compile(r"(?:\\[a-z]{4,8}\s*\{)?\s*\([A-J]\)[\s~]*\}?\s*(?=[^\s}])([^()]*)")
_COMMAND = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|operatorname|mathbf)\w*\s*\{[^{}]*\}|\\begin\{\w+\*?\}(?:\{[lcr|]+\})?|\\end\{\w+\*?\}|\\[a-zA-Z]+"
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_FORMULA_WORDS = (
    "and sqrt frac sin cos tan cot sec csc log ln exp pi inf infinity abs max min mod det arcsin arccos arctan sinh "
    "cosh tanh matrix percent percentage thousand million billion mph"
)
_NO_PROSE = frozenset(_FORMULA_WORDS.split())
_SHORT_WORDS_OF_ENGLISH = "am an as at be by do go he if is it me my no of on so to up us we"
_SHORT_PROSE = frozenset(_SHORT_WORDS_OF_ENGLISH.split())  # any other two letters are a product of variables


def readings_of(text: str) -> tuple[str, ...]:
    """What an answer can be read as: itself, and in a sentence its formula or its number, whichever is first found."""
    outside = MATH.sub(" ", text)
    if choice := _CHOICE_AND_VALUE.fullmatch(text):
        return text, choice[1]
    if not is_prose(outside):
        return (text,)
    if "=" not in outside and CHANGING_WORDS.search(outside):
        return (text,)  # "not 5", "5 or perhaps 6", "half of 5"
    formulas = [formula for formula, _, _ in formulas_in(text)[-1:] if not is_prose(formula)]  # "$5 a day or $" is none
    return tuple(dict.fromkeys((text, *(formulas or _number_said(text)))))


def _number_said(text: str) -> list[str]:
    """The number of a sentence: where it begins with one that, else what it "is", else its end, else its first.

    What stands before an "=" does not count.
    """
    said = text.rpartition("=")[2].strip()
    numbers = numbers_in(said)
    if not numbers:
        said, numbers = text, numbers_in(text)
    if not numbers or CHANGING_WORDS.search(said):
        return []
    prose = [word for word in _WORD.finditer(said) if is_prose(word[0])]
    after = said[prose[-1].end() :].strip(" .:,*$") if prose else ""
    is_at_start = said.lstrip("$ ").startswith(numbers[0].lstrip("$"))
    if is_at_start and re.search(r"\band\b.*\d", said):
        return []  # 5 dollars and 60 cents, 3 apples and 4 pears
    if not is_at_start and (stated := numbers_in(SAYS.split(said)[-1])):
        numbers = stated
    return [after] if any(c.isdigit() for c in after) and not is_at_start else numbers[:1]


def is_prose(text: str) -> bool:
    """Whether words stand there, other than those of formulas and units."""
    words = (word.lower() for word in _WORD.findall(_COMMAND.sub(" ", text)))
    return any(word in _SHORT_PROSE if len(word) == 2 else word not in _NO_PROSE for word in words)


def formulas_in(text: str) -> list[tuple[str, int, int]]:
    """(content, start, end) of every formula between math delimiters."""
    return [(inside(found), found.start(), found.end()) for found in MATH.finditer(text)]


def inside(found: re.Match) -> str:
    return next(group for group in found.groups() if group is not None).strip()

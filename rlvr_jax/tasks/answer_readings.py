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
# What changes a number that stands before it; most words do so only if another number follows.
_CHANGES_FIRST = re.compile(
    rf"\b(?:wrong|incorrect|less than|below|hundreds?|squared|cubed|and a half)\b|(?:{CHANGING_WORDS.pattern}).*\d",
    re.IGNORECASE,
)
_AND_ANOTHER = re.compile(r"^\S+(?:\s+[a-zA-Z]+){0,2}\s+and\s+(?:[a-z]+\s+)?\$?\d")
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
    if choice := _CHOICE_AND_VALUE.fullmatch(text):
        return text, choice[1]
    if not is_prose(MATH.sub(" ", text)):
        return (text,)
    said = _said(text)
    outside = MATH.sub(lambda found: " " if _is_formula(found) else found[0], said)
    changes = _CHANGES_FIRST if _begins_with_number(said) else CHANGING_WORDS
    if changes.search(outside):
        return (text,)  # "not 5", "5 or perhaps 6", "half of 5"
    if formulas := [inside(found) for found in MATH.finditer(said) if _is_formula(found)]:
        return tuple(dict.fromkeys((text, formulas[-1])))
    if not is_prose(said):
        return text, said.strip(" .:,")  # "the roots are -2,1"
    return tuple(dict.fromkeys((text, *_number_said(said))))


def _is_formula(found: re.Match) -> bool:
    """Not "$5 a day or $" nor "$2 = $" of two prices."""
    is_price = found[0][0] == "$" and found.string[found.end() : found.end() + 1].isdigit()
    return not is_price and not is_prose(inside(found))


def _said(text: str) -> str:
    """What a sentence says: what follows its last "=", else its last "is" unless it begins with a number."""
    hidden = MATH.sub(lambda found: "_" * len(found[0]) if _is_formula(found) else found[0], text)
    if (after := hidden.rpartition("=")[2]) != hidden and any(c.isdigit() for c in after):
        return text[len(text) - len(after) :].strip()
    if _begins_with_number(text) and not _CHANGES_FIRST.search(text):
        return text
    after = SAYS.split(text)[-1]
    return after if any(c.isdigit() for c in after) else text


def _number_said(said: str) -> list[str]:
    """The number where it begins with one, else its end, else its first number."""
    numbers = numbers_in(said)
    if _begins_with_number(said):
        # 5 dollars and 60 cents, 3 apples and 4 pears
        return [] if _AND_ANOTHER.search(said) else numbers[:1]
    prose = [word for word in _WORD.finditer(said) if is_prose(word[0])]
    after = said[prose[-1].end() :].strip(" .:,*$") if prose else ""
    return [after] if any(c.isdigit() for c in after) else numbers[:1]


def _begins_with_number(text: str) -> bool:
    return re.match(r"[\s$]*[-−]?[\s$]*\.?\d", text) is not None


def is_prose(text: str) -> bool:
    """Whether words stand there, other than those of formulas and units."""
    words = (word.lower() for word in _WORD.findall(_COMMAND.sub(" ", text)))
    return any(word in _SHORT_PROSE if len(word) == 2 else word not in _NO_PROSE for word in words)


def formulas_in(text: str) -> list[tuple[str, int, int]]:
    """(content, start, end) of every formula between math delimiters."""
    return [(inside(found), found.start(), found.end()) for found in MATH.finditer(text)]


def inside(found: re.Match) -> str:
    return next(group for group in found.groups() if group is not None).strip()

"""One spelling for answers that differ only in typesetting: \\dfrac12 and \\frac{1}{2}, 1{,}234 and 1,234."""

import re
from functools import lru_cache

MOST_CHARACTERS = 2_000
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "‑": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "′": "'",
        "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "±": r"\pm ", "√": r"\sqrt ", "°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "θ": r"\theta ",
        "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "∅": r"\emptyset ", "→": r"\to ", "，": ",", "：": ":",
        "（": "(", "）": ")", "％": "%", "≈": r"\approx ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "“": '"',
        "”": '"', "’": "'", "¢": r"\text{ cents}", "ℝ": r"\mathbb{R}", "⟨": r"\langle ", "⟩": r"\rangle ",
        "≡": r"\equiv ",
    }
)  # fmt: skip


def _matrix(found: re.Match) -> str:
    """[[1, 2], [3, 4]] as a matrix."""
    rows = re.findall(r"\[([^\[\]]*)\]", found[1])
    return r"\begin{pmatrix}" + r"\\".join(row.replace(",", "&") for row in rows) + r"\end{pmatrix}"


def _repeating(found: re.Match) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, once, again = found.groups()
    below = 10 ** len(once) * (10 ** len(again) - 1)
    above = int((whole or "0") + once + again) - int((whole or "0") + once)
    return f"\\frac{{{above}}}{{{below}}}"


def _arrangements(found: re.Match) -> str:
    """A_5^2, the ordered choices of 2 out of 5."""
    n, k = int(found[1]), int(found[2])
    return f"\\frac{{{n}!}}{{{n - k}!}}" if k <= n else found[0]


_REPLACED = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\(?=(?:d|t|c)?frac|sqrt|text|left|right|boxed|pi\b|cdot|times|infty|cup|pm)", r"\\"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?(?=\W|$)", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it|large|Large|,?ensuremath)(?![a-zA-Z])", ""),
        (r"\\(?:d|t|c|s|nice)frac(?![a-zA-Z])", r"\\frac"),
        (r"\\\\\s*\[-?[\d.]+\s*(?:pt|mm|cm|ex|em)\]", r"\\\\"),  # the height of a matrix's row
        (r"\{\s*,\s*\}", ","),
        (r"(?<=\d)(?:\\[,!; ]|,\\!|\{\\,\}|\\thinspace)\s*(?=\d{3}(?!\d))", ","),  # 12\,345
        (r",\\[!,]\s*", ","),
        (r"(?<!\\)\\(?:[!,:;> ]|quad|qquad|hspace\{[^{}]*\}|phantom\{[^{}]*\})", " "),
        (r"~", " "),
        (r"(?<!\\)\\[$()\[\]]|\$", ""),
        (r"(?<![\d.,/^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d/])", r"\1\\frac{\2}{\3}"),  # a mixed number
        (r"\\(?:mathrm|text|mathit)\s*\{\s*([ie])\s*\}", r"\1"),
        (
            r"\\(?:operatorname|mathrm|text)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot|csc)|sec|ln|log)\s*\}"
            r"|(?<![a-zA-Z\\])((?:arc)?(?:sin|cos|tan|cot|csc)|ln|log)(?=\s*[({\\^\d]|\s+[a-z](?![a-z]))",
            r"\\\1\2 ",
        ),
        (r"\\lg(?![a-zA-Z])", r"\\log_{10}"),
        (
            r"\\(sin|cos|tan|cot|sec|csc)\s*(\^\s*\{?\d\}?)?\s*[({]?\s*(\d{1,9}(?:\.\d{1,9})?)\s*"
            r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z]))\s*[)}]?",
            r"\\\1\2(\\frac{\3\\pi}{180})",
        ),
        (r"(?<![a-zA-Z\\])C_\{?(\d{1,3})\}?\^\{?(\d{1,3})\}?", r"\\binom{\1}{\2}"),
        (r"(?<![a-zA-Z\\])A_\{?(\d{1,3})\}?\^\{?(\d{1,3})\}?", _arrangements),
        (
            r"\\(?:mbox|textbf|textrm|textnormal|textit|texttt|textsf|mathrm|mathit|mathsf|operatorname\*?|hbox)\s*\{",
            r"\\text{",
        ),
        (r"\\(?:mathbf|boldsymbol|bold|vec|overrightarrow)\s*\{([a-zA-Z])\}", r"\1"),
        (r"\\(?:mathbf|boldsymbol)\s*\{([^{}]*)\}", r"\1"),
        (r"\\text\s*\{\s*(?:percent(?:age)?|\\?%)\s*\}|(?<![a-zA-Z\\])percent(?:age)?(?![a-zA-Z])|\\?%", r"\\%"),
        (r"(?:\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree)(?:\s*(?:\\text\s*\{\s*[CF]\s*\}|[CF](?![a-zA-Z])))?", ""),
        (r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*\{?(\d{1,20})\}?", _repeating),
        (r"\\overline\s*\{(\d+)\}", r"\1"),  # a number by its digits
        (r"\^\s*\{?o\}?(?![a-zA-Z])", ""),
        (r"\\text\s*\{\s*degrees?\s*\}|(?<=[\d }])degrees?\b", ""),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|(?<!\d)!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:ldots|cdots|dots)(?![a-zA-Z])", "..."),
        (
            r"\\(?:mathbb\s*\{?R\}?|Reals|R)(?![a-zA-Z])|\\text\s*\{\s*all real numbers\s*\}|^all real numbers$",
            r"\\mathbb{R}",
        ),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"(?<![a-zA-Z\\])(?:infinity|infty|inf|oo)(?![a-zA-Z])", r"\\infty"),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi"),
        (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])exp\s*\(([^()]*)\)", r"e^{\1}"),
        (r"(?<=\d)\s*\*?\s*[Ij](?![a-zA-Z])", "i"),  # as Python writes it
        (r"Interval\.open\(", "("),
        (r"(?:Matrix\()?\[\s*(\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*)\s*\]\)?", _matrix),
        (r"(?<![a-zA-Z\\])sqrt(?![a-zA-Z])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\[\d\])?\s*(\d+|[a-zA-Z])", r"\\sqrt\1{\2}"),
        (r"\\sqrt\s*\[([3579])\]\s*\{\s*-([\d.]+)\s*\}", r"(-\\sqrt[\1]{\2})"),  # the real root
        (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        (r"(?<![a-zA-Z\\])(?:minus|negative)\s+(?=[\d$\\.])", "-"),
        (r"\\frac\s*(\\[a-z]+|\d)\s*(\\[a-z]+|\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\\[a-z]+)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([a-zA-Z0-9])", r"\\frac\1{\2}"),
        (r"\\frac\s*([a-zA-Z0-9])\s*([a-zA-Z0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s+", r"\\frac"),
        (r"\*\*", "^"),
        (r"\\(?:therefore|implies|Rightarrow|boxed)(?![a-zA-Z])", ""),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"^\s*\\\{\s*[a-z]\s*(?:\||:|\\mid)(.*)\\\}\s*$", r"\1"),  # {x | x > 1}
        (r"(?<=\d)\s*(?:\\text\s*\{)?\s*hundred\b\s*\}?", r"\\times10^{2}"),
        (r"(?<=\d)\s*(?:\\text\s*\{)?\s*thousand\b\s*\}?", r"\\times10^{3}"),
        (r"(?<=\d)\s*(?:\\text\s*\{)?\s*million\b\s*\}?", r"\\times10^{6}"),
        (r"(?<=\d)\s*(?:\\text\s*\{)?\s*billion\b\s*\}?", r"\\times10^{9}"),
        (r"\\(?:approx|simeq|sim)(?![a-zA-Z])", r"\\approx "),
        (r"\\begin\{(?:matrix|bmatrix|smallmatrix|array)\}(?:\{[lcr|]+\})?", r"\\begin{pmatrix}"),
        (r"\\end\{(?:matrix|bmatrix|smallmatrix|array)\}", r"\\end{pmatrix}"),
        (r"(?:\(|\\?\[)\s*(\\begin\{pmatrix\}.*?\\end\{pmatrix\})\s*(?:\)|\\?\])", r"\1"),
        (r"(?:\\\\|\\cr)\s*(?=\\end\{pmatrix\})", ""),
        (r"\\cr(?![a-zA-Z])", r"\\\\"),
        (r"(?<![\d.])\.(?=\d)", "0."),
    )
)
_SEPARATOR = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(?:and|or|,)\s*\}|\\lor(?![a-z])|(?<![a-zA-Z])(?:and|or)(?![a-z]))\s*|\s*;\s*"
)
_WORDS_OF_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_WORDS_OF_NUMBERS.split())}
# Beside one of these a number is not the number that is said: not 5, 5 or 6, minus 5, 5 squared.
CHANGING_WORDS = re.compile(
    r"\b(?:not?|wrong|incorrect|neither|nor|or|either|else|between|maybe|perhaps|rather|half|twice|minus|negative|"
    r"below|less than|hundreds?|squared|cubed)\b|n['’]t\b",
    re.IGNORECASE,
)
_CHANGES = re.compile(rf"\b(?:and|mod)\b|{CHANGING_WORDS.pattern}", re.IGNORECASE)
_TIME = re.compile(r"(?<![\d.,])(\d{1,2}(?::\d\d)?)\s*(\\text\s*\{)?\s*([ap])\.?\s*m\b\.?\s*(?(2)\})", re.IGNORECASE)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LAST_UNIT = re.compile(r"\s*\\text\s*\{[^{}]*\}\s*(?:\^\s*\{?\s*\d\s*\}?)?$")
_UNIT_WORDS = (
    "cm|mm|km|ft|in|kg|mg|lb|lbs|oz|ml|hr|hrs|min|mph|kph|sec|rad|usd|eur|"
    "inch|inches|foot|feet|mile|miles|meter|meters|metre|metres|yard|yards|gram|grams|kilogram|kilograms|liter|liters|litre|litres|"
    "second|seconds|minute|minutes|hour|hours|day|days|week|weeks|month|months|year|years|"
    "dollar|dollars|cent|cents|buck|bucks|pound|pounds|euro|euros|unit|units|square|cubic|sq|per|radian|radians|"
    "people|person|student|students|way|ways|time|times|point|points|value|values|integer|integers|number|numbers|solution|solutions"
)
_UNITS = re.compile(
    # a single letter beside a number is a variable unless a space stands between
    rf"(?:(?<=[\d)}}])\s*(?![mshlg]\b)|(?<=\d)\s+|(?<=\\pi)\s+)"
    rf"(?:(?:{_UNIT_WORDS}|[mshlg])(?:\s*\^\s*\{{?\d\}}?)?(?:\s+|\s*/\s*|$))+$"
)
_NUMBER_AND_WORDS = re.compile(
    r"(-?\d(?:[\d,]*\d)?(?:\.\d+)?(?:\s*/\s*\d+)?)((?:\s+(?:[A-Za-z]{3,}|a|of|in|ft|cm|km|kg|lb))+)\.?"
)
_DECIMAL_AND_LETTER = re.compile(r"(-?\d[\d,]*\.\d+)\s*[msg](?:\^\{?\d\}?)?")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


@lru_cache(maxsize=20_000)
def normal_text(text: str, *, keep_units: bool = False) -> str:
    """The answer in one spelling, without spaces, currency, units and typesetting; "" if nothing is left.

    What is longer than any answer stays as it is.
    """
    if len(text) > MOST_CHARACTERS:
        return text.strip()
    text = _TIME.sub(lambda found: f"{found[1]}{found[3].lower()}m", text.translate(_CHARACTERS))
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = text.strip().strip('`"').strip()
    text = _SEPARATOR.sub(", ", text)
    text = re.sub(r"^(?:[a-zA-Z]\s*=?\s*)?\\approx\s*", "", text)
    if not keep_units:
        text = _without_units(text)
    text = re.sub(r"\s*\\text\s*\{\s*\}", "", text)
    text = _joined_thousands(text)
    text = _TEXT.sub(lambda found: found[1].strip(), text)
    text = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", r"\1 ", text)
    text = re.sub(r"(?<=\d)\s+(?=\d{3}(?!\d))", "", text)  # 12 345
    text = re.sub(r"(?<=\d)\s+(?=\d)", "\0", text)  # 4 2 is not 42
    text = re.sub(r"(?<!\\)\s+", "", re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", text)).replace("\0", " ")
    while text and text[-1] in ".,;:?" and not text.endswith("..."):
        text = text[:-1]
    text = text.lstrip(",;:=")
    while len(text) > 2 and text[0] == "{" and _closes_at_end(text):
        text = text[1:-1]
    if re.fullmatch(r"no(?:real)?solutions?|\\\{\\\}|\\emptyset", text, re.IGNORECASE):
        return r"\emptyset"
    return _NUMBER_WORDS.get(text.lower(), text)


def _without_units(text: str) -> str:
    if (found := _NUMBER_AND_WORDS.fullmatch(text)) and not _CHANGES.search(found[2]):
        return found[1]
    if found := _DECIMAL_AND_LETTER.fullmatch(text):
        return found[1]
    while (last := _LAST_UNIT.search(text)) and not CHANGING_WORDS.search(last[0]):
        shorter = text[: last.start()].rstrip(" ,")
        if not re.search(r"[\d\\a-zA-Z]", shorter):
            break
        text = shorter
    return _UNITS.sub("", text if text.endswith("...") else text.rstrip(". "))


def _joined_thousands(text: str) -> str:
    """Without the commas of 1,234. In (100,200) and in 1,100,20 commas separate, in 1,000, 2,000 those with a space."""
    if re.fullmatch(r"\s*-?0,\d+\s*", text):
        return text.replace(",", ".")  # no thousands begin with 0: a decimal comma
    if re.fullmatch(r"\s*-?\d{1,3}(?:\.\d{3})+,\d{1,2}\s*", text):
        return text.replace(".", "").replace(",", ".")  # 1.234,50
    if re.search(r"\d,\s", text):
        return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    is_bracketed = any(bracket in text for bracket in "([") or r"\{" in text
    if is_bracketed or re.search(r",(?!\d{3}(?!\d))", text):
        return text
    return _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return i == len(text) - 1
    return False


def split_list(text: str) -> list[str]:
    """The parts between the commas that stand outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part for part in [*parts, text[start:]] if part]


def listed(text: str) -> list[str]:
    """The elements of a bare list 1,2 or a set \\{1,2\\} in normal spelling; both of a \\pm b; else the text alone."""
    inside = re.fullmatch(r"\\\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\\\}", text)
    parts = []
    for part in split_list(inside[1] if inside else text):
        if part.count(r"\pm") == 1:
            parts += [re.sub(r"\\pm\s*", sign, part).removeprefix("+").replace("=+", "=") for sign in "+-"]
        else:
            parts.append(part)
    return parts

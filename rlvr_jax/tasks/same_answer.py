"""Whether two answers are the same one, where that can be told without algebra."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

from rlvr_jax.tasks.answer_text import MOST_CHARACTERS, listed, normal_text, split_list
from rlvr_jax.tasks.plain_number import PlainNumber, plain_number

# f(x)=, x=, (p,q,r)=, V_{1}:V_{2}=, x\in: what is assigned counts, not its name
_ASSIGNED = re.compile(
    r"(?:[a-zA-Z]\w*(?:_\{?\w+\}?)?'?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?|\([a-zA-Z](?:,[a-zA-Z])+\)|[A-Z]{2,3}|\\[a-z]+|[\w{}]+:[\w{}:]+)(?:=|\\in)"
)
_SUM = re.compile(r"[-\d.,+*/()^]*[-+*/^][-\d.,+*/()^]*=(-?[\d.,/]+)")
_CHOICE = re.compile(r"\(?([A-J])\)?[.):]?")
_WORD = re.compile(r"(?=.{3}|(?i:no$))[A-Za-z]{2,}(?:[-'.][A-Za-z]{2,})*\.?")
_MOST_COMPARISONS = 2_500  # of the elements of two lists; longer ones are compared letter by letter
_DECIMAL_COMMA = re.compile(r"-?\d+,\d{1,2}")  # 3,14: a list, but not beside 3.14
_TIME = re.compile(r"\d{1,2}(?::\d\d)?[ap]m")
_IN_BRACKETS = re.compile(r"(\\\{|[\[(])(.*?)(\\\}|[\])])", re.DOTALL)
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_WITH_BASE = re.compile(r"([0-9A-Z]+)_\{?(\d+|[a-z]+)\}?")
# A double as programs print it, rounding errors and all, is the number it was computed for; 0.3333 is not 1/3.
_PRINTED_DIGITS = 12
_PRINTED_DENOMINATOR = 10**12
_PRINTED_ERROR = Fraction(1, 10**10)  # relative, up to numbers of this size:
_LARGEST_INEXACT = 10**4


@dataclass(frozen=True)
class Policy:
    """Matters of taste, each off unless named; the names are those of --policy and task.answer_policy."""

    exact_percent: bool = False  # 50% is 0.5 and not 50; off: the sign may be left out, and both count
    ordered_lists: bool = False  # 1,2 is not 2,1; off: order counts only inside (...) and matrices
    reduced_fractions: bool = False  # 2/4 is not 1/2
    rounded: bool = False  # 0.33 and 33.3 are 1/3 and 100/3: equal after rounding to the digits that are shown
    units: bool = False  # 5 cm is not 5
    marked_only: bool = False  # an answer counts only where "####", a box or "answer is" marks it


POLICIES = tuple(field.name for field in fields(Policy))


def policy_of(names: Sequence[str]) -> Policy:
    """The policy that these names switch on. Raises ValueError naming one that does not exist."""
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"answer policy {name!r} does not exist; the names are {', '.join(POLICIES)}")
    return Policy(**dict.fromkeys(names, True))


def same_answer(answer: str, gold: str, *, policy: Policy) -> bool | None:
    """Whether two answers as they stand in texts are the same; None if only algebra can tell.

    An empty answer equals nothing, another empty one included.
    """
    number, gold_number = plain_number(answer), plain_number(gold)
    if number and gold_number:
        return _same_number(number, gold_number, policy)
    if max(len(answer), len(gold)) > MOST_CHARACTERS:
        return bool(answer.strip()) and answer.strip() == gold.strip()  # letter by letter or not at all
    normal = normal_text(answer, keep_units=policy.units)
    normal_gold = normal_text(gold, keep_units=policy.units)
    if not normal or not normal_gold:
        return False
    return same_normal(normal, normal_gold, policy=policy)


def same_normal(answer: str, gold: str, *, policy: Policy) -> bool | None:
    """`same_answer` of two answers in normal spelling."""
    if answer == gold:
        return True
    if plain_number(gold) and _says_two_numbers(answer):
        return False
    answer, gold = _without_names(answer, gold)
    if answer == gold:
        return bool(answer)
    number, gold_number = plain_number(answer), plain_number(gold)
    if number is None and gold_number and _DECIMAL_COMMA.fullmatch(answer) and gold_number.n_decimals:
        number = plain_number(answer.replace(",", "."))
    if gold_number is None and number and _DECIMAL_COMMA.fullmatch(gold) and number.n_decimals:
        gold_number = plain_number(gold.replace(",", "."))
    if number and gold_number:
        return _same_number(number, gold_number, policy)
    if gold_number and _cannot_be_a_number(answer):
        return False
    if (is_same_word := _same_words(answer, gold)) is not None:
        return is_same_word
    brackets, gold_brackets = _IN_BRACKETS.fullmatch(answer), _IN_BRACKETS.fullmatch(gold)
    if brackets and gold_brackets and _is_flat(brackets[2]) and _is_flat(gold_brackets[2]):
        is_alike = (brackets[1], brackets[3]) == (gold_brackets[1], gold_brackets[3])
        if not is_alike and len(split_list(gold_brackets[2])) > 1:
            return False  # [1,2) is not [1,2], and {1,2} not (1,2)
    if brackets and (brackets[1], brackets[3]) in (("[", "]"), ("(", ")")) and len(split_list(gold)) > 1:
        answer, brackets = brackets[2], None  # a list in brackets where a list without them is asked for
    parts, gold_parts = listed(answer), listed(gold)
    if (len(parts) > 1 and len(gold_parts) > 1) or (parts, gold_parts) != ([answer], [gold]):
        return _same_parts(parts, gold_parts, is_ordered=policy.ordered_lists, policy=policy)
    if (matrix := _MATRIX.fullmatch(answer)) and (gold_matrix := _MATRIX.fullmatch(gold)):
        return _same_matrix(matrix[1], gold_matrix[1], policy)
    if answer.count(":") > 1 and gold.count(":") > 1:  # 1:2:3, which algebra would read as a quotient
        return _same_parts(answer.split(":"), gold.split(":"), is_ordered=True, policy=policy)
    if gold_number and (found := _WITH_BASE.fullmatch(answer)) and found[2].isdecimal():
        return _value_of(found[1], int(found[2])) == gold_number.value
    if _WITH_BASE.fullmatch(gold) and re.fullmatch(r"[0-9A-Z]+(_.*)?", answer):
        return answer.replace("{", "").replace("}", "") == gold.replace("{", "").replace("}", "")
    if brackets and gold_brackets and _is_flat(brackets[2]) and _is_flat(gold_brackets[2]):
        parts, gold_parts = split_list(brackets[2]), split_list(gold_brackets[2])
        if is_alike and max(len(parts), len(gold_parts)) > 1:
            return _same_parts(parts, gold_parts, is_ordered=True, policy=policy)
    return None


def _value_of(digits: str, base: int) -> int | None:
    """Of 11_2, which is 3; None if they are no digits of that base."""
    try:
        return int(digits, base) if base else None
    except ValueError:
        return None


def _is_flat(inside: str) -> bool:
    return not re.search(r"[()\[\]]|\\[{}]|\\cup", inside)


def _same_parts(parts: list[str], gold_parts: list[str], *, is_ordered: bool, policy: Policy) -> bool | None:
    if is_ordered:
        if len(parts) != len(gold_parts):
            return False
        each = [same_normal(part, gold, policy=policy) for part, gold in zip(parts, gold_parts, strict=True)]
        return False if False in each else None if None in each else True
    if len(parts) * len(gold_parts) > _MOST_COMPARISONS:
        return sorted(parts) == sorted(gold_parts)
    if len(set(gold_parts)) > len(set(parts)) or any(r"\pm" in part for part in (*parts, *gold_parts)):
        return None
    left, is_sure = list(parts), True
    for gold in gold_parts:
        each = [same_normal(part, gold, policy=policy) for part in left]
        if True in each:
            del left[each.index(True)]
        elif None in each:
            is_sure = False
        else:
            return False
    if not is_sure:
        return None
    # 1,1,2 as roots with their multiplicity are the set 1,2
    return all(any(same_normal(part, gold, policy=policy) for gold in gold_parts) for part in left)


def _same_number(number: PlainNumber, gold: PlainNumber, policy: Policy) -> bool:
    if policy.reduced_fractions and gold.is_reduced and not number.is_reduced:
        return False
    values, gold_values = {number.value}, {gold.value}
    if policy.exact_percent:
        values = {number.value / 100 if number.is_percent else number.value}
        gold_values = {gold.value / 100 if gold.is_percent else gold.value}
    else:
        values |= {number.value / 100} if number.is_percent and not gold.is_percent else set()
        gold_values |= {gold.value / 100} if gold.is_percent and not number.is_percent else set()
    return any(_is_close(a, number, b, gold, policy) for a in values for b in gold_values)


def _is_close(value: Fraction, number: PlainNumber, gold_value: Fraction, gold: PlainNumber, policy: Policy) -> bool:
    if value == gold_value:
        return True
    difference = abs(value - gold_value)
    allowed = min(abs(value), _LARGEST_INEXACT) * _PRINTED_ERROR
    if any(_is_printed_float(written) for written in (number, gold)) and difference <= allowed:
        return True
    decimals = [written.n_decimals for written in (number, gold) if written.n_decimals]
    return policy.rounded and any(difference <= Fraction(1, 2 * 10**n) for n in decimals)


def _is_printed_float(number: PlainNumber) -> bool:
    if number.n_decimals:
        return (
            len(str(abs(number.value.numerator * 10**number.n_decimals // number.value.denominator))) >= _PRINTED_DIGITS
        )
    return number.value.denominator >= _PRINTED_DENOMINATOR


def _same_matrix(inside: str, gold_inside: str, policy: Policy) -> bool | None:
    rows, gold_rows = ([row.split("&") for row in text.split(r"\\")] for text in (inside, gold_inside))
    if [len(row) for row in rows] != [len(row) for row in gold_rows]:
        return False
    entries, gold_entries = ([entry for row in matrix for entry in row] for matrix in (rows, gold_rows))
    return _same_parts(entries, gold_entries, is_ordered=True, policy=policy)


def _same_words(answer: str, gold: str) -> bool | None:
    """For golds that are a word or the letter of a choice; None for all others."""
    if choice := _CHOICE.fullmatch(gold):
        is_one = len(re.findall(r"(?<![A-Za-z])[A-J](?:[).:]|$)", answer)) == 1  # "A) 3 B) 4" chooses nothing
        if found := _CHOICE.fullmatch(answer) or (is_one and re.match(r"\(?([A-J])[).:]", answer)):
            return found[1] == choice[1]
        return None
    if _TIME.fullmatch(gold) and _TIME.fullmatch(answer):
        return False  # equal ones are equal texts
    if not _WORD.fullmatch(gold) or (len(gold) <= 4 and not answer.isalpha()):
        return None  # abc may be a product
    words = [text.strip("().").casefold() for text in (answer, gold)]
    words = [re.sub(r"^(?:an?|the)(?=[a-z]{4})", "", word) if words[0] != words[1] else word for word in words]
    # of letters that stand for variables, the order does not count: that is algebra
    return words[0] == words[1] or (None if sorted(words[0]) == sorted(words[1]) else False)


def _says_two_numbers(text: str) -> bool:
    """5=6 and the like."""
    numbers = [plain_number(part) for part in text.split("=")] if "=" in text else []
    return len({number.value for number in numbers if number}) > 1


def _cannot_be_a_number(text: str) -> bool:
    """An inequality, two numbers side by side, or an expression in variables that nothing binds."""
    if re.search(r"[<>]|\.\.\.$|squared|cubed|hundred|below|\\[lg]e(?![a-z])|(?<![_^{\d])\d+ \d", text):
        return True
    if re.search(r"=|\\(?:lim|sum|int|prod|text)|\d[A-Za-z]$", text):
        return False
    return re.search(r"(?<![\\a-zA-Z])[a-df-hj-zA-BD-OQ-Z](?![a-zA-Z])", text) is not None


def _without_names(answer: str, gold: str) -> tuple[str, str]:
    """Both without "x=" where one side has it or both have the same; the last of a chain of equations."""
    answer, gold = _chain_end(answer), _chain_end(gold)
    if answer.endswith("=0") and "=" not in gold and not plain_number(gold):
        answer = answer[:-2]
    name, gold_name = _ASSIGNED.match(answer), _ASSIGNED.match(gold)
    rest, gold_rest = (text[found.end() :] if found else text for text, found in ((answer, name), (gold, gold_name)))
    if (name and "=" in rest) or (gold_name and "=" in gold_rest):
        return answer, gold
    is_function = any("(x)" in found[0] for found in (name, gold_name) if found)
    if name and gold_name and name[0] != gold_name[0] and not is_function:
        return answer, gold
    if (name and not gold_name and "=" in gold) or (gold_name and not name and "=" in answer):
        return answer, gold
    return rest or answer, gold_rest or gold


def _chain_end(text: str) -> str:
    """x=11 of x=5+6=11, and 11 of 5+6=11; lists of equations stay."""
    if found := _SUM.fullmatch(text):
        return found[1]
    if found := re.fullmatch(r"([^=]+)=([a-z])", text):
        return f"{found[2]}={found[1]}"
    if text.count("=") < 2 or "," in text or r"\le" in text or r"\ge" in text:
        return text
    parts = text.split("=")
    return f"{parts[0]}={parts[-1]}" if _ASSIGNED.match(parts[0] + "=") else parts[-1]


def canonical_answer(text: str) -> str:
    """A spelling that equal answers share as far as that can be told without algebra; numbers become fractions.

    Unlike `same_answer` it must hold without a gold beside it: "x=5" and "5" share one, 50% and 0.5 do not.
    """
    if len(text) > MOST_CHARACTERS:
        return text[:MOST_CHARACTERS]
    normal = _chain_end(normal_text(text))
    if (name := _ASSIGNED.match(normal)) and "=" not in normal[name.end() :]:
        normal = normal[name.end() :] or normal
    if number := plain_number(normal):
        return str(number.value)
    if choice := _CHOICE.fullmatch(normal):
        return choice[1]
    if (brackets := _IN_BRACKETS.fullmatch(normal)) and _is_flat(brackets[2]):
        inside = [_canonical_part(part) for part in split_list(brackets[2])]
        return brackets[1] + ",".join(sorted(inside) if brackets[1] == r"\{" else inside) + brackets[3]
    if len(parts := split_list(normal)) > 1:
        return ",".join(sorted(_canonical_part(part) for part in parts))
    return normal.casefold() if re.fullmatch(r"[A-Za-z'.-]{3,}", normal) else normal


def _canonical_part(part: str) -> str:
    number = plain_number(part)
    return str(number.value) if number else part

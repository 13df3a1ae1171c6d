"""Where a solution states its answer: the rules, in their order, that find it."""

import re
from dataclasses import dataclass

from rlvr_jax.tasks.answer_readings import MATH, SAYS, formulas_in, inside, is_prose, readings_of
from rlvr_jax.tasks.plain_number import numbers_in

MOST_CHARACTERS = 32_000  # of a text, from its end: an answer stands there, and a hostile text costs no more
_MOST_BOXES = 20  # or phrases that are looked at, from the end
_MOST_WORD_CHARACTERS = 60  # of an answer in words, such as "Evelyn" or "4:30 p.m."

_BOX = re.compile(r"\\f?box(?:ed)?(?![a-zA-Z])\s*")
_BARE_BOX = re.compile(r"\\?[^\s${}]+")
_ANSWER_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
_FINAL_ANSWER = re.compile(
    r"\bfinal answer\b[\s*:_]{0,4}(?:is\b|:|=|\n|\*\*)[\s*:_]{0,4}(?:the final answer is\b:?)?", re.IGNORECASE
)
_ANSWER_IS = re.compile(
    r"\banswer\b[^.\n]{0,60}?(?:\b(?:is|are)(?:n['’]t)?\b|:|=)(?:\s*:)?|^[ \t]{0,8}A:", re.IGNORECASE | re.MULTILINE
)
_HOPE = re.compile(r"\.?[ \n]{0,3}I hope (?:it|this) is correct.*", re.DOTALL | re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!](?=\s+[A-Z]|\s*$)")
_FENCE = re.compile(r"```(\w*)\n?(.*?)(?:```|\Z)", re.DOTALL)
_LANGUAGES = (
    "python python3 py c cpp java javascript js typescript ts rust go ruby r bash sh shell sql matlab julia sage php "
    "swift kotlin haskell lua perl scala output"
)
_PROGRAMS = frozenset(_LANGUAGES.split())
_CHAT_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>")
_NEXT_QUESTION = re.compile(
    r"\n[ \t]{0,8}(?:#{1,4} ?)?(?:Q|Question|Problem|Human|User|Instruction)(?: \d{1,4})?:", re.IGNORECASE
)
_CALCULATOR = re.compile(r"<<[^<>\n]{1,200}>>")  # GSM8K's: 9*2 = <<9*2=18>>18
_ASYMPTOTE = re.compile(r"\[asy\].{0,4000}?\[/asy\]", re.DOTALL)
_BETWEEN_BOXES = re.compile(r"[^.\n]{0,40}?(?:,|;|\band\b|\bor\b)[^.\n]{0,40}|[\s,;$]{0,6}")
_BOLD = re.compile(r"(?<![\w)}])\*\*([^*\n]+)\*\*(?![\w(])")
_NOT_OR = re.compile(r"\b(?:not|or)\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class FinalAnswer:
    """An answer as it stands in a text."""

    text: str
    rule: str  # which rule found it
    readings: tuple[str, ...]  # of that same place, the most literal first: "18 dollars a day", "18"
    joined: str | None = None  # "1, 2" where the text ends with \\boxed{1} and \\boxed{2}
    is_sentence: bool = False  # of words, for which algebra has no use; the readings beside it may be formulas

    @property
    def is_marked(self) -> bool:
        """The text says that this is the answer."""
        return self.rule not in ("whole text", "last formula", "last number", "output", "last words")


def has_marked_answer(text: str) -> bool:
    """Whether the text says where its answer is with "####" or a box, what a format reward asks for."""
    tail = text.rstrip()[-MOST_CHARACTERS:]
    return re.search(r"####\s*\S", tail) is not None or any(content for content, _, _ in _boxes(tail))


def final_answer(text: str, *, prefer_hashes: bool) -> FinalAnswer | None:
    """The answer of a completion; None without one.

    In this order: what "####" marks (if preferred; else it counts like the box), then the last of <answer> tags,
    \\boxed{} or \\fbox{} and "final answer is", then the last "answer is", "answer:" or line "A:". A text
    without any of these is its own answer if it is but a formula; else its last formula or number counts,
    else the output of its last program. Questions that follow an answer do not count. Code itself, and a
    program cut short, hold no answer. What stands in <think> counts only if nothing after it does.
    """
    text = _CALCULATOR.sub("", _CHAT_TOKEN.sub(" ", text.rstrip()[-MOST_CHARACTERS:])).replace("\0", " ")
    thought, is_thought, said = text.rpartition("</think>")
    if is_thought and (found := _found(said, prefer_hashes=prefer_hashes)):
        is_remark = found.rule == "last words"  # "I hope this helps."
        return (is_remark and _stated(thought, prefer_hashes=prefer_hashes)) or found
    return _found(text, prefer_hashes=prefer_hashes)


def _found(text: str, *, prefer_hashes: bool) -> FinalAnswer | None:
    prose, output = _without_code(text)
    if (next_question := _NEXT_QUESTION.search(prose)) and (
        found := _stated(prose[: next_question.start()], prefer_hashes=prefer_hashes)
    ):
        return found  # a base model goes on with a question of its own
    return _stated(prose, prefer_hashes=prefer_hashes) or _unmarked(prose) or (output and _output(output)) or None


def _stated(text: str, *, prefer_hashes: bool) -> FinalAnswer | None:
    """The answer that a mark announces."""
    found = _after_hashes(text) if prefer_hashes else None
    return found or _marked(text, prefer_hashes=prefer_hashes) or _said(text)


def gold_answer(text: str) -> str:
    """The answer in a gold that may be a whole solution, a text with $...$ or a box; "" if it holds none."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    text = _HOPE.sub("", text.strip())
    if boxes := _boxes(text):
        return _joined(boxes, text) or boxes[-1][0]
    formulas = formulas_in(text)
    if formulas and is_prose(MATH.sub(" ", text)):
        is_only_its_unit = text.startswith("$") and len(text) <= _MOST_WORD_CHARACTERS
        return text if is_only_its_unit else formulas[-1][0]
    return text


def _without_code(text: str) -> tuple[str, str]:
    """The text without its ``` blocks, and what the last of these says if it is some program's output."""
    if "```" not in text:
        return text, ""
    output = ""
    for kind, content in _FENCE.findall(text):
        output = content if kind in ("output", "") else ""
    # a fence without the name of a language is Markdown around a formula as often as it is code
    kept = _FENCE.sub(lambda found: " " if found[1].lower() in _PROGRAMS else f" {found[2]} ", text)
    return kept, output


def _after_hashes(text: str) -> FinalAnswer | None:
    _, is_there, after = text.rpartition("####")
    line = after.strip().partition("\n")[0].strip()
    return _answer(line, "####") if is_there and line else None


def _marked(text: str, *, prefer_hashes: bool) -> FinalAnswer | None:
    """The last of the strong marks."""
    found: list[tuple[int, FinalAnswer]] = []
    if boxes := _boxes(text):
        content, start, _ = boxes[-1]
        found.append((start, _answer(content, "box", joined=_joined(boxes, text))))
    if tags := list(_ANSWER_TAG.finditer(text)) if "</" in text else []:
        inside = _boxes(tags[-1][1])
        found.append((tags[-1].start(), _answer(inside[-1][0] if inside else tags[-1][1].strip(), "<answer>")))
    if not prefer_hashes and (hashes := _after_hashes(text)) and any(c.isdigit() or c in "$\\" for c in hashes.text):
        found.append((text.rfind("####"), hashes))
    if phrases := list(_FINAL_ANSWER.finditer(text)):
        said = _statement(text[phrases[-1].end() :])
        # "Final Answer: as boxed above" marks nothing
        if said and "box" not in said and (not found or any(c.isdigit() or c == "$" for c in said)):
            if (says := SAYS.split(said)) and len(says) > 1 and says[-1].strip():
                said = says[-1]
            found.append((phrases[-1].start(), _answer(said, "final answer is")))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _said(text: str) -> FinalAnswer | None:
    for phrase in reversed(list(_ANSWER_IS.finditer(text))[-_MOST_BOXES:]):
        if said := _statement(text[phrase.end() :]):
            is_negated = phrase[0].endswith("t")
            return _answer(f"not {said}" if is_negated else said, "answer is")
    return None


def _statement(after: str) -> str:
    """The rest of the sentence after a mark, or the formula that follows it."""
    after = _HOPE.sub("", after).lstrip(" \t\n*:_}")
    formula = MATH.match(after)
    line = after.partition("\n")[0]
    if formula and (formula.end() > len(line) or not line[formula.end() :].strip(" .*")):
        return inside(formula)
    end = _SENTENCE_END.search(line)
    said = (line[: end.start()] if end else line).strip(" *_")
    return said.rstrip('"} ') if said.count("}") > said.count("{") else said  # of {"answer": "7"}


def _unmarked(text: str) -> FinalAnswer | None:
    text = _BOLD.sub(r"\1", text).strip()
    if not text:
        return None
    outside = MATH.sub(" ", text)
    if "\n" not in text and len(text) <= 400 and not is_prose(outside) and not _sentence_break(outside):
        return FinalAnswer(text, "whole text", (text,))
    text = _ASYMPTOTE.sub(" ", text) if "[/asy]" in text else text
    formulas = formulas_in(text)
    n_after = len(text) - formulas[-1][2] if formulas else len(text)
    numbers = numbers_in(text[len(text) - n_after :])
    if numbers:
        return FinalAnswer(numbers[-1], "last number", (numbers[-1],))
    if formulas:
        content = formulas[-1][0]
        return _answer(content, "last formula", joined=_joined(formulas, text))
    if len(text) <= _MOST_WORD_CHARACTERS and "\n" not in text:
        words = () if _NOT_OR.search(text) else (SAYS.split(text)[-1], text.split()[-1])
        return FinalAnswer(text, "last words", tuple(dict.fromkeys((text, *words))), is_sentence=True)
    return None


def _output(output: str) -> FinalAnswer | None:
    line = output.strip().rpartition("\n")[2].strip()
    if not line or re.match(r"\w*(Error|Exception|Timeout)\b", line):
        return None
    return _answer(line, "output")


def _answer(text: str, rule: str, *, joined: str | None = None) -> FinalAnswer:
    text = text.strip().strip("*_").strip()
    readings = readings_of(text)
    is_sentence = len(readings) > 1 or (
        any(character.isdigit() for character in text) and is_prose(MATH.sub(" ", text))
    )
    return FinalAnswer(text, rule, readings, joined, is_sentence)


def _sentence_break(text: str) -> bool:
    return re.search(r"[.!?]\s+[A-Z]", text) is not None


def _boxes(text: str) -> list[tuple[str, int, int]]:
    """(content, start, end) of every outermost box; one that is never closed holds the rest of its line."""
    boxes: list[tuple[str, int, int]] = []
    end = 0
    for found in list(_BOX.finditer(text))[-_MOST_BOXES:]:
        if found.start() < end:
            continue  # a box in a box
        start = found.end()
        if text[start : start + 1] == "{":
            end = _closing_brace(text, start)
            content = text[start + 1 : end]
            end += 1
        elif bare := _BARE_BOX.match(text, start):
            content, end = bare[0].rstrip(".,;"), bare.end()
        else:
            continue
        while inner := _BOX.match(content):  # \boxed{\boxed{5}}
            content = content[inner.end() :].strip().removeprefix("{").removesuffix("}")
        boxes.append((content.strip(), found.start(), end))
    return boxes


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for found in re.finditer(r"(?<!\\)[{}]|\\[{}]", text[start:]):
        if len(found[0]) == 2:
            continue
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return start + found.start()
    newline = text.find("\n", start)
    return len(text) if newline < 0 else newline


def _joined(boxes: list[tuple[str, int, int]], text: str) -> str | None:
    """The boxes (or formulas) at the end that commas, "and" or "or" join; None if it is but one."""
    contents = [boxes[-1][0]]
    for (content, _, end), (_, next_start, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[end:next_start]
        if len(between) > 90 or not _BETWEEN_BOXES.fullmatch(between):
            break
        contents.insert(0, content)
    return ", ".join(dict.fromkeys(contents)) if len(contents) > 1 else None

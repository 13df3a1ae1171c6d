"""Tables of rows as text that shows what a model wrote and is never taken for markup."""

from typing import Any

from rlvr_jax.analysis.read_runs import Row

_FIRST_COLUMNS = ("prompt", "completion", "answer")
_TEXT_ROWS, _TEXT_CHARACTERS = 64, 200  # of a table and of each of its cells, in TensorBoard
# a character reference is text to Markdown and to HTML alike, whatever stands around it
_ESCAPES = str.maketrans({character: f"&#{ord(character)};" for character in "\\`*_[]<>&|"})


def table_columns(rows: list[Row]) -> list[str]:
    """The rows' names, those one looks for first in front; without `update`, which every sink knows."""
    names = dict.fromkeys(name for row in rows for name in row if name != "update")
    return sorted(names, key=lambda name: _FIRST_COLUMNS.index(name) if name in _FIRST_COLUMNS else len(_FIRST_COLUMNS))


def markdown_table(rows: list[Row]) -> str:
    """The first rows, whatever a model wrote into them: one line each, and nothing in them is markup."""
    columns = table_columns(rows)
    lines = [columns, ["---"] * len(columns)]
    for row in rows[:_TEXT_ROWS]:
        texts = (shortened(_text(row.get(column, "")), _TEXT_CHARACTERS) for column in columns)
        lines.append([visible(text, kept="").translate(_ESCAPES) for text in texts])
    lines[0] = [column.translate(_ESCAPES) for column in columns]
    return "\n".join("|" + "|".join(line) + "|" for line in lines)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shortened(text: str, n_characters: int) -> str:
    """Its beginning and its end, where the answer is."""
    n_end = n_characters // 4
    return text if len(text) <= n_characters else f"{text[: n_characters - n_end - 3]} … {text[-n_end:]}"


def visible(text: str, *, kept: str) -> str:
    """Newlines, control characters, lone surrogates and the like as escapes: not every encoder takes them."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)

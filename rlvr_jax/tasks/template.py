"""Prompts out of rows: `{field}` in braces, `{{` and `}}` for braces themselves.

Not str.format, which would look up attributes and indices on a user's data.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]+)\}|[{}]")


class Template:
    """A prompt with fields of a row in braces."""

    def __init__(self, text: str):
        """Raises ValueError if `text` has a lone brace or no field at all."""
        self._pieces: list[tuple[str, str | None]] = []  # (text before, field or None)
        end = 0
        for piece in _PIECE.finditer(text):
            before, end = text[end : piece.start()], piece.end()
            if piece["field"]:
                self._pieces.append((before, piece["field"].strip()))
            elif len(piece.group()) == 2:
                self._pieces.append((before + piece.group()[0], None))
            else:
                raise ValueError(
                    f"task.template={text!r} has a lone {piece.group()} at character {piece.start() + 1}; "
                    "write {field} for a field of the row, {{ and }} for braces themselves"
                )
        self._pieces.append((text[end:], None))
        if not any(field for _, field in self._pieces):
            raise ValueError(
                f"task.template={text!r} names no field, so every prompt would be the same; "
                "write {field} where a field of the row belongs"
            )

    @property
    def fields(self) -> frozenset[str]:
        """The fields it names."""
        return frozenset(field for _, field in self._pieces if field)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row. Raises ValueError naming the field that is missing or no text."""
        return "".join(
            before + (field_text(row, field, setting="task.template") if field else "")
            for before, field in self._pieces
        )


def field_text(row: Mapping[str, Any], field: str, *, setting: str) -> str:
    """A field as text. Raises ValueError if there is none or it is no text, number or truth value.

    Args:
        setting: which setting named the field, for the message.
    """
    if field not in row:
        nearest = difflib.get_close_matches(field, row, n=1, cutoff=0.0)
        if not nearest:
            raise ValueError(f"no field {field!r}, which {setting} names: the row is empty")
        known = ", ".join(repr(name) for name in row)
        raise ValueError(
            f"no field {field!r}, which {setting} names; did you mean {nearest[0]!r}? "
            f"It has {known}; change {setting} or the row"
        )
    value = row[field]
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value)
    found = {dict: "an object", list: "a list", type(None): "null"}.get(type(value), type(value).__name__)
    raise ValueError(f"field {field!r}, which {setting} names, is {found}; it must be text or a number")

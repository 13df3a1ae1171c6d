"""A CSV file of any program as text by column, with faults that name file, line, value and fix."""

import csv
import difflib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LARGEST = 10**12  # of a whole number: beyond it, a field is in the wrong column
_LEAST_LIKENESS = 0.65  # of a column's name to one of ours: below it, it is another column


def table_fields(
    path: str | Path, *, needed: tuple[str, ...]
) -> tuple[list[str], Iterator[tuple[int, list[str]]], bool]:
    """The header, (line number, fields) of what is not blank, and whether 0,5 is a number here."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8 (byte {data[error.start]:#04x} on line {line}); save it as CSV UTF-8"
        ) from None
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty; it needs the columns {', '.join(needed)}")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, fields
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num}: {error}; is it CSV?") from None

    found = lines()
    header = [name.strip() for name in next(found)[1]]
    return header, found, separator == ";"


def column_index(
    path: str | Path, header: list[str], *, needed: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, int]:
    """Where each column of ours lies."""
    ours = needed + optional
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(
            f"{path} lacks the column {' and '.join(missing)}: its header is {', '.join(header)}; it needs"
            f" {', '.join(needed)}, and may have {', '.join(optional)}"
        )
    twice = [name for name in ours if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has the column {twice[0]} twice; keep one")
    for name in header:
        near = difflib.get_close_matches(name.lower(), ours, n=1, cutoff=_LEAST_LIKENESS)
        if name not in ours and near and near[0] not in header:
            raise ValueError(f"{path} has an unknown column {name!r}; name it {near[0]}, or otherwise if it is another")
    return {name: header.index(name) for name in ours if name in header}


@dataclass(frozen=True)
class Fields:
    """One line's text by column, and where it stands."""

    place: str
    text: dict[str, str]
    has_decimal_comma: bool

    def fault(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{self.place}: {name}={self.text[name]!r} is not {wanted}")

    def number(self, name: str, wanted: str, *, is_positive: bool = True) -> float | None:
        """None for a blank; `wanted` says what it should be."""
        text = self.text.get(name, "")
        if not text:
            return None
        if self.has_decimal_comma and "." not in text:
            text = text.replace(",", ".")
        try:
            value = float(text.replace("_", "?"))  # Python takes 1_000 for 1000, other programs do not
        except ValueError:
            raise self.fault(name, wanted) from None
        if not math.isfinite(value) or (is_positive and value <= 0):
            raise self.fault(name, wanted)
        return value

    def count(self, name: str) -> int | None:
        wanted = "a whole number above 0 and at most 1e12"
        value = self.number(name, wanted)
        if value is not None and (value != int(value) or value > _LARGEST):
            raise self.fault(name, wanted)
        return None if value is None else int(value)

"""Columns of a long table of rows as arrays, read in one pass."""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

_LARGEST = 1e100  # nothing that a run counts or measures comes near; an integer beyond all floats lies above it too


@dataclass(frozen=True)
class Series:
    """Some columns of a run at the updates where any of them has a number; NaN where one has none."""

    updates: np.ndarray  # f64[n], ascending
    values: dict[str, np.ndarray]  # f64[n] by column

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]


@dataclass(frozen=True)
class Column:
    """The numbers of one column and their updates, 16 bytes each."""

    updates: array
    values: array


def read_columns(rows: Iterable[dict[str, Any]], names: Iterable[str]) -> dict[str, Column]:
    """The named columns, from one pass over the rows; nothing else of them is kept."""
    columns = {name: Column(array("d"), array("d")) for name in names}
    for row in rows:
        for name, column in columns.items():
            value = row.get(name)
            if is_number(value):
                column.updates.append(row["update"])
                column.values.append(value)
    return columns


def aligned(columns: dict[str, Column]) -> Series:
    """Columns side by side. Of two rows of one update the later one counts."""
    found = {name: (np.array(column.updates), np.array(column.values)) for name, column in columns.items()}
    updates = np.unique(np.concatenate([at for at, _ in found.values()])) if found else np.zeros(0)
    values = {}
    for name, (at, numbers) in found.items():
        values[name] = np.full(len(updates), math.nan)
        values[name][np.searchsorted(updates, at)] = numbers
    return Series(updates, values)


def is_number(value: Any) -> bool:
    """One that can be computed with: finite, its square too; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST

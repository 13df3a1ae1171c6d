"""Completions with golds as JSON lines: read, graded and written in batches, so files may have any size."""

import gzip
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from rlvr_jax.tasks.answer_checker import AnswerChecker

log = logging.getLogger(__name__)

COMPLETION_FIELDS = ("completion", "prediction")
LABEL_FIELDS = ("correct", "expected")  # whose agreement with the verdicts is counted
ADDED_FIELDS = ("correct", "extracted", "reason")
_BATCH_LINES, _BATCH_BYTES = 512, 8_000_000
_BATCH_S = 1.0  # what comes slowly is not kept back longer
_MOST_SHOWN = 20  # of the lines that cannot be used
_GZIP = b"\x1f\x8b"


@dataclass
class Totals:
    """What the lines so far came to."""

    n_lines: int = 0
    n_correct: int = 0
    n_bad: int = 0
    n_labels: int = 0
    n_agreed: int = 0
    n_timeouts: int = 0
    n_failures: int = 0
    rules: Counter = field(default_factory=Counter)  # which rule found how many answers

    def text(self, seconds: float) -> str:
        """The totals, one per line."""
        lines = [
            f"{self.n_lines} completions, {self.n_correct} correct ({_share(self.n_correct, self.n_lines)}), "
            f"{self.n_lines / max(seconds, 1e-9):.0f} per second",
            "found by: " + (", ".join(f"{rule} {n}" for rule, n in self.rules.most_common()) or "nothing"),
            f"{self.n_timeouts} comparisons took too long, {self.n_failures} ended their process; they count as wrong",
        ]
        if self.n_bad:
            lines.append(f"{self.n_bad} lines could not be used and were skipped")
        if self.n_labels:
            share = _share(self.n_agreed, self.n_labels)
            lines.append(f"agreement with the labels of the input: {self.n_agreed} of {self.n_labels} ({share})")
        return "\n".join(lines)


def graded_lines(file: BinaryIO, name: str, checker: AnswerChecker, totals: Totals, *, bad_rows: str) -> Iterator[str]:
    """The lines of `file` with `correct`, `extracted` and `reason` added; `totals` is kept up to date.

    What the input has under these names is kept as input_correct, input_extracted and input_reason.

    Args:
        name: of the file in messages.
        bad_rows: "stop" raises ValueError at the first line that cannot be used, "skip" names and counts them.
    """
    if bad_rows not in ("stop", "skip"):
        raise ValueError(f"bad_rows={bad_rows!r} is neither 'stop' nor 'skip'")
    is_warned = False
    for batch in _batches(_lines(file)):
        rows = []
        for number, line in batch:
            row = _row(line)
            if isinstance(row, str):
                fault = f"{name}: line {number}: {row}"
                if bad_rows == "stop":
                    # what came before it is graded and written, then the reason
                    yield from _graded(rows, checker, totals)
                    raise ValueError(f"{fault}; correct the line, or leave such lines out with --bad_rows=skip")
                totals.n_bad += 1
                if totals.n_bad <= _MOST_SHOWN:
                    log.warning("skipped: %s", fault)
            else:
                if not is_warned and all(name in row for name in COMPLETION_FIELDS):
                    log.warning(
                        "%s: line %d has %s and %s; the first of these is graded", name, number, *COMPLETION_FIELDS
                    )
                    is_warned = True
                rows.append(row)
        yield from _graded(rows, checker, totals)


def _graded(rows: list[dict[str, Any]], checker: AnswerChecker, totals: Totals) -> Iterator[str]:
    for row, verdict in zip(rows, checker.check([_pair(row) for row in rows]), strict=True):
        totals.n_lines += 1
        totals.n_correct += verdict.is_correct
        totals.rules[verdict.reason.partition(":")[0]] += 1
        label = next((label for name in LABEL_FIELDS if (label := _label(row.get(name))) is not None), None)
        if label is not None:
            totals.n_labels += 1
            totals.n_agreed += label == verdict.is_correct
        kept = {f"input_{name}" if name in ADDED_FIELDS else name: value for name, value in row.items()}
        added = dict(zip(ADDED_FIELDS, (verdict.is_correct, verdict.extracted, verdict.reason), strict=True))
        yield json.dumps(kept | added)  # as ASCII: a lone surrogate in a text cannot be written as UTF-8
    totals.n_timeouts, totals.n_failures = checker.n_timeouts, checker.n_failures


def _lines(file: BinaryIO) -> Iterator[bytes]:
    head = file.peek(2)[:2] if hasattr(file, "peek") else b""
    source = gzip.GzipFile(fileobj=file) if head == _GZIP else file
    try:
        for number, line in enumerate(source, start=1):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"not a whole gzip file ({error}); download or compress it again") from error


def _batches(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    batch: list[tuple[int, bytes]] = []
    n_bytes, start, fault = 0, time.monotonic(), None
    numbered = enumerate(lines, start=1)
    while True:
        try:
            number, line = next(numbered, (0, None))
        except ValueError as error:  # a broken file: what could be read of it still counts
            fault, line = error, None
        if line is None:
            break
        if not line.strip():
            continue
        batch.append((number, line))
        n_bytes += len(line)
        if len(batch) == _BATCH_LINES or n_bytes >= _BATCH_BYTES or time.monotonic() - start > _BATCH_S:
            yield batch
            batch, n_bytes, start = [], 0, time.monotonic()
    if batch:
        yield batch
    if fault:
        raise fault


def _row(line: bytes) -> dict[str, Any] | str:
    """The fields of a line, or what is wrong with it."""
    try:
        row = json.loads(line.decode(), parse_float=_finite, parse_constant=_finite)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1}"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"a {type(row).__name__} instead of an object with prediction (or completion) and gold"
    if not any(name in row for name in COMPLETION_FIELDS):
        return "has neither prediction nor completion"
    if "gold" not in row:
        return "has no gold"
    completion, gold = _pair(row)
    if completion is None:
        return "its completion is neither a text nor a number"
    if gold is None and row["gold"] is not None:
        return "its gold is neither text nor number"
    if gold is None or not gold.strip():
        return "its gold is empty"
    return row


def _finite(digits: str) -> float:
    """A number that can be written as JSON again, which NaN, Infinity and 1e400 cannot."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits} is not finite")
    return value


def _pair(row: dict[str, Any]) -> tuple[str | None, str | None]:
    name = next(name for name in COMPLETION_FIELDS if name in row)
    return "" if row[name] is None else _text(row[name]), _text(row["gold"])


def _text(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if isinstance(value, str) else str(value) if is_number else None


def _label(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if value in (True, False) else None


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.4f}" if whole else "none"

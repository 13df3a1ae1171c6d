"""Rows of files: JSON lines, JSON or Parquet, here or on the Hugging Face Hub, one file or several by a wildcard."""

import difflib
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_jax.tasks.hub import HUB_PREFIX, hub_files, is_hub_path

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
N_BROKEN_SHOWN = 3  # of the rows that cannot be used; one fault often breaks them all
N_NUMBERS_SHOWN = 20  # of those after them, by number alone
_PARQUET_ROWS_AT_A_TIME = 8_192
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put one first

Fault = tuple[int, str]  # (number of a row, what is wrong with it)


@dataclass(frozen=True)
class Kept:
    """A filter that is applied while reading: rows whose `field` is there and none of `values` are left out."""

    field: str
    values: frozenset[str]


@dataclass(frozen=True)
class DataFile:
    """The rows of one file."""

    path: str  # as the user named it
    unit: str  # what a number counts: "line" or "row"
    rows: list[tuple[int, dict[str, Any]]]  # (number from 1, fields)
    faults: list[Fault]  # rows that cannot be read
    fingerprint: str  # a hash of the file's bytes


def read_data_files(
    path: str, *, columns: frozenset[str] | None = None, kept: Kept | None = None
) -> tuple[DataFile, ...]:
    """The rows of `path`, which may be a wildcard, file by file in the order of their names.

    Rows that cannot be read are faults of their file. Raises ValueError saying where it was looked for, or what is
    wrong with a file as a whole.

    Args:
        columns: fields to keep, where a row has them; None for all.
        kept: only these rows.
    """
    files = tuple(_read(shown, local, columns, kept) for shown, local in find_data_files(path))
    if kept and not any(file.rows or file.faults for file in files):
        raise ValueError(
            f"{path}: no row has a {kept.field} out of {', '.join(sorted(kept.values))}, and others are left out; "
            "name other files"
        )
    return files


def _read(path: str, local: Path, columns: frozenset[str] | None, kept: Kept | None) -> DataFile:
    kind = _kind(local.name)
    rows: list[tuple[int, dict[str, Any]]] = []
    faults: list[Fault] = []
    n_rows = 0
    try:
        with local.open("rb") as file:
            fingerprint = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        for number, row in _numbered_rows(path, local, kind, columns, kept):
            n_rows += 1
            if isinstance(row, str):
                faults.append((number, row))
            elif kept is None or row.get(kept.field) in (None, *kept.values):
                rows.append((number, row if columns is None else {k: v for k, v in row.items() if k in columns}))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); download or compress it again") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    if not n_rows:
        raise ValueError(f"{path} holds no rows; a task needs some to train on and some to hold out")
    return DataFile(path, "line" if kind.startswith(".jsonl") else "row", rows, faults, fingerprint)


def _numbered_rows(
    path: str, local: Path, kind: str, columns: frozenset[str] | None, kept: Kept | None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number, fields, or why there are none) of a file, which is never held as a whole unless it is one JSON list."""
    if kind == ".parquet":
        yield from enumerate(_parquet_rows(path, local, columns, kept), start=1)
    elif kind.startswith(".jsonl"):
        with gzip.open(local) if kind.endswith(".gz") else local.open("rb") as file:
            for number, line in enumerate(file, start=1):  # as bytes: str.splitlines also ends lines at U+2028
                line = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if line.strip():
                    yield number, _jsonl_row(line)
    else:
        content = local.read_bytes()
        content = gzip.decompress(content) if kind.endswith(".gz") else content
        yield from enumerate(_json_rows(path, content.removeprefix(_BYTE_ORDER_MARK)), start=1)


def find_data_files(path: str) -> list[tuple[str, Path]]:
    """The local files of `path`, with a name to show, downloaded first where it names some on the Hub."""
    if not path:
        raise ValueError(f"task.path is empty; name a file with problems ({', '.join(SUFFIXES)})")
    try:
        local = Path(path).expanduser()
        is_file, is_folder, is_link = local.is_file(), local.is_dir(), local.is_symlink()
    except (OSError, RuntimeError) as error:  # a name that is too long, a closed folder, the home of nobody
        raise ValueError(f"{_short(path)} cannot be looked for ({_reason(error)}); correct the path") from error
    if is_file:
        found = [(path, local)]
    elif is_link and not is_folder:
        raise ValueError(f"{path} is a link to {os.readlink(local)}, where there is no file; correct the link")
    elif is_folder:
        inside = sorted(file.name for file in local.iterdir() if _kind(file.name))
        raise ValueError(f"{path} is a folder; name one file in it{_some(inside)}, or several as {path}/*.parquet")
    elif path.startswith(HUB_PREFIX) or (is_hub_path(path) and not _is_mistyped(path)):
        found = hub_files(path, is_data_file=lambda name: bool(_kind(name)))
    elif glob.has_magic(path):
        found = [(name, Path(name)) for name in sorted(glob.glob(str(local))) if Path(name).is_file()]
        if not found:
            raise ValueError(f"no file has a name like {local.absolute()}; correct the wildcard")
    else:
        raise ValueError(f"{_no_such_file(path, local)}. A dataset on the Hugging Face Hub is {HUB_PREFIX}OWNER/NAME")
    for shown, file in found:
        if not _kind(file.name):
            raise ValueError(f"{shown} has none of the endings that can be read: {', '.join(SUFFIXES)}")
    return found


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}...{path[-80:]}"


def _is_mistyped(path: str) -> bool:
    """Whether what could be OWNER/NAME is rather a file that is not there: data/train.jsonl, or the folder exists."""
    return (bool(_kind(path)) and path.count("/") == 1) or Path(path.split("/")[0]).is_dir()


def _no_such_file(path: str, local: Path) -> str:
    if not local.parent.is_dir():
        return f"there is no file {path}, as there is no folder {local.parent.absolute()}; correct the path"
    names = sorted(file.name for file in local.parent.iterdir() if _kind(file.name) and file.exists())
    nearest = difflib.get_close_matches(local.name, names, n=1, cutoff=0.0)
    meant = f"did you mean {local.parent / nearest[0]}" if nearest else "there is no file with problems in its folder"
    return f"there is no file {local.absolute()}; {meant}"


def _kind(name: str) -> str:
    """The ending of a name that can be read, or ""."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _some(names: list[str]) -> str:
    return f", such as {', '.join(names[:5])}" if names else f" that ends in one of {', '.join(SUFFIXES)}"


def _jsonl_row(line: bytes) -> dict[str, Any] | str:
    """The fields of a line, or what is wrong with it."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8"
    except (ValueError, RecursionError) as error:
        at = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        fix = "every line must be one JSON object; a file that is one JSON list is named .json"
        return f"not JSON ({why}{at}); {fix}"
    return row if isinstance(row, dict) else f'{_json_name(row)} instead of an object such as {{"prompt": "...", ...}}'


def _json_rows(path: str, content: bytes) -> list[dict[str, Any] | str]:
    try:
        rows = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); a file with one object per line is named .jsonl") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {_json_name(rows)} instead of a list of objects; write [{{...}}, {{...}}]")
    return [row if isinstance(row, dict) else f"{_json_name(row)} instead of an object" for row in rows]


def _parquet_rows(
    path: str, local: Path, columns: frozenset[str] | None, kept: Kept | None
) -> Iterator[dict[str, Any] | str]:
    """Rows by batches, or what is wrong with them.

    One that is not kept comes as its filtered field alone, which costs no time to convert.
    """
    try:
        import pyarrow
        from pyarrow import compute, parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"reading {path} needs pyarrow: pip install pyarrow; or save it as .jsonl") from error
    try:
        with parquet.ParquetFile(local) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            has_filter = kept is not None and kept.field in file.schema_arrow.names
            read = [*names, kept.field] if has_filter and kept.field not in names else names
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS_AT_A_TIME, columns=read):
                is_kept = [True] * len(batch)
                if has_filter:
                    values = pyarrow.array([None, *sorted(kept.values)], pyarrow.string())
                    is_kept = compute.is_in(_as_text(path, batch, kept.field), values).to_pylist()
                    batch = batch.filter(pyarrow.array(is_kept))
                rows = iter(batch.to_pylist())
                for is_one in is_kept:
                    yield _as_json(next(rows)) if is_one else {kept.field: ""}
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from error


def _as_text(path: str, batch: Any, name: str) -> Any:
    """A column of an Arrow batch as text."""
    import pyarrow

    try:
        return batch[name].cast(pyarrow.string())
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: column {name!r}, of type {batch[name].type}, is no text; correct it") from error


def _as_json(row: dict[str, Any]) -> dict[str, Any] | str:
    """The row with what JSON does not know (dates, decimals, bytes) as text: rewards get rows as JSON.

    Bytes are texts whose writer did not say so. A row with some that are none is told what is wrong with it.
    """
    others = {name: value for name, value in row.items() if not (value is None or isinstance(value, (str, int, float)))}
    for name, value in others.items():
        try:
            others[name] = json.loads(json.dumps(value, default=_text_of))
        except UnicodeDecodeError as error:
            fix = "save the column as text, or leave it out of the file"
            return f"field {name!r} holds bytes that are not UTF-8 (at byte {error.start + 1}); {fix}"
    return {**row, **others}  # in the order of the row


def _text_of(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def rows_message(path: str, unit: str, faults: list[Fault], *, what: str = "cannot be used") -> str:
    """The message of rows (number, what is wrong with it); it shows the first few and says how many there are."""
    count = f"{len(faults)} {unit}s" if len(faults) > 1 else f"1 {unit}"
    shown = "".join(f"\n  {unit} {number}: {fault}" for number, fault in faults[:N_BROKEN_SHOWN])
    return f"{path}: {count} {what}{shown}{_more(unit, [number for number, _ in faults[N_BROKEN_SHOWN:]])}"


def _more(unit: str, numbers: list[int]) -> str:
    if not numbers:
        return ""
    listed = ", ".join(map(str, numbers[:N_NUMBERS_SHOWN])) + (" ..." if len(numbers) > N_NUMBERS_SHOWN else "")
    return f"\n  and {len(numbers)} more: {unit}{'s' if len(numbers) > 1 else ''} {listed}"

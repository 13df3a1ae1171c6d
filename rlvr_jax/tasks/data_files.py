"""Rows of a user's file: JSON lines, JSON or Parquet, here or on the Hugging Face Hub."""

import difflib
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_jax.tasks.hub import HUB_PREFIX, hub_file, is_hub_path

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
N_BROKEN_SHOWN = 3  # of the rows that cannot be used; one fault often breaks them all


@dataclass(frozen=True)
class DataFile:
    """The rows of one file."""

    path: str  # as the user named it
    unit: str  # what a number counts: "line" or "row"
    rows: list[tuple[int, dict[str, Any]]]  # (number from 1, fields)
    fingerprint: str  # a hash of the file's bytes


def read_data_file(path: str) -> DataFile:
    """The rows of `path`. Raises ValueError saying where it was looked for, or which lines are broken and why."""
    local = find_data_file(path)
    kind = _kind(local.name)
    try:
        with local.open("rb") as file:
            fingerprint = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if kind == ".parquet":
            unit, rows = "row", list(enumerate(_parquet_rows(path, local), start=1))
        else:
            content = local.read_bytes()
            content = gzip.decompress(content) if kind.endswith(".gz") else content
            content = content.removeprefix(b"\xef\xbb\xbf")  # some editors put a byte order mark first
            is_lines = kind.startswith(".jsonl")
            unit, rows = ("line", _jsonl_rows(path, content)) if is_lines else ("row", _json_rows(path, content))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); download or compress it again") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if not rows:
        raise ValueError(f"{path} holds no rows; a task needs some to train on and some to hold out")
    return DataFile(path, unit, rows, fingerprint)


def find_data_file(path: str) -> Path:
    """The local file of `path`, downloaded first where it names one on the Hub."""
    if not path:
        raise ValueError(f"task.path is empty; name a file with problems ({', '.join(SUFFIXES)})")
    local = Path(path).expanduser()
    if local.is_file():
        found = local
    elif local.is_dir():
        inside = sorted(file.name for file in local.iterdir() if _kind(file.name))
        raise ValueError(f"{path} is a folder; name one file in it{_some(inside)}")
    elif path.startswith(HUB_PREFIX) or (is_hub_path(path) and not _is_mistyped(path)):
        found = hub_file(path, is_data_file=lambda name: bool(_kind(name)))
    else:
        raise ValueError(f"{_no_such_file(path, local)}. A dataset on the Hugging Face Hub is {HUB_PREFIX}OWNER/NAME")
    if not _kind(found.name):
        raise ValueError(f"{path} has none of the endings that can be read: {', '.join(SUFFIXES)}")
    return found


def _is_mistyped(path: str) -> bool:
    """Whether what could be OWNER/NAME is rather a file that is not there: data/train.jsonl, or the folder exists."""
    return (bool(_kind(path)) and path.count("/") == 1) or Path(path.split("/")[0]).is_dir()


def _no_such_file(path: str, local: Path) -> str:
    if not local.parent.is_dir():
        return f"there is no file {path}, as there is no folder {local.parent.absolute()}; correct the path"
    names = sorted(file.name for file in local.parent.iterdir() if _kind(file.name))
    nearest = difflib.get_close_matches(local.name, names, n=1, cutoff=0.0)
    meant = f"did you mean {local.parent / nearest[0]}" if nearest else "there is no file with problems in its folder"
    return f"there is no file {local.absolute()}; {meant}"


def _kind(name: str) -> str:
    """The ending of a name that can be read, or ""."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _some(names: list[str]) -> str:
    return f", such as {', '.join(names[:5])}" if names else f" that ends in one of {', '.join(SUFFIXES)}"


def _jsonl_rows(path: str, content: bytes) -> list[tuple[int, dict[str, Any]]]:
    rows, faults = [], []
    for number, line in _lines(content):
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            faults.append((number, f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8"))
        except (ValueError, RecursionError) as error:
            at = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            fix = "every line must be one JSON object; a file that is one JSON list is named .json"
            faults.append((number, f"not JSON ({why}{at}); {fix}"))
        else:
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                faults.append((number, f'{_json_name(row)} instead of an object such as {{"prompt": "...", ...}}'))
    if faults:
        raise unusable_rows(path, "line", faults)
    return rows


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, split as bytes: str.splitlines also ends lines at U+2028, inside texts."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield number, line


def _json_rows(path: str, content: bytes) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); a file with one object per line is named .jsonl") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {_json_name(rows)} instead of a list of objects; write [{{...}}, {{...}}]")
    faults = [(i, f"{_json_name(row)} instead of an object") for i, row in enumerate(rows, 1) if type(row) is not dict]
    if faults:
        raise unusable_rows(path, "row", faults)
    return list(enumerate(rows, start=1))


def _parquet_rows(path: str, local: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"reading {path} needs pyarrow: pip install pyarrow; or save it as .jsonl") from error
    try:
        rows = parquet.read_table(local).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from error
    # what JSON does not know (dates, decimals, bytes) as text: rewards get rows as JSON, whatever the file
    return [json.loads(json.dumps(row, default=str)) for row in rows]


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def unusable_rows(path: str, unit: str, faults: list[tuple[int, str]]) -> ValueError:
    """The error of rows (number, what is wrong with it); it shows the first few and says how many there are."""
    shown = "".join(f"\n  {unit} {number}: {fault}" for number, fault in faults[:N_BROKEN_SHOWN])
    n_more = len(faults) - N_BROKEN_SHOWN
    more = f"\n  and {n_more} more" if n_more > 0 else ""
    count = f"{len(faults)} {unit}s" if len(faults) > 1 else f"1 {unit}"
    return ValueError(f"{path}: {count} cannot be used{shown}{more}")

"""What a judge has said and what asking it has cost, on disk: for later runs, other processes and after a kill."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEDGER_FILE = "spent"


class JudgeCache:
    """One small JSON file per answer, named by a hash of everything that was asked."""

    def __init__(self, folder: Path):
        """Makes the folder. Raises ValueError if it cannot be written."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{secrets.token_hex(8)}.partial"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"the judge's cache {folder} cannot be written ({error.strerror}); set task.judge.cache_folder"
            ) from error

    @staticmethod
    def key(base_url: str, request: dict[str, Any]) -> str:
        """The name of an answer: of another endpoint, model or wording it is another one."""
        return hashlib.sha256(json.dumps([base_url, request], sort_keys=True).encode()).hexdigest()

    def load(self, key: str) -> str | None:
        """What was said, or None if that is not known; a damaged file is as good as none."""
        try:
            said = json.loads(self._path(key).read_text(encoding="utf-8"))["said"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return said if isinstance(said, str) else None

    def save(self, key: str, said: str) -> None:
        """Keeps an answer. Raises OSError if the disk is full; a reader sees a whole file or none."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{key}.{secrets.token_hex(8)}.partial")  # processes may save the same key at once
        try:
            partial.write_text(json.dumps({"said": said}), encoding="utf-8")
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class JudgeBudget:
    """Requests and tokens spent, in a file that all processes with the same folder count in, across restarts.

    A line is written before a request is sent, so that one whose answer never came is counted too; tokens are
    known only afterwards, so requests under way may go beyond the most.
    """

    def __init__(self, folder: Path, *, most_requests: int, most_tokens: int):
        """`most_...` 0: any number."""
        self._path = folder / LEDGER_FILE
        self._most = {"requests": most_requests, "tokens": most_tokens}
        self.spent = {"requests": 0, "tokens": 0}
        self._n_read = 0

    def take(self) -> str:
        """Counts one request and returns "", or says why it may not be sent."""
        if not any(self._most.values()):
            return ""
        try:
            with self._ledger() as file:
                for what, most in self._most.items():
                    if most and self.spent[what] >= most:
                        return (
                            f"task.judge.budget_{what}={most} is spent ({self._path} counts {self.spent[what]}); "
                            "raise it and resume"
                        )
                os.write(file, b"requests 1\n")
        except OSError as error:
            return f"the judge's budget cannot be counted in {self._path} ({error.strerror})"
        return ""

    def add_tokens(self, n_tokens: int) -> None:
        """Counts what an answer took. Raises OSError if it cannot be written."""
        if self._most["tokens"]:
            with self._ledger() as file:
                os.write(file, f"tokens {n_tokens}\n".encode())

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[int]:
        """The file, held against other processes, with everything written so far counted in `spent`."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            new = os.pread(file, os.fstat(file).st_size - self._n_read, self._n_read)
            if new and not new.endswith(b"\n"):  # a writer died in the middle of a line
                self._n_read += os.write(file, b"\n")
            self._n_read += len(new)
            for line in new.split(b"\n"):
                what, _, n = line.partition(b" ")
                if what.decode("ascii", "replace") in self.spent and n.isdigit():
                    self.spent[what.decode()] += int(n)
            yield file
        finally:
            os.close(file)

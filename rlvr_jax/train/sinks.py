"""What shows a run while it goes on: TensorBoard always, Weights & Biases if asked.

Sinks are views of the rows that train/log.py keeps. Any call may raise: RunLog counts it and goes on.
None may wait for long or ask for anything, because the run waits with it.
"""

import hashlib
import importlib.util
import logging
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import summary as tb_summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from rlvr_jax.analysis.read_runs import Row
from rlvr_jax.train.config import TrainConfig, flat_fields
from rlvr_jax.train.tables import markdown_table, shortened, table_columns, visible

log = logging.getLogger(__name__)

_N_BINS = 64
_WANDB_ROWS, _WANDB_CHARACTERS = 1_000, 10_000


class Sink(Protocol):
    """Rows hold finite numbers only, `update` among them; the names of metrics have a slash in them."""

    def scalars(self, row: Row) -> None: ...
    def table(self, name: str, rows: list[Row], *, update: int) -> None: ...
    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None: ...
    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def sink_openers(folder: Path, config: TrainConfig, *, last_update: int) -> dict[str, Callable[[], Sink]]:
    """The sinks that a run's config asks for, by the name that warnings call them; RunLog opens them."""
    openers = {"TensorBoard": partial(TensorBoardSink, folder, purge_step=last_update + 1)}
    if config.log.wandb != "off":
        openers["W&B"] = partial(
            WandbSink,
            folder,
            mode=config.log.wandb,
            project=config.log.wandb_project,
            name=config.point_name,
            group=config.study,
            config=flat_fields(config),
        )
    return openers


class TensorBoardSink:
    """An event file of its own in `folder`; readers forget what earlier ones hold from `purge_step` on.

    Written here and not by tensorboardX's SummaryWriter, whose thread dies at the first failed write
    (a full disk); the queue before it then fills and the run stands still in add_summary.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        # nanoseconds: a run that goes on within a second must not overwrite what it wrote before
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}").open("xb", buffering=0)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, row: Row) -> None:
        """The metrics; not with add_scalar, which turns pass@1 into pass_1."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if "/" in name]
        self._write(Event(step=row["update"], summary=Summary(value=values)))

    def table(self, name: str, rows: list[Row], *, update: int) -> None:
        """The first rows as text, in Markdown."""
        self._write(Event(step=update, summary=tb_summary.text(name, markdown_table(rows))))

    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None:
        self._write(Event(step=update, summary=tb_summary.histogram(name, values, bins=_N_BINS)))

    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None:
        """For the hparams tab, as summaries in this same file: SummaryWriter.add_hparams opens a sub-run.

        The tab takes the numbers from scalars of their names, which final ones need not have yet.
        """
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        for part in tb_summary.hparams(plain, metrics):
            self._write(Event(step=update, summary=part))
        self.scalars({"update": update} | {name: v for name, v in metrics.items() if not name.startswith("eval/")})

    def flush(self) -> None:
        """Nothing waits: each event is with the operating system when its call returns."""

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        append_whole(self._file, length + next(checks) + data + next(checks))


class WandbSink:
    """A W&B run whose files are in `folder`/wandb, online or to be uploaded later with `wandb sync`.

    The run keeps its id when it is resumed: a hash of study/point, the folder's last two names, and of
    a token kept in the folder, so that a run started anew in a deleted folder is another one.
    """

    def __init__(self, folder: Path, *, mode: str, project: str, name: str, group: str, config: Row):
        import wandb  # here, not above: it is optional and takes half a second

        self._wandb = wandb
        folder = folder.absolute()
        run_id = _run_id(folder)
        wandb.setup(wandb.Settings(silent=True))  # who is silent does not ask for a login either
        self._is_staging_moved = "WANDB_DATA_DIR" not in os.environ
        if self._is_staging_moved:  # tables wait there for their upload; by default that is in the home directory
            os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        try:
            self._run = wandb.init(
                dir=str(folder),
                mode=mode,
                project=project,
                name=name[:128],  # all that the server takes, as of the group
                group=group[:128],
                config=config,
                id=run_id,
                resume="allow",
                allow_val_change=True,  # n_updates may grow
                reinit="create_new",  # one that failed to close must not be written on by the next point
                settings=wandb.Settings(
                    console="off",  # what goes to the terminal is not for it to wrap
                    disable_git=True,
                    disable_code=True,
                    init_timeout=30.0,
                    finish_timeout=60.0,  # by default it waits for the network for ever
                ),
            )
        except BaseException:
            self._restore_staging()
            raise
        # charts are over updates, which steps of a run resumed online need not be: see _log
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")
        self._step_of_update_0: int | None = None
        where = self._run.url if mode == "online" else f"upload with: wandb sync {Path(self._run.dir).parent}"
        log.info("W&B run %s, %s", run_id, where)

    def scalars(self, row: Row) -> None:
        """All numbers: the counters, too, can be the x axis of a chart."""
        self._log(row, update=row["update"])

    def table(self, name: str, rows: list[Row], *, update: int) -> None:
        columns = table_columns(rows)
        cells = [[_wandb_cell(row.get(column)) for column in columns] for row in rows[:_WANDB_ROWS]]
        table = self._wandb.Table(columns=columns, data=cells, allow_mixed_types=True)
        self._log({f"tables/{name}": table}, update=update)  # counters are called rollouts and prompts as well

    def histogram(self, name: str, values: np.ndarray, *, update: int) -> None:
        self._log({name: self._wandb.Histogram(values, num_bins=_N_BINS)}, update=update)

    def hparams(self, settings: Row, metrics: dict[str, float], *, update: int) -> None:
        """The settings are the run's config already; the final numbers go to the summary it is compared by."""
        self._run.summary.update(metrics)

    def flush(self) -> None:
        """Nothing to do: wandb has a process of its own that writes and uploads, and no call to wait for it."""

    def close(self) -> None:
        try:
            self._run.finish()
        finally:
            self._restore_staging()

    def _log(self, values: Row, *, update: int) -> None:
        """Adds to the update's row. Within a run, W&B merges rows of a step and drops rows of an earlier step.

        A run that was killed past its checkpoint repeats updates, which a server that has seen them would
        drop; the steps then go on where the server is, and the charts, being over updates, do not show it.
        """
        if self._step_of_update_0 is None:
            self._step_of_update_0 = max(0, self._run.step - update)
        self._run.log(values | {"update": update}, step=self._step_of_update_0 + update)

    def _restore_staging(self) -> None:
        if self._is_staging_moved:
            os.environ.pop("WANDB_DATA_DIR", None)


def wandb_problem(mode: str) -> str | None:
    """Why log.wandb=`mode` cannot work, with the fix; does not import wandb."""
    if mode == "off":
        return None
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # no origin: a folder called wandb, such as wandb itself leaves
        return f"log.wandb={mode!r} needs the package wandb: pip install wandb, or set log.wandb='off'"
    return None


def wandb_login_problem(mode: str) -> str | None:
    """Why log.wandb=`mode` will most likely not be let in; for a warning: wandb knows other ways to log in."""
    netrc = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path("~/.netrc"), Path("~/_netrc")]
    settings = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb"), "settings")
    has_key = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if mode != "online" or has_key or any(path.expanduser().exists() for path in [*netrc, settings]):
        return None
    return (
        "log.wandb='online' and no login found; run `wandb login` or set WANDB_API_KEY, "
        "or set log.wandb='offline' and upload later"
    )


def append_whole(file: RawIOBase, data: bytes) -> None:
    """Writes all of `data` at the end of an unbuffered file, or raises and leaves the file as it was.

    Half a record or gzip member would hide everything that is appended after it.
    """
    size, rest = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]  # a disk that is almost full takes some of it first
    except BaseException:
        file.truncate(size)
        raise


def _wandb_cell(value: Any) -> Any:
    is_plain = value is None or isinstance(value, (bool, int, float))
    return value if is_plain else visible(shortened(str(value), _WANDB_CHARACTERS), kept="\n\t")


def _run_id(folder: Path) -> str:
    token = folder / "wandb" / "run_token"
    if not token.exists():
        token.parent.mkdir(exist_ok=True)
        token.write_text(secrets.token_hex(16), encoding="utf-8")
    identity = "/".join([*folder.parts[-2:], token.read_text(encoding="utf-8")])
    return hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]

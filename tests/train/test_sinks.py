"""What TensorBoard and W&B get to see, read back with their own readers."""

import contextlib
import html
import importlib.machinery
import importlib.util
import json
import os
import pty
import re
import resource
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams import plugin_data_pb2

from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.sinks import (
    TensorBoardSink,
    WandbSink,
    append_whole,
    sink_openers,
    wandb_login_problem,
    wandb_problem,
)
from rlvr_jax.train.tables import markdown_table, table_columns

ROOT = Path(__file__).resolve().parents[2]
NASTY = [
    "\ud800", "a\0b", "", "x" * 100_000, "a|b", "||||", "\r\n|---|\n# head", "`code` ```", "</td></table><script>x",
    "&lt;&#124;", "**bold** _it_ ~~no~~", "![i](http://x/y.png) [l](javascript:x) <http://x>", "\\|",
    "\u202e\u2028\x7f", "[1]: http://x", "\x02amp\x03", "- item", "1\\. \\# \\-", "<b>x</b>", "é😀",
]  # fmt: skip


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    return events.Reload()


@contextlib.contextmanager
def no_file_larger_than(n_bytes):
    """As at the end of a disk: the system writes up to there, and then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def event_file(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    return path


def test_tensorboard_reads_scalars_under_their_own_names_at_their_updates(tmp_path):
    sink = TensorBoardSink(tmp_path, purge_step=0)
    for update in (1, 2, 3):
        sink.scalars({"update": update, "prompts": 8 * update, "eval/digits/pass@1": update / 4})
    sink.close()
    events = read_events(tmp_path)
    assert events.Tags()["scalars"] == ["eval/digits/pass@1"]
    shown = [(event.step, event.value) for event in events.Scalars("eval/digits/pass@1")]
    assert shown == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_tensorboard_reads_histograms_hparams_and_tables(tmp_path):
    sink = TensorBoardSink(tmp_path, purge_step=0)
    sink.histogram("completions/length", np.array([1, 2, 2, 5], np.int32), update=4)
    sink.hparams({"seed": 1, "eval.k": (1, 4)}, {"eval/b": 0.5, "cbs/updates_to_0.6": 2.5}, update=4)
    sink.table("prompts", [{"update": 4, "prompt": "1+2", "n_groups": 2}], update=4)
    sink.flush()
    events = read_events(tmp_path)  # before it is closed: someone watches
    (histogram,) = events.Histograms("completions/length")
    assert (histogram.step, histogram.histogram_value.min, histogram.histogram_value.max) == (4, 1, 5)
    assert (histogram.histogram_value.num, sum(histogram.histogram_value.bucket)) == (4, 4)
    plugin = {
        name: events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
        for name in ("experiment", "session_start_info")
    }
    started = plugin_data_pb2.HParamsPluginData.FromString(plugin["session_start_info"]).session_start_info
    assert (started.hparams["seed"].number_value, started.hparams["eval.k"].string_value) == (1, "(1, 4)")
    metrics = plugin_data_pb2.HParamsPluginData.FromString(plugin["experiment"]).experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == {"eval/b", "cbs/updates_to_0.6"}
    # the tab looks the numbers up among the scalars, where an evaluation's are already
    assert events.Tags()["scalars"] == ["cbs/updates_to_0.6"]
    assert [(event.step, event.value) for event in events.Scalars("cbs/updates_to_0.6")] == [(4, 2.5)]
    (text,) = events.Tensors("prompts/text_summary")
    assert text.tensor_proto.string_val[0] == b"|prompt|n&#95;groups|\n|---|---|\n|1+2|2|"
    sink.close()


def test_a_resumed_run_replaces_the_events_from_its_first_update_on(tmp_path):
    for purge_step, updates in ((0, (1, 2, 3, 4)), (3, (3, 4, 5))):  # within one second
        sink = TensorBoardSink(tmp_path, purge_step=purge_step)
        for update in updates:
            sink.scalars({"update": update, "a/b": 10.0 * purge_step + update})
        sink.close()
    assert len(list(tmp_path.glob("events.*"))) == 2
    shown = [(event.step, event.value) for event in read_events(tmp_path).Scalars("a/b")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 33.0), (4, 34.0), (5, 35.0)]


def test_a_full_disk_is_told_at_each_event_and_costs_no_other_event(tmp_path):
    sink = TensorBoardSink(tmp_path, purge_step=0)
    sink.scalars({"update": 1, "a/b": 1.0})
    size = event_file(tmp_path).stat().st_size
    with no_file_larger_than(size + 20):
        for update in range(2, 30):  # more than fit into the queue that SummaryWriter waits at for ever
            with pytest.raises(OSError, match="File too large"):
                sink.scalars({"update": update, "a/b": 2.0})
    assert event_file(tmp_path).stat().st_size == size
    sink.scalars({"update": 30, "a/b": 3.0})
    sink.close()
    assert [event.value for event in read_events(tmp_path).Scalars("a/b")] == [1.0, 3.0]


def test_bytes_are_appended_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with path.open("ab", buffering=0) as file:
        with no_file_larger_than(10), pytest.raises(OSError, match="File too large"):
            append_whole(file, b"0123456789")
        assert path.read_bytes() == b"before"
        append_whole(file, b" after")
    assert path.read_bytes() == b"before after"


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path):
    class Slow:
        def __init__(self, file):
            self.file = file

        def seek(self, *where):
            return self.file.seek(*where)

        def write(self, data):
            return self.file.write(data[:3])

    with (tmp_path / "file").open("ab", buffering=0) as file:
        append_whole(Slow(file), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def rendered_cells(markdown):
    """The text of every cell of the one table that TensorBoard makes of it."""
    page = markdown_to_safe_html(markdown.encode())  # as from an event file
    assert page.count("<table>") == 1
    assert re.sub(r"(?s)<table>.*</table>", "", page).strip() == ""
    rows = re.findall(r"(?s)<tr>(.*?)</tr>", page)
    cells = [re.findall(r"(?s)<t[dh]>(.*?)</t[dh]>", row) for row in rows]
    assert not any("<" in cell for row in cells for cell in row)  # no markup but the table's own
    return [[html.unescape(cell) for cell in row] for row in cells]


def test_nothing_a_model_writes_breaks_the_table_or_is_taken_for_markup():
    rows = [{"update": 1, "prompt": text, "completion": text, "reward": 0.5} for text in NASTY]
    markdown = markdown_table(rows)
    assert set("\\`*_[]<>").isdisjoint(markdown)  # no other reader finds markup in it either
    header, *cells = rendered_cells(markdown)
    assert header == ["prompt", "completion", "reward"]
    assert len(cells) == len(NASTY)
    shown = dict(zip(NASTY, cells, strict=True))
    for text, row in shown.items():
        assert row[0] == row[1]
        assert row[2] == "0.5"
        if len(text) < 200 and text.isprintable():
            assert row[0] == text
    assert shown["\ud800"][0] == r"\ud800"
    assert shown["a\0b"][0] == r"a\x00b"
    assert shown["\r\n|---|\n# head"][0] == r"\r\n|---|\n# head"
    assert shown["\u202e\u2028\x7f"][0] == r"\u202e\u2028\x7f"
    assert len(shown["x" * 100_000][0]) == 200


def test_a_table_shows_its_first_rows_and_of_long_texts_both_ends():
    rows = [{"update": 1, "prompt": str(i), "completion": "a" * 500 + "=42"} for i in range(100)]
    _, *cells = rendered_cells(markdown_table(rows))
    assert [row[0] for row in cells] == [str(i) for i in range(64)]
    assert cells[0][1].startswith("aaa")
    assert cells[0][1].endswith("a=42")


def test_columns_are_those_of_any_row_and_what_one_looks_for_is_first():
    rows = [{"update": 1, "answer": "2", "reward": 1.0, "prompt": "p"}, {"completion": "c", "n": None}]
    assert table_columns(rows) == ["prompt", "completion", "answer", "reward", "n"]
    header, first, second = rendered_cells(markdown_table(rows))
    assert (header, first) == (["prompt", "completion", "answer", "reward", "n"], ["p", "", "2", "1", ""])
    assert second == ["", "c", "", "", "None"]


def test_wandb_is_a_sink_when_the_config_asks_for_it(tmp_path):
    config = TrainConfig(study="s", point="p")
    assert list(sink_openers(tmp_path, config, last_update=-1)) == ["TensorBoard"]
    config.log.wandb = "offline"
    openers = sink_openers(tmp_path, config, last_update=7)
    assert list(openers) == ["TensorBoard", "W&B"]
    assert openers["TensorBoard"].keywords == {"purge_step": 8}
    wanted = {"mode": "offline", "project": "rlvr_jax", "name": "p", "group": "s"}
    assert openers["W&B"].keywords.items() >= wanted.items()
    assert openers["W&B"].keywords["config"]["batch.n_prompts"] == 64


OFFLINE = """
import logging, os, sys, time
from pathlib import Path
import numpy as np
from rlvr_jax.train.config import TrainConfig
from rlvr_jax.train.log import RunLog
from rlvr_jax.train.sinks import sink_openers

logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)  # as bin/train does
config = TrainConfig(study="s", point="p")
config.log.wandb = "offline"
folder = Path("runs/s/p")
folder.mkdir(parents=True)
nasty = ["\\ud800", "a\\0b", "x" * 100_000, "", "|`<b>"]
for last_update in (-1, 2):
    log = RunLog(folder, last_update=last_update, sinks=sink_openers(folder, config, last_update=last_update))
    log.evaluation({"update": last_update + 1, "prompts": 0, "eval/digits/pass@1": 0.25})
    for update in range(last_update + 2, last_update + 4):
        log.metrics({"update": update, "prompts": 8 * update, "reward/mean": update / 8, "gns/b": float("nan")})
        log.rollouts([{"update": update, "completion": text, "reward": None} for text in nasty], update=update)
        log.prompts([{"update": update, "prompt": text, "n": 1 if text else "none"} for text in nasty], update=update)
        log.histogram("completions/length", np.arange(5), update=update)
    log.evaluation({"update": update, "prompts": 8 * update, "eval/digits/pass@1": 0.5})
    log.hparams({"seed": 0}, {"eval/digits/greedy": 0.75}, update=update)
    log.flush()
    log.close()
    print("sink errors", log.sink_errors, "staging", os.environ.get("WANDB_DATA_DIR"))
    time.sleep(1)  # wandb names folders by the second
"""


def wandb_records(path):
    """The records of a .wandb file: leveldb's log format, blocks of 32 KiB of chunks with a 7-byte header."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left_in_block = 32_768 - position % 32_768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            yield getattr(record, record.WhichOneof("record_type"))
            parts = b""


def items(record, field):
    """{name: value} of a history, summary or config record."""
    found = {}
    for item in getattr(record, field):
        found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def without_login(folder):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
    return clean | {
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # where nothing listens
        "WANDB_CACHE_DIR": str(folder / "cache"),
    }


def test_an_offline_wandb_run_holds_what_was_logged_and_keeps_its_id_when_resumed(tmp_path):
    pytest.importorskip("wandb")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=tmp_path, env=without_login(tmp_path), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sink errors 0 staging None\n" * 2
    assert len(done.stderr.splitlines()) == 2, done.stderr  # one line each time
    folder = tmp_path / "runs" / "s" / "p"
    # all that is written is in the run directory: no folder wandb here that Python could take for the package
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "cache", ".config"}
    assert not list(tmp_path.glob(".config/**/settings"))

    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert files[0].name == files[1].name
    for file, first in zip(files, (0, 3), strict=True):
        records = list(wandb_records(file))
        (run,) = [record for record in records if type(record).__name__ == "RunRecord"]
        assert (run.project, run.run_group, run.display_name, run.resume) == ("rlvr_jax", "s", "p", True)
        assert file.name == f"run-{run.run_id}.wandb"
        settings = items(run.config, "update")
        assert (settings["batch.n_prompts"], settings["eval.k"]) == (64, [1, 4, 8])
        rows = [items(record, "item") for record in records if type(record).__name__ == "HistoryRecord"]
        assert [row["_step"] for row in rows] == [row["update"] for row in rows] == [first, first + 1, first + 2]
        assert [row.get("reward/mean") for row in rows] == [None, (first + 1) / 8, (first + 2) / 8]
        assert [row.get("eval/digits/pass@1") for row in rows] == [0.25, None, 0.5]  # in the row of its update
        assert [row["prompts"] for row in rows] == [0, 8 * (first + 1), 8 * (first + 2)]
        assert rows[1]["completions/length/_type"] == "histogram"
        assert "gns/b" not in rows[1]
        table = json.loads((file.parent / "files" / rows[2]["tables/rollouts/path"]).read_text())
        assert table["columns"] == ["completion", "reward"]
        shown = [completion for completion, _ in table["data"]]
        assert shown[:2] + shown[3:] == [r"\ud800", r"a\x00b", "", "|`<b>"]
        assert len(shown[2]) == 10_000
        summary = {}
        for record in records:
            if type(record).__name__ == "SummaryRecord":
                summary |= items(record, "update")
        assert (summary["eval/digits/pass@1"], summary["eval/digits/greedy"]) == (0.5, 0.75)


def test_wandb_without_a_login_is_an_error_and_no_question(tmp_path):
    pytest.importorskip("wandb")
    code = (
        "from pathlib import Path\nfrom rlvr_jax.train.sinks import WandbSink\n"
        "try:\n    WandbSink(Path('p'), mode='online', project='x', name='p', group='s', config={})\n"
        "except Exception as error:\n    print(error)"
    )
    (tmp_path / "p").mkdir()
    ours, theirs = pty.openpty()  # at a terminal, where wandb would ask
    try:
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, env=without_login(tmp_path) | {"TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=True,
        )  # fmt: skip
        said = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert said.startswith("No API key configured")
    assert len(said.splitlines()) == 1


class FakeWandb(types.ModuleType):
    """wandb, of which a server has seen rows up to `step`."""

    def __init__(self, step=0, fails=False):
        super().__init__("wandb")
        self.step, self.fails = step, fails
        self.logged, self.wanted, self.staging = [], {}, None
        self.Settings = dict
        self.Histogram = lambda values, num_bins: list(values)

    def setup(self, settings):
        self.is_silent = settings["silent"]

    def init(self, **wanted):
        self.wanted, self.staging = wanted, os.environ.get("WANDB_DATA_DIR")
        if self.fails:
            raise RuntimeError("no server")
        return self

    url = "https://there"

    def define_metric(self, name, **axis):
        self.logged.append((name, axis))

    def log(self, values, *, step):
        self.logged.append((step, values))

    def finish(self):
        if self.fails:
            raise RuntimeError("no server")


@pytest.fixture
def open_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", "")  # so that it is put back
    monkeypatch.delenv("WANDB_DATA_DIR")

    def open_one(folder, fake, **more):
        monkeypatch.setitem(sys.modules, "wandb", fake)
        wanted = {"mode": "online", "project": "x", "name": "p", "group": "s", "config": {}} | more
        return WandbSink(folder, **wanted)

    return open_one


def test_updates_that_a_resumed_run_repeats_are_not_dropped_by_the_server(tmp_path, open_wandb):
    fake = FakeWandb(step=13)  # killed after update 12; its checkpoint is of update 10
    sink = open_wandb(tmp_path, fake)
    sink.scalars({"update": 11, "a/b": 1.0})
    fake.step = 14  # from then on the server must not be asked: evaluations go into the row of their update
    sink.scalars({"update": 11, "eval/b": 2.0})
    sink.histogram("c/d", np.arange(2), update=12)
    assert fake.logged == [
        ("update", {}), ("*", {"step_metric": "update"}),
        (13, {"update": 11, "a/b": 1.0}), (13, {"update": 11, "eval/b": 2.0}), (14, {"update": 12, "c/d": [0, 1]}),
    ]  # fmt: skip


@pytest.mark.parametrize(("server_step", "first_update"), [(0, 0), (0, 11), (11, 11)])
def test_steps_are_updates_where_nothing_is_repeated(tmp_path, open_wandb, server_step, first_update):
    fake = FakeWandb(step=server_step)
    open_wandb(tmp_path, fake).scalars({"update": first_update, "a/b": 1.0})
    assert fake.logged[-1][0] == first_update


def test_wandb_writes_below_the_run_directory_and_waits_for_no_one(tmp_path, open_wandb):
    fake = FakeWandb()
    sink = open_wandb(tmp_path, fake, name="n" * 200)
    assert fake.is_silent
    assert (fake.wanted["dir"], fake.staging) == (str(tmp_path), str(tmp_path / "wandb"))
    assert (fake.wanted["resume"], fake.wanted["reinit"]) == ("allow", "create_new")
    assert fake.wanted["name"] == "n" * 128
    assert fake.wanted["settings"]["console"] == "off"
    assert 0 < fake.wanted["settings"]["init_timeout"] <= 60
    assert 0 < fake.wanted["settings"]["finish_timeout"] <= 60
    sink.close()
    assert "WANDB_DATA_DIR" not in os.environ


def test_the_users_own_place_for_wandbs_uploads_is_kept(tmp_path, open_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", "/elsewhere")
    fake = FakeWandb()
    open_wandb(tmp_path, fake).close()
    assert (fake.staging, os.environ["WANDB_DATA_DIR"]) == ("/elsewhere", "/elsewhere")


def test_a_wandb_that_fails_leaves_nothing_behind(tmp_path, open_wandb):
    with pytest.raises(RuntimeError, match="no server"):
        open_wandb(tmp_path, FakeWandb(fails=True))
    assert "WANDB_DATA_DIR" not in os.environ
    fake = FakeWandb()
    sink = open_wandb(tmp_path, fake)
    fake.fails = True
    with pytest.raises(RuntimeError, match="no server"):
        sink.close()
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_run_keeps_its_id_and_one_started_anew_gets_another(tmp_path, open_wandb):
    def run_id(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fake = FakeWandb()
        open_wandb(folder, fake).close()
        return fake.wanted["id"]

    point = tmp_path / "runs" / "s" / "p"
    first = run_id(point)
    assert run_id(point) == first
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert run_id(tmp_path / "moved" / "s" / "p") == first
    shutil.copytree(tmp_path / "moved" / "s" / "p", tmp_path / "moved" / "s" / "q")
    assert run_id(tmp_path / "moved" / "s" / "q") != first
    shutil.rmtree(tmp_path / "moved")
    assert run_id(point) != first


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_missing_wandb_is_a_problem_with_its_fix(monkeypatch, mode):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert wandb_problem("off") is None
    assert f"log.wandb={mode!r} needs the package wandb: pip install wandb" in wandb_problem(mode)


def test_an_installed_wandb_is_no_problem(monkeypatch):
    found = importlib.machinery.ModuleSpec("wandb", None, origin="/site-packages/wandb/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert wandb_problem("online") is None


def test_a_folder_called_wandb_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert importlib.util.find_spec("wandb") is not None  # to Python it could be one
    assert "pip install wandb" in wandb_problem("offline")


def test_a_login_is_missed_only_online_and_only_where_there_is_none(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_login_problem("off") is None
    assert wandb_login_problem("offline") is None
    assert "`wandb login` or set WANDB_API_KEY" in wandb_login_problem("online")
    (tmp_path / ".netrc").touch()
    assert wandb_login_problem("online") is None
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert wandb_login_problem("online") is None

import errno
import gzip
import json
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.train import log as log_module
from rlvr_jax.train.log import RunLog, cut_rows, write_json

NASTY = ["\ud800", "\udc80\ud800", "a\0b", "", "x" * 100_000, "\r\n\u2028|", '{"update": 9}\n', "é😀\x1b[31m\x7f\u202e"]


class Recorder:
    """A sink that keeps its calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, *args, *kwargs.values()))

    def names(self):
        return [call[0] for call in self.calls]


class Broken:
    """A sink that can do nothing."""

    def __getattr__(self, name):
        def fail(*_args, **_kwargs):
            raise RuntimeError(f"no {name} today")

        return fail


def open_log(folder, *, last_update=-1, **sinks):
    return RunLog(folder, last_update=last_update, sinks={name: lambda sink=sink: sink for name, sink in sinks.items()})


def write_everything(log, *, update):
    log.metrics({"update": update, "a/b": 1.0})
    log.evaluation({"update": update, "eval/b": 1.0})
    log.rollouts([{"update": update, "completion": "c"}], update=update)
    log.prompts([{"update": update, "prompt": "p"}], update=update)
    log.histogram("a/b", np.arange(3.0), update=update)
    log.hparams({"seed": 1}, {"eval/b": 1.0}, update=update)
    log.flush()


def test_numbers_that_mean_nothing_are_null_and_no_sink_sees_them(tmp_path):
    sink = Recorder()
    log = open_log(tmp_path, sink=sink)
    log.metrics({"update": 1, "a/nan": float("nan"), "a/inf": float("inf"), "a/exact": 0.1, "a/none": None})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "update": 1, "a/nan": None, "a/inf": None, "a/exact": 0.1, "a/none": None, "health/sink_errors": 0,
    }  # fmt: skip
    assert sink.calls[0] == ("scalars", {"update": 1, "a/exact": 0.1, "health/sink_errors": 0})


def test_a_sink_sees_every_kind_of_record(tmp_path):
    sink = Recorder()
    log = open_log(tmp_path, sink=sink)
    write_everything(log, update=3)
    log.close()
    assert sink.names() == ["scalars", "scalars", "table", "table", "histogram", "hparams", "flush", "close"]
    assert sink.calls[2] == ("table", "rollouts", [{"update": 3, "completion": "c"}], 3)
    assert sink.calls[3] == ("table", "prompts", [{"update": 3, "prompt": "p"}], 3)
    assert sink.calls[5] == ("hparams", {"seed": 1}, {"eval/b": 1.0}, 3)


def test_every_failure_of_a_sink_is_counted_in_the_next_row_and_costs_the_other_sinks_nothing(tmp_path, caplog):
    before, after = Recorder(), Recorder()
    log = open_log(tmp_path, before=before, first=Broken(), second=Broken(), after=after)
    write_everything(log, update=1)
    write_everything(log, update=2)
    log.close()
    assert [row["health/sink_errors"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 14]  # 2 sinks, 7 calls
    assert log.sink_errors == 30  # two updates, and both sinks when they are closed
    assert before.names() == after.names()
    assert len(after.calls) == 15
    # each is named once
    assert [record.args[0] for record in caplog.records] == ["first", "second"]
    assert "first failed and the run goes on (RuntimeError: no scalars today)" in caplog.text


def test_a_sink_that_does_not_open_is_counted_and_the_run_goes_on_without_it(tmp_path, caplog):
    def refuse():
        raise OSError("no such service")

    sink = Recorder()
    log = RunLog(tmp_path, last_update=-1, sinks={"closed": refuse, "open": lambda: sink})
    log.metrics({"update": 1, "a/b": 1.0})
    log.metrics({"update": 2, "a/b": 1.0})
    log.close()
    assert [row["health/sink_errors"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 1]
    assert sink.names() == ["scalars", "scalars", "close"]
    assert "closed failed and the run goes on (OSError: no such service)" in caplog.text


def test_what_asks_the_process_to_end_is_not_swallowed(tmp_path):
    class Stopping(Recorder):
        def scalars(self, row):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_log(tmp_path, sink=Stopping()).metrics({"update": 1})


def test_every_sink_is_closed_even_when_one_and_the_files_cannot_be(tmp_path):
    class Full:
        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    sink = Recorder()
    log = open_log(tmp_path, broken=Broken(), sink=sink)
    log._metrics.close()
    log._evals.close()
    log._metrics = log._evals = Full()
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert sink.names() == ["close"]


def test_a_row_that_cannot_be_written_ends_the_run(tmp_path):
    log = open_log(tmp_path)
    log._metrics.close()
    with pytest.raises(ValueError, match="closed file"):
        log.metrics({"update": 1})


def test_only_finite_values_make_a_histogram_and_none_makes_none(tmp_path):
    sink = Recorder()
    log = open_log(tmp_path, sink=sink)
    log.histogram("a/b", np.array([1.0, np.nan, 3.0, np.inf]), update=1)
    log.histogram("a/b", np.array([np.nan]), update=1)
    log.histogram("a/b", np.zeros(0), update=1)
    assert sink.names() == ["histogram"]
    np.testing.assert_array_equal(sink.calls[0][2], [1.0, 3.0])


def test_only_finite_results_are_compared(tmp_path):
    sink = Recorder()
    open_log(tmp_path, sink=sink).hparams({}, {"a": None, "b": float("nan"), "c": 0.5}, update=1)
    assert sink.calls == [("hparams", {}, {"c": 0.5}, 1)]


def test_whatever_a_model_writes_comes_back_exactly_and_says_of_which_table_it_is(tmp_path):
    log = open_log(tmp_path)
    log.rollouts([{"update": 1, "completion": text} for text in NASTY], update=1)
    log.prompts([{"update": 1, "prompt": text} for text in NASTY], update=1)
    log.close()
    rows = list(read_rows(tmp_path / "rollouts.jsonl.gz"))
    assert log.sink_errors == 0
    assert [row["completion"] for row in rows if row["table"] == "completions"] == NASTY
    assert [row["prompt"] for row in rows if row["table"] == "prompts"] == NASTY
    assert all(next(iter(row)) == "table" for row in rows)


def test_a_table_without_rows_is_not_written(tmp_path):
    sink = Recorder()
    log = open_log(tmp_path, sink=sink)
    log.rollouts([], update=1)
    log.prompts([], update=1)
    assert sink.calls == []
    assert not (tmp_path / "rollouts.jsonl.gz").exists()


def test_rows_with_whatever_a_model_writes_survive_a_resume(tmp_path):
    log = open_log(tmp_path)
    for update in (1, 2):
        log.rollouts([{"update": update, "completion": text} for text in NASTY], update=update)
    log.close()
    open_log(tmp_path, last_update=1).close()
    assert [row["completion"] for row in read_rows(tmp_path / "rollouts.jsonl.gz")] == NASTY


def test_a_table_that_found_the_disk_full_costs_no_later_table(tmp_path):
    log = open_log(tmp_path)
    log.rollouts([{"update": 1, "completion": "before"}], update=1)
    path = tmp_path / "rollouts.jsonl.gz"
    whole = path.read_bytes()
    # the system writes 30 bytes more of that file and then refuses, as at the end of a disk
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 30, limits[1]))
    try:
        log.rollouts([{"update": 2, "completion": "lost"}], update=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    log.rollouts([{"update": 3, "completion": "after"}], update=3)
    log.close()
    assert [row["completion"] for row in read_rows(path)] == ["before", "after"]
    assert log.sink_errors == 1


def test_sampled_tables_that_cannot_be_read_do_not_stop_a_resume(tmp_path):
    (tmp_path / "rollouts.jsonl.gz").write_bytes(gzip.compress(b'no row\n{"update": 1}\n'))
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n')
    log = open_log(tmp_path, last_update=1)
    log.metrics({"update": 2})
    log.close()
    assert [row["update"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert log.sink_errors == 1


@pytest.fixture
def disk_calls(monkeypatch):
    """Names of synced files and folders, and of files renamed to, in order."""
    calls, fsync, replace = [], os.fsync, Path.replace

    def noted_fsync(descriptor):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_replace(self, target):
        calls.append(("rename", self.name, Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return calls


def test_a_flush_waits_until_the_rows_are_on_the_disk(tmp_path, disk_calls, monkeypatch):
    log = open_log(tmp_path)
    assert disk_calls == [("sync", tmp_path.name)]  # that the files exist
    monkeypatch.setattr(log_module, "_append", lambda file, row: file.write(log_module._line(row)))  # not even flushed
    log.metrics({"update": 1})
    log.evaluation({"update": 1})
    log.flush()
    assert disk_calls[1:] == [("sync", "metrics.jsonl"), ("sync", "evals.jsonl")]
    assert [len(list(read_rows(tmp_path / name))) for name in ("metrics.jsonl", "evals.jsonl")] == [1, 1]
    log.close()


def test_rows_that_cannot_be_synced_end_the_run_before_its_checkpoint(tmp_path, monkeypatch):
    def fail(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        raise OSError(errno.EINVAL, "Invalid argument")  # a folder on some network file systems, which may be

    monkeypatch.setattr(os, "fsync", fail)
    log = open_log(tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        log.flush()
    log.close()


def test_a_file_is_on_the_disk_before_it_takes_anothers_name(tmp_path, disk_calls):
    write_json(tmp_path / "run.json", {"a": 1})
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n')
    cut_rows(tmp_path / "metrics.jsonl", last_update=0)
    partial = f"run.json.{os.getpid()}.partial"
    assert disk_calls == [
        ("sync", partial), ("rename", partial, "run.json"),
        ("sync", "metrics.jsonl.partial"), ("rename", "metrics.jsonl.partial", "metrics.jsonl"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl.gz"])
@pytest.mark.parametrize("last_update", [-1, 0, 2, 9])
def test_rows_after_an_update_are_cut_with_a_torn_last_line(tmp_path, name, last_update):
    path = tmp_path / name
    lines = b"".join(json.dumps({"update": i}).encode() + b"\n" for i in range(4)) + b'{"update": 4, "x'
    path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    cut_rows(path, last_update=last_update)
    assert [row["update"] for row in read_rows(path)] == [i for i in range(4) if i <= last_update]


def test_a_gzip_member_that_was_torn_keeps_the_members_before(tmp_path):
    path = tmp_path / "rollouts.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"update": 1}\n') + gzip.compress(b'{"update": 2}\n')[:-12])
    cut_rows(path, last_update=9)
    assert [row["update"] for row in read_rows(path)][:1] == [1]
    with gzip.open(path, "at") as more:
        more.write('{"update": 3}\n')
    assert [row["update"] for row in read_rows(path)][-1] == 3


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


# What measured updates know of each rollout.

ARRAYS = {
    "prompt": np.array(["1+1=", "é\n😀", ""]),
    "gram_PRR": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    "is_kept_PR": np.array([[True, False], [True, True], [False, False]]),
}


def test_arrays_of_an_update_come_back_without_pickle(tmp_path):
    log = open_log(tmp_path)
    log.noise(ARRAYS, update=7)
    log.close()
    assert [path.name for path in (tmp_path / "noise").iterdir()] == ["update_7.npz"]  # and nothing partial
    saved = np.load(tmp_path / "noise" / "update_7.npz", allow_pickle=False)
    assert set(saved.files) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved[name], array)
        assert saved[name].dtype == array.dtype
    assert log.sink_errors == 0


def test_arrays_that_cannot_be_written_without_pickle_are_counted_and_leave_no_file(tmp_path, caplog):
    log = open_log(tmp_path)
    log.noise({"prompt": np.array([object()])}, update=7)
    log.metrics({"update": 7})
    log.close()
    assert not list((tmp_path / "noise").glob("*.npz"))
    assert [row["health/sink_errors"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]
    assert "noise failed and the run goes on" in caplog.text


def test_arrays_of_updates_after_the_checkpoint_are_cut(tmp_path):
    log = open_log(tmp_path)
    for update in (1, 5, 9, 10, 11):
        log.noise(ARRAYS, update=update)
    log.close()
    open_log(tmp_path, last_update=9).close()
    assert {path.name for path in (tmp_path / "noise").iterdir()} == {"update_1.npz", "update_5.npz", "update_9.npz"}
    assert np.load(tmp_path / "noise" / "update_9.npz")["gram_PRR"].shape == (3, 2, 2)


def test_without_arrays_there_is_no_folder_for_them(tmp_path):
    open_log(tmp_path, last_update=3).close()
    assert not (tmp_path / "noise").exists()

import gzip
import json

import pytest

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.train.log import RunLog, cut_rows, write_json


def test_numbers_that_mean_nothing_are_null(tmp_path):
    log = RunLog(tmp_path, last_update=-1)
    log.metrics({"update": 1, "a/nan": float("nan"), "a/inf": float("inf"), "a/exact": 0.1})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "update": 1, "a/nan": None, "a/inf": None, "a/exact": 0.1, "health/sink_errors": 0,
    }  # fmt: skip


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

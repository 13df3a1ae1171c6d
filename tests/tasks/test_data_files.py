"""Rows of files of every kind, and what is said of those that cannot be read."""

import gzip
import json
import re
import sys

import pytest

from rlvr_jax.tasks.data_files import Kept, read_data_files

ROWS = [{"q": "α", "a": 1}, {"q": "b", "a": None}, {"q": "c\u2028d", "a": [1, {"x": 2.5}]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_data_file(path, **settings):
    (file,) = read_data_files(path, **settings)
    return file


def fields(file):
    return [row for _, row in file.rows]


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", LINES.encode()),
        ("p.JSONL", LINES.encode()),
        ("p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("p.json", json.dumps(ROWS, indent=2).encode()),
        ("p.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("p.jsonl", b"\xef\xbb\xbf" + LINES.encode()),  # a byte order mark
        ("p.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("p.jsonl", LINES.removesuffix("\n").encode()),
    ],
)
def test_the_rows_of_a_file(tmp_path, name, content):
    file = read_data_file(write(tmp_path / name, content))
    assert fields(file) == ROWS
    assert [number for number, _ in file.rows] == [1, 2, 3]


def test_the_rows_of_a_parquet_file(tmp_path):
    import datetime

    columns = {"q": ["a", "b"], "n": [1, None], "list": [[1, 2], []], "day": [datetime.date(2020, 1, 2)] * 2}
    file = read_data_file(write_parquet(tmp_path / "p.parquet", columns))
    assert fields(file) == [
        {"q": "a", "n": 1, "list": [1, 2], "day": "2020-01-02"},
        {"q": "b", "n": None, "list": [], "day": "2020-01-02"},
    ]


def test_bytes_in_a_parquet_file_are_texts_of_utf_8(tmp_path):
    columns = {"q": [b"q 0", "α".encode(), None], "list": [[b"x"], [], None], "s": [{"b": b"y"}] * 3}
    file = read_data_file(write_parquet(tmp_path / "p.parquet", columns))
    assert fields(file) == [
        {"q": "q 0", "list": ["x"], "s": {"b": "y"}},
        {"q": "α", "list": [], "s": {"b": "y"}},
        {"q": None, "list": None, "s": {"b": "y"}},
    ]


def test_a_row_with_bytes_that_are_no_text_is_a_fault_and_the_others_are_read(tmp_path):
    file = read_data_file(write_parquet(tmp_path / "p.parquet", {"q": [b"a", b"b\xff", b"c"], "n": [1, 2, 3]}))
    assert file.rows == [(1, {"q": "a", "n": 1}), (3, {"q": "c", "n": 3})]
    fault = "field 'q' holds bytes that are not UTF-8 (at byte 2); save the column as text, or leave it out of the file"
    assert file.faults == [(2, fault)]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "p.parquet", {"q": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read_data_file(path)


def test_blank_lines_are_skipped_but_counted(tmp_path):
    file = read_data_file(write(tmp_path / "p.jsonl", '{"q": "a"}\n\n   \n{"q": "b"}\n\n'))
    assert file.rows == [(1, {"q": "a"}), (4, {"q": "b"})]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"q": "a"', "line 2: not JSON .*; every line must be one JSON object"),
        (b"{'q': 'a'}", "line 2: not JSON .* at character 2"),
        (b'["a"]', "line 2: a list instead of an object"),
        (b"null", "line 2: null instead of an object"),
        (b"3", "line 2: a number instead of an object"),
        (b'{"q": "\xe4"}', "line 2: not UTF-8 at byte 8; save the file as UTF-8"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"q": ' + b"9" * 5_000 + b"}", "line 2: not JSON"),  # Python refuses to read so long a number
    ],
)
def test_a_broken_line_is_a_fault_and_the_others_are_read(tmp_path, line, fault):
    file = read_data_file(write(tmp_path / "p.jsonl", b'{"q": "a"}\n' + line + b'\n{"q": "b"}\n'))
    [(number, why)] = file.faults
    assert re.match(fault, f"line {number}: {why}")
    assert file.rows == [(1, {"q": "a"}), (3, {"q": "b"})]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("p.jsonl", b"", "holds no rows"),
        ("p.jsonl", b"\n \n", "holds no rows"),
        ("p.json", b"[]", "holds no rows"),
        ("p.json", b"", "is not JSON .*; a file with one object per line is named .jsonl"),
        ("p.json", LINES.encode(), "is not JSON .*; a file with one object per line is named .jsonl"),
        ("p.json", b'{"rows": []}', "holds an object instead of a list of objects"),
        ("p.json", b'["\xe4"]', "is not UTF-8 at byte 3"),
        ("p.jsonl.gz", LINES.encode(), "is not a whole gzip file"),
        ("p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "is not a whole gzip file"),
        ("p.parquet", b"PAR1", "is not a Parquet file that can be read"),
        ("p.csv", b"q,a\n", "has none of the endings that can be read: .jsonl, .jsonl.gz, .json"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, fault):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=fault) as error:
        read_data_file(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "task.path is empty; name a file"),
        ("trian.jsonl", "there is no file .*trian.jsonl; did you mean train.jsonl"),
        ("data/tset.jsonl", "there is no file .*data/tset.jsonl; did you mean data/test.jsonl"),
        ("data/deeper/test.jsonl", "there is no folder .*data/deeper"),
        ("date/test.jsonl", "there is no folder .*date"),  # not a dataset test.jsonl of someone called date
        ("./no/such", "there is no folder .*no"),
        ("/no/such/file.jsonl", "there is no folder /no/such"),
        ("data", "data is a folder; name one file in it, such as test.jsonl"),
    ],
)
def test_a_file_that_is_not_there(tmp_path, monkeypatch, path, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "train.jsonl", LINES)
    write(tmp_path / "data" / "test.jsonl", LINES)
    with pytest.raises(ValueError, match=fault):
        read_data_file(path)


def test_a_link_to_nothing_is_called_that(tmp_path):
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "moved.jsonl")
    fault = r"train.jsonl is a link to .*moved.jsonl, where there is no file; correct the link"
    with pytest.raises(ValueError, match=fault):
        read_data_file(str(tmp_path / "train.jsonl"))
    write(tmp_path / "test.jsonl", LINES)
    with pytest.raises(ValueError, match=r"did you mean .*test.jsonl"):  # the nearest name that is one of a file
        read_data_file(str(tmp_path / "trains.jsonl"))


@pytest.mark.parametrize("path", ["x" * 5_000, "a/" * 2_500 + "b.jsonl", "~nobody-of-this-name/x.jsonl"])
def test_a_path_that_cannot_be_looked_for_is_refused_in_few_words(path):
    with pytest.raises(ValueError, match=r"cannot be looked for .*; correct the path") as refused:
        read_data_file(path)
    assert len(str(refused.value)) < 300


def test_the_fingerprint_follows_the_bytes_and_not_the_name(tmp_path):
    first = read_data_file(write(tmp_path / "a.jsonl", LINES)).fingerprint
    assert read_data_file(write(tmp_path / "b.jsonl", LINES)).fingerprint == first
    assert read_data_file(write(tmp_path / "a.jsonl", LINES + "\n")).fingerprint != first


def test_what_is_no_object_in_a_list_is_a_fault(tmp_path):
    file = read_data_file(write(tmp_path / "p.json", '[{"q": "a"}, 3, "b"]'))
    assert file.rows == [(1, {"q": "a"})]
    assert file.faults == [(2, "a number instead of an object"), (3, "a text instead of an object")]


SOURCES = [{"q": str(i), "source": source, "x": i} for i, source in enumerate(["a", "b", None, "c", "a"])]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_only_kept_rows_and_named_fields_are_read_and_numbers_stay(tmp_path, kind):
    if kind == "jsonl":
        path = write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in SOURCES))
    else:
        path = write_parquet(tmp_path / "p.parquet", {name: [row[name] for row in SOURCES] for name in SOURCES[0]})
    file = read_data_file(path, columns=frozenset({"q", "missing"}), kept=Kept("source", frozenset({"a", "c"})))
    assert file.rows == [(1, {"q": "0"}), (3, {"q": "2"}), (4, {"q": "3"}), (5, {"q": "4"})]  # 3: no source at all


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_filter_that_leaves_nothing_is_named(tmp_path, kind):
    if kind == "jsonl":
        path = write(tmp_path / "p.jsonl", '{"q": "a", "source": "math"}\n{"q": "b", "source": ["gsm8k"]}\n')
    else:
        path = write_parquet(tmp_path / "p.parquet", {"q": ["a", "b"], "source": ["math", "other"]})
    with pytest.raises(ValueError, match="no row has a source out of a, c, and others are left out; name other files"):
        read_data_files(path, kept=Kept("source", frozenset({"a", "c"})))


def test_a_filter_on_a_column_of_lists_names_the_column(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", {"q": ["a"], "source": [["gsm8k"]]})
    with pytest.raises(ValueError, match="source") as refused:
        read_data_files(path, kept=Kept("source", frozenset({"gsm8k"})))
    assert "not a Parquet file" not in str(refused.value)


def test_a_filter_on_a_field_that_a_parquet_file_lacks_keeps_everything(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", {"q": ["a", "b"]})
    assert fields(read_data_file(path, kept=Kept("source", frozenset({"a"})))) == [{"q": "a"}, {"q": "b"}]


def test_a_wildcard_is_several_files_by_name(tmp_path):
    for name in "bac":
        write(tmp_path / f"part-{name}.jsonl", json.dumps({"q": name}) + "\n")
    write(tmp_path / "other.jsonl", LINES)
    files = read_data_files(str(tmp_path / "part-*.jsonl"))
    assert [file.path for file in files] == [str(tmp_path / f"part-{name}.jsonl") for name in "abc"]
    assert [fields(file) for file in files] == [[{"q": name}] for name in "abc"]
    with pytest.raises(ValueError, match=r"no file has a name like .*/no-\*.jsonl; correct the wildcard"):
        read_data_files(str(tmp_path / "no-*.jsonl"))
    write(tmp_path / "part-d.csv", "q")
    with pytest.raises(ValueError, match=r"part-d.csv has none of the endings that can be read"):
        read_data_files(str(tmp_path / "part-*"))

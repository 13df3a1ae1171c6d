"""JSON lines in and out: what is added and kept, labels, streams, lines that cannot be used."""

import gzip
import io
import json
import re

import pytest

from rlvr_jax.tasks.answer_checker import AnswerChecker
from rlvr_jax.tasks.grade_lines import Totals, graded_lines


def graded(content, *, bad_rows="stop", totals=None):
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content).encode()
    checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
    file = io.BufferedReader(io.BytesIO(content))
    lines = graded_lines(file, "rows.jsonl", checker, totals or Totals(), bad_rows=bad_rows)
    return [json.loads(line) for line in lines]


def test_a_line_comes_back_with_three_fields_more():
    [row] = graded([{"id": 3, "prediction": "#### 7", "gold": "7"}])
    added = {"correct": True, "extracted": "7", "reason": "####: equal"}
    assert row == {"id": 3, "prediction": "#### 7", "gold": "7", **added}


def test_golds_and_completions_may_be_numbers_and_an_absent_completion_is_wrong():
    rows = graded([{"completion": 7.0, "gold": 7}, {"completion": None, "gold": 7}])
    assert [row["correct"] for row in rows] == [True, False]


def test_labels_of_the_input_are_kept_and_compared():
    totals = Totals()
    rows = [{"completion": "7", "gold": "7", "correct": label} for label in ("True", False, None)]
    assert [row["input_correct"] for row in graded(rows, totals=totals)] == ["True", False, None]
    assert (totals.n_labels, totals.n_agreed) == (2, 1)
    assert "agreement with the labels of the input: 1 of 2 (0.5000)" in totals.text(1.0)


def test_compressed_input_is_read_and_blank_lines_and_a_mark_at_the_start_do_not_count():
    line = b'{"completion": "7", "gold": "7"}\n'
    assert len(graded(gzip.compress(b"\xef\xbb\xbf" + line + b"\n" + line))) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON"),
        (b"\xff\n", "not UTF-8 at byte 1"),
        (b"[1]", "a list instead of an object"),
        (b'{"gold": "5"}', "has neither prediction nor completion"),
        (b'{"completion": "5"}', "has no gold"),
        (b'{"completion": "5", "gold": " "}', "its gold is empty"),
        (b'{"completion": "5", "gold": null}', "its gold is empty"),
        (b'{"completion": ["5"], "gold": "5"}', "its completion is neither a text nor a number"),
        (b'{"completion": "5", "gold": {}}', "its gold is neither text nor number"),
        (b'{"completion": "5", "gold": 1e400}', "not JSON (the number 1e400 is not finite)"),
        (b'{"completion": "5", "gold": NaN}', "not JSON (the number NaN is not finite)"),
    ],
)
def test_a_line_that_cannot_be_used_stops_or_is_skipped_by_its_number(line, fault, caplog):
    good = b'{"completion": "7", "gold": "7"}\n'
    with pytest.raises(ValueError, match=re.escape(f"rows.jsonl: line 2: {fault}")):
        graded(good + line)
    totals = Totals()
    assert len(graded(good + line.rstrip() + b"\n" + good, bad_rows="skip", totals=totals)) == 2
    assert (totals.n_bad, totals.n_lines) == (1, 2)
    assert f"line 2: {fault}" in caplog.text


def test_of_a_broken_archive_what_could_be_read_is_graded_before_it_is_named():
    lines = "".join(json.dumps({"completion": str(i * 7919 % 1000), "gold": "5"}) + "\n" for i in range(1_000))
    content = gzip.compress(lines.encode())
    checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
    file, totals = io.BufferedReader(io.BytesIO(content[: len(content) // 2])), Totals()
    with pytest.raises(ValueError, match="not a whole gzip file"):
        list(graded_lines(file, "rows.jsonl.gz", checker, totals, bad_rows="stop"))
    assert 300 < totals.n_lines < 700


def test_of_two_completions_the_one_that_is_graded_is_named(caplog):
    [row] = graded([{"prediction": "5", "completion": "6", "gold": "6"}])
    assert row["correct"]
    assert "line 1 has completion and prediction; the first of these is graded" in caplog.text


def test_lines_that_come_slowly_are_not_kept_back(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("rlvr_jax.tasks.grade_lines.time.monotonic", lambda: next(now))
    file = io.BytesIO(b'{"completion": "7", "gold": "7"}\n' * 4)
    checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
    lines = graded_lines(file, "-", checker, Totals(), bad_rows="stop")
    next(lines)
    assert file.tell() < 4 * 33


def test_lines_are_written_before_the_file_is_read_to_its_end():
    n_read = 0

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            nonlocal n_read
            n_read += 1
            line = b'{"completion": "7", "gold": "7"}\n'
            buffer[: len(line)] = line
            return len(line)

    checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
    lines = graded_lines(io.BufferedReader(Endless()), "-", checker, Totals(), bad_rows="stop")
    assert json.loads(next(lines))["correct"]
    assert n_read < 2_000
    lines.close()

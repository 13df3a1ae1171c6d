"""Columns of long tables as arrays."""

import math
import tracemalloc

import numpy as np
import pytest
from written_runs import write_rows, write_run

from rlvr_jax.analysis.read_runs import find_runs
from rlvr_jax.analysis.series import aligned, read_columns

ROWS = [
    {"update": 1, "a": 1.0},
    {"update": 2, "b": 0.5},
    {"update": 3, "a": 3, "b": None},
    {"update": 4, "a": "high", "b": math.inf, "c": 1.0},
    {"update": 5, "a": True},
]


def test_columns_stand_side_by_side_where_any_of_them_has_a_number():
    series = aligned(read_columns(ROWS, ["a", "b"]))
    np.testing.assert_array_equal(series.updates, [1, 2, 3])
    np.testing.assert_array_equal(series["a"], [1, math.nan, 3])
    np.testing.assert_array_equal(series["b"], [math.nan, 0.5, math.nan])


def test_of_two_rows_of_one_update_the_later_one_counts():
    series = aligned(read_columns([{"update": 1, "a": 1.0}, {"update": 1, "a": 2.0}], ["a"]))
    np.testing.assert_array_equal(series["a"], [2.0])


@pytest.mark.parametrize("names", [[], ["nowhere"]])
def test_what_no_row_has_is_empty(names):
    series = aligned(read_columns(ROWS, names))
    assert len(series.updates) == 0
    assert all(len(series[name]) == 0 for name in names)


def test_a_column_costs_one_pass_and_is_then_kept(tmp_path):
    folder = write_run(tmp_path, point="p")
    write_rows(folder / "metrics.jsonl", ROWS)
    (record,) = find_runs([tmp_path])
    assert list(record.scan("a")) == ["update", "a", "b", "c"]
    (folder / "metrics.jsonl").unlink()
    np.testing.assert_array_equal(record.series("a").updates, [1, 3])
    assert len(record.series("c").updates) == 0  # was not kept, and the file is gone


def test_a_column_asked_for_later_is_read_from_the_lines_that_name_it(tmp_path):
    folder = write_run(tmp_path, point="p")
    write_rows(folder / "metrics.jsonl", [*ROWS, {"update": 6, "b": 2.0, "text": '"a": 1'}])
    (record,) = find_runs([tmp_path])
    np.testing.assert_array_equal(record.series("b").updates, [2, 6])
    np.testing.assert_array_equal(record.series("a", "b").updates, [1, 2, 3, 6])


def test_a_long_table_is_streamed(tmp_path):
    """8 MB of rows as a run writes them; held as rows they would take over 20."""
    folder = write_run(tmp_path, point="p")
    row = {"update": 0} | {f"gns/layer_{i}/trace_cov": 1 / (i + 1) for i in range(100)}
    n_rows = 2_000
    write_rows(folder / "metrics.jsonl", [row | {"update": i, "gns/trace_cov": 0.5 * i} for i in range(n_rows)])
    assert (folder / "metrics.jsonl").stat().st_size > 8e6
    (record,) = find_runs([tmp_path])
    tracemalloc.start()
    try:
        columns = record.scan("gns/trace_cov")
        series = record.series("gns/trace_cov")
        n_streamed = sum(1 for _ in record.rows())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(columns), len(series.updates), n_streamed) == (102, n_rows, n_rows)
    assert peak < 2e6

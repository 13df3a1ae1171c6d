"""Run directories as records, whatever state their process left them in."""

import gzip
import json
import math
from pathlib import Path

import pytest

from rlvr_jax.analysis.read_runs import OLDER, column, find_runs, read_rows

CONFIG = {
    "seed": 3,
    "batch.n_prompts": 8,
    "batch.n_rollouts": 4,
    "task.name": "digits",
    "eval.target_metric": "pass@1",
}
ROWS = [{"update": 1, "reward/mean": 0.25}, {"update": 2, "reward/mean": None}, {"update": 3, "reward/mean": 0.5}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def make_run(folder, *, status="finished", metrics=LINES, evals=""):
    folder.mkdir(parents=True)
    run = {"status": status, "study": "s", "point": folder.name, "config": CONFIG, "plan": {"n_steps": 3}, "more": 1}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.jsonl").write_text(metrics)
    (folder / "evals.jsonl").write_text(evals)
    return folder


def test_a_record_holds_what_the_directory_does(tmp_path):
    folder = make_run(tmp_path / "p", status="stopped", evals='{"update": 0, "eval/digits/pass@1": 0.5}\n')
    (record,) = find_runs([tmp_path])
    assert (record.folder, record.study, record.point, record.status) == (folder, "s", "p", "stopped")
    assert record.config == OLDER | CONFIG  # what this run.json lacks is as older versions did it
    assert (record.plan, record.run["more"]) == ({"n_steps": 3}, 1)
    assert list(record.rows()) == ROWS
    assert record.evals == [{"update": 0, "eval/digits/pass@1": 0.5}]
    assert (record.n_prompts, record.n_rollouts, record.seed) == (8, 4, 3)
    assert record.target_name == "eval/digits/pass@1"


def test_runs_are_found_at_any_depth_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/y", "a/z", "b/x"):
        make_run(tmp_path / name)
    twice = [tmp_path / "b" / "x", tmp_path, Path("b")]  # and once by another name
    assert [record.folder.resolve().relative_to(tmp_path).as_posix() for record in find_runs(twice)] == [
        "a/z",
        "b/x",
        "b/y",
    ]
    assert [record.point for record in find_runs([tmp_path / "b" / "y"])] == ["y"]


def test_a_run_that_has_not_written_a_row_yet_has_none(tmp_path):
    folder = make_run(tmp_path / "p")
    (folder / "metrics.jsonl").unlink()
    (folder / "evals.jsonl").unlink()
    (record,) = find_runs([tmp_path])
    assert (list(record.rows()), record.evals, record.notes) == ([], [], [])


def test_a_folder_without_runs_is_refused_by_name(tmp_path):
    make_run(tmp_path / "full" / "p")
    (tmp_path / "empty").mkdir()
    for missing, said in (("empty", "empty holds no run"), ("nowhere", "nowhere does not exist; give a run directory")):
        with pytest.raises(FileNotFoundError, match=said):
            find_runs([tmp_path / "full", tmp_path / missing])


def test_a_file_in_place_of_its_folder_is_refused_with_the_remedy(tmp_path):
    folder = make_run(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match=r"run\.json is a file; give the folder"):
        find_runs([folder / "run.json"])


def test_links_to_runs_are_followed_and_loops_are_left(tmp_path):
    make_run(tmp_path / "elsewhere" / "a")
    make_run(tmp_path / "elsewhere" / "b")
    study = tmp_path / "study"
    study.mkdir()
    for name in "ab":
        (study / name).symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    (study / "again").symlink_to(study, target_is_directory=True)
    assert [record.point for record in find_runs([study])] == ["a", "b"]


def test_names_that_do_not_print_are_escaped(tmp_path):
    folder = make_run(tmp_path / "p")
    run = json.loads((folder / "run.json").read_text()) | {"study": "s\n# heading", "point": "p\x1b[31m", "more": 1}
    (folder / "run.json").write_text(json.dumps(run))
    (record,) = find_runs([tmp_path])
    assert (record.study, record.point) == ("s\\n# heading", "p\\x1b[31m")


@pytest.mark.parametrize("content", ["", '{"status": "fin', '{"status": "finished"}', "[]", "null", "3"])
def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path, content):
    folder = make_run(tmp_path / "p")
    (folder / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"p/run\.json is no run\.json of this library"):
        find_runs([tmp_path])


@pytest.mark.parametrize("n_cut", range(1, len(json.dumps(ROWS[-1])) + 1))
def test_a_last_line_cut_anywhere_is_left_out(tmp_path, n_cut):
    path = tmp_path / "metrics.jsonl"
    path.write_text(LINES[: -1 - n_cut])
    assert list(read_rows(path)) == ROWS[:2]


def test_a_last_line_that_only_lacks_its_end_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(LINES[:-1])
    assert list(read_rows(tmp_path / "metrics.jsonl")) == ROWS


def test_a_character_cut_in_two_ends_the_rows(tmp_path):
    cut = '{"text": "é"}\n'.encode()[:11]  # after the first of the two bytes of é
    (tmp_path / "rollouts.jsonl").write_bytes(LINES.encode() * 1_000 + cut)
    assert list(read_rows(tmp_path / "rollouts.jsonl")) == ROWS * 1_000


def test_no_file_is_no_rows(tmp_path):
    assert list(read_rows(tmp_path / "metrics.jsonl")) == []


def test_gzipped_rows_are_read_across_appended_parts(tmp_path):
    path = tmp_path / "rollouts.jsonl.gz"
    for row in ROWS:
        with gzip.open(path, "at") as out:
            out.write(json.dumps(row) + "\n")
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize("n_cut", [1, 8, 20])
def test_a_gzipped_part_that_was_cut_costs_no_earlier_part(tmp_path, n_cut):
    path, part = tmp_path / "rollouts.jsonl.gz", gzip.compress(LINES.encode())
    path.write_bytes(part + part[:-n_cut])
    assert list(read_rows(path))[:3] == ROWS
    assert len(list(read_rows(path))) <= 6


def test_a_column_leaves_out_what_is_no_number():
    rows = [*ROWS, {"update": 4}, {"update": 5, "reward/mean": "high"}, {"update": 6, "reward/mean": math.nan}]
    rows.append({"update": 7, "reward/mean": 1})
    assert column(rows, "reward/mean") == ([1.0, 3.0, 7.0], [0.25, 0.5, 1.0])
    assert column(rows, "reward/std") == ([], [])
    assert column([], "reward/mean") == ([], [])

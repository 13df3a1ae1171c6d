"""Rows that cannot be used, that repeat a prompt, or that are held out: named, and stopped at or left out."""

import itertools
import logging

import pytest

from rlvr_jax.tasks.data_files import DataFile
from rlvr_jax.tasks.problem import RowProblem
from rlvr_jax.tasks.row_problems import RowPolicy, file_problems, same_text

KEEP = RowPolicy(bad_rows="stop", repeated_prompts="keep", overlap="skip")


def problem_of(row):
    if "q" not in row:
        raise ValueError("no q")
    return RowProblem(row["q"], row.get("a", "1"), content=same_text(row["q"]), row=row)


def file_of(questions, *, path="train.jsonl", faults=(), unit="line"):
    rows = [(number, {"q": q} if isinstance(q, str) else q) for number, q in enumerate(questions, start=1)]
    return DataFile(path, unit, rows, list(faults), fingerprint=path)


def read(train, heldout=(), **policy):
    return file_problems(train, heldout, problem_of, RowPolicy(**(vars(KEEP) | policy)))


def prompts(problems):
    return [problem.prompt for problem in problems]


HELDOUT = [file_of(["h"], path="test.jsonl")]


def test_every_fault_of_every_file_is_named_in_the_order_of_lines():
    files = [file_of(["a", {}, "b"], faults=[(9, "not UTF-8")]), file_of([{}], path="more.json", unit="row")]
    with pytest.raises(ValueError, match="cannot be used") as error:
        read(files, HELDOUT)
    assert str(error.value).splitlines() == [
        "train.jsonl: 2 lines cannot be used",
        "  line 2: no q",
        "  line 9: not UTF-8",
        "more.json: 1 row cannot be used",
        "  row 1: no q",
        "correct them, or leave them out with task.bad_rows='skip'",
    ]


def test_the_first_faults_are_shown_with_reasons_and_the_rest_by_number():
    with pytest.raises(ValueError, match="30 lines cannot be used") as error:
        read([file_of([{}] * 30)])
    numbers = ", ".join(map(str, range(4, 24)))
    assert str(error.value).splitlines()[4] == f"  and 27 more: lines {numbers} ..."


def test_rows_that_cannot_be_used_are_left_out_with_one_warning(caplog):
    found = read([file_of(["a", {}, "b", {}])], HELDOUT, bad_rows="skip")
    assert prompts(found.train) == ["a", "b"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "train.jsonl: 2 lines left out\n  line 2: no q\n  line 4: no q"


def test_files_without_a_row_that_can_be_used_are_refused():
    with pytest.raises(ValueError, match=r"train.jsonl: no row can be used; name other files"):
        read([file_of([{}, {}])], HELDOUT, bad_rows="skip")


REPEATS = [file_of(["a", "b", " a", {"q": "b ", "a": "2"}]), file_of(["c", "a\n"], path="more.jsonl")]
NAMED = [
    "train.jsonl: 2 lines with the prompt of an earlier one",
    "  line 3: as line 1",
    "  line 4: as line 2, with another answer",
    "more.jsonl: 1 line with the prompt of an earlier one",
    "  line 2: as line 1 of train.jsonl",
]


@pytest.mark.parametrize(("choice", "kept"), [("keep", ["a", "b", " a", "b ", "c", "a\n"]), ("skip", ["a", "b", "c"])])
def test_repeated_prompts_are_named_and_kept_or_left_out(caplog, choice, kept):
    assert prompts(read(REPEATS, HELDOUT, repeated_prompts=choice).train) == kept
    [record] = caplog.records
    assert record.getMessage().splitlines()[:5] == NAMED


def test_repeated_prompts_can_stop_a_run():
    with pytest.raises(ValueError, match="with the prompt of an earlier one") as error:
        read(REPEATS, HELDOUT, repeated_prompts="stop")
    assert str(error.value).splitlines()[:5] == NAMED
    with pytest.raises(ValueError, match=r"test.jsonl: 1 line with the prompt of an earlier one"):
        read([file_of(["a"])], [file_of(["h", "h"], path="test.jsonl")], repeated_prompts="stop")


def test_training_problems_that_are_held_out_are_named_and_left_out_or_stop(caplog):
    train, heldout = [file_of(["a", "h 1", "b", "h\t2"])], [file_of(["h 2", "h  1"], path="test.jsonl")]
    named = (
        "train.jsonl: 2 lines with a prompt that is held out\n  line 2: as line 2 of test.jsonl\n  line 4: as line 1"
    )
    assert prompts(read(train, heldout).train) == ["a", "b"]
    assert caplog.records[0].getMessage().startswith(named)
    with pytest.raises(ValueError, match="held out") as error:
        read(train, heldout, overlap="stop")
    assert str(error.value).startswith(named)


def test_repeats_in_one_file_stay_on_one_side_of_the_split():
    # white space aside they are one content: whatever the hash says, it says it of both
    found = read([file_of(list(itertools.chain(*([f"p {i}", f" p  {i}\n"] for i in range(200)))))])
    assert {same_text(p) for p in prompts(found.train)}.isdisjoint({same_text(p) for p in prompts(found.heldout)})
    assert len(found.train) + len(found.heldout) == 400
    assert len(found.heldout) % 2 == 0 < len(found.heldout)


def test_the_fingerprint_follows_all_files_and_their_sides():
    a, b = file_of(["a"], path="a"), file_of(["b"], path="b")
    found = [read([a], [b]), read([b], [a]), read([a, b], HELDOUT)]
    assert len({problems.fingerprint for problems in found}) == 3

"""Problems from files: prompts, the split, demonstrations and grades."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlvr_jax.tasks import jsonl
from rlvr_jax.tasks.jsonl import JsonlTask
from rlvr_jax.tasks.rewards import RewardSettings
from rlvr_jax.tasks.row_problems import RowPolicy
from rlvr_jax.train.config import TaskConfig

FIELDS = ("path", "heldout_path", "template", "answer_field", "demonstration_field")
SETTINGS = {field.name: field.default for field in dataclasses.fields(TaskConfig) if field.name in FIELDS}


def reward_settings(names=(), weights=(), correct_at=1.0):
    return RewardSettings(names, weights, correct_at, limit_s=30.0, n_processes=1)


SETTINGS["row_policy"] = RowPolicy("stop", "keep", "skip")
SETTINGS["rewards"] = reward_settings()


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def build():
    """build(...): a task of train.jsonl with the config's defaults, ended afterwards."""
    tasks = []

    def build_task(**settings):
        tasks.append(JsonlTask(**(SETTINGS | {"path": "train.jsonl"} | settings)))
        return tasks[-1]

    yield build_task
    for task in tasks:
        task.close()


def write(rows, name="train.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def sums(numbers):
    return [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "how": f"twice {i}"} for i in numbers]


def train(task):
    return [task.train_problem(i) for i in range(task.n_train)]


def heldout(task):
    return [task.heldout_problem(i) for i in range(task.n_heldout)]


def prompts(problems):
    return [problem.prompt for problem in problems]


def test_its_settings_are_those_of_the_config():
    assert list(inspect.signature(JsonlTask).parameters) == list(SETTINGS)


# problems


def test_a_row_becomes_a_problem(build):
    rows = [{"a": 1, "b": 2.5, "sum": 3.5, "more": [1]}]
    write(rows)
    write([{"a": 0, "b": 0, "sum": 0, "how": "none"}], "heldout.jsonl")
    task = build(heldout_path="heldout.jsonl", template="{a}+{b}=", answer_field="sum")
    (problem,) = train(task)
    assert (problem.prompt, problem.answer, problem.content, problem.row) == ("1+2.5=", "3.5", "1+2.5=", rows[0])
    assert (prompts(heldout(task)), heldout(task)[0].answer) == (["0+0="], "0")


def test_one_prompt_in_ten_is_held_out(build):  # of 2,000: one standard deviation is 13
    write(sums(range(2_000)))
    task = build()
    assert task.n_train + task.n_heldout == 2_000
    assert 160 < task.n_heldout < 240
    assert sorted(prompts(train(task)) + prompts(heldout(task))) == sorted(row["prompt"] for row in sums(range(2_000)))


def test_more_rows_or_another_order_move_no_problem_across_the_split(build):
    write(sums(range(200)))
    before = set(prompts(heldout(build())))
    write(reversed(sums(range(400))))
    assert before < set(prompts(heldout(build())))


def test_a_prompt_that_occurs_twice_stays_on_one_side_and_is_counted(build, caplog):
    write(sums(range(100)) + [row | {"answer": "another"} for row in sums(range(50))])
    task = build()
    assert not set(prompts(train(task))) & set(prompts(heldout(task)))
    assert task.n_train + task.n_heldout == 150
    assert "train.jsonl: 50 lines with the prompt of an earlier one\n  line 101: as line 1, with another" in caplog.text


def test_nothing_is_said_of_prompts_that_occur_once(build, caplog):
    write(sums(range(100)))
    build()
    assert caplog.text == ""


def test_a_heldout_file_leaves_all_of_the_other_for_training(build, caplog):
    write(sums(range(100)))
    write(sums(range(100, 120)), "test.jsonl")
    task = build(heldout_path="test.jsonl")
    assert prompts(train(task)) == [row["prompt"] for row in sums(range(100))]
    assert sorted(prompts(heldout(task))) == sorted(row["prompt"] for row in sums(range(100, 120)))
    assert caplog.text == ""


def test_what_the_heldout_file_holds_is_dropped_from_training(build, caplog):
    write(sums(range(100)))
    write(sums(range(90, 120)), "test.jsonl")
    task = build(heldout_path="test.jsonl")
    assert (task.n_train, task.n_heldout) == (90, 30)
    assert prompts(train(task)) == [row["prompt"] for row in sums(range(90))]
    assert "train.jsonl: 10 lines with a prompt that is held out\n  line 91: as line 1 of test.jsonl" in caplog.text
    assert "10 of 100 problems are not trained on" in caplog.text


def test_the_first_heldout_problems_are_a_fair_sample_whatever_the_order_of_the_file(build):
    write(sums(range(1)))
    write(sums(range(1_000, 2_000)), "test.jsonl")
    numbers = [int(problem.answer) / 2 for problem in heldout(build(heldout_path="test.jsonl"))]
    # the mean of 100 out of 1000 ... 1999: one standard error is 289 / 10
    assert abs(np.mean(numbers[:100]) - 1_500) < 4 * 29


def test_the_order_is_the_same_in_every_process():
    write(sums(range(100)))
    code = (
        "from rlvr_jax.tasks.jsonl import JsonlTask\n"
        "from rlvr_jax.tasks.rewards import RewardSettings\n"
        "from rlvr_jax.tasks.row_problems import RowPolicy\n"
        f"task = JsonlTask(**{SETTINGS | {'path': 'train.jsonl'}})\n"
        "print([task.heldout_problem(i).prompt for i in range(task.n_heldout)], task.fingerprint)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(jsonl.__file__).parents[2])}
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"PYTHONHASHSEED": s}, capture_output=True, check=True
        ).stdout
        for s in "12"
    }
    assert len(printed) == 1


def test_a_prompt_may_hold_what_unicode_has_no_bytes_for(build):
    write([{"prompt": f"{i}\ud800", "answer": "a"} for i in range(100)])  # half of a pair of characters
    task = build()
    assert task.n_train + task.n_heldout == 100


@pytest.mark.parametrize("index", [-1, -2])
def test_there_is_no_problem_before_the_first(build, index):
    write(sums(range(100)))
    task = build()
    for problem in (task.train_problem, task.heldout_problem):
        with pytest.raises(IndexError, match=f"problem {index}: problems are counted from 0"):
            problem(index)


def test_lengths_are_the_longest_of_both_sets(build):
    write([{"prompt": "p", "answer": "12345", "how": "1"}])
    write([{"prompt": "q", "answer": "1", "how": "1234567"}], "test.jsonl")
    task = build(heldout_path="test.jsonl")
    assert (task.longest_answer, task.longest_demonstration) == (5, 5)
    task = build(heldout_path="test.jsonl", demonstration_field="how")
    assert (task.longest_answer, task.longest_demonstration) == (5, 7)


def test_the_fingerprint_follows_the_bytes_of_both_files(build):
    def fingerprint(train_rows, test_rows=None):
        write(train_rows)
        write(test_rows or [], "test.jsonl")
        return build(heldout_path="test.jsonl" if test_rows else "").fingerprint

    a, b = sums(range(50)), sums(range(50, 100))
    found = [fingerprint(a), fingerprint(b), fingerprint(a, b), fingerprint(b, a), fingerprint(a, b[:-1])]
    assert len(set(found)) == 5
    assert fingerprint(a, b) == found[2] != ""


# files that cannot be used


@pytest.mark.parametrize(
    ("row", "settings", "fault"),
    [
        ({"prompt": "p"}, {}, "no field 'answer', which task.answer_field names; did you mean 'prompt'?"),
        ({"promt": "p", "answer": "a"}, {}, "no field 'prompt', which task.template names; did you mean 'promt'?"),
        ({"prompt": None, "answer": "a"}, {}, "field 'prompt', which task.template names, is null"),
        ({"prompt": "p", "answer": ["a"]}, {}, "field 'answer', which task.answer_field names, is a list"),
        ({"prompt": " \n", "answer": "a"}, {}, "its prompt is empty; fill the fields that task.template names"),
        ({"prompt": "p", "answer": " "}, {}, "field 'answer', which task.answer_field names, is empty"),
        ({"prompt": "p", "answer": "a"}, {"demonstration_field": "how"}, "no field 'how', which task.demonstration_f"),
        (
            {"prompt": "p", "answer": "a", "how": ""},
            {"demonstration_field": "how"},
            "field 'how', which task.demonstration_field names, is empty",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(build, row, settings, fault):
    Path("train.jsonl").write_text("\n\n" + json.dumps(row))
    with pytest.raises(ValueError, match=r"train.jsonl: 1 line cannot be used\n  line 3: ") as error:
        build(**settings)
    assert fault in str(error.value)


def test_the_first_rows_that_cannot_be_used_are_shown_and_all_are_counted(build):
    write(sums(range(5)) + [{"prompt": "p"}] * 7)
    with pytest.raises(ValueError, match="7 lines cannot be used") as error:
        build()
    shown = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in shown[:3]] == ["line 6", "line 7", "line 8"]
    assert shown[3:] == [
        "  and 4 more: lines 9, 10, 11, 12",
        "correct them, or leave them out with task.bad_rows='skip'",
    ]


def test_the_heldout_file_is_looked_at_as_closely(build):
    write(sums(range(5)))
    write([{"prompt": "p"}], "test.jsonl")
    with pytest.raises(ValueError, match=r"test.jsonl: 1 line cannot be used\n  line 1: no field 'answer'"):
        build(heldout_path="test.jsonl")


def test_files_that_leave_nothing_to_train_on_are_refused(build):
    write(sums(range(100)))
    in_heldout = heldout(build())[0].row
    with pytest.raises(ValueError, match=r"every prompt of train.jsonl is also in task.heldout_path"):
        build(heldout_path="train.jsonl")
    write([in_heldout])
    with pytest.raises(ValueError, match=r"all 1 problems of train.jsonl are held out.*; add problems, or name"):
        build()


def test_a_file_too_small_to_hold_any_problem_out_is_left_to_the_caller(build):
    write(sums(range(100)))
    write([train(build())[0].row])
    assert (build().n_train, build().n_heldout) == (1, 0)


def test_a_template_without_a_field_is_refused(build):
    write(sums(range(100)))
    with pytest.raises(ValueError, match="names no field"):
        build(template="What?")


def test_rows_need_no_answer_unless_something_looks_at_it(build):
    write([{"prompt": f"p{i}"} for i in range(100)])
    Path("mine.py").write_text("def score(answer, completions): return [float(answer == '')] * len(completions)")
    task = build(answer_field="", rewards=reward_settings(("mine:score",)))
    assert task.longest_answer == 0
    assert task.grade([task.train_problem(0)], [["x"]]).reward_PR == [[1.0]]
    with pytest.raises(ValueError, match=r"the warm start needs something to imitate; set task.demonstration_field"):
        task.demonstration(task.train_problem(0), np.random.default_rng(0), p_correct=1.0)
    with pytest.raises(ValueError, match=r"task.rewards has 'exact', which needs answers; set task.answer_field"):
        build(answer_field="")


# demonstrations


@pytest.mark.parametrize("field", ["", "how"])
@pytest.mark.parametrize("p_correct", [0.0, 0.3, 1.0])
def test_demonstrations_are_the_rows_own_as_often_as_asked(build, field, p_correct):
    write(sums(range(100)))
    task, rng, n = build(demonstration_field=field), np.random.default_rng(0), 2_000
    problems = [task.train_problem(i % task.n_train) for i in range(n)]
    own = [problem.row[field or "answer"] for problem in problems]
    texts = [task.demonstration(problem, rng, p_correct=p_correct) for problem in problems]
    share = np.mean([text == right for text, right in zip(texts, own, strict=True)])
    assert abs(share - p_correct) <= 4 * (p_correct * (1 - p_correct) / n) ** 0.5  # exactly 0 and 1 at the ends
    assert {problem.row[field or "answer"] for problem in train(task)} >= set(texts)


def test_a_wrong_demonstration_is_any_other_training_row_that_differs(build):
    answers = ["a", "b", " b", "c", "b\n", "d", "d"]
    write([{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)])
    write([{"prompt": "q", "answer": "e"}, {"prompt": "r", "answer": "c"}], "test.jsonl")
    task, rng = build(heldout_path="test.jsonl"), np.random.default_rng(0)

    def drawn(problem, n=3_000):
        texts = [task.demonstration(problem, rng, p_correct=0.0) for _ in range(n)]
        return {text: texts.count(text) / n for text in texts}

    # every row that differs is drawn equally often; "b", " b" and "b\n" differ in white space alone
    for problem, wanted in (
        (task.train_problem(0), {"b": 1 / 6, " b": 1 / 6, "b\n": 1 / 6, "c": 1 / 6, "d": 2 / 6}),
        (task.train_problem(2), {"a": 1 / 4, "c": 1 / 4, "d": 2 / 4}),
        (task.train_problem(5), {"a": 1 / 5, "b": 1 / 5, " b": 1 / 5, "b\n": 1 / 5, "c": 1 / 5}),
        (next(p for p in heldout(task) if p.prompt == "q"), {a: answers.count(a) / 7 for a in answers}),
        (next(p for p in heldout(task) if p.prompt == "r"), {a: answers.count(a) / 6 for a in answers if a != "c"}),
    ):
        shares = drawn(problem)
        assert shares.keys() == wanted.keys()
        assert all(abs(shares[text] - wanted[text]) < 4 * (0.25 / 3_000) ** 0.5 for text in wanted)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [("abc", "bca"), ("aab", "aba"), ("abab", "baba"), (" a b ", " ba"), ("777", "77"), ("7", "")],
)
def test_where_all_rows_are_alike_a_wrong_demonstration_is_garbled(build, answer, wrong):
    write([{"prompt": f"p{i}", "answer": answer} for i in range(20)])
    task = build()
    text = task.demonstration(task.train_problem(0), np.random.default_rng(0), p_correct=0.0)
    assert text == wrong
    assert text.strip() != answer.strip()
    assert len(text) <= task.longest_demonstration


def test_a_demonstration_is_a_function_of_its_generator(build):
    write(sums(range(100)))
    task = build()

    def texts(seed):
        rng = np.random.default_rng(seed)
        return [task.demonstration(problem, rng, p_correct=0.5) for problem in train(task)]

    assert texts(1) == texts(1) != texts(2)


# grades


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("ab", "ab", 1.0),
        (" ab\n", "ab", 1.0),
        ("ab", " ab ", 1.0),
        ("a b", "ab", 0.0),
        ("AB", "ab", 0.0),
        ("ab.", "ab", 0.0),
        ("", "ab", 0.0),
        ("1", "1.0", 0.0),
    ],
)
def test_exact_compares_all_but_the_white_space_around(build, completion, answer, reward):
    write([{"prompt": f"{i}", "answer": answer} for i in range(20)])
    task = build()
    grades = task.grade([task.train_problem(0)], [[completion]])
    assert grades.named_rewards == {"exact": [[reward]]}
    assert grades.reward_PR == [[reward]]
    assert grades.is_correct_PR == [[reward == 1]]
    assert grades.failures == ()


def test_completions_are_graded_by_the_rewards_of_the_config(build):
    Path("mine.py").write_text(
        "def length(prompt, completions, answer, row):\n"
        "    assert row == {'prompt': prompt, 'answer': answer, 'how': row['how']}\n"
        "    if prompt == '3+3=': raise KeyError(row['how'])\n"
        "    return [len(c) for c in completions]\n"
    )
    write(sums(range(100)))
    task = build(rewards=reward_settings(("exact", "mine:length"), (1.0, 0.25), correct_at=1.5))
    by_prompt = {problem.prompt: problem for problem in train(task) + heldout(task)}
    grades = task.grade([by_prompt["2+2="], by_prompt["3+3="]], [["4", "four"], ["6", "6!"]])
    np.testing.assert_array_equal(grades.named_rewards["exact"], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(grades.named_rewards["length"], [[1, 4], [np.nan, np.nan]])
    np.testing.assert_array_equal(grades.reward_PR, np.array([[1.25, 1], [np.nan, np.nan]], np.float32), strict=True)
    np.testing.assert_array_equal(grades.is_correct_PR, [[False, False], [False, False]])
    assert grades.failures == ("reward mine:length on prompt '3+3=': raised KeyError: 'twice 3' (line 3 of mine.py)",)
    assert task.grade([by_prompt["2+2="]], [["4 " + " " * 8]]).is_correct_PR == [[True]]


def test_a_reward_that_cannot_be_used_stops_the_task_at_the_start(build):
    write(sums(range(100)))
    with pytest.raises(ValueError, match="reward mine:score: there is no module 'mine'"):
        build(rewards=reward_settings(("mine:score",)))

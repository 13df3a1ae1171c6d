"""Questions from files, graded by their final answers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rlvr_jax.tasks.answer_checker import AnswerChecker
from rlvr_jax.tasks.answer_task import AnswerTask
from rlvr_jax.tasks.question_rows import DATA_SETS, GSM8K, MATH, OMI
from rlvr_jax.tasks.rewards import RewardSettings
from rlvr_jax.tasks.row_problems import RowPolicy
from rlvr_jax.tasks.small_questions import SMALL


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def build():
    """build(data_set, ...): a task of train.jsonl and test.jsonl, ended afterwards."""
    tasks = []

    def build_task(data_set=GSM8K, *, names=(), weights=(), row_policy=("stop", "keep", "skip"), **settings):
        defaults = {"path": "train.jsonl", "heldout_path": "test.jsonl", "template": "", "levels": (), "subjects": ()}
        checker = AnswerChecker(data_set.checker, policy=(), limit_s=20.0, n_processes=1)
        rewards = RewardSettings(names, weights, correct_at=1.0, limit_s=30.0, n_processes=1)
        policy = RowPolicy(*row_policy)
        tasks.append(AnswerTask(data_set, **(defaults | settings), row_policy=policy, rewards=rewards, checker=checker))
        return tasks[-1]

    yield build_task
    for task in tasks:
        task.close()


def write(rows, name="train.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def sums(numbers):
    return [{"question": f"{i}+{i}?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}", "more": i} for i in numbers]


def write_sums():
    write(sums(range(10, 15)))
    write(sums(range(20, 22)), "test.jsonl")


def maths():
    kinds = [(1, "Algebra"), (2, "Algebra"), (2, "Number Theory"), (5, "Number Theory")]
    return [
        {"problem": f"p{i}", "solution": f"so $\\boxed{{{i}}}$", "level": f"Level {level}", "type": subject}
        for i, (level, subject) in enumerate(kinds)
    ]


def problems(task):
    train = [task.train_problem(i) for i in range(task.n_train)]
    return train, [task.heldout_problem(i) for i in range(task.n_heldout)]


def test_a_row_becomes_a_problem(build):
    write_sums()
    task = build(template="Q: {question} ({more})\n")
    train, heldout = problems(task)
    assert [(p.prompt, p.answer, p.content) for p in train[:2]] == [
        ("Q: 10+10? (10)\n", "20", "10+10?"),
        ("Q: 11+11? (11)\n", "22", "11+11?"),
    ]
    assert train[0].row == sums([10])[0]  # with what the template names
    assert build().train_problem(0).row == {"question": "10+10?", "answer": "10+10=20\n#### 20"}  # and nothing else
    assert sorted(p.answer for p in heldout) == ["40", "42"]
    assert (task.longest_answer, task.longest_demonstration) == (2, len("10+10=20\n#### 20"))


@pytest.mark.parametrize(
    ("path", "heldout_path", "n_train", "n_heldout"),
    [
        ("", "", 40, 2),  # the data set's own files, the test set held out
        ("mine.jsonl", "", 17, 3),  # one's own: one question in ten of it; a hash takes 19+19?, 24+24? and 200+200?
        ("mine.jsonl", "test.jsonl", 20, 2),
        ("", "mine.jsonl", 40, 20),
    ],
)
def test_the_test_set_is_held_out_unless_a_file_of_ones_own_is_trained_on(
    build, path, heldout_path, n_train, n_heldout
):
    write(sums(range(100, 140)))
    write(sums(range(20, 22)), "test.jsonl")
    write([*sums([19, 24]), *sums(range(200, 218))], "mine.jsonl")
    own = dataclasses.replace(GSM8K, path="train.jsonl", heldout_path="test.jsonl")
    task = build(own, path=path, heldout_path=heldout_path)
    assert (task.n_train, task.n_heldout) == (n_train, n_heldout)


def test_a_completion_is_graded_by_its_final_answer(build):
    write_sums()
    task = build(names=("correct", "format"), weights=(1.0, 0.25))
    twenty, more = task.train_problem(0), task.train_problem(1)
    grades = task.grade([twenty, more], [["so\n#### 20.0", "it is 20", "#### 21"], ["\\boxed{22}", "22 or so?", ""]])
    np.testing.assert_array_equal(grades.named_rewards["correct"], [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(grades.named_rewards["format"], [[1, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(grades.reward_PR, np.array([[1.25, 1, 0.25], [1.25, 1, 0]], np.float32))
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, True, False], [True, True, False]])
    assert grades.counts == {"verifier_timeouts": 0, "verifier_failures": 0}
    (a, b, c), (d, e, f) = grades.answers
    assert a == b != c != a  # 20.0 and 20 are one answer of a majority vote
    assert d == e
    assert f is None


def test_being_correct_does_not_depend_on_the_rewards_that_are_trained_on(build):
    write_sums()
    task = build(names=("format",))
    grades = task.grade([task.train_problem(0)], [["20", "#### 21"]])
    np.testing.assert_array_equal(grades.reward_PR, [[0, 1]])
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, False]])


def test_a_users_function_stands_beside_the_tasks_own_rewards(build):
    write_sums()
    Path("mine.py").write_text("def short(completions, row): return [float(len(c) < 3) for c in completions]")
    task = build(names=("correct", "mine:short"))
    grades = task.grade([task.train_problem(0)], [["20", "it is 20"]])
    np.testing.assert_array_equal(grades.named_rewards["short"], [[1, 0]])


def test_the_default_reward_is_being_correct(build):
    write_sums()
    task = build()
    grades = task.grade([task.train_problem(0)], [["20"]])
    assert grades.named_rewards.keys() == {"correct"}


class TimingOut:
    """A checker of which every second answer takes too long."""

    def __init__(self):
        self.checker = AnswerChecker("gsm8k", policy=(), limit_s=1.0, n_processes=1)
        self.n_timeouts, self.n_failures = 5, 0  # of earlier calls

    def check(self, pairs):
        self.n_timeouts += len(pairs) // 2
        return self.checker.check([("", gold) if i % 2 else (text, gold) for i, (text, gold) in enumerate(pairs)])

    def close(self):
        pass


def test_a_completion_whose_check_takes_too_long_is_wrong_and_counted():
    write_sums()
    task = AnswerTask(
        GSM8K,
        path="train.jsonl",
        heldout_path="test.jsonl",
        template="",
        levels=(),
        subjects=(),
        row_policy=RowPolicy("stop", "keep", "skip"),
        rewards=RewardSettings((), (), 1.0, 1.0, 1),
        checker=TimingOut(),
    )
    grades = task.grade([task.train_problem(0)], [["20", "20", "20", "20"]])
    np.testing.assert_array_equal(grades.reward_PR, [[1, 0, 1, 0]])
    assert grades.counts["verifier_timeouts"] == 2
    assert grades.failures == ()  # the group stays


def test_rows_of_omi_beside_a_heldout_set_of_gsm8k(build):
    rows = [
        {
            "problem": f"p{i}",
            "generated_solution": f"\\boxed{{{i}}}",
            "expected_answer": str(i),
            "problem_source": source,
        }
        for i, source in enumerate(["gsm8k", "math", "augmented_gsm8k", "augmented_math"])
    ]
    write([*rows, rows[0] | {"problem": " 20+20?"}])
    write(sums(range(20, 22)), "test.jsonl")
    train, heldout = problems(build(OMI))
    assert [p.content for p in train] == ["p0", "p2"]  # of GSM8K, and not held out
    assert train[0].prompt == OMI.template.format(question="p0")
    assert sorted(p.content for p in heldout) == ["20+20?", "21+21?"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, "0123"),
        ({"levels": (2,)}, "12"),
        ({"levels": (1, 2)}, "012"),
        ({"subjects": ("Number Theory",)}, "23"),
        ({"subjects": ("number_theory", "algebra"), "levels": (5, 1)}, "03"),
        ({"subjects": ("number_theory",), "levels": (2,)}, "2"),
    ],
)
def test_levels_and_subjects_choose_problems_of_both_sets(build, settings, kept):
    write(maths())
    write([row | {"problem": "held out " + row["problem"]} for row in maths()], "test.jsonl")
    train, heldout = problems(build(MATH, **settings))
    assert [p.content for p in train] == [f"p{i}" for i in kept]
    assert sorted(p.content for p in heldout) == [f"held out p{i}" for i in kept]
    assert (
        train[0].categories
        == (("level_1", "algebra"), ("level_2", "algebra"), ("level_2", "number_theory"))[int(kept[0])]
    )


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"levels": (3,)}, "task.levels: no problem of train.jsonl is of 'level_3'; there are algebra"),
        (
            {"subjects": ("Geometry",)},
            "task.subjects: no problem of train.jsonl is of 'geometry'; there are algebra (2)",
        ),
    ],
)
def test_a_level_or_subject_that_is_not_there_is_refused_with_those_that_are(build, settings, fault):
    write(maths())
    with pytest.raises(ValueError, match="no problem of") as error:
        build(MATH, heldout_path="", **settings)
    assert fault in str(error.value)
    assert "level_1 (1), level_2 (2), level_5 (1), number_theory (2)" in str(error.value)


def test_a_file_too_small_to_hold_any_question_out_is_left_to_the_caller(build):
    write(sums([11]))  # which the hash does not hold out
    assert (build(heldout_path="").n_train, build(heldout_path="").n_heldout) == (1, 0)


def test_a_level_and_a_subject_that_do_not_meet_are_refused(build):
    write(maths())
    with pytest.raises(ValueError, match=r"task.levels level_1 and task.subjects number_theory at once; choose more"):
        build(MATH, heldout_path="", levels=(1,), subjects=("Number Theory",))


def test_rows_that_are_no_use_are_named_or_left_out(build):
    write_sums()
    Path("train.jsonl").write_bytes(
        b'{"question": "q\xe4", "answer": "#### 1"}\n{"question": "q"}\n\n'
        b'{"question": "q", "answer": "1 #### 2 #### 3"}\n'
        b'{"question": "q", "answer": "#### 4"}\n'
    )
    with pytest.raises(ValueError, match="3 lines cannot be used") as error:
        build()
    assert [line[:10] for line in str(error.value).splitlines()[1:4]] == ["  line 1: ", "  line 2: ", "  line 4: "]
    assert build(row_policy=("skip", "keep", "skip")).n_train == 1


def test_demonstrations_are_the_rows_own_or_end_in_another_answer(build):
    write_sums()
    task, rng = build(), np.random.default_rng(0)
    problem = task.train_problem(0)
    texts = [task.demonstration(problem, rng, p_correct=0.3) for _ in range(1_000)]
    graded = task.grade([problem], [texts]).is_correct_PR
    np.testing.assert_array_equal(graded[0], [text == problem.demonstration for text in texts])
    assert abs(graded.mean() - 0.3) < 4 * (0.3 * 0.7 / 1_000) ** 0.5
    assert max(map(len, texts)) <= task.longest_demonstration


def test_where_the_answer_has_no_digit_another_rows_solution_is_the_wrong_one(build):
    names = ["Ann", "Bob", "Ann"]
    write([{"problem": f"p{i}", "solution": f"\\boxed{{\\text{{{name}}}}}"} for i, name in enumerate(names)])
    write([{"problem": "q", "solution": "\\boxed{1}"}], "test.jsonl")
    task, rng = build(MATH), np.random.default_rng(0)
    assert {task.demonstration(task.train_problem(0), rng, p_correct=0.0) for _ in range(20)} == {
        "\\boxed{\\text{Bob}}"
    }


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_small_data_sets_need_no_file_and_are_right(build, name):
    task = build(DATA_SETS[name], path=SMALL, heldout_path="", row_policy=("stop", "stop", "stop"))
    train, heldout = problems(task)
    assert task.n_train > 2_500
    assert 0.08 < task.n_heldout / (task.n_train + task.n_heldout) < 0.12
    sample = train[::97] + heldout[::31]
    assert task.grade(sample, [[problem.demonstration] for problem in sample]).is_correct_PR.all()
    rng = np.random.default_rng(0)
    wrong = [[task.demonstration(problem, rng, p_correct=0.0)] for problem in sample]
    assert not task.grade(sample, wrong).is_correct_PR.any()
    assert max(len(text) for (text,) in wrong) <= task.longest_demonstration <= 24

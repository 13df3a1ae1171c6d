"""From completions and rows to scores, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from rlvr_jax.tasks.code_reward import CodeReward, CodeSettings, code_of, code_problems
from rlvr_jax.tasks.code_tests import tests_of_row as read_tests
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.tasks.rewards import Rewards, RewardSettings

SETTINGS = CodeSettings(
    enabled=True, tests_field="tests", scoring="share", limit_s=20.0, cpu_s=5, memory_mib=256, n_processes=2
)
GOOD = "Here it is:\n```python\ndef inc(x):\n    return x + 1\n```\nDone."
WRONG = "def inc(x):\n    return 2"
TESTS = ["assert inc(1) == 2", "assert inc(2) == 3"]


def problem(tests):
    return Problem("Write inc.", "", "inc", row={"tests": tests})


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("def f(): pass", "def f(): pass"),
        ("```python\ndef f(): pass\n```", "def f(): pass\n"),
        ("a\n```py\nx = 1\n```\nb\n```\ndef f(): pass\n```\nUse it:\n```python\nprint(f())\n```", "def f(): pass\n"),
        ("```python\nf = abs\n```\n```python\ng = abs\n```", "g = abs\n"),
        ("```python\ndef f():\n    return '```'\n```", "def f():\n    return '```'\n"),
        ("```Python\ndef f(): pass", "def f(): pass"),  # cut before its end
        ("```bash\nrm -rf /\n```", ""),
        ("  ```python3\n  class A: pass\n  ```", "  class A: pass\n"),
        ("", ""),
    ],
)
def test_the_code_of_a_completion(completion, code):
    assert code_of(completion) == code


def test_scores_are_shares_of_tests_in_their_places():
    rows = [problem(TESTS), problem(json.dumps({"fn_name": "inc", "inputs": [[1], [5]], "outputs": [2, 6]}))]
    score_PR, failures = CodeReward(SETTINGS).grade(rows, [[GOOD, WRONG, "no idea"], ["```js\n1\n```", GOOD, WRONG]])
    np.testing.assert_array_equal(score_PR, [[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    assert failures == ["", ""]


def test_all_or_nothing():
    score_PR, _ = CodeReward(dataclasses.replace(SETTINGS, scoring="all")).grade([problem(TESTS)], [[GOOD, WRONG]])
    np.testing.assert_array_equal(score_PR, [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        (None, "holds no tests"),
        ([], "holds no tests"),
        ([1], "holds no tests"),
        ("", "holds no tests"),
        ("[1, 2", "neither tests nor JSON"),
        (["assert inc(1 == 2"], "a test that is no Python"),
        (["assert sum([1, 2]) == 3"], "calls no function of the code's own"),
        (["assert math.isclose(1, 1)"], "calls no function of the code's own"),
        (["assert np.allclose(inc(1), 2)"], "uses attributes of 'np', which is no module of the standard library"),
        (["with pytest.raises(ValueError):\n    inc('')"], "uses attributes of 'pytest'"),
        (["import numpy as np\nassert np.allclose(inc(1), 2)"], "imports 'numpy'"),
        (["from solution import inc\nassert inc(1) == 2"], "imports 'solution'"),
        (["assert Solution().inc(1) == 2"], "uses .inc of what 'Solution' gives"),
        (["assert Solution().count(1) == 2"], "uses .count of what 'Solution' gives"),
        (["s = stack()\ns.push(1)\nassert s.pop() == 1"], "uses .push of what 'stack' gives"),
        (["try:\n    inc('')\nexcept Mine:\n    pass"], "catches 'Mine', which is no exception of Python's"),
        ({"inputs": [[1]], "outputs": [2]}, "must have fn_name"),
        ({"fn_name": "f", "inputs": [[1]], "outputs": []}, "as many outputs as inputs"),
        ({"fn_name": "f); import os", "inputs": [[1]], "outputs": [1]}, "must have fn_name"),
        ({"fn_name": "f", "inputs": ["1\n"], "outputs": ["1"]}, "an input that is not a list of arguments"),
    ],
)
def test_tests_that_cannot_be_used_are_named(tests, says):
    with pytest.raises(ValueError, match="field 'tests'") as caught:
        read_tests({"tests": tests}, "tests")
    assert says in str(caught.value)


def test_tests_may_use_what_plain_values_have_and_the_standard_library():
    tests = [
        "assert inc('a').strip().upper() == 'A'",
        "x = inc(1)\nassert x.bit_length() == 2",
        "import os.path as p, collections\nassert p.join('a', 'b') == inc(1)",
        "try:\n    inc(1)\nexcept (ValueError, json.JSONDecodeError) as error:\n    assert error.args",
    ]
    assert read_tests({"tests": tests}, "tests") == tests


def test_one_completion_cannot_take_the_scores_of_the_others_away():
    tests = ["assert inc(1) == 2", "assert inc(print if inc(2) == 'odd' else 2) == 3"]
    odd = "def inc(x):\n    return 2 if x == 1 else 'odd'"
    broken = "def inc(x) return"
    rows = [problem(tests)] * 3
    score_PR, failures = CodeReward(SETTINGS).grade(rows, [[odd, GOOD], [odd, WRONG], [odd, broken]])
    np.testing.assert_array_equal(score_PR, [[0.0, 1.0], [0.0, 0.5], [np.nan, np.nan]])
    assert failures[:2] == ["", ""]
    assert "a test passes on what is no plain value" in failures[2]


def test_a_row_at_fault_is_left_out_and_the_others_are_graded():
    rows = [problem(["assert inc(open) == 2"]), problem(TESTS), Problem("Other.", "", "other")]
    score_PR, failures = CodeReward(SETTINGS).grade(rows, [[GOOD], [GOOD], [GOOD]])
    np.testing.assert_array_equal(score_PR, [[np.nan], [1.0], [np.nan]])
    assert "a test passes on what is no plain value" in failures[0]
    assert failures[1] == ""
    assert "reward code on prompt 'Other.': field 'tests' holds no tests" in failures[2]


def test_rows_without_tests_are_found_before_anything_runs(caplog):
    reward = CodeReward(SETTINGS)
    with pytest.raises(ValueError, match=r"not one row has tests for the reward 'code'.*set task.code.tests_field"):
        reward.check([problem(None), problem([])])
    reward.check([problem(TESTS), problem("assert (")])
    assert "1 of 2 rows have tests that cannot be used: reward code on prompt 'Write inc.'" in caplog.text


def test_code_is_one_of_a_tasks_rewards():
    rewards = Rewards(
        RewardSettings(("exact", "code"), (0.0, 2.0), 2.0, 5.0, 1, code=SETTINGS), own=("exact",), default=("exact",)
    )
    grades = rewards.grade([problem(TESTS)], [[GOOD, WRONG]], {"exact": np.zeros((1, 2))})
    np.testing.assert_array_equal(grades.reward_PR, [[2.0, 1.0]])
    np.testing.assert_array_equal(grades.is_correct_PR, [[True, False]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"enabled": False}, "runs what a model writes"),
        ({"tests_field": ""}, "must name the field"),
        ({"scoring": "some"}, "is not one of ('share', 'all')"),
        ({"memory_mib": 10}, "use 64 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, says):
    settings = dataclasses.replace(SETTINGS, **changes)
    (found,) = code_problems(settings)
    assert says in found
    with pytest.raises(ValueError, match="code"):
        CodeReward(settings)

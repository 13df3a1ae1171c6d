"""Named rewards, their weighted sum and what becomes of the ones that fail."""

import numpy as np
import pytest

from rlvr_jax.tasks.problem import RowProblem
from rlvr_jax.tasks.rewards import Rewards, RewardSettings, reward_names

NAN = float("nan")
SOURCE = """
def first(prompt, completions):
    if prompt == "bad": raise ValueError("first")
    return [len(c) for c in completions]

def second(completions, answer, row):
    if row.get("bad"): raise ValueError("second")
    return [c == answer for c in completions]
"""


def problem(prompt, answer="ab", **row):
    return RowProblem(prompt, answer, content=prompt, row=row, demonstration=answer)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """build(rewards, ...) with first() and second() in mine.py and second() in other.py, ended afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text(SOURCE)
    built = []

    def build_rewards(*rewards, weights=(), correct_at=1.0):
        settings = RewardSettings(rewards, weights, correct_at, limit_s=30.0, n_processes=2)
        built.append(Rewards(settings, own=("length", "exact"), default=("exact",)))
        return built[-1]

    yield build_rewards
    for rewards in built:
        rewards.close()


def own(problems, completion_texts):
    """What a task with "length" and "exact" would compute."""
    pairs = list(zip(problems, completion_texts, strict=True))
    return {
        "length": np.array([[len(text) for text in texts] for _, texts in pairs]),
        "exact": np.array([[text == problem.answer for text in texts] for problem, texts in pairs]),
    }


def grade(rewards, problems, completion_texts, **more):
    return rewards.grade(problems, completion_texts, own(problems, completion_texts), **more)


def assert_arrays(got, wanted, dtype=np.float32):
    np.testing.assert_array_equal(got, np.array(wanted, dtype), strict=True)


def test_rewards_are_weighted_and_summed(build):
    rewards = build("mine:first", "exact", "mine:second", weights=(0.5, 2, -1.0), correct_at=2.0)
    grades = grade(rewards, [problem("p"), problem("q", "c")], [["ab", "c"], ["ab", "c"]])
    assert list(grades.named_rewards) == ["first", "exact", "second"]
    assert_arrays(grades.named_rewards["first"], [[2, 1], [2, 1]])
    assert_arrays(grades.named_rewards["exact"], [[1, 0], [0, 1]])
    assert_arrays(grades.named_rewards["second"], [[1, 0], [0, 1]])
    assert_arrays(grades.reward_PR, [[1 + 2 - 1, 0.5], [1, 0.5 + 2 - 1]])
    assert_arrays(grades.is_correct_PR, [[True, False], [False, False]], bool)
    assert grades.failures == ()


def test_without_weights_every_reward_counts_once(build):
    grades = grade(build("exact", "mine:second"), [problem("p")], [["ab", "x"]])
    assert_arrays(grades.reward_PR, [[2, 0]])


def test_weights_that_should_sum_to_one_reach_it(build):  # 0.7 + 0.2 + 0.1 is 0.9999999999999999
    rewards = build("exact", "mine:second", "other:second", weights=(0.7, 0.2, 0.1))
    assert grade(rewards, [problem("p")], [["ab"]]).is_correct_PR == [[True]]


def test_a_prompt_with_a_failed_reward_has_no_sum_but_keeps_the_others(build):
    rewards = build("exact", "mine:first", "mine:second")
    problems = [problem("p"), problem("bad"), problem("q", bad=True), problem("bad", bad=True)]
    grades = grade(rewards, problems, [["ab", "x"]] * 4)
    assert_arrays(grades.named_rewards["exact"], [[1, 0]] * 4)
    assert_arrays(grades.named_rewards["first"], [[2, 1], [NAN, NAN], [2, 1], [NAN, NAN]])
    assert_arrays(grades.named_rewards["second"], [[1, 0], [1, 0], [NAN, NAN], [NAN, NAN]])
    assert_arrays(grades.reward_PR, [[4, 1], [NAN, NAN], [NAN, NAN], [NAN, NAN]])
    assert_arrays(grades.is_correct_PR, [[True, True], *[[False, False]] * 3], bool)
    first, second = "reward mine:first on prompt 'bad': raised ValueError: first (line 3 of mine.py)", "mine:second on"
    assert len(grades.failures) == 3  # one per prompt
    assert grades.failures[0] == first
    assert second in grades.failures[1]
    assert grades.failures[2].startswith(first + "; ")
    assert second in grades.failures[2]


def test_a_failed_reward_of_weight_zero_still_counts_as_failed(build):
    grades = grade(build("exact", "mine:first", weights=(1.0, 0.0)), [problem("bad")], [["ab"]])
    assert_arrays(grades.reward_PR, [[NAN]])
    assert_arrays(grades.is_correct_PR, [[False]], bool)


@pytest.mark.parametrize(
    ("rewards", "names"),
    [
        (("exact",), ["exact"]),
        (("a:f", "b.c:g"), ["f", "g"]),
        (("a:f", "b.c:f", "b:g"), ["a.f", "b.c.f", "g"]),
        (("exact", "a:exact"), ["exact", "a.exact"]),
    ],
)
def test_a_reward_is_named_after_its_function_and_its_module_where_two_share_a_name(rewards, names):
    assert reward_names(rewards, own=("exact",)) == dict(zip(rewards, names, strict=True))


@pytest.mark.parametrize(
    ("rewards", "settings", "fault"),
    [
        (("exact", "exact"), {}, "names 'exact' 2 times"),
        (("exakt",), {}, "'exakt' in task.rewards is neither 'length' or 'exact' nor module:function"),
        (("exact",), {"weights": (1.0, 2.0)}, r"\(1.0, 2.0\) are 2 for the 1 rewards exact; give one weight per rew"),
        (("exact", "mine:first"), {"weights": (1.0,)}, "are 1 for the 2 rewards exact, mine:first"),
        (("exact",), {"weights": (NAN,)}, r"task.reward_weights=\(nan,\) and task.correct_at=1.0 must be finite"),
        (("exact",), {"correct_at": float("inf")}, "task.correct_at=inf must be finite"),
    ],
)
def test_rewards_that_cannot_be_meant_are_refused(build, rewards, settings, fault):
    with pytest.raises(ValueError, match=fault):
        build(*rewards, **settings)


def test_rewards_of_a_task_without_functions_need_no_process(build):
    assert build("exact")._pool is None


def test_a_weighted_sum_that_no_update_could_use_is_a_failure_with_a_name(build):
    rewards = build("exact", weights=(1e20,))
    grades = grade(rewards, [problem("p"), problem("q", "xy")], [["ab", "no"], ["no", "no"]])
    assert_arrays(grades.reward_PR, [[NAN, NAN], [0.0, 0.0]])
    [failure] = grades.failures
    assert "on prompt 'p' is beyond 1e+15; lower task.reward_weights" in failure


@pytest.mark.parametrize("name", ["kl", "overlong", "truncated"])
def test_a_reward_named_like_a_penalty_of_the_trainer_keeps_its_module_in_its_name(name):
    assert reward_names([f"mine:{name}", "exact"], own=["exact"]) == {f"mine:{name}": f"mine.{name}", "exact": "exact"}

"""What becomes of rollouts on the host: texts, grades, penalties, what is kept, what teaches anything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.arithmetic import DigitArithmetic
from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.collect import collected, prompts_of_step, with_penalty
from rlvr_jax.train.config import AlgoConfig

TASK, TOKENIZER = DigitArithmetic(operators="+", operand_min=0, operand_max=9), CharTokenizer()
PROBLEMS = [TASK.train_problem(i) for i in range(2)]
RIGHT = PROBLEMS[0].answer
MAX_NEW_TOKENS = 4


def rollouts(texts):
    """Completions ended by EOS unless they have 4 characters; as the sampler leaves them, on the device."""
    tokens = [[TOKENIZER.encode_completion(text)[:MAX_NEW_TOKENS] for text in row] for row in texts]
    padded = np.array([[row + [0] * (MAX_NEW_TOKENS - len(row)) for row in rows] for rows in tokens], np.int32)
    return Rollouts(
        prompt_PS=jnp.ones((len(texts), 7), jnp.int32),
        prompt_length_P=jnp.full(len(texts), 7),
        completion_PRT=jnp.asarray(padded),
        completion_length_PR=jnp.asarray([[len(row) for row in rows] for rows in tokens]),
        is_truncated_PR=jnp.asarray([[row[-1] not in TOKENIZER.eos_ids for row in rows] for rows in tokens]),
        behavior_logprob_PRT=jnp.zeros(padded.shape),
        n_decode_steps=jnp.int32(3),
    )


class GivenRewards:
    """Rewards that stand in a table; NaN where a prompt could not be graded."""

    def __init__(self, reward_PR):
        self.reward_PR = np.array(reward_PR, np.float32)

    def grade(self, problems, completion_texts):
        self.asked = problems, completion_texts
        failures = tuple(f"prompt {p}" for p in np.flatnonzero(np.isnan(self.reward_PR).all(axis=1)))
        return Grades({"given": self.reward_PR}, self.reward_PR.copy(), self.reward_PR >= 1, failures)


def collect(texts, *, reward_PR=None, **options):
    task = TASK if reward_PR is None else GivenRewards(reward_PR)
    problems = (PROBLEMS * 3)[: len(texts)]
    return collected(task, problems, rollouts(texts), TOKENIZER, AlgoConfig(**options), max_new_tokens=MAX_NEW_TOKENS)


# lengths with EOS: 4 2 | 4 4, and the last is cut
TEXTS = [[RIGHT, "x"], ["999", "9999"]]


def test_rewards_stand_where_their_completions_stand():
    collection = collect(TEXTS)
    np.testing.assert_array_equal(collection.reward_PR, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(collection.grades.is_correct_PR, [[True, False], [False, False]])
    assert collection.completion_texts == TEXTS
    assert collection.problems == PROBLEMS
    np.testing.assert_array_equal(collection.is_kept_PR, np.ones((2, 2), bool))
    assert collection.penalties == {}
    assert collection.n_tokens == 14 + 4 + 2 + 4 + 4
    assert (collection.n_prompts_drawn, collection.n_effective_drawn) == (2, 1)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(collection.rollouts))


def test_the_task_sees_texts_up_to_eos():
    drawn = rollouts([["12", "3"]])
    drawn = drawn.replace(completion_PRT=drawn.completion_PRT.at[0, :, -1].set(50))  # what stands after EOS
    task = GivenRewards([[0, 1]])
    collected(task, PROBLEMS[:1], drawn, TOKENIZER, AlgoConfig(), max_new_tokens=4)
    assert task.asked == (PROBLEMS[:1], [["12", "3"]])


def test_long_rollouts_are_penalised_by_the_tokens_they_have():
    collection = collect(TEXTS, overlong_buffer_tokens=2, overlong_penalty=0.5)
    # free up to 4 - 2 tokens, half of it at 3, all of it at 4
    np.testing.assert_array_equal(collection.penalties["overlong"], [[-0.5, 0], [-0.5, -0.5]])
    np.testing.assert_array_equal(collection.reward_PR, [[0.5, 0], [-0.5, -0.5]])
    assert collection.reward_PR.dtype == np.float32
    np.testing.assert_array_equal(collection.grades.reward_PR, [[1, 0], [0, 0]])  # the task's own stays what it was
    collection = collect([["12", "x"]], overlong_buffer_tokens=2, overlong_penalty=0.5)
    np.testing.assert_array_equal(collection.penalties["overlong"], [[-0.25, 0]])  # 3 and 2 tokens


def test_truncated_rollouts_are_trained_like_any_other_unless_told():
    collection = collect(TEXTS, truncated="train", truncated_penalty=3.0)
    np.testing.assert_array_equal(collection.reward_PR, [[1, 0], [0, 0]])
    assert collection.is_kept_PR.all()


def test_truncated_rollouts_are_penalised():
    collection = collect(TEXTS, truncated="penalise", truncated_penalty=0.25)
    np.testing.assert_array_equal(collection.penalties["truncated"], [[0, 0], [0, -0.25]])
    np.testing.assert_array_equal(collection.reward_PR, [[1, 0], [0, -0.25]])
    assert collection.reward_PR.dtype == np.float32
    assert collection.is_kept_PR.all()
    np.testing.assert_array_equal(collection.is_effective_P, [True, True])  # by the penalty alone
    assert collection.n_effective_drawn == 2
    evened = collect([["9999", "x"]], reward_PR=[[1, 0.75]], truncated="penalise", truncated_penalty=0.25)
    np.testing.assert_array_equal(evened.is_effective_P, [False])  # nor without it


def test_truncated_rollouts_are_masked():
    collection = collect([["9999", "x"], ["9999", "9999"]], reward_PR=[[1, 0], [1, 0]], truncated="mask")
    np.testing.assert_array_equal(collection.is_kept_PR, [[False, True], [False, False]])
    np.testing.assert_array_equal(collection.reward_PR, [[1, 0], [1, 0]])
    assert collection.penalties == {}
    np.testing.assert_array_equal(collection.is_effective_P, [False, False])
    assert collection.n_tokens == 14 + 4 + 2 + 4 + 4  # they were drawn all the same


def test_penalties_add_up():
    collection = collect(TEXTS, truncated="penalise", overlong_buffer_tokens=1)
    assert set(collection.penalties) == {"overlong", "truncated"}
    np.testing.assert_array_equal(collection.reward_PR, [[0, 0], [-1, -2]])


def test_a_prompt_that_could_not_be_graded_is_not_kept():
    collection = collect([*TEXTS, ["a", "b"]], reward_PR=[[0, 1], [np.nan] * 2, [0, 0]], overlong_buffer_tokens=1)
    np.testing.assert_array_equal(collection.is_kept_PR, [[True, True], [False, False], [True, True]])
    assert np.isnan(collection.reward_PR[1]).all()
    np.testing.assert_array_equal(collection.is_effective_P, [True, False, False])
    assert collection.n_effective_drawn == 1
    assert collection.grades.failures == ("prompt 1",)


@pytest.mark.parametrize(
    ("reward_PR", "is_kept_PR", "expected"),
    [
        ([[0, 1], [1, 1], [0.1, 0.1]], None, [True, False, False]),
        ([[0, 1, 0], [0, 1, 1]], [[1, 0, 1], [0, 1, 1]], [False, False]),  # those that differ are not kept
        ([[0, 1, 0], [0, 1, 1]], [[1, 1, 0], [1, 0, 0]], [True, False]),  # one alone has none to differ from
        ([[0, np.nan], [np.nan, np.nan]], [[1, 0], [0, 0]], [False, False]),
        # with one rollout per prompt the group is the batch
        ([[0], [1], [1]], None, [True, True, True]),
        ([[1], [1], [1]], None, [False, False, False]),
        ([[0], [1], [1]], [[0], [1], [1]], [False, False, False]),
        ([[np.nan], [1], [0]], [[0], [1], [1]], [False, True, True]),
        ([[0], [1]], [[0], [0]], [False, False]),
    ],
)
def test_a_group_teaches_something_if_its_kept_rewards_differ(reward_PR, is_kept_PR, expected):
    collection = collect([["x"] * len(row) for row in reward_PR], reward_PR=reward_PR)
    is_kept_PR = np.ones(np.shape(reward_PR), bool) if is_kept_PR is None else np.array(is_kept_PR, bool)
    collection = dataclasses.replace(collection, is_kept_PR=is_kept_PR)
    np.testing.assert_array_equal(collection.is_effective_P, expected)


def test_a_penalty_is_added_to_a_copy():
    collection = collect(TEXTS, overlong_buffer_tokens=1)
    other = with_penalty(collection, "kl", np.array([[-0.5, 0], [0, 0]], np.float32))
    np.testing.assert_array_equal(other.reward_PR, [[-0.5, 0], [-1, -1]])
    assert set(other.penalties) == {"overlong", "kl"}
    assert set(collection.penalties) == {"overlong"}


def test_prompts_follow_the_counter_across_steps():
    def shown(first, n):
        return [problem.prompt for problem in prompts_of_step(TASK, first, n_prompts=n, seed=3)]

    assert shown(0, 10) == shown(0, 4) + shown(4, 6)
    n = TASK.n_train
    assert sorted(shown(0, n)) == sorted(shown(n, n))  # each problem once per pass
    assert shown(0, n) != shown(n, n)  # in another order
    assert shown(0, n) != [problem.prompt for problem in prompts_of_step(TASK, 0, n_prompts=n, seed=4)]

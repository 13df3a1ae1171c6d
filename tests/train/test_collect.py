import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.arithmetic import DigitArithmetic
from rlvr_jax.train.collect import build_batch, prompts_of_step, reward_metrics, score

TASK, TOKENIZER = DigitArithmetic(operators="+", operand_min=0, operand_max=9), CharTokenizer()
PROBLEMS = [TASK.train_problem(i) for i in range(2)]


def rollouts(texts):
    """2 prompts x 2 completions, each ended by EOS unless it has 4 characters."""
    tokens = [[TOKENIZER.encode_completion(text)[:4] for text in row] for row in texts]
    padded = np.array([[row + [0] * (4 - len(row)) for row in rows] for rows in tokens], np.int32)
    length_PR = np.array([[len(row) for row in rows] for rows in tokens], np.int32)
    return Rollouts(
        prompt_PS=jnp.ones((2, 7), jnp.int32),
        prompt_length_P=jnp.array([7, 7]),
        completion_PRT=jnp.asarray(padded),
        completion_length_PR=jnp.asarray(length_PR),
        is_truncated_PR=jnp.asarray(padded[..., -1] > 2),
        behavior_logprob_PRT=jnp.zeros((2, 2, 4)),
        n_decode_steps=jnp.int32(3),
    )


RIGHT = PROBLEMS[0].answer
COLLECTION = score(TASK, PROBLEMS, rollouts([[RIGHT, "x"], ["999", "9999"]]), TOKENIZER)


def test_rewards_stand_where_their_completions_stand():
    np.testing.assert_array_equal(COLLECTION.reward_PR, [[1, 0], [0, 0]])
    assert COLLECTION.completion_texts[0] == [RIGHT, "x"]
    assert COLLECTION.n_tokens == 14 + 4 + 2 + 4 + 4


def test_reward_metrics_by_hand():
    metrics = reward_metrics(COLLECTION)
    expected = {
        "reward/mean": 0.25,
        "reward/std": np.sqrt(3) / 4,  # of all four
        "reward/within_group_std": 0.25,  # mean of 1/2 and 0: not the spread of the batch
        "reward/frac_zero_std": 0.5,
        "reward/frac_all_zero": 0.5,
        "reward/frac_all_one": 0.0,
        "reward/best_of_n": 0.5,
        "reward/best_of_n_gap": 0.25,
        "completions/mean_length": 3.5,
        "completions/max_length": 4,
        "completions/truncated_frac": 0.25,
        "completions/length_correct": 4,
        "completions/length_incorrect": 10 / 3,
        "batch/effective_prompts": 1,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_a_group_of_equal_rewards_weighs_exactly_nothing():
    batch = build_batch(rollouts([[RIGHT, "x"], ["999", "9999"]]), COLLECTION.reward_PR, kind="grpo", ddof=1, eps=0.0)
    assert (batch.advantage_PR[1] == 0).all()
    np.testing.assert_allclose(batch.advantage_PR[0], [1 / np.sqrt(2), -1 / np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(batch.loo_advantage_PR, [[1, -1], [0, 0]])


def test_prompts_follow_the_counter_across_steps():
    def shown(first, n):
        return [problem.prompt for problem in prompts_of_step(TASK, first, n_prompts=n, seed=3)]

    assert shown(0, 10) == shown(0, 4) + shown(4, 6)
    n = TASK.n_train
    assert sorted(shown(0, n)) == sorted(shown(n, n))  # each problem once per pass
    assert shown(0, n) != shown(n, n)  # in another order
    assert shown(0, n) != [problem.prompt for problem in prompts_of_step(TASK, 0, n_prompts=n, seed=4)]

"""From a collection to arrays: advantages, micro-batches, which prompts an update takes."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
sys.path.insert(0, str(Path(__file__).parent))
from meshes import mesh_of
from slow_advantages import slow_advantages

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train import config as c
from rlvr_jax.train.batch import (
    batch_without_advantages,
    build_advantages,
    in_microbatches,
    minibatch_rows,
    selection_metrics,
    with_advantages,
    with_selection,
)
from rlvr_jax.train.collect import Collection

REWARD_PR = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1], [np.nan] * 3], np.float32)
PENALTY_PR = np.array([[0, 0, 0], [0, 0, 0], [-0.5, -0.5, 0], [-1, 0, 0]], np.float32)
KEPT_PR = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)
P, R = REWARD_PR.shape
S, T = 2, 5


@pytest.fixture
def collection():
    numbers = np.arange(P * R * T, dtype=np.int32).reshape(P, R, T)
    return Collection(
        problems=[Problem(f"{p}", "1", f"{p}") for p in range(P)],
        rollouts=Rollouts(
            prompt_PS=numbers[:, 0, :S],
            prompt_length_P=np.array([1, 2, 1, 2], np.int32),
            completion_PRT=numbers,
            completion_length_PR=numbers[:, :, 0] % T + 1,
            is_truncated_PR=~KEPT_PR,
            behavior_logprob_PRT=-numbers.astype(np.float32),
            n_decode_steps=np.int32(5),
        ),
        completion_texts=[["x"] * R] * P,
        grades=Grades({"given": REWARD_PR}, REWARD_PR, REWARD_PR == 1, ("prompt 3",)),
        penalties={"overlong": PENALTY_PR},
        is_kept_PR=KEPT_PR,
        n_prompts_drawn=P,
        n_effective_drawn=2,
        n_ungraded_drawn=0,
        n_tokens=0,
    )


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
def test_a_batch_has_the_advantages_of_the_rewards_with_their_penalties(collection, kind):
    build = build_advantages(c.AlgoConfig(advantage=kind, std_ddof=0, std_eps=0.3))
    batch = with_advantages(batch_without_advantages(collection), collection, build)
    total_PR = np.where(KEPT_PR, REWARD_PR + PENALTY_PR, 0)
    expected_PR = slow_advantages(total_PR, KEPT_PR, kind=kind, ddof=0, eps=0.3)
    np.testing.assert_allclose(batch.advantage_PR, expected_PR, rtol=1e-5, atol=1e-7)
    # leave one out, whatever the update takes: 1 - 0, 0 - 1/2 twice; -1/2 against 1/2
    expected_PR = [[1, -0.5, -0.5], [0, 0, 0], [-1, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(batch.loo_advantage_PR, expected_PR, rtol=1e-6)


def test_the_settings_of_a_standard_deviation_arrive():
    def first(**options):
        advantage_PR, _ = build_advantages(c.AlgoConfig(advantage="grpo", **options))(
            np.array([[1, 0, 0, 0]], np.float32), np.ones((1, 4), bool)
        )
        return float(advantage_PR[0, 0])

    assert first(std_ddof=0, std_eps=0.0) == pytest.approx(np.sqrt(3))  # 3/4 over sqrt(3)/4
    assert first(std_ddof=1, std_eps=0.0) == pytest.approx(1.5)  # over 1/2
    assert first(std_ddof=1, std_eps=0.5) == pytest.approx(0.75)  # over 1/2 + 1/2


def test_a_group_of_equal_rewards_weighs_exactly_nothing(collection):
    build = build_advantages(c.AlgoConfig(advantage="grpo", std_eps=0.0))
    batch = with_advantages(batch_without_advantages(collection), collection, build)
    assert (batch.advantage_PR[1] == 0).all()
    assert (batch.loo_advantage_PR[1] == 0).all()


def test_a_batch_holds_the_arrays_of_its_collection(collection):
    batch, rollouts = batch_without_advantages(collection), collection.rollouts
    names = "prompt_PS prompt_length_P completion_PRT completion_length_PR behavior_logprob_PRT"
    for name in names.split():
        np.testing.assert_array_equal(getattr(batch, name), getattr(rollouts, name))
    np.testing.assert_array_equal(batch.is_kept_PR, KEPT_PR)
    np.testing.assert_array_equal(batch.advantage_PR, np.zeros((P, R)))
    np.testing.assert_array_equal(batch.loo_advantage_PR, np.zeros((P, R)))
    assert batch.old_logprob_PRT is None
    assert batch.reference_logprob_PRT is None


@pytest.mark.parametrize(
    ("algo", "expected"),
    [  # rewards with penalties: 1 0 0, 0 0 0, -0.5 0.5 and one that is not kept, none of the last prompt
        ({"select": "threshold", "select_threshold": 0.5}, [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ({"select": "best_of_n", "select_n": 1}, [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ({"select": "best_of_n", "select_n": 2}, [[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]),
    ],
)
def test_selected_rollouts_and_the_size_of_their_batch(collection, algo, expected):
    algo = c.AlgoConfig(**algo)
    whole = batch_without_advantages(collection)
    batch = with_advantages(with_selection(whole, collection, algo), collection, build_advantages(algo))
    np.testing.assert_array_equal(batch.is_selected_PR, np.array(expected, bool))
    # baselines are those of all that is kept
    np.testing.assert_array_equal(
        batch.advantage_PR, with_advantages(whole, collection, build_advantages(c.AlgoConfig())).advantage_PR
    )
    n = int(np.sum(expected))
    assert selection_metrics(collection, algo) == {
        "batch/selected_rollouts": n,
        "batch/selected_frac": n / 8,
        "batch/selected_prompts": int(np.any(expected, axis=1).sum()),
    }


def test_without_selection_a_batch_has_no_mask_of_it(collection):
    assert with_selection(batch_without_advantages(collection), collection, c.AlgoConfig()).is_selected_PR is None
    assert selection_metrics(collection, c.AlgoConfig()) == {}


@pytest.mark.parametrize("data", [1, 2])
def test_micro_batches_are_whole_groups_in_order(collection, data):
    batch = batch_without_advantages(collection)
    cut = in_microbatches(batch, mesh_of(data), microbatch_prompts=2)
    assert cut.completion_PRT.shape == (2, 2, R, T)
    assert cut.prompt_length_P.shape == (2, 2)
    jax.tree.map(lambda leaf, rows: np.testing.assert_array_equal(rows.reshape(leaf.shape), leaf), batch, cut)
    assert cut.old_logprob_PRT is None
    n_prompts_each = {shard.data.shape[1] for shard in cut.is_kept_PR.addressable_shards}
    assert n_prompts_each == {2 // data}


def config(**batch):
    return c.TrainConfig(seed=7, batch=c.BatchConfig(**batch))


def test_a_step_of_one_update_takes_its_prompts_in_order():
    (rows,) = minibatch_rows(config(n_prompts=6), step=3)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3, 4, 5])


def test_every_prompt_is_taken_once_per_epoch_in_orders_of_their_own():
    several = config(n_prompts=12, minibatch_prompts=4, epochs_per_buffer=2)
    rows = minibatch_rows(several, step=3)
    assert [len(of_update) for of_update in rows] == [4] * 6
    epochs = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    orders = [tuple(epoch) for epoch in (*epochs, np.concatenate(minibatch_rows(several, step=4)[:3]))]
    several.seed = 8
    orders.append(tuple(np.concatenate(minibatch_rows(several, step=3)[:3])))
    assert len({*orders, tuple(range(12))}) == 5  # epochs, steps and seeds differ


def test_the_order_of_a_step_is_the_same_every_time():
    several = config(n_prompts=12, minibatch_prompts=4)
    np.testing.assert_array_equal(minibatch_rows(several, step=3), minibatch_rows(several, step=3))


def test_epochs_of_one_minibatch_each_take_all_prompts():
    rows = minibatch_rows(config(n_prompts=4, epochs_per_buffer=3), step=0)
    assert [sorted(of_update) for of_update in rows] == [[0, 1, 2, 3]] * 3

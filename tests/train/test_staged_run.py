"""A run through stages of a mixture that trains on the best rollouts alone: what it draws, trains and logs."""

import gzip
import json

import pytest

from rlvr_jax.train import config as c


@pytest.fixture(scope="module")
def rows(tmp_path_factory, module_config, start):
    """(metrics, rollouts) of 3 updates of 8 prompts, the second of which begins in one stage and ends in the next."""
    config = module_config
    config.n_updates = 3
    config.task = c.TaskConfig(
        name="mixture", mixture=("digits", "comparison"), mixture_weights=(3.0, 1.0), operators="+", operand_max=9,
        stages=("operand_max=4", ""), stage_prompts=(12,), rewards=("partial",),
    )  # fmt: skip
    config.batch = c.BatchConfig(n_prompts=8, n_rollouts=4, microbatch_prompts=4)
    config.algo = c.AlgoConfig(advantage="grpo", select="best_of_n", select_n=2)
    config.noise = c.NoiseConfig()
    config.eval = c.EvalConfig(every_updates=0, n_problems=3, n_samples=2, k=(1,))
    config.checkpoint = c.CheckpointConfig(every_updates=0, keep_best=0)
    config.log = c.LogConfig(rollouts_every_updates=1, rollouts_n_prompts=8)
    folder = tmp_path_factory.mktemp("staged")
    assert start(config, folder) == "finished"
    with gzip.open(folder / "rollouts.jsonl.gz", "rt") as file:
        rollouts = [row for row in map(json.loads, file) if row["table"] == "completions"]
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()], rollouts


def test_every_step_logs_the_stage_it_begins_in(rows):
    assert [row["batch/stage"] for row in rows[0]] == [1, 1, 2]  # prompts 0, 8 and 16; stage 2 begins with 12


def test_prompts_are_those_of_their_stage_in_its_proportions(rows):
    for update in (1, 2, 3):
        prompts = [row["prompt"] for row in rows[1] if row["update"] == update][::4]
        assert sum(prompt.startswith("Is") for prompt in prompts) == 2
        numbers = [
            int(word) for prompt in prompts for word in prompt.replace("+", " ").strip("=? ").split() if word.isdigit()
        ]
        assert max(numbers) <= (4 if update == 1 else 9)


def test_the_loss_is_taken_of_the_best_two_of_each_prompt(rows):
    for row in rows[0]:
        of_update = [rollout for rollout in rows[1] if rollout["update"] == row["update"]]
        groups = [of_update[first : first + 4] for first in range(0, 32, 4)]
        best = [sorted(group, key=lambda rollout: -rollout["reward"])[:2] for group in groups]  # a stable sort
        assert row["batch/tokens"] == sum(rollout["length_tokens"] for two in best for rollout in two)
        assert (row["batch/selected_rollouts"], row["batch/selected_prompts"], row["batch/selected_frac"]) == (
            16,
            8,
            0.5,
        )
        assert row["rewards/partial/mean"] == pytest.approx(row["reward/mean"], abs=1e-6)  # of all rollouts

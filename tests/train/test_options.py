"""Settings that people combine, each a short run: it ends, and what it names shows in its rows."""

import copy

import numpy as np
import pytest
from rows_of_run import exact_rows

from rlvr_jax.train.config import set_field

PRESETS = {
    "DAPO": {
        "algo.advantage": "grpo", "algo.averaging": "token", "algo.clip_high": 0.28, "sampling.max_rounds": 3,
        "algo.overlong_buffer_tokens": 2, "algo.overlong_penalty": 0.5, "batch.minibatch_prompts": 4,
    },
    "GSPO": {
        "algo.advantage": "grpo", "algo.ratio": "sequence", "algo.averaging": "sequence", "algo.clip_low": 1e-2,
        "algo.clip_high": 1e-2, "batch.minibatch_prompts": 4, "optimizer.peak_lr": 1e-2,
    },
    "CISPO": {
        "algo.objective": "cispo", "algo.clip_low": 1.0, "algo.clip_high": 1e-6, "batch.epochs_per_buffer": 2,
        "algo.entropy_coef": 0.01, "optimizer.peak_lr": 1e-2, "algo.importance_cap": 2.0,
    },
    "REINFORCE++": {
        "algo.advantage": "reinforce++", "batch.n_rollouts": 1, "algo.kl_coef": 0.5, "algo.kl_in": "reward",
        "algo.kl_estimator": "k1", "optimizer.peak_lr": 1e-2,
    },
    "masked": {
        "sampling.temperature": 2.0, "algo.truncated": "mask", "algo.kl_coef": 0.1, "algo.kl_estimator": "k2",
        "algo.dual_clip": 3.0,
    },
    "penalised": {"algo.truncated": "penalise", "algo.truncated_penalty": 0.25, "algo.advantage": "batch_scaled"},
}  # fmt: skip


@pytest.fixture(scope="module")
def rows_of(module_config, start, tmp_path_factory):
    """Rows of a preset's run of 4 updates, made once."""
    made = {}

    def rows(name):
        if name not in made:
            config = copy.deepcopy(module_config)
            for field, value in PRESETS[name].items():
                set_field(config, field, value)
            folder = tmp_path_factory.mktemp("preset")
            assert start(config, folder) == "finished"
            made[name] = exact_rows(folder)
        return made[name]

    return rows


@pytest.mark.parametrize("name", PRESETS)
def test_the_run_ends_with_finite_losses_and_gradients(rows_of, name):
    rows = rows_of(name)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss/total"] is not None and row["optim/grad_norm"] is not None for row in rows)
    assert any(row["optim/grad_norm"] > 0 for row in rows)
    assert all(row["gns/trace_cov"] >= 0 for row in rows if "gns/trace_cov" in row)


def test_dynamic_sampling_draws_again_and_says_what_it_kept(rows_of):
    rows = rows_of("DAPO")
    for row in rows:
        assert row["batch/n_prompts"] == 8
        assert row["batch/effective_prompts"] == min(8, row["batch/effective_prompts_drawn"])
        assert row["batch/n_prompts_drawn"] in (8, 16, 24)
    assert any(row["batch/n_prompts_drawn"] > 8 for row in rows)
    steps = rows[::2]  # two updates each
    drawn = np.cumsum([row["batch/n_prompts_drawn"] for row in steps])
    assert [row["prompts"] for row in steps] == list(drawn)
    assert [row["rollouts"] for row in steps] == list(4 * drawn)


def test_long_rollouts_cost_what_the_buffer_says(rows_of):
    for row in rows_of("DAPO"):
        assert -0.5 <= row["rewards/overlong/mean"] < 0  # 3 digits and EOS are all 4 tokens there are
        assert row["reward/mean"] == pytest.approx(row["rewards/correct/mean"] + row["rewards/overlong/mean"], abs=1e-6)


def test_sequence_ratios_are_clipped_after_the_first_update(rows_of):
    rows = rows_of("GSPO")
    assert rows[1]["policy/clip_frac_low"] + rows[1]["policy/clip_frac_high"] > 0.1


def test_cispo_reports_weights_and_entropy(rows_of):
    rows = rows_of("CISPO")
    assert rows[1]["policy/clip_frac_high"] > 0.1
    assert rows[1]["policy/clip_frac_low"] == 0.0  # no ratio is below 0
    assert all(row["mismatch/weight_mean"] == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(row["loss/entropy"] > 0 for row in rows)


def test_one_rollout_per_prompt_has_a_batch_baseline_and_no_group_statistics(rows_of):
    rows = rows_of("REINFORCE++")
    assert all(row["reward/frac_zero_std"] is None and row["reward/within_group_std"] is None for row in rows)
    assert abs(rows[0]["rewards/kl/mean"]) < 1e-6  # the policy is its reference
    assert abs(rows[3]["rewards/kl/mean"]) > 1e-6
    assert "loss/kl" not in rows[0]


def test_masked_rollouts_are_not_trained(rows_of):
    rows = rows_of("masked")
    assert any(row["completions/truncated_frac"] > 0 for row in rows)
    for row in rows:
        assert row["batch/n_kept_rollouts"] == pytest.approx(32 * (1 - row["completions/truncated_frac"]))


def test_truncation_is_penalised_in_the_reward(rows_of):
    for row in rows_of("penalised"):
        assert row["rewards/truncated/mean"] == pytest.approx(-0.25 * row["completions/truncated_frac"])
        assert row["reward/mean"] == pytest.approx(row["rewards/correct/mean"] + row["rewards/truncated/mean"])

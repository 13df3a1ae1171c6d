"""A whole run in one process: what it writes, skips, resumes, refuses and survives."""

import copy
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rows_of_run import exact_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.models.spec import initial_params
from rlvr_jax.train import learner as learner_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch import minibatch_rows
from rlvr_jax.train.config import ConfigError, PlacementConfig
from rlvr_jax.train.perf import compile_count


def table(folder: Path, name: str) -> list[dict]:
    return [row for row in read_rows(folder / "rollouts.jsonl.gz") if row["table"] == name]


def test_the_shared_run_learns_from_something(finished):
    rows = exact_rows(finished)
    assert all(0 < row["reward/mean"] < 1 for row in rows)
    assert all(row["optim/grad_norm"] > 0 for row in rows)


def test_rows_are_counted_in_updates_prompts_and_rollouts(finished):
    rows = list(read_rows(finished / "metrics.jsonl"))
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert [row["prompts"] for row in rows] == [8, 16, 24, 32]
    assert [row["rollouts"] for row in rows] == [32, 64, 96, 128]
    lengths = [row["completions/mean_length"] * 32 for row in rows]  # completion tokens
    assert [row["batch/tokens"] for row in rows] == pytest.approx(lengths)
    assert np.diff([0, *(row["tokens"] for row in rows)]) == pytest.approx(
        [n + 8 * 7 for n in lengths]  # and 8 prompts of <bos> and six characters
    )


def test_the_sampler_and_the_trainer_agree_on_log_probabilities(finished):
    for row in exact_rows(finished):
        assert row["mismatch/logp_diff_max"] < 1e-5
        assert row["policy/ratio_max"] == 1.0


def test_the_promised_metric_names_are_there(finished):
    row = next(read_rows(finished / "metrics.jsonl"))
    promised = """reward/mean reward/std reward/within_group_std reward/frac_zero_std reward/frac_all_zero
        reward/frac_all_one reward/best_of_n reward/best_of_n_gap rewards/correct/mean loss/total loss/policy
        optim/grad_norm optim/grad_norm_clipped optim/update_norm optim/lr policy/entropy policy/ratio_mean
        policy/ratio_max policy/clip_frac_low policy/clip_frac_high completions/mean_length completions/max_length
        completions/truncated_frac completions/length_correct completions/length_incorrect mismatch/logp_diff_mean
        mismatch/logp_diff_max batch/n_prompts batch/n_rollouts batch/effective_prompts batch/tokens gns/naive
        gns/noise_to_signal gns/b_noise_prompts gns/b_noise_rollouts gns/grad_sq gns/resolved perf/step_s
        gns/prompt_var gns/rollout_var gns/zeta1 gns/zeta2 gns/r_star gns/split_prompts gns/running_trace_cov
        gns/running_grad_sq gns/running_r_star gns/nonfinite_rollouts gns/mlp/trace_cov gns/head/b_noise_prompts
        batch/n_kept_rollouts batch/n_prompts_drawn batch/unique_prompts health/ungraded_prompts
        health/n_nonfinite health/sink_errors perf/sample_s perf/train_s perf/sample_tok_s perf/train_tok_s
        perf/mfu perf/peak_gib perf/compile_s"""
    assert set(promised.split()) <= set(row)


def test_noise_is_measured_every_second_update_and_null_where_unresolved(finished):
    rows = exact_rows(finished)
    assert ["gns/trace_cov" in row for row in rows] == [True, False, True, False]
    for row in rows[::2]:
        assert (row["gns/b_noise_prompts"] is None) == (row["gns/resolved"] == 0.0)


def test_running_noise_is_a_ratio_of_averages_carried_from_measurement_to_measurement(finished):
    first, second = [row for row in exact_rows(finished) if "gns/trace_cov" in row]
    S = 0.09 * first["gns/trace_cov"] + 0.1 * second["gns/trace_cov"]  # smoothing 0.9
    G2 = 0.09 * first["gns/grad_sq"] + 0.1 * second["gns/grad_sq"]
    expected = pytest.approx(S / G2, rel=1e-4) if G2 > 0 else None
    assert second["gns/running_b_noise_prompts"] == expected


def test_the_first_running_values_are_the_measurement_itself_and_later_ones_lie_between(finished):
    first, second = [row for row in exact_rows(finished) if "gns/trace_cov" in row]
    for name in ("trace_cov", "grad_sq"):
        x, y = first[f"gns/{name}"], second[f"gns/{name}"]
        assert first[f"gns/running_{name}"] == pytest.approx(x, rel=1e-5)
        # weights 0.9 * 0.1 and 0.1 of 0.19 in all
        assert second[f"gns/running_{name}"] == pytest.approx((0.09 * x + 0.1 * y) / 0.19, rel=1e-4)


def test_the_time_noise_takes_is_known_on_measured_rows_once_there_is_a_step_without(finished):
    rows = list(read_rows(finished / "metrics.jsonl"))
    assert ["perf/noise_s" in row for row in rows] == [True, False, True, False]
    assert rows[0]["perf/noise_s"] is None  # nothing to compare with yet
    assert rows[2]["perf/noise_s"] >= 0


@pytest.fixture(scope="module")
def bare(tmp_path_factory, module_config, start):
    """The shared run without a measurement."""
    config, folder = copy.deepcopy(module_config), tmp_path_factory.mktemp("bare")
    config.noise.every_updates = 0
    start(config, folder)
    return folder


def without_noise(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if not name.startswith("gns/")} for row in rows]


def test_measuring_in_the_updates_own_pass_changes_rounding_only(finished, bare):
    (first, *later), (expected, *expected_later) = without_noise(exact_rows(finished)), exact_rows(bare)
    assert first == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for row, wanted in zip(later, expected_later, strict=True):  # Adam turns the rounding of small gradients into steps
        assert row["policy/entropy"] == pytest.approx(wanted["policy/entropy"], rel=1e-2)


def test_measuring_in_a_pass_of_its_own_leaves_every_bit_of_a_run(tmp_path, bare, module_config, start):
    config = copy.deepcopy(module_config)
    config.noise.every_updates, config.noise.shares_backward, config.noise.keep_sketches = 1, False, True
    config.noise.optimizer_metric = True
    start(config, tmp_path)
    rows = exact_rows(tmp_path)
    assert all(row["gns/trace_cov"] > 0 for row in rows)
    assert without_noise(rows) == exact_rows(bare)
    assert all(row["perf/noise_s"] > 0 for row in read_rows(tmp_path / "metrics.jsonl"))
    x, y = (row["gns/trace_cov"] for row in rows[:2])
    assert rows[1]["gns/running_trace_cov"] == pytest.approx((0.09 * x + 0.1 * y) / 0.19, rel=1e-4)
    # before the first update Adam has seen nothing
    assert [row["gns/adam/trace_cov"] is None for row in rows] == [True, False, False, False]
    for row in rows:
        saved = np.load(tmp_path / "noise" / f"update_{row['update']}.npz", allow_pickle=False)
        saved = {name: saved[name] for name in saved.files}
        assert saved["sketch_PRW"].shape == (8, 4, 61)
        assert saved["prompt"].shape == (8,)
        assert saved["is_kept_PR"].all()
        assert saved["reward_PR"].mean() == pytest.approx(row["reward/mean"])
        assert saved["completion_length_PR"].mean() == pytest.approx(row["completions/mean_length"])
        # 61 numbers: off by sqrt(2 / 61) = 0.18 of the lengths
        length_PR = np.sqrt(np.einsum("prr->pr", saved["gram_PRR"]))
        error_PRR = np.einsum("prw,psw->prs", *[saved["sketch_PRW"]] * 2) - saved["gram_PRR"]
        assert np.sqrt(np.mean((error_PRR / (length_PR[:, :, None] * length_PR[:, None])) ** 2)) < 0.3
        # the saved scores say what the row says: S of g_x = 1/R sum_j A_j s_j from the Gram matrices within prompts
        advantage_PR = (saved["reward_PR"] - saved["reward_PR"].mean(axis=1, keepdims=True)) / 3
        sq_norm = np.einsum("pr,ps,prs->", advantage_PR, advantage_PR, saved["gram_PRR"])
        assert sq_norm / 8 == pytest.approx(row["gns/grad_sq"] + row["gns/trace_cov"], rel=1e-3)


def test_sketches_of_updates_after_the_checkpoint_are_cut(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.noise.keep_sketches, config.n_updates = True, 2
    start(config, tmp_path)
    assert [path.name for path in (tmp_path / "noise").iterdir()] == ["update_1.npz"]
    kept = (tmp_path / "noise" / "update_1.npz").read_bytes()
    for update in (3, 10):  # what a killed process left past its checkpoint
        (tmp_path / "noise" / f"update_{update}.npz").write_bytes(b"cut short")
    config.n_updates = 4
    start(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "noise").iterdir()) == ["update_1.npz", "update_3.npz"]
    assert (tmp_path / "noise" / "update_1.npz").read_bytes() == kept
    assert np.load(tmp_path / "noise" / "update_3.npz")["gram_PRR"].shape == (8, 4, 4)


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_a_rollout_whose_gradient_is_not_finite_is_named(
    tmp_path, module_config, start, monkeypatch, caplog, nonfinite
):
    config = copy.deepcopy(module_config)
    config.n_updates, config.optimizer.nonfinite = 1, nonfinite
    update, seen = learner_module.Learner.update, []

    def poisoned(self, collection, step, **order):
        updated = update(self, collection, step, **order)
        seen.append(collection.problems[3].prompt)
        (metrics,), is_finite_PR = updated.metrics, np.ones((8, 4), bool)
        is_finite_PR[3, 1] = False
        arrays = updated.arrays._replace(is_finite_PR=is_finite_PR)
        return updated._replace(metrics=[metrics | {"is_applied": np.bool_(False)}], arrays=arrays)

    monkeypatch.setattr(learner_module.Learner, "update", poisoned)
    if nonfinite == "stop":
        with pytest.raises(FloatingPointError):
            start(config, tmp_path)
    else:
        start(config, tmp_path)
    assert f"update 1: the gradient of rollout 1 of prompt {seen[0]!r} is not finite" in caplog.text
    assert caplog.text.count("is not finite") == 1


def test_another_seed_sees_other_prompts(tmp_path, finished, module_config, start):
    config = copy.deepcopy(module_config)
    config.seed = 1
    start(config, tmp_path)
    one, other = ([row["prompt"] for row in table(f, "completions")] for f in (finished, tmp_path))
    assert one != other


def test_another_seed_draws_other_rollouts_of_the_same_prompts(tmp_path, finished, module_config, start, monkeypatch):
    prompts_of_step = learner_module.prompts_of_step
    monkeypatch.setattr(learner_module, "prompts_of_step", lambda *a, **kw: prompts_of_step(*a, **(kw | {"seed": 0})))
    config = copy.deepcopy(module_config)
    config.seed, config.optimizer.peak_lr = 1, 1e-12
    start(config, tmp_path)
    one, other = (table(f, "completions") for f in (finished, tmp_path))
    assert [row["prompt"] for row in one] == [row["prompt"] for row in other]
    n_same = sum(a["completion"] == b["completion"] for a, b in zip(one, other, strict=True))
    assert n_same < 0.9 * len(one)


def test_evaluations_start_at_update_zero(finished):
    rows = list(read_rows(finished / "evals.jsonl"))
    assert [row["update"] for row in rows] == [0, 2, 4]
    assert all(0 <= row["eval/digits/pass@1"] <= row["eval/digits/pass@4"] <= 1 for row in rows)


def test_completions_are_kept_with_their_rewards(finished):
    rows = table(finished, "completions")
    assert {row["update"] for row in rows} == {2, 4}
    assert len(rows) == 2 * 8 * 4
    assert all((row["completion"] == row["answer"]) == (row["reward"] == 1.0) for row in rows)
    assert all(row["is_correct"] == (row["reward"] == 1.0) for row in rows)


def test_every_different_prompt_of_a_step_is_listed_once(finished):
    rows = table(finished, "prompts")
    metrics = {row["update"]: row for row in read_rows(finished / "metrics.jsonl")}
    for update in (2, 4):
        of_update = [row for row in rows if row["update"] == update]
        assert len(of_update) == len({row["prompt"] for row in of_update}) == metrics[update]["batch/unique_prompts"]
        assert sum(row["n_rollouts"] for row in of_update) == 32
        mean = sum(row["reward_mean"] * row["n_rollouts"] for row in of_update) / 32
        assert mean == pytest.approx(metrics[update]["reward/mean"])


def test_event_files_read_back_with_tensorboards_own_reader(finished):
    events = EventAccumulator(str(finished), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    rows = list(read_rows(finished / "metrics.jsonl"))
    shown = {event.step: event.value for event in events.Scalars("reward/mean")}
    assert shown == pytest.approx({row["update"]: row["reward/mean"] for row in rows})
    evals = {event.step: event.value for event in events.Scalars("eval/digits/pass@1")}
    assert evals == pytest.approx(
        {row["update"]: row["eval/digits/pass@1"] for row in read_rows(finished / "evals.jsonl")}
    )
    assert b"|prompt|completion|" in events.Tensors("rollouts/text_summary")[0].tensor_proto.string_val[0]
    assert [event.step for event in events.Histograms("completions/length")] == [2, 4]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["optimizer.lr_rule"].string_value == "constant"
    assert hparams["optimizer.peak_lr_in_use"].number_value == pytest.approx(1e-3)
    assert not list(finished.glob("*/events.*"))  # no sub-runs


def test_run_json_says_what_ran(finished, tiny_params):
    run = json.loads((finished / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["config"]["batch.n_prompts"] == 8
    assert run["plan"]["rollouts_per_step"] == 32
    assert run["plan"]["n_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(tiny_params))
    assert {"jax", "numpy", "python"} <= set(run["versions"])


def test_a_finished_point_is_skipped(finished, module_config, start):
    before = (finished / "metrics.jsonl").read_bytes()
    assert start(module_config, finished) == "skipped"
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_nothing_compiles_after_the_first_update(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.n_updates, config.noise.every_updates = 5, 1
    start(config, tmp_path)
    compile_s = [row["perf/compile_s"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert compile_s[0] > 0
    assert compile_s[1:] == [0.0] * 4
    n_before = compile_count()
    start(module_config, tmp_path / "again")
    assert compile_count() > n_before  # the counter does count


def test_more_updates_continue_a_finished_run(tmp_path, finished, module_config, start):
    shorter = copy.deepcopy(module_config)
    shorter.n_updates = 2
    start(shorter, tmp_path)
    assert start(module_config, tmp_path) == "finished"
    assert exact_rows(tmp_path) == exact_rows(finished)


def test_every_changed_field_is_refused_by_name(finished, module_config, start):
    config = copy.deepcopy(module_config)
    config.optimizer.peak_lr, config.algo.clip_low = 0.5, 0.3
    with pytest.raises(ConfigError) as caught:
        start(config, finished)
    assert len(caught.value.problems) == 2
    assert "algo.clip_low was 0.2" in caught.value.problems[0]
    assert "optimizer.peak_lr was 0.001" in caught.value.problems[1]


def test_other_starting_weights_are_refused(finished, module_config, start):
    params = initial_params(assemble(module_config).spec, jax.random.key(1))
    with pytest.raises(ConfigError, match="was started from other weights"):
        start(module_config, finished, params=params)


def test_several_updates_per_step_use_a_fixed_old_policy(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.batch.minibatch_prompts, config.batch.epochs_per_buffer, config.n_updates = 4, 2, 8
    config.optimizer.peak_lr, config.algo.clip_low, config.algo.clip_high = 3e-2, 0.01, 0.01
    start(config, tmp_path)
    rows = exact_rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert ["gns/trace_cov" in row for row in rows] == [True, False, False, False] * 2  # before a step's first update
    firsts, lasts = rows[::4], rows[3::4]
    assert all(abs(row["policy/ratio_max"] - 1) < 1e-5 for row in firsts)
    assert all(row["policy/ratio_max"] > 1.001 for row in lasts)
    assert any(row["policy/clip_frac_high"] + row["policy/clip_frac_low"] > 0 for row in lasts)


def test_every_update_of_a_step_trains_on_its_own_minibatch(tmp_path, module_config, start):
    # at a learning rate of 0 in effect, the mean over the minibatches is that of the whole collection
    whole, halves = copy.deepcopy(module_config), copy.deepcopy(module_config)
    whole.n_updates, halves.n_updates, halves.batch.minibatch_prompts = 1, 2, 4
    whole.optimizer.peak_lr = halves.optimizer.peak_lr = 1e-12
    start(whole, tmp_path / "whole")
    start(halves, tmp_path / "halves")
    rows = exact_rows(tmp_path / "halves")
    entropies, n_tokens = [row["policy/entropy"] for row in rows], [row["batch/tokens"] for row in rows]
    assert entropies[0] != pytest.approx(entropies[1], rel=1e-4)
    assert np.average(entropies, weights=n_tokens) == pytest.approx(
        exact_rows(tmp_path / "whole")[0]["policy/entropy"], rel=1e-5
    )


def test_minibatches_cover_the_collection_once_per_epoch(module_config):
    config = copy.deepcopy(module_config)
    config.batch.minibatch_prompts, config.batch.epochs_per_buffer = 2, 3
    rows = minibatch_rows(config, step=5)
    assert len(rows) == 12
    for epoch in range(3):
        assert sorted(np.concatenate(rows[4 * epoch : 4 * epoch + 4])) == list(range(8))
    assert not np.array_equal(np.concatenate(rows[:4]), np.concatenate(rows[4:8]))
    np.testing.assert_array_equal(np.stack(rows), np.stack(minibatch_rows(config, step=5)))
    assert not np.array_equal(np.stack(rows), np.stack(minibatch_rows(config, step=6)))
    config.seed = 1
    assert not np.array_equal(np.stack(rows), np.stack(minibatch_rows(config, step=5)))


def test_a_kl_penalty_starts_at_zero_and_grows(tmp_path, module_config, start):
    config = copy.deepcopy(module_config)
    config.algo.kl_coef, config.optimizer.peak_lr = 0.1, 1e-2
    start(config, tmp_path)
    kl = [row["policy/kl_ref"] for row in exact_rows(tmp_path)]
    assert abs(kl[0]) < 1e-6
    assert kl[-1] > 1e-4
    assert exact_rows(tmp_path)[-1]["loss/kl"] > 0


@pytest.mark.slow  # tests/train/test_two_processes.py says it of what two processes saved
def test_a_run_goes_on_on_another_mesh(tmp_path, finished, module_config, start, tiny_params):
    config = copy.deepcopy(module_config)
    config.n_updates = 2
    start(config, tmp_path)
    config.n_updates, config.placement = 4, PlacementConfig(data=1, fsdp=2)
    # a warm start there would have rounded in another way
    start(config, tmp_path, params=jax.tree.map(lambda leaf: leaf * (1 + 1e-6), tiny_params))
    one, two = exact_rows(finished), exact_rows(tmp_path)
    assert [row["update"] for row in two] == [1, 2, 3, 4]
    assert two[1] == one[1]
    for name in ("reward/mean", "optim/grad_norm", "policy/entropy"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4, abs=1e-6)


@pytest.mark.slow  # tests/train/test_sharded_step.py says it of an update and its noise
def test_a_run_does_not_depend_on_the_number_of_devices(tmp_path, finished, module_config, start):
    config = copy.deepcopy(module_config)
    config.placement.data = 2
    start(config, tmp_path)
    one, two = exact_rows(finished), exact_rows(tmp_path)
    for name in ("reward/mean", "optim/grad_norm", "policy/entropy", "gns/trace_cov", "gns/grad_sq"):
        wanted = [row[name] for row in one if name in row]
        assert [row[name] for row in two if name in row] == pytest.approx(wanted, rel=1e-4, abs=1e-6)

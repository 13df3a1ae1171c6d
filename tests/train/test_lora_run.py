"""Training an adapter: what a run holds and saves, and that it is the policy of merged weights that learns."""

import copy
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows_of_run import exact_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from slow_lora import merged, random_factors

from rlvr_jax.analysis.read_runs import read_rows
from rlvr_jax.models.lora import LoraSpec
from rlvr_jax.train import config as c
from rlvr_jax.train import evaluate_checkpoint as evaluate_module
from rlvr_jax.train import measure_policy as measure_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch import in_microbatches
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.evaluate_checkpoint import evaluate_checkpoint
from rlvr_jax.train.learner import Learner
from rlvr_jax.train.measure_noise import adam_metric
from rlvr_jax.train.measure_policy import measure_policy
from rlvr_jax.train.noise_options import Options
from rlvr_jax.train.programs import kept_programs
from rlvr_jax.train.sample_prompts import sample_prompts
from rlvr_jax.train.saved_policy import saved_state
from rlvr_jax.train.starting_state import held_params, starting_state
from rlvr_jax.train.stop import StopRequest

FACTORS = {
    *(("attention", name, side) for name in ("query", "key", "value", "out") for side in ("lora_down", "lora_up")),
    *(("mlp", name, side) for name in ("gate", "up", "down") for side in ("lora_down", "lora_up")),
}


def adapted(config, **fields):
    """A copy with an adapter; batch__n_prompts=8 sets batch.n_prompts."""
    config = copy.deepcopy(config)
    config.lora = c.LoraConfig(enabled=True, rank=4, alpha=6.0)
    for name, value in fields.items():
        c.set_field(config, name.replace("__", "."), value)
    return config


@pytest.fixture(scope="module")
def config(module_config):
    return adapted(module_config)


@pytest.fixture(scope="module")
def run(tmp_path_factory, config, start):
    """An uninterrupted run of an adapter."""
    folder = tmp_path_factory.mktemp("adapted")
    assert start(config, folder) == "finished"
    return folder


def learner_of(config, params):
    parts = assemble(config)
    programs = kept_programs(config, parts)
    params = held_params(parts.layout.place(params) if parts.mesh.size > 1 else params, parts)
    return Learner(config, parts, programs, starting_state(config, parts, params, programs.optimizer), params)


def far_from_start(learner):
    """The state with factors none of which is 0, as after many updates, with moments as after two."""
    state = learner.state
    factors = random_factors(learner.parts.spec, learner.parts.lora, seed=1)
    return state.replace(
        params=jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), factors, state.params)
    )


@pytest.fixture(scope="module")
def learner(config, tiny_params):
    return learner_of(config, tiny_params)


@pytest.fixture(scope="module")
def batch(learner):
    """Arrays [P, ...] on the host of a collection at the start."""
    return learner.batch(learner.collect(learner.draw(0), 0))[1]


# The run.


def test_a_run_of_an_adapter_measures_the_factors_and_nothing_else(run):
    rows = exact_rows(run)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    parts = {name.split("/")[1] for name in rows[0] if name.startswith("gns/") and name.count("/") == 2}
    assert parts == {"attention", "mlp"}
    for row in rows:
        assert row["mismatch/logp_diff_max"] < 1e-5
        assert row["policy/ratio_max"] == 1.0
        assert row["optim/grad_norm"] > 0
    assert [row["optim/lr"] for row in rows] == pytest.approx([5e-3, 1e-2, 1e-2, 1e-2])  # ten times optimizer.peak_lr
    plan = json.loads((run / "run.json").read_text())["plan"]
    assert plan["n_trained_parameters"] == 2048  # rank 4, 2 layers: (32 + 24 + 24 + 32) + 3 * 48 rows and columns


def test_a_run_goes_on_bit_for_bit(run, config, start, tmp_path):
    start(adapted(config, n_updates=2), tmp_path)
    start(config, tmp_path)
    assert exact_rows(tmp_path) == exact_rows(run)


def test_seeds_differ_in_the_factors_they_start_from(config, tiny_params):
    parts = assemble(config)
    optimizer = kept_programs(config, parts).optimizer

    def down(seed):
        params = starting_state(adapted(config, seed=seed), parts, tiny_params, optimizer).params
        return np.asarray(params["layers"]["attention"]["query"]["lora_down"])

    np.testing.assert_array_equal(down(0), down(0))
    assert np.abs(down(0) - down(1)).min() > 0
    assert (
        abs(np.corrcoef(down(0).ravel(), np.ravel(tiny_params["layers"]["attention"]["query"])[: down(0).size])[0, 1])
        < 0.3
    )


def test_other_weights_under_the_adapter_are_refused(run, config, start, tiny_params):
    other = tiny_params | {"final_norm": 2 * tiny_params["final_norm"]}
    with pytest.raises(ConfigError, match="was started from other weights"):
        start(adapted(config, n_updates=6), run, params=other)


@pytest.mark.parametrize(
    ("field", "value"), [("lora__rank", 2), ("lora__alpha", 8.0), ("lora__targets", ("up",)), ("lora__enabled", False)]
)
def test_a_run_keeps_its_adapter(run, config, start, field, value):
    with pytest.raises(ConfigError, match=f"{field.replace('__', '.')} was"):
        start(adapted(config, **{field: value}), run)


# What is on disk.


def test_a_checkpoint_holds_the_factors_their_moments_and_counters(run):
    tree = json.loads((run / "checkpoints" / "4" / "state" / "_METADATA").read_text())["tree_metadata"]
    names = [tuple(key["key"] for key in entry["key_metadata"]) for entry in tree.values()]
    arrays = {name for name in names if "layers" in name}
    assert {name[name.index("layers") + 1 :] for name in arrays} == FACTORS
    assert len(arrays) == 3 * len(FACTORS)  # values, and Adam's two moments
    assert not [name for name in names if {"embedding", "head", "final_norm"} & {*name}]


def test_a_checkpoint_is_as_large_as_what_is_trained(module_config, tmp_path):
    config = adapted(module_config, model__width=128, model__mlp_width=512)
    parts = assemble(config)
    state = starting_state(config, parts, {}, kept_programs(config, parts).optimizer)  # of the factors alone
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_newest=1, keep_best=0)
    checkpoints.save(state, {"update": 1}, update=1, accuracy=None)
    checkpoints.close()
    n_bytes = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    plan = parts.plan
    assert n_bytes < 4 * 3 * plan.n_trained_parameters + 2**16 < 4 * plan.n_parameters / 3


def test_a_saved_adapter_is_evaluated_beside_the_weights_it_was_trained_beside(run, config, tiny_params, monkeypatch):
    evaluated = []

    def build_evaluator(*args):
        evaluate = original(*args)
        return lambda params: evaluated.append(params) or evaluate(params)

    original = evaluate_module.build_evaluator
    monkeypatch.setattr(evaluate_module, "build_evaluator", build_evaluator)
    monkeypatch.setattr(evaluate_module, "starting_params", lambda *_, **__: tiny_params)
    found = evaluate_checkpoint(config, run)
    assert found.what.endswith("update 4")
    last = list(read_rows(run / "evals.jsonl"))[-1]
    assert found.metrics == {name: value for name, value in last.items() if name.startswith("eval/")}
    query = evaluated[0]["layers"]["attention"]["query"]
    assert query.weight is tiny_params["layers"]["attention"]["query"]
    assert np.asarray(query.up).any()  # trained, and 0 before
    assert query.scale == 6.0 / 4
    other = tiny_params | {"final_norm": 2 * tiny_params["final_norm"]}
    monkeypatch.setattr(evaluate_module, "starting_params", lambda *_, **__: other)
    with pytest.raises(CheckpointError, match=r"the adapter in .* was trained beside other weights"):
        evaluate_checkpoint(config, run)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lora__enabled", False, "lora.enabled was True and is False now"),
        ("lora__rank", 2, "lora.rank was 4 and is 2 now"),
        ("lora__alpha", 8.0, "lora.alpha was 6.0 and is 8.0 now"),  # of the same shapes
    ],
)
def test_a_saved_adapter_is_not_taken_for_another(run, config, field, value, words):
    config = adapted(config, **{field: value})
    with pytest.raises(CheckpointError, match=f"another model: .*{words}"):
        saved_state(config, assemble(config), run)


def test_the_rate_it_was_trained_at_does_not_matter_later(run, config):
    config = adapted(config, lora__peak_lr=1.0)
    assert saved_state(config, assemble(config), run)[1] == 4


@pytest.mark.parametrize("checkpoint", [None, "run"])
def test_the_noise_of_an_adapter_is_measured_at_the_start_and_of_a_checkpoint(
    run, config, tiny_params, tmp_path, monkeypatch, checkpoint
):
    monkeypatch.setattr(measure_module, "starting_params", lambda *_, **__: tiny_params)
    monkeypatch.setattr(measure_module, "save_noise_figure", lambda result, path: None)
    options = Options(
        checkpoint=run if checkpoint else None, n_prompts=6, n_rollouts=5, prompts_per_chunk=3, seed=0,
        runs=Path("runs"), out=tmp_path / "m", cost_per_prompt=None, cost_per_rollout=None,
    )  # fmt: skip
    result, _ = measure_policy(config, options, stop=StopRequest(), say=lambda _: None)
    assert set(result["per_group"]) == {"attention", "mlp"}
    assert result["total"]["trace_cov_group"] > 0
    assert result["settings"]["weights_under_adapter"] != result["settings"]["weights"]
    other = tiny_params | {"final_norm": 2 * tiny_params["final_norm"]}
    monkeypatch.setattr(measure_module, "starting_params", lambda *_, **__: other)
    with pytest.raises(
        (CheckpointError, RuntimeError), match=r"trained beside other weights|weights_under_adapter was"
    ):
        measure_policy(config, options, stop=StopRequest(), say=lambda _: None)


# What is in memory.


def n_live(shape, dtype):
    return sum(leaf.shape == shape and leaf.dtype == dtype for leaf in jax.live_arrays())


def test_weights_under_an_adapter_are_there_once_in_the_dtype_of_the_matmuls_though_they_are_the_reference_too(
    module_config, tiny_params
):
    config = adapted(module_config, algo__kl_coef=0.1, model__compute_dtype="bfloat16", noise__every_updates=0)
    shape = tiny_params["embedding"].shape
    before = [n_live(shape, jnp.dtype(name)) for name in ("float32", "bfloat16")]
    learner = learner_of(config, tiny_params)
    assert learner.frozen is learner._reference_params
    learner.update(learner.collect(learner.draw(0), 0), 0)
    assert [n_live(shape, jnp.dtype(name)) for name in ("float32", "bfloat16")] == [before[0], before[1] + 1]
    assert {leaf.dtype for leaf in jax.tree.leaves(learner.frozen)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(learner.state.params)} == {jnp.dtype("float32")}


def test_the_reference_is_the_policy_without_adapter(module_config, tiny_params):
    learner = learner_of(adapted(module_config, algo__kl_coef=0.1, noise__every_updates=0), tiny_params)
    assert learner.frozen["embedding"] is learner._reference_params["embedding"] is tiny_params["embedding"]
    collection = learner.collect(learner.draw(0), 0)
    (first,) = learner.update(collection, 0).metrics
    assert abs(float(first["policy/kl_ref"])) < 1e-9  # the product starts at 0
    learner.state = far_from_start(learner)
    _, batch = learner.batch(collection)
    plain = learner_of(module_config, tiny_params)
    expected = plain.programs.logprob_pass(tiny_params, in_microbatches(batch, plain.parts.mesh, microbatch_prompts=8))
    is_token = np.arange(batch.completion_PRT.shape[2]) < batch.completion_length_PR[..., None]
    np.testing.assert_allclose(batch.reference_logprob_PRT[is_token], np.asarray(expected)[0][is_token], atol=1e-5)
    (later,) = learner.update(collection, 0).metrics
    assert float(later["policy/kl_ref"]) > 1e-3


# What is computed.


def test_rollouts_are_those_of_merged_weights(learner, tiny_params):
    config, parts = learner.config, learner.parts
    factors = far_from_start(learner).params
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), merged(tiny_params, factors, parts.lora))
    start, learner.state = learner.state, far_from_start(learner)
    problems, got = learner.draw(0)
    learner.state = start
    expected = sample_prompts(
        learner.programs.sample, weights, problems, range(len(problems)), learner._rollout_key, parts.tokenizer,
        parts.mesh, max_prompt_tokens=parts.plan.max_prompt_tokens, bucket_tokens=config.sampling.bucket_tokens,
        prompts_at_once=len(problems),
    )  # fmt: skip
    np.testing.assert_array_equal(got.completion_PRT, expected.completion_PRT)
    np.testing.assert_allclose(got.behavior_logprob_PRT, expected.behavior_logprob_PRT, atol=2e-5)
    _, of_base = learner.draw(0)
    assert (np.asarray(of_base.completion_PRT) != np.asarray(got.completion_PRT)).any()


def stepped(learner, step, state, batch, *, microbatch_prompts=8):
    """(first moments, factors, metrics) after one update."""
    placed = in_microbatches(batch, learner.parts.mesh, microbatch_prompts=microbatch_prompts)
    after, metrics, _ = step(jax.tree.map(jnp.copy, state), learner.frozen, placed)
    (moments,) = [s for s in jax.tree.leaves(after.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    return jax.device_get((moments.mu, after.params, metrics))


def assert_same_gradients(got, expected, *, rtol=1e-5):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * largest), got, expected)


@pytest.mark.parametrize("where", ["at the start", "later"])
def test_measuring_in_the_updates_own_pass_does_not_change_its_gradient(learner, batch, where):
    state = learner.state if where == "at the start" else far_from_start(learner)
    mu, factors, metrics = stepped(learner, learner.programs.measured_step, state, batch)
    expected_mu, expected_factors, expected = stepped(learner, learner.programs.train_step, state, batch)
    assert_same_gradients(mu, expected_mu)
    for name in ("loss/total", "optim/grad_norm", "policy/entropy"):
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5, abs=1e-7)
    down = np.asarray(expected_mu["layers"]["mlp"]["up"]["lora_down"])
    assert down.any() == (where == "later")  # at the start its gradient is 0, as the other factor is
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), factors, expected_factors)
    assert max(jax.tree.leaves(change)) < 1e-4  # of a step of 5e-3: Adam makes steps of the rounding of small gradients
    assert float(metrics["gns/trace_cov"]) > 0
    assert float(metrics["gns/nonfinite_rollouts"]) == 0


@pytest.mark.parametrize("where", ["at the start", "later"])
@pytest.mark.parametrize("way", ["by the gradient of each rollout", "in micro-batches", "on 8 devices"])
def test_the_noise_is_the_same_by_every_way(learner, batch, module_config, tiny_params, way, where):
    fields = {
        "by the gradient of each rollout": {"noise__method": "vmap"},
        "in micro-batches": {"batch__microbatch_prompts": 2},
        "on 8 devices": {"placement__data": 2, "placement__fsdp": 2, "placement__tensor": 2},
    }[way]
    other = other_learner(module_config, tiny_params, tuple(fields.items()))
    states = {"at the start": (learner.state, other.state), "later": (far_from_start(learner), far_from_start(other))}
    state, other_state = states[where]
    mu, _, metrics = stepped(learner, learner.programs.measured_step, state, batch)
    size = fields.get("batch__microbatch_prompts", 8)
    got_mu, _, got = stepped(other, other.programs.measured_step, other_state, batch, microbatch_prompts=size)
    assert_same_gradients(got_mu, mu)
    S = float(metrics["gns/trace_cov"])
    for name in ("gns/trace_cov", "gns/attention/trace_cov", "gns/mlp/trace_cov", "gns/zeta2"):
        assert float(got[name]) == pytest.approx(float(metrics[name]), rel=1e-5, abs=1e-6 * S), name
    for name in ("gns/grad_sq", "gns/prompt_var", "gns/rollout_var", "gns/zeta1"):  # differences of such
        assert float(got[name]) == pytest.approx(float(metrics[name]), rel=1e-4, abs=2e-5 * S), name


_LEARNERS = {}


def other_learner(module_config, tiny_params, fields):
    """Compiled once for both states."""
    if fields not in _LEARNERS:
        _LEARNERS[fields] = learner_of(adapted(module_config, **dict(fields)), tiny_params)
    return _LEARNERS[fields]


def test_adams_metric_leaves_out_what_never_had_a_gradient(learner, batch):
    # after one update the factors that started at 0 have moved; the gradients of the others were 0 so far
    optimizer, state = learner.config.optimizer, learner.state
    placed = in_microbatches(batch, learner.parts.mesh, microbatch_prompts=8)
    state, _, _ = learner.programs.train_step(jax.tree.map(jnp.copy, state), learner.frozen, placed)
    pair = adam_metric(state, b2=optimizer.b2, eps=optimizer.eps)["layers"]["mlp"]["up"]
    assert not np.asarray(pair["lora_down"]).any()
    assert (np.asarray(pair["lora_up"]) > 0).mean() > 0.9
    state, _, _ = learner.programs.train_step(state, learner.frozen, placed)
    pair = adam_metric(state, b2=optimizer.b2, eps=optimizer.eps)["layers"]["mlp"]["up"]
    assert (np.asarray(pair["lora_down"]) > 0).mean() > 0.9


def test_the_adapter_that_is_trained_is_the_one_the_config_names(module_config):
    config = adapted(module_config, lora__targets=("out", "gate"), lora__rank=2, lora__alpha=5.0)
    assert assemble(config).lora == LoraSpec(rank=2, alpha=5.0, targets=("out", "gate"))
    assert assemble(module_config).lora is None

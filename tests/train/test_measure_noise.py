"""The whole measurement of a collection, from rollouts to gns/ metrics, against loops over slopes of every token."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))
from meshes import layout_of, mesh_of
from slow_noise import slow_group_gradients, slow_left_out, slow_naive, slow_scale, slow_split
from slow_scores import gram
from toy_policy import PARTS, flat_by_part, joined, toy_batch, toy_logprobs, toy_params, toy_slopes, with_reference

from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Grades, Problem
from rlvr_jax.train.batch import in_microbatches
from rlvr_jax.train.collect import Collection
from rlvr_jax.train.config import AlgoConfig, NoiseConfig, OptimizerConfig
from rlvr_jax.train.loss import build_loss_of_logprobs
from rlvr_jax.train.measure_noise import (
    MeasuredArrays,
    adam_metric,
    build_measuring,
    build_noise_measurement,
    joined_microbatches,
    measured_rollouts,
)
from rlvr_jax.train.noise_pass import build_noise_pass
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.state import initial_state

P, R, B2, EPS = 8, 4, 0.9, 1e-3
PARAMS = toy_params()
SECOND_MOMENT = jax.tree.map(lambda leaf: jnp.square(leaf) + 0.01, PARAMS)  # as if of earlier gradients
N_EARLIER = 3
SOME_PR = np.ones((P, R), bool)
SOME_PR[0, 0] = SOME_PR[2, 1:] = SOME_PR[3] = SOME_PR[5, ::2] = False  # 3, 4, 1, 0, 4, 2, 4, 4 are kept
ALGOS = {"bare": AlgoConfig(), "penalties": AlgoConfig(kl_coef=0.3, entropy_coef=0.2)}


def some_state():
    """A state some updates into a run of Adam."""
    state = initial_state(PARAMS, optax.adam(1.0))
    (adam, *rest) = state.opt_state
    return state.replace(
        n_updates=jnp.int32(N_EARLIER), opt_state=(adam._replace(nu=SECOND_MOMENT), *rest)
    )  # fmt: skip


@functools.lru_cache
def measurement(algo="bare", *, n_prompts=P, n_rollouts=R, data=1, **noise):
    """Jitted, of the policy at a state; compiled once for all batches of one shape."""
    noise = {"optimizer_metric": True, "sketch_width": 20_000, "keep_sketches": True} | noise
    noise, mesh = NoiseConfig(**noise), mesh_of(data)
    noise_pass = build_noise_pass(
        toy_logprobs, build_loss_of_logprobs(ALGOS[algo], max_new_tokens=3), ALGOS[algo], noise,
        n_rollouts=n_rollouts, n_shards=data, lora=None, decomposes=n_rollouts >= 4, shares_backward=False,
    )  # fmt: skip
    optimizer = OptimizerConfig(b2=B2, eps=EPS)
    measuring = build_measuring(noise_pass, noise, optimizer, n_prompts=n_prompts, n_rollouts=n_rollouts)
    return build_noise_measurement(measuring, layout_of(mesh))


def measured(batch, *options, microbatch_prompts=None, data=1, state=None, **more):
    mesh = mesh_of(data)
    n_prompts, n_rollouts = batch.is_kept_PR.shape
    measure = measurement(*options, n_prompts=n_prompts, n_rollouts=n_rollouts, data=data, **more)
    placed = in_microbatches(batch, mesh, microbatch_prompts=microbatch_prompts or n_prompts)
    averages, metrics, arrays = measure(jax.device_put(state or some_state(), replicated(mesh)), None, placed)
    return averages, {name: float(x) for name, x in metrics.items()}, jax.device_get(arrays)


def batch_with_slopes(algo="bare", **options):
    batch = toy_batch(**({"P": P, "R": R} | options))
    # the measurement must read neither the update's own weights nor who drew the tokens
    batch = batch.replace(
        advantage_PR=np.full_like(batch.advantage_PR, np.nan),
        behavior_logprob_PRT=np.full_like(batch.behavior_logprob_PRT, np.nan),
    )
    slopes = toy_slopes(PARAMS, batch)
    return (with_reference(batch, slopes.logprob_PRT) if ALGOS[algo].kl_coef > 0 else batch), slopes


def assert_scale(metrics, prefix, group_Pn, is_counted_P):
    """Points to rounding; the interval, which comes from sketches, to their spread."""
    S, G2 = slow_scale(group_Pn, is_counted_P)
    assert metrics[f"{prefix}/trace_cov"] == pytest.approx(S, rel=5e-5, nan_ok=True)
    assert metrics[f"{prefix}/grad_sq"] == pytest.approx(G2, rel=1e-4, abs=1e-5 * S, nan_ok=True)
    left_out = np.array(slow_left_out(group_Pn, is_counted_P))
    if G2 > 0 and (left_out > 0).all() and left_out[:, 1].min() > 0.1 * G2:
        assert metrics[f"{prefix}/resolved"] == 1.0
        assert metrics[f"{prefix}/b_noise_prompts"] == pytest.approx(S / G2, rel=1e-4)
        logs = np.log(left_out[:, 0] / left_out[:, 1])
        half_width = np.log(metrics[f"{prefix}/b_noise_prompts_high"] / metrics[f"{prefix}/b_noise_prompts"])
        n = len(logs)
        standard_error = np.sqrt((n - 1) / n * ((logs - logs.mean()) ** 2).sum())
        assert 1.9 < half_width / standard_error < 3.3  # Student's, of 4 to 7 degrees of freedom, and the sketch


CASES = {
    "all kept": ("bare", {}),
    "some masked": ("bare", {"is_kept_PR": SOME_PR}),
    "penalties, some masked": ("penalties", {"is_kept_PR": SOME_PR}),
}


@pytest.fixture(scope="module")
def cases():
    """By case: (batch, slopes, metrics, arrays)."""
    found = {}
    for case, (algo, options) in CASES.items():
        batch, slopes = batch_with_slopes(algo, **options)
        _, metrics, arrays = measured(batch, algo)
        found[case] = batch, slopes, metrics, arrays
    return found


@pytest.mark.parametrize("case", CASES)
def test_gns_metrics_equal_loops_over_gradients_for_all_parts_and_in_adams_metric(case, cases):
    batch, slopes, metrics, _ = cases[case]
    group_Pn = slow_group_gradients(batch, slopes, ALGOS[CASES[case][0]])
    is_counted_P = batch.is_kept_PR.sum(axis=1) >= 2
    assert_scale(metrics, "gns", joined(group_Pn), is_counted_P)
    for part in PARTS:
        assert_scale(metrics, f"gns/{part}", group_Pn[part], is_counted_P)
    # v / (1 - b2^3), as Adam corrects it after three updates
    scaled_Pn = {
        part: leaf / (np.sqrt(flat_by_part(SECOND_MOMENT)[part] / (1 - B2**N_EARLIER)) + EPS)
        for part, leaf in group_Pn.items()
    }
    assert_scale(metrics, "gns/adam", joined(scaled_Pn), is_counted_P)
    counted_Pn = joined(group_Pn) * is_counted_P[:, None]
    assert metrics["gns/naive"] == pytest.approx(slow_naive(counted_Pn, 4, R), rel=0.05)
    assert metrics["gns/nonfinite_rollouts"] == 0


@pytest.mark.parametrize("case", CASES)
def test_the_split_reads_the_policy_term_alone(case, cases):
    batch, slopes, metrics, _ = cases[case]
    policy_Pn = joined(slow_group_gradients(batch.replace(reference_logprob_PRT=None), slopes, AlgoConfig()))
    _, G2 = slow_scale(policy_Pn, batch.is_kept_PR.sum(axis=1) >= 2)
    score_PRn = joined(slopes.logprob).sum(axis=2)
    # rewards from what the engine is given, up to their group's mean
    reward_PR = batch.loo_advantage_PR * (1 - 1 / np.maximum(batch.is_kept_PR.sum(axis=1), 2))[:, None]
    (v_prompt, zeta1, zeta2), n_prompts = slow_split(score_PRn, reward_PR, batch.is_kept_PR, G2)
    atol = 2e-5 * zeta2
    assert metrics["gns/prompt_var"] == pytest.approx(v_prompt, rel=1e-4, abs=atol)
    assert metrics["gns/zeta1"] == pytest.approx(zeta1, rel=1e-4, abs=atol)
    assert metrics["gns/zeta2"] == pytest.approx(zeta2, rel=1e-4)
    # V_rollout(4) = 4 * 2 / 12 zeta1 + 2 / 12 zeta2
    assert metrics["gns/rollout_var"] == pytest.approx(2 / 3 * zeta1 + zeta2 / 6, rel=1e-4, abs=atol)
    assert metrics["gns/split_prompts"] == n_prompts
    if not CASES[case][1]:  # all kept: prompt noise and rollout noise make the total
        S = metrics["gns/prompt_var"] + metrics["gns/rollout_var"]
        assert metrics["gns/trace_cov"] == pytest.approx(S, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_of_rollouts_are_sketches_and_inner_products_of_their_scores(case, cases):
    _, slopes, _, arrays = cases[case]
    score_PRn = joined(slopes.logprob).sum(axis=2)
    expected_PRR = gram(score_PRn)
    np.testing.assert_allclose(arrays.gram_PRR, expected_PRR, rtol=1e-5, atol=1e-5 * expected_PRR.max())
    length_PR = np.linalg.norm(score_PRn, axis=2) + 1e-9
    error_PRR = gram(arrays.sketch_PRW) - expected_PRR
    assert np.abs(error_PRR / (length_PR[:, :, None] * length_PR[:, None])).max() < 6 * np.sqrt(2 / 20_000)
    assert arrays.is_finite_PR.all()


LIGHT = {"optimizer_metric": False, "keep_sketches": False}  # compiles faster


@pytest.mark.parametrize(("microbatch_prompts", "data", "method"), [(4, 2, "taps"), (8, 8, "taps"), (2, 1, "vmap")])
def test_microbatches_devices_and_the_method_change_nothing(microbatch_prompts, data, method, cases):
    batch, _, expected, arrays = cases["some masked"]
    _, metrics, got = measured(batch, microbatch_prompts=microbatch_prompts, data=data, method=method, **LIGHT)
    assert set(metrics) == {name for name in expected if not name.startswith("gns/adam")}
    for name, value in metrics.items():
        # the two methods lay gradients out in different orders, so their sketches have other signs
        is_sketched = name.endswith(("_low", "_high", "resolved", "prompts_to_resolve", "naive")) and method == "vmap"
        rel, atol = 0.3 if is_sketched else 2e-4, 1e-5 * expected["gns/trace_cov"]
        assert value == pytest.approx(expected[name], rel=rel, abs=atol, nan_ok=True), name
    np.testing.assert_allclose(got.gram_PRR, arrays.gram_PRR, rtol=1e-4, atol=1e-5 * arrays.gram_PRR.max())
    np.testing.assert_array_equal(got.is_finite_PR, arrays.is_finite_PR)


@pytest.mark.parametrize(("n_prompts", "n_rollouts", "method"), [(8, 1, "vmap"), (8, 3, "taps"), (1, 4, "vmap")])
def test_one_rollout_borrows_the_batch_three_are_not_split_and_one_prompt_says_nothing(n_prompts, n_rollouts, method):
    batch, slopes = batch_with_slopes(P=n_prompts, R=n_rollouts)
    averages, metrics, arrays = measured(batch, method=method, naive_minibatches=4 if n_prompts > 1 else 0, **LIGHT)
    group_Pn = slow_group_gradients(batch, slopes, AlgoConfig())
    is_counted_P = np.ones(n_prompts, bool)
    assert np.linalg.norm(joined(group_Pn)) > 0.1
    assert_scale(metrics, "gns", joined(group_Pn), is_counted_P)
    assert_scale(metrics, "gns/mlp", group_Pn["mlp"], is_counted_P)
    assert ("gns/prompt_var" in metrics) == (arrays.gram_PRR is not None) == (n_rollouts >= 4)
    assert arrays.sketch_PRW is None
    if n_prompts == 1:
        assert np.isnan([metrics["gns/trace_cov"], metrics["gns/b_noise_prompts"], metrics["gns/prompt_var"]]).all()
        assert metrics["gns/resolved"] == 0.0
        assert float(averages.weight) == 0.0


def test_equal_rewards_everywhere_are_unresolved():
    batch, _ = batch_with_slopes(reward_PR=np.full((P, R), 0.1, np.float32))
    _, metrics, arrays = measured(batch)
    assert (metrics["gns/trace_cov"], metrics["gns/grad_sq"], metrics["gns/resolved"]) == (0.0, 0.0, 0.0)
    assert np.isnan(metrics["gns/b_noise_prompts"])
    assert (arrays.gram_PRR.trace(axis1=1, axis2=2) > 0).all()  # the scores are there all the same


def test_a_rollout_whose_gradient_is_not_finite_is_named_and_stays_out_of_the_averages():
    batch, _ = batch_with_slopes()
    before, _, _ = measured(batch)
    token_PRT = batch.completion_PRT.copy()
    token_PRT[token_PRT == 6] = 5  # of this token the table holds a NaN
    token_PRT[5, 2, 0] = 6
    prompt_PS = np.where(batch.prompt_PS == 6, 5, batch.prompt_PS)
    bad = batch.replace(
        completion_PRT=token_PRT, prompt_PS=prompt_PS, completion_length_PR=np.full((P, R), 3, np.int32)
    )  # fmt: skip
    # looked up once the token is seen, so only where it is; a head of its own stays finite
    state = some_state().replace(noise=before)
    params = state.params | {"embedding": state.params["embedding"].at[6, 0].set(jnp.nan)}

    def untied(params, batch):
        return toy_logprobs(params, batch, head=PARAMS["embedding"].T)

    noise = NoiseConfig(sketch_width=64)
    noise_pass = build_noise_pass(
        untied, build_loss_of_logprobs(AlgoConfig(), max_new_tokens=3), AlgoConfig(), noise,
        n_rollouts=R, n_shards=1, lora=None, decomposes=True, shares_backward=False,
    )  # fmt: skip
    measuring = build_measuring(noise_pass, noise, OptimizerConfig(), n_prompts=P, n_rollouts=R)
    mesh = mesh_of(1)
    after, metrics, arrays = build_noise_measurement(measuring, layout_of(mesh))(
        state.replace(params=params), None, in_microbatches(bad, mesh, microbatch_prompts=P)
    )
    np.testing.assert_array_equal(np.argwhere(~np.asarray(arrays.is_finite_PR)), [[5, 2]])
    assert int(metrics["gns/nonfinite_rollouts"]) == 1
    assert np.isnan([float(metrics[f"gns/{name}"]) for name in ("trace_cov", "grad_sq", "prompt_var", "zeta2")]).all()
    assert not bool(metrics["gns/resolved"])
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert float(after.weight) > 0


# What gradients are multiplied with for gns/adam.


def test_the_metric_is_what_adam_divides_by_written_out_from_its_gradients():
    clip_norm, params = 0.5, {"x": np.array([1.0, -2.0], np.float32), "y": np.ones((2, 3), np.float32)}
    optimizer = optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.adamw(0.1, b1=0.8, b2=B2, eps=EPS, weight_decay=0.1)
    )  # as ours is
    state, rng, v = initial_state(params, optimizer), np.random.default_rng(0), jax.tree.map(np.zeros_like, params)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(adam_metric(state, b2=B2, eps=EPS)))
    for n in range(1, 4):
        grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads)))
        assert norm > clip_norm
        v = jax.tree.map(lambda v, g, norm=norm: B2 * v + (1 - B2) * (g * clip_norm / norm) ** 2, v, grads)
        _, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(n_updates=state.n_updates + 1, opt_state=opt_state)
        metric = adam_metric(state, b2=B2, eps=EPS)
        for name, leaf in v.items():
            np.testing.assert_allclose(metric[name], 1 / (np.sqrt(leaf / (1 - B2**n)) + EPS), rtol=1e-4)


def test_without_momentum_the_metric_times_a_gradient_is_adams_step():
    # b1 = 0: the step divides by the v that holds this gradient, which is the metric's after it
    optimizer, params = optax.adam(1.0, b1=0.0, b2=B2, eps=EPS), {"x": jnp.array([1.0, -2.0])}
    state = initial_state(params, optimizer)
    for gradient in ([0.3, 4.0], [-0.2, 1.0]):
        step, opt_state = optimizer.update({"x": jnp.array(gradient)}, state.opt_state)
        state = state.replace(n_updates=state.n_updates + 1, opt_state=opt_state)
        metric = adam_metric(state, b2=B2, eps=EPS)
        np.testing.assert_allclose(-metric["x"] * jnp.array(gradient), step["x"], rtol=1e-5)


def test_the_metric_is_zero_where_no_gradient_ever_was():
    # 1 / EPS there would drown the rest as soon as there is one; Adam divides by the v that holds it already
    optimizer, params = optax.adam(1.0, b2=B2), {"x": jnp.zeros(2)}
    state = initial_state(params, optimizer)
    _, opt_state = optimizer.update({"x": jnp.array([0.3, 0.0])}, state.opt_state)
    metric = adam_metric(state.replace(n_updates=jnp.int32(1), opt_state=opt_state), b2=B2, eps=EPS)
    np.testing.assert_allclose(metric["x"], [1 / (0.3 + EPS), 0.0], rtol=1e-5)  # v / (1 - B2) = 0.09


@pytest.mark.parametrize("optimizer_metric", [False, True])
def test_there_is_a_metric_only_if_it_is_asked_for(optimizer_metric):
    noise = NoiseConfig(optimizer_metric=optimizer_metric)
    measuring = build_measuring(lambda *a: None, noise, OptimizerConfig(b2=B2, eps=EPS), n_prompts=1, n_rollouts=1)
    assert (measuring.metric(some_state()) is not None) == optimizer_metric


# What is saved.


def test_microbatches_join_in_order():
    joined = joined_microbatches({"a": jnp.arange(12).reshape(3, 2, 2), "b": None})
    np.testing.assert_array_equal(joined["a"], np.arange(12).reshape(6, 2))
    assert joined["b"] is None


def test_measured_rollouts_are_kept_with_their_rewards_and_without_those_that_are_not_finite():
    reward_PR = np.array([[1, 0], [np.nan, np.nan]], np.float32)
    collection = Collection(
        problems=[Problem("1+1=", "2", "2"), Problem("2+2=", "4", "4")],
        rollouts=Rollouts(
            prompt_PS=np.zeros((2, 1), np.int32), prompt_length_P=np.ones(2, np.int32),
            completion_PRT=np.zeros((2, 2, 1), np.int32), completion_length_PR=jnp.array([[1, 2], [3, 1]]),
            is_truncated_PR=np.zeros((2, 2), bool), behavior_logprob_PRT=np.zeros((2, 2, 1), np.float32),
            n_decode_steps=np.int32(1),
        ),
        completion_texts=[["a", "b"], ["c", "d"]],
        grades=Grades({"given": reward_PR}, reward_PR, reward_PR == 1, ()),
        penalties={"overlong": np.array([[0, -0.5], [0, 0]], np.float32)},
        is_kept_PR=np.array([[True, True], [False, False]]),
        n_prompts_drawn=2, n_effective_drawn=1, n_ungraded_drawn=2, n_tokens=0,
    )  # fmt: skip
    sketch_PRW, gram_PRR = np.zeros((2, 2, 3)), np.zeros((2, 2, 2))
    is_finite_PR = np.array([[True, False], [True, True]])
    saved = measured_rollouts(collection, MeasuredArrays(is_finite_PR, sketch_PRW, gram_PRR))
    assert saved["prompt"].tolist() == ["1+1=", "2+2="]
    np.testing.assert_array_equal(saved["is_kept_PR"], [[True, False], [False, False]])
    np.testing.assert_array_equal(saved["reward_PR"], [[1, -0.5], [np.nan, np.nan]])
    np.testing.assert_array_equal(saved["completion_length_PR"], [[1, 2], [3, 1]])
    assert saved["sketch_PRW"] is sketch_PRW
    assert saved["gram_PRR"] is gram_PRR
    assert all(isinstance(array, np.ndarray) for array in saved.values())

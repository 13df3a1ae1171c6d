"""One update against numpy, and what it must not depend on."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from slow_transformer import slow_logits

from rlvr_jax.algo.averaging import AVERAGING_KINDS
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.train.collect import in_microbatches
from rlvr_jax.train.optimizer import adamw
from rlvr_jax.train.placement import build_mesh, replicated
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.step import Batch, build_loss, build_rollout_logprobs, build_train_step

SPEC = ModelSpec(
    vocab_size=9, width=8, n_layers=2, n_heads=2, n_kv_heads=1, head_width=4, mlp_width=12,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False,
)  # fmt: skip
P, R, S, T = 8, 3, 4, 3
TEMPERATURE, KL_COEF, CLIP_LOW, CLIP_HIGH = 0.8, 0.1, 0.1, 0.2
PARAMS = initial_params(SPEC, jax.random.key(2))


def make_batch(*, has_old: bool, has_reference: bool) -> Batch:
    rng = np.random.default_rng(0)
    prompt_length_P = rng.integers(1, S + 1, P).astype(np.int32)
    length_PR = rng.integers(1, T + 1, (P, R)).astype(np.int32)
    logprob = lambda: -rng.uniform(0.5, 3.0, (P, R, T)).astype(np.float32)  # noqa: E731
    return Batch(
        prompt_PS=np.where(np.arange(S) < prompt_length_P[:, None], rng.integers(3, 9, (P, S)), 0).astype(np.int32),
        prompt_length_P=prompt_length_P,
        completion_PRT=np.where(np.arange(T) < length_PR[..., None], rng.integers(2, 9, (P, R, T)), 0).astype(np.int32),
        completion_length_PR=length_PR,
        advantage_PR=rng.normal(size=(P, R)).astype(np.float32),
        loo_advantage_PR=rng.normal(size=(P, R)).astype(np.float32),
        behavior_logprob_PRT=logprob(),
        old_logprob_PRT=logprob() if has_old else None,
        reference_logprob_PRT=logprob() if has_reference else None,
    )


def make_loss(averaging: str):
    logprobs = build_rollout_logprobs(SPEC, temperature=TEMPERATURE, compute_dtype=jnp.float32, use_remat=False)
    return build_loss(
        logprobs, clip_low=CLIP_LOW, clip_high=CLIP_HIGH, kl_coef=KL_COEF, averaging=averaging, max_new_tokens=T
    )


def slow_loss(params, batch: Batch, averaging: str, old_PRT=None) -> float:
    """The loss one token at a time, in float64."""
    total, weight = 0.0, 0.0
    for p in range(P):
        n_prompt = int(batch.prompt_length_P[p])
        for r in range(R):
            n = int(batch.completion_length_PR[p, r])
            completion = [int(t) for t in batch.completion_PRT[p, r, :n]]
            logits_TV = slow_logits(params, SPEC, [*map(int, batch.prompt_PS[p, :n_prompt]), *completion]) / TEMPERATURE
            terms = []
            for t, token in enumerate(completion):
                row_V = logits_TV[n_prompt + t - 1]
                logprob = row_V[token] - row_V.max() - np.log(np.exp(row_V - row_V.max()).sum())
                old = logprob if old_PRT is None else float(old_PRT[p, r, t])
                ratio, advantage = np.exp(logprob - old), float(batch.advantage_PR[p, r])
                term = -min(ratio * advantage, min(max(ratio, 1 - CLIP_LOW), 1 + CLIP_HIGH) * advantage)
                if batch.reference_logprob_PRT is not None:
                    d = float(batch.reference_logprob_PRT[p, r, t]) - logprob
                    term += KL_COEF * (np.exp(d) - d - 1)
                terms.append(term)
            total += sum(terms) / n if averaging == "sequence" else sum(terms)
            weight += {"sequence": 1, "token": n, "constant_length": T}[averaging]
    return total / weight


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
@pytest.mark.parametrize("has_old", [False, True], ids=["one update per step", "several"])
@pytest.mark.parametrize("has_reference", [False, True], ids=["no KL", "KL"])
def test_loss_equals_a_slow_numpy_loss(averaging, has_old, has_reference):
    batch = make_batch(has_old=has_old, has_reference=has_reference)
    loss_sum, terms = jax.jit(make_loss(averaging))(PARAMS, batch)
    expected = slow_loss(PARAMS, batch, averaging, batch.old_logprob_PRT)
    assert float(loss_sum / terms.sums["weight"]) == pytest.approx(expected, rel=2e-5, abs=1e-6)


def take_step(averaging, batch, *, microbatch_prompts=P, data=1, optimizer=None, params=PARAMS):
    mesh = build_mesh(data=data)
    optimizer = optimizer or optax.sgd(1.0)  # so that the update is minus the gradient
    state = jax.device_put(initial_state(params, optimizer), replicated(mesh))
    step = build_train_step(make_loss(averaging), optimizer, optax.constant_schedule(1.0), mesh, clip_norm=0.0)
    return step(state, in_microbatches(batch, mesh, microbatch_prompts=microbatch_prompts))


def gradient(*args, **kwargs):
    state, _ = take_step(*args, **kwargs)
    return jax.tree.map(lambda old, new: np.asarray(old, np.float64) - np.asarray(new), PARAMS, state.params)


def relative_error(a, b):
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("has_old", [False, True], ids=["one update per step", "several"])
def test_gradient_equals_finite_differences_of_the_slow_loss(has_old):
    batch = make_batch(has_old=has_old, has_reference=True)
    grads = gradient("sequence", batch)
    old_PRT = batch.old_logprob_PRT
    if not has_old:  # the old policy is the policy, held fixed
        logprobs = build_rollout_logprobs(SPEC, temperature=TEMPERATURE, compute_dtype=jnp.float32, use_remat=False)
        old_PRT = np.asarray(logprobs(PARAMS, batch)[0])
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)
        h = 1e-5

        def at(sign, direction=direction, h=h):
            moved = jax.tree.map(lambda leaf, v: np.asarray(leaf, np.float64) + sign * h * v, PARAMS, direction)
            return slow_loss(moved, batch, "sequence", old_PRT)

        slope = sum(float((g * d).sum()) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True))
        assert slope == pytest.approx((at(1) - at(-1)) / (2 * h), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
@pytest.mark.parametrize("microbatch_prompts", [1, 2, 4])
def test_gradient_does_not_depend_on_micro_batches(averaging, microbatch_prompts):
    batch = make_batch(has_old=True, has_reference=True)
    cut = gradient(averaging, batch, microbatch_prompts=microbatch_prompts)
    assert relative_error(cut, gradient(averaging, batch)) < 1e-5


def test_gradient_does_not_depend_on_the_number_of_devices():
    batch = make_batch(has_old=True, has_reference=True)
    assert jax.device_count() == 8
    assert relative_error(gradient("token", batch, data=8), gradient("token", batch)) < 1e-5


def test_golden_adamw_step():
    # first step of Adam: m / (1 - b1) = g, v / (1 - b2) = g^2, so it moves by g / (|g| + eps), and decays matrices
    batch = make_batch(has_old=False, has_reference=False)
    grads = gradient("token", batch)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    lr, eps, decay, clip = 0.01, 1e-3, 0.1, 0.5 * norm
    optimizer = adamw(SPEC, optax.constant_schedule(lr), b1=0.9, b2=0.95, eps=eps, weight_decay=decay, clip_norm=clip)
    state, _ = take_step("token", batch, optimizer=optimizer)
    for path, is_decayed in ((("layers", "mlp", "up"), True), (("layers", "mlp", "norm"), False), (("head",), True)):
        old, new, g = PARAMS, state.params, grads
        for name in path:
            old, new, g = old[name], new[name], g[name]
        clipped = g * 0.5
        expected = old - lr * (clipped / (np.abs(clipped) + eps) + decay * old * is_decayed)
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)


def test_metrics_of_a_step_by_slow_means():
    batch = make_batch(has_old=False, has_reference=False)
    optimizer, mesh = optax.sgd(1.0), build_mesh(data=1)
    state = jax.device_put(initial_state(PARAMS, optimizer), replicated(mesh))
    step = build_train_step(make_loss("token"), optimizer, lambda update: 0.5 + update, mesh, clip_norm=0.01)
    _, metrics = step(state, in_microbatches(batch, mesh, microbatch_prompts=2))
    assert float(metrics["loss/total"]) == pytest.approx(slow_loss(PARAMS, batch, "token"), rel=2e-5)
    assert float(metrics["loss/policy"]) == pytest.approx(slow_loss(PARAMS, batch, "token"), rel=2e-5)
    assert float(metrics["optim/lr"]) == 0.5  # the rate of this update, not of the next
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient("token", batch))))
    assert float(metrics["optim/grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert float(metrics["optim/grad_norm_clipped"]) == pytest.approx(0.01)
    entropies, differences = [], []
    for p in range(P):
        n_prompt = int(batch.prompt_length_P[p])
        for r in range(R):
            n = int(batch.completion_length_PR[p, r])
            completion = [int(t) for t in batch.completion_PRT[p, r, :n]]
            logits_TV = slow_logits(PARAMS, SPEC, [*map(int, batch.prompt_PS[p, :n_prompt]), *completion]) / TEMPERATURE
            for t, token in enumerate(completion):
                q = np.exp(logits_TV[n_prompt + t - 1])
                q /= q.sum()
                entropies.append(-(q * np.log(q)).sum())
                differences.append(abs(np.log(q[token]) - float(batch.behavior_logprob_PRT[p, r, t])))
    assert float(metrics["policy/entropy"]) == pytest.approx(np.mean(entropies), rel=1e-4)
    assert float(metrics["mismatch/logp_diff_mean"]) == pytest.approx(np.mean(differences), rel=1e-4)
    assert float(metrics["mismatch/logp_diff_max"]) == pytest.approx(np.max(differences), rel=1e-4)


def test_one_update_per_step_has_ratio_exactly_one():
    _, metrics = take_step("sequence", make_batch(has_old=False, has_reference=False))
    assert float(metrics["policy/ratio_mean"]) == 1.0
    assert float(metrics["policy/ratio_max"]) == 1.0
    assert float(metrics["policy/clip_frac_high"]) == 0.0


def test_zero_advantages_give_exactly_no_update():
    batch = make_batch(has_old=False, has_reference=False).replace(advantage_PR=np.zeros((P, R), np.float32))
    state, metrics = take_step("sequence", batch)
    assert float(metrics["optim/grad_norm"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)


@pytest.mark.parametrize("where", ["advantage_PR", "old_logprob_PRT"])
def test_a_nonfinite_update_is_not_applied_and_freezes_the_state(where):
    batch = make_batch(has_old=True, has_reference=False)
    poisoned = np.array(getattr(batch, where))
    poisoned.reshape(-1)[0] = np.nan
    mesh, optimizer = build_mesh(data=1), optax.sgd(1.0)
    step = build_train_step(make_loss("token"), optimizer, optax.constant_schedule(1.0), mesh, clip_norm=0.0)
    state = jax.device_put(initial_state(PARAMS, optimizer), replicated(mesh))
    state, metrics = step(
        state, in_microbatches(dataclasses.replace(batch, **{where: poisoned}), mesh, microbatch_prompts=P)
    )
    assert not bool(metrics["is_applied"])
    assert int(state.n_updates) == 0
    state, metrics = step(state, in_microbatches(batch, mesh, microbatch_prompts=P))  # a good one comes too late
    assert not bool(metrics["is_applied"])
    jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)

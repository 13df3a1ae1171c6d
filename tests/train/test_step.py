"""Updates against an implementation that is numpy throughout, what they must not depend on, what is refused."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_advantages import slow_advantages
from slow_loss import random_tokens, slow_logprobs, slow_loss, with_policies

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))
from meshes import layout_of, mesh_of
from slow_noise import slow_group_gradients, slow_scale
from slow_scores import gram
from toy_policy import joined, toy_batch, toy_logprobs, toy_params, toy_slopes, with_reference

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS
from rlvr_jax.algo.averaging import AVERAGING_KINDS
from rlvr_jax.models.chunked_head import ALL_AT_ONCE
from rlvr_jax.models.spec import ModelSpec, initial_params, parameter_count, parameter_table
from rlvr_jax.train.batch import build_advantages, in_microbatches
from rlvr_jax.train.config import AlgoConfig, NoiseConfig, OptimizerConfig
from rlvr_jax.train.loss import LossTerms, build_loss, build_loss_of_logprobs, build_rollout_logprobs
from rlvr_jax.train.measure_noise import build_measuring
from rlvr_jax.train.noise_pass import build_noise_pass, can_share_backward
from rlvr_jax.train.optimizer import adamw, learning_rate
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.step import build_logprob_pass, build_train_step

# so small that a gradient by finite differences of every parameter takes a second
SPEC = ModelSpec(
    vocab_size=5, width=4, n_layers=1, n_heads=2, n_kv_heads=1, head_width=2, mlp_width=3,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
PARAMS = initial_params(SPEC, jax.random.key(2))
TEMPERATURE, MAX_NEW_TOKENS = 0.8, 4
EVERYTHING = AlgoConfig(
    ratio="sequence", clip_low=0.1, clip_high=0.2, dual_clip=1.3, kl_coef=0.3, kl_estimator="k2", entropy_coef=0.2,
    importance_cap=1.3,
)  # fmt: skip


# Golden steps: two AdamW updates of a transformer, each from its own rewards and rollouts.

H = 1e-5
PEAK_LR, B1, B2, EPS, WEIGHT_DECAY = 0.02, 0.8, 0.9, 1e-3, 0.1
REWARD_UPR = [  # of the two updates
    np.array([[1, 0], [0.3, 1], [1, 1], [0, 1.5]], np.float32),
    np.array([[0, 1], [1, 0], [0.5, 0], [1, 1]], np.float32),
]
KEPT_UPR = [  # a prompt without any rollout, and one that lacks a rollout
    np.array([[1, 1], [1, 0], [0, 0], [1, 1]], bool),
    np.array([[1, 1], [1, 1], [0, 1], [1, 1]], bool),
]

PRESETS = {
    "GRPO": AlgoConfig(advantage="grpo", averaging="sequence", kl_coef=0.04),
    "Dr. GRPO": AlgoConfig(advantage="centred", averaging="constant_length"),
    "RLOO": AlgoConfig(advantage="rloo", averaging="constant_length", kl_coef=0.05, kl_in="reward"),
    "DAPO": AlgoConfig(advantage="grpo", std_ddof=0, averaging="token", clip_high=0.28),
    "GSPO": AlgoConfig(advantage="grpo", ratio="sequence", averaging="sequence", clip_low=0.1, clip_high=0.15),
    "CISPO": AlgoConfig(advantage="grpo", objective="cispo", clip_low=1.0, clip_high=0.28, averaging="token"),
    "REINFORCE++": AlgoConfig(advantage="reinforce++", averaging="token", importance_cap=1.5, entropy_coef=0.1),
    "Lite PPO": AlgoConfig(advantage="batch_scaled", averaging="token", dual_clip=1.3, kl_coef=0.1, kl_estimator="k2"),
}  # fmt: skip


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def unflat(vector):
    """The tree of PARAMS with the numbers of `vector`."""
    leaves, treedef = jax.tree.flatten(PARAMS)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(vector, ends[:-1])
    return jax.tree.unflatten(treedef, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def jacobians(vector, tokens):
    """[n parameters, P, R, T] slopes of log-probability and entropy, by finite differences one parameter at a time."""
    columns = []
    for i in range(len(vector)):
        unit = np.zeros(len(vector))
        unit[i] = H
        ahead, behind = (
            slow_logprobs(unflat(vector + sign * unit), SPEC, tokens, temperature=TEMPERATURE) for sign in (1, -1)
        )
        columns.append([(a - b) / (2 * H) for a, b in zip(ahead, behind, strict=True)])
    return np.swapaxes(np.array(columns), 0, 1)


IS_DECAYED = flat(
    jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, "norm" not in jax.tree_util.keystr(path)), PARAMS
    )
)


class SlowUpdates:
    """AdamW on clipped gradients, in numpy."""

    def __init__(self, algo, clip_norm):
        self.algo, self.clip_norm = algo, clip_norm
        self.params = flat(PARAMS)
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self.n_updates = 0

    def update(self, batch, jacobian_of):
        """The metrics of one update."""
        policy = slow_logprobs(unflat(self.params), SPEC, batch, temperature=TEMPERATURE)
        loss = slow_loss(batch, self.algo, *policy, max_new_tokens=MAX_NEW_TOKENS)
        d_logprob, d_entropy = jacobian_of(self.params)
        grad = (d_logprob * loss.d_logprob_PRT + d_entropy * loss.d_entropy_PRT).sum(axis=(1, 2, 3))
        grad /= loss.sums["weight"]
        norm = np.sqrt((grad**2).sum())
        if self.clip_norm > 0 and norm > self.clip_norm:
            grad = grad * self.clip_norm / norm
        self.n_updates += 1
        lr = PEAK_LR * min(self.n_updates, 2) / 2  # a warm-up of two updates
        self.m = B1 * self.m + (1 - B1) * grad
        self.v = B2 * self.v + (1 - B2) * grad**2
        m, v = self.m / (1 - B1**self.n_updates), self.v / (1 - B2**self.n_updates)
        step = -lr * (m / (np.sqrt(v) + EPS) + WEIGHT_DECAY * IS_DECAYED * self.params)
        self.params = self.params + step
        of_loss = {name: x / loss.sums["weight"] for name, x in loss.sums.items() if name.startswith("loss/")}
        of_tokens = {
            name: x / loss.sums["tokens"] for name, x in loss.sums.items() if name.startswith(("policy/", "mismatch/"))
        }
        return {
            **of_loss,
            **of_tokens,
            **loss.maxima,
            "optim/grad_norm": norm,
            "optim/grad_norm_clipped": np.sqrt((grad**2).sum()),
            "optim/update_norm": np.sqrt((step**2).sum()),
            "optim/lr": lr,
            "batch/tokens": loss.sums["tokens"],
            "health/n_nonfinite": 0,
            "is_applied": 1.0,
            "n_skipped_in_a_row": 0,
        }


@pytest.fixture(scope="module")
def tokens_of_updates():
    rng = np.random.default_rng(0)
    tokens = [random_tokens(rng, P=4, R=2, S=2, T=3, vocab_size=5).replace(is_kept_PR=kept) for kept in KEPT_UPR]
    assert parameter_count(SPEC) < 200
    return tokens


@pytest.fixture(scope="module")
def first_jacobians(tokens_of_updates):
    """At PARAMS, where all presets begin."""
    return jacobians(flat(PARAMS), tokens_of_updates[0])


def golden_batches(algo, tokens_of_updates, *, has_old):
    """The rollouts of two updates: advantages by the slow loop, policies around the initial one."""
    batches = []
    for update, (tokens, reward_PR) in enumerate(zip(tokens_of_updates, REWARD_UPR, strict=True)):
        logprob_PRT, _ = slow_logprobs(PARAMS, SPEC, tokens, temperature=TEMPERATURE)
        has_reference = algo.kl_coef > 0 and algo.kl_in == "loss"
        batch = with_policies(
            np.random.default_rng([5, update]), tokens, logprob_PRT, has_old=has_old, has_reference=has_reference
        )
        options = {"kind": algo.advantage, "ddof": algo.std_ddof, "eps": algo.std_eps}
        advantage_PR = slow_advantages(reward_PR, tokens.is_kept_PR, **options)
        batches.append(batch.replace(advantage_PR=advantage_PR.astype(np.float32)))
    return batches


@pytest.mark.parametrize("preset", PRESETS)
def test_golden_steps(preset, tokens_of_updates, first_jacobians):
    algo, clip_norm = PRESETS[preset], 0.0 if preset == "RLOO" else 0.05
    has_old = preset != "Dr. GRPO"  # which makes one update per step
    batches = golden_batches(algo, tokens_of_updates, has_old=has_old)
    slow = SlowUpdates(algo, clip_norm)

    mesh = mesh_of(1)
    schedule = learning_rate(peak_lr=PEAK_LR, warmup_updates=2, schedule="constant", decay_updates=10)
    optimizer = adamw(
        parameter_table(SPEC), schedule, b1=B1, b2=B2, eps=EPS, momentum_dtype="float32",
        weight_decay=WEIGHT_DECAY, clip_norm=clip_norm,
    )  # fmt: skip
    logprobs = build_rollout_logprobs(
        SPEC, temperature=TEMPERATURE, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
    )
    loss = build_loss(logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    step = build_train_step(
        loss, optimizer, schedule, layout_of(mesh), clip_norm=clip_norm, freezes=True, lora=None, measuring=None
    )
    state = jax.device_put(initial_state(PARAMS, optimizer), replicated(mesh))
    advantages = build_advantages(algo)
    for update, batch in enumerate(batches):
        expected = slow.update(
            batch, lambda at, update=update, batch=batch: first_jacobians if update == 0 else jacobians(at, batch)
        )
        advantage_PR, loo_advantage_PR = advantages(REWARD_UPR[update], batch.is_kept_PR)
        batch = batch.replace(advantage_PR=advantage_PR, loo_advantage_PR=loo_advantage_PR)
        state, metrics, arrays = step(state, None, in_microbatches(batch, mesh, microbatch_prompts=1))
        assert arrays is None  # nothing is measured
        assert {name: float(x) for name, x in metrics.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(flat(state.params), slow.params, rtol=0, atol=2e-6)  # of moves of 0.02
        assert int(state.n_updates) == update + 1
        if not has_old:  # not nearly: the policy is its own old policy
            assert float(metrics["policy/ratio_mean"]) == float(metrics["policy/ratio_max"]) == 1.0
    assert np.abs(slow.params - flat(PARAMS)).max() > 0.02


def test_the_golden_steps_reach_every_clip(tokens_of_updates):
    n_low, n_high, n_capped = (dict.fromkeys(PRESETS, 0.0) for _ in range(3))
    for preset, algo in PRESETS.items():
        for tokens, batch in zip(tokens_of_updates, golden_batches(algo, tokens_of_updates, has_old=True), strict=True):
            policy = slow_logprobs(PARAMS, SPEC, tokens, temperature=TEMPERATURE)
            sums = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS).sums
            n_low[preset] += sums["policy/clip_frac_low"]
            n_high[preset] += sums["policy/clip_frac_high"]
            n_capped[preset] += sums.get("mismatch/capped_frac", 0.0)
    assert all(n_high.values())
    assert all(n for preset, n in n_low.items() if preset != "CISPO")  # which has no lower clip
    assert n_high["Lite PPO"] > n_high["GRPO"]  # the dual clip
    assert n_capped["REINFORCE++"] > 0


# What an update must not depend on, with a policy that compiles fast: the next token depends on the prompt's first.

P, R, T, V = 8, 3, 3, 9
TABLE = {"table": jnp.asarray(np.random.default_rng(3).normal(size=(V, V)), jnp.float32)}


def table_logprobs(params, batch):
    """(log-probability, entropy) f32[P, R, T] of a model with a row of logits per first token of a prompt."""
    log_q_PV = jax.nn.log_softmax(params["table"][batch.prompt_PS[:, 0]])
    logprob_PRT = jax.vmap(lambda log_q_V, token_RT: log_q_V[token_RT])(log_q_PV, batch.completion_PRT)
    entropy_P = -(jnp.exp(log_q_PV) * log_q_PV).sum(axis=1)
    return logprob_PRT, jnp.broadcast_to(entropy_P[:, None, None], logprob_PRT.shape)


KEPT_PR = np.ones((P, R), bool)
KEPT_PR[0, 1:] = KEPT_PR[2:4] = KEPT_PR[5, 0] = False  # prompts 2 and 3: micro-batches of 1 or 2 without a rollout


def table_batch(*, has_old=True, has_reference=False, is_kept_PR=KEPT_PR):
    rng = np.random.default_rng(0)
    tokens = random_tokens(rng, P=P, R=R, S=2, T=T, vocab_size=V).replace(is_kept_PR=is_kept_PR)
    logprob_PRT = np.asarray(table_logprobs(TABLE, tokens)[0])
    return with_policies(rng, tokens, logprob_PRT, has_old=has_old, has_reference=has_reference)


def gradient_and_metrics(algo, batch, *, microbatch_prompts, data=1, logprobs=table_logprobs, params=TABLE):
    """By an update that is minus the gradient."""
    optimizer, mesh = optax.sgd(1.0), mesh_of(data)
    loss = build_loss(logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    step = build_train_step(
        loss,
        optimizer,
        optax.constant_schedule(1.0),
        layout_of(mesh),
        clip_norm=0.0,
        freezes=True,
        lora=None,
        measuring=None,
    )
    state = jax.device_put(initial_state(params, optimizer), replicated(mesh))
    state, metrics, _ = step(state, None, in_microbatches(batch, mesh, microbatch_prompts=microbatch_prompts))
    return flat(params) - flat(state.params), {name: float(x) for name, x in metrics.items()}


def assert_same_update(got, expected):
    (gradient, metrics), (expected_gradient, expected_metrics) = got, expected
    assert np.linalg.norm(gradient - expected_gradient) < 1e-5 * np.linalg.norm(expected_gradient)
    assert metrics == pytest.approx(expected_metrics, rel=1e-5, abs=1e-6)


OF_MICROBATCHES = {
    "several updates": (AlgoConfig(kl_coef=0.1), {"has_old": True, "has_reference": True}),
    "one update, all kept": (AlgoConfig(entropy_coef=0.2), {"has_old": False, "is_kept_PR": np.ones((P, R), bool)}),
    "everything": (EVERYTHING, {"has_old": True, "has_reference": True}),
}


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
@pytest.mark.parametrize("options", OF_MICROBATCHES)
def test_an_update_does_not_depend_on_micro_batches(averaging, options):
    algo, about = OF_MICROBATCHES[options]
    algo, batch = dataclasses.replace(algo, averaging=averaging), table_batch(**about)
    whole = gradient_and_metrics(algo, batch, microbatch_prompts=P)
    assert np.linalg.norm(whole[0]) > 1e-3
    for microbatch_prompts in (1, 2):
        assert_same_update(gradient_and_metrics(algo, batch, microbatch_prompts=microbatch_prompts), whole)


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
def test_rollouts_that_are_not_kept_might_as_well_not_be_there(averaging):
    algo = dataclasses.replace(EVERYTHING, averaging=averaging)
    batch = table_batch(has_old=True, has_reference=True)
    rows = [0, 1, 4, 5, 6, 7]
    few = jax.tree.map(lambda leaf: leaf[rows], batch)  # without the two prompts that have none
    assert_same_update(
        gradient_and_metrics(algo, batch, microbatch_prompts=P), gradient_and_metrics(algo, few, microbatch_prompts=6)
    )
    other = batch.replace(  # and the others hold anything
        completion_PRT=np.where(batch.is_kept_PR[..., None], batch.completion_PRT, 7),
        advantage_PR=np.where(batch.is_kept_PR, batch.advantage_PR, 100.0).astype(np.float32),
    )
    assert_same_update(
        gradient_and_metrics(algo, other, microbatch_prompts=P), gradient_and_metrics(algo, few, microbatch_prompts=6)
    )


def test_an_update_does_not_depend_on_the_number_of_devices():
    assert jax.device_count() == 8
    logprobs = build_rollout_logprobs(
        SPEC, temperature=TEMPERATURE, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
    )
    tokens = random_tokens(np.random.default_rng(0), P=P, R=R, S=2, T=T, vocab_size=5).replace(is_kept_PR=KEPT_PR)
    logprob_PRT, _ = slow_logprobs(PARAMS, SPEC, tokens, temperature=TEMPERATURE)
    batch = with_policies(np.random.default_rng(1), tokens, logprob_PRT, has_old=True, has_reference=True)
    one, eight = (
        gradient_and_metrics(EVERYTHING, batch, microbatch_prompts=P, data=data, logprobs=logprobs, params=PARAMS)
        for data in (1, 8)
    )
    assert_same_update(eight, one)


# What is refused, and what is not.


@pytest.fixture(scope="module")
def adam_steps():
    """One step function for each of freezes=True and freezes=False, on batches with an old policy."""
    optimizer = optax.adam(0.1)
    loss = build_loss(table_logprobs, AlgoConfig(averaging="token"), max_new_tokens=MAX_NEW_TOKENS)
    schedule, options = optax.constant_schedule(0.1), {"clip_norm": 0.0, "measuring": None}
    steps = {
        freezes: build_train_step(
            loss, optimizer, schedule, layout_of(mesh_of(1)), **options, freezes=freezes, lora=None
        )
        for freezes in (True, False)
    }

    def run(freezes, batches):
        mesh = mesh_of(1)
        state = jax.device_put(initial_state(TABLE, optimizer), replicated(mesh))
        states, metrics = [], []
        for batch in batches:
            state, of_update, _ = steps[freezes](state, None, in_microbatches(batch, mesh, microbatch_prompts=P))
            states.append(jax.device_get(state))
            metrics.append(jax.device_get(of_update))
        return states, metrics

    return run


def poisoned(batch, where):
    values = np.array(getattr(batch, where))
    values.reshape(-1)[0] = np.nan  # of rollout 0 of prompt 0, which is kept
    return batch.replace(**{where: values})


@pytest.mark.parametrize("where", ["advantage_PR", "old_logprob_PRT"])
def test_with_freezes_a_nonfinite_update_is_not_applied_and_none_after_it(adam_steps, where):
    good = table_batch()
    states, metrics = adam_steps(True, [good, poisoned(good, where), good])
    assert [bool(row["is_applied"]) for row in metrics] == [True, False, False]  # the last comes too late
    assert [int(row["health/n_nonfinite"]) for row in metrics] == [0, 1, 1]
    assert [int(state.n_nonfinite) for state in states] == [0, 1, 1]
    assert [int(state.n_updates) for state in states] == [1, 1, 1]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, state.params, states[0].params)
        jax.tree.map(np.testing.assert_array_equal, state.opt_state, states[0].opt_state)


@pytest.mark.parametrize("where", ["advantage_PR", "old_logprob_PRT"])
def test_without_freezes_a_nonfinite_update_is_skipped_as_if_it_had_not_been(adam_steps, where):
    good = table_batch()
    bad = poisoned(good, where)
    states, metrics = adam_steps(False, [good, bad, bad, good, bad])
    assert [bool(row["is_applied"]) for row in metrics] == [True, False, False, True, False]
    assert [int(row["health/n_nonfinite"]) for row in metrics] == [0, 1, 2, 2, 3]
    assert [int(row["n_skipped_in_a_row"]) for row in metrics] == [0, 1, 2, 0, 1]
    assert [int(state.n_updates) for state in states] == [1, 1, 1, 2, 2]
    assert [int(state.n_nonfinite) for state in states] == [0, 1, 2, 2, 3]
    assert [int(state.n_skipped_in_a_row) for state in states] == [0, 1, 2, 0, 1]
    (_, without), _ = adam_steps(False, [good, good])
    for state in states[3:]:
        jax.tree.map(np.testing.assert_array_equal, state.params, without.params)
        jax.tree.map(np.testing.assert_array_equal, state.opt_state, without.opt_state)


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda x: jnp.sqrt(x),  # 0, of infinite slope
        lambda x: x + jax.lax.stop_gradient(jnp.inf),  # infinite, of slope 1
        lambda x: x * jnp.nan,
    ],
    ids=["gradient", "loss", "both"],
)
@pytest.mark.parametrize("freezes", [True, False])
def test_a_loss_or_a_gradient_that_is_not_finite_is_enough(loss_of, freezes):
    def loss(params, batch):
        value = loss_of(params["x"])
        return value, LossTerms({"weight": jnp.ones(()), "tokens": jnp.ones(()), "loss/total": value}, {})

    step = build_train_step(
        loss, optax.sgd(1.0), optax.constant_schedule(1.0), layout_of(mesh_of(1)), clip_norm=0.0, freezes=freezes,
        lora=None, measuring=None,
    )  # fmt: skip
    state, metrics, _ = step(initial_state({"x": jnp.zeros(())}, optax.sgd(1.0)), None, jnp.zeros((1, 1)))
    assert not bool(metrics["is_applied"])
    assert (int(state.n_updates), int(state.n_nonfinite), int(state.n_skipped_in_a_row)) == (0, 1, 1)
    assert float(state.params["x"]) == 0.0


@pytest.mark.parametrize("freezes", [True, False])
def test_a_batch_without_a_trained_token_is_applied_and_has_gradient_zero(adam_steps, freezes):
    good, nothing = table_batch(), table_batch(is_kept_PR=np.zeros((P, R), bool))
    states, metrics = adam_steps(freezes, [nothing, good])
    assert [bool(row["is_applied"]) for row in metrics] == [True, True]
    assert float(metrics[0]["optim/grad_norm"]) == 0.0
    assert float(metrics[0]["loss/total"]) == 0.0
    assert float(metrics[0]["batch/tokens"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, states[0].params, TABLE)
    assert int(states[1].n_updates) == 2
    assert np.isfinite(flat(states[1].params)).all()


def test_zero_advantages_give_exactly_no_update(adam_steps):
    batch = table_batch().replace(advantage_PR=np.zeros((P, R), np.float32))
    (state,), (metrics,) = adam_steps(True, [batch])
    assert float(metrics["optim/grad_norm"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params, TABLE)


def test_the_log_probability_pass_keeps_micro_batches_apart():
    batch, mesh = table_batch(), mesh_of(1)
    got_MNRT = build_logprob_pass(table_logprobs)(TABLE, in_microbatches(batch, mesh, microbatch_prompts=2))
    assert got_MNRT.shape == (4, 2, R, T)
    np.testing.assert_allclose(got_MNRT.reshape(P, R, T), table_logprobs(TABLE, batch)[0], rtol=1e-6)


# An update whose gradient comes from the pass that measures.

Q, NOISE_R = 8, 4
TOY = toy_params()
SHARED = {  # settings of the loss, of the measurement, micro-batches, devices
    "the defaults": ({}, {}, 8, 1),
    "cispo of sequences, in micro-batches": (
        {"objective": "cispo", "ratio": "sequence", "averaging": "sequence"}, {}, 2, 1,
    ),
    "dual clip averaged by token, on two devices": ({"dual_clip": 1.3, "averaging": "token"}, {}, 4, 2),
    "sequence ratio by vmap": ({"ratio": "sequence", "averaging": "token"}, {"method": "vmap"}, 4, 1),
    "KL and entropy": ({"kl_coef": 0.3, "entropy_coef": 0.2}, {}, 4, 1),
    "KL of tokens, not split, on eight devices": (
        {"kl_coef": 0.3, "averaging": "token", "kl_estimator": "k2"}, {"decompose": False}, 8, 8,
    ),
    "sequence ratio, not split, by vmap": ({"ratio": "sequence"}, {"decompose": False, "method": "vmap"}, 8, 1),
}  # fmt: skip


ESTIMATED = "cispo of sequences, in micro-batches"  # the one with gns/ metrics


@pytest.fixture(scope="module")
def toy_steps():
    """Runs a case without and with measuring: (gradient, metrics, arrays, state) of an update by minus the gradient."""
    built = {}

    def of_case(case):
        if case not in built:
            options, settings, microbatch_prompts, data = SHARED[case]
            algo, noise, mesh = AlgoConfig(**options), NoiseConfig(sketch_width=64, **settings), mesh_of(data)
            assert can_share_backward(algo, updates_per_step=1, decomposes=noise.decompose)
            noise_pass = build_noise_pass(
                toy_logprobs, build_loss_of_logprobs(algo, max_new_tokens=5), algo, noise, n_rollouts=NOISE_R,
                n_shards=data, lora=None, decomposes=noise.decompose, shares_backward=True,
            )  # fmt: skip
            measuring = build_measuring(noise_pass, noise, OptimizerConfig(), n_prompts=Q, n_rollouts=NOISE_R)
            if case != ESTIMATED:  # the update's gradient does not depend on it, and it takes long to compile
                measuring = measuring._replace(estimate=lambda state, sums, reading, batch: (state.noise, {}, reading))
            steps = [
                build_train_step(
                    build_loss(toy_logprobs, algo, max_new_tokens=5), optax.sgd(1.0), optax.constant_schedule(1.0),
                    layout_of(mesh), clip_norm=0.0, freezes=True, lora=None, measuring=each,
                )
                for each in (None, measuring)
            ]  # fmt: skip
            built[case] = *steps, mesh, microbatch_prompts
        return built[case]

    def run(case, batch):
        *steps, mesh, microbatch_prompts = of_case(case)
        found = []
        for step in steps:
            state = jax.device_put(initial_state(TOY, optax.sgd(1.0)), replicated(mesh))
            state, metrics, arrays = step(
                state, None, in_microbatches(batch, mesh, microbatch_prompts=microbatch_prompts)
            )
            gradient = flat(TOY) - flat(state.params)
            found.append((gradient, {name: float(x) for name, x in metrics.items()}, arrays, state))
        return found

    return run


def assert_same_gradient(plain, shared):
    (gradient, metrics, no_arrays, _), (got_gradient, got_metrics, _, got_state) = plain, shared
    assert np.linalg.norm(gradient) > 1e-3
    assert np.linalg.norm(got_gradient - gradient) < 1e-5 * np.linalg.norm(gradient)
    assert {name: got_metrics[name] for name in metrics} == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    assert all(name.startswith("gns/") for name in set(got_metrics) - set(metrics))
    assert (no_arrays, int(got_state.n_updates)) == (None, 1)


@pytest.mark.parametrize("case", SHARED)
def test_an_update_from_the_measuring_pass_is_the_one_without(case, toy_steps):
    batch = toy_batch(P=Q, R=NOISE_R)
    if AlgoConfig(**SHARED[case][0]).kl_coef > 0:
        batch = with_reference(batch, np.asarray(toy_logprobs(TOY, batch)[0]))
    assert_same_gradient(*toy_steps(case, batch))


NOISE_KEPT_PR = np.ones((Q, NOISE_R), bool)
NOISE_KEPT_PR[0, 1:] = NOISE_KEPT_PR[2:4] = NOISE_KEPT_PR[5, 0] = False


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("advantage", ADVANTAGE_KINDS)
def test_a_shared_update_takes_any_advantages_and_masks(advantage, is_masked, toy_steps):
    is_kept_PR = NOISE_KEPT_PR if is_masked else None
    # a penalty for length makes rewards of more than two values
    reward_PR = np.random.default_rng(2).integers(0, 2, (Q, NOISE_R)) - np.linspace(0, 0.5, NOISE_R)[None]
    batch = toy_batch(
        P=Q, R=NOISE_R, is_kept_PR=is_kept_PR, reward_PR=reward_PR.astype(np.float32), advantage=advantage
    )  # fmt: skip
    for case in ("the defaults", ESTIMATED):
        assert_same_gradient(*toy_steps(case, batch))


def test_what_is_measured_beside_an_update_is_of_all_its_micro_batches(toy_steps):
    batch = toy_batch(P=Q, R=NOISE_R, is_kept_PR=NOISE_KEPT_PR, advantage="grpo")
    (_, _, _, before), (_, metrics, arrays, state) = toy_steps(ESTIMATED, batch)
    slopes = toy_slopes(TOY, batch)
    group_Pn = joined(slow_group_gradients(batch, slopes, AlgoConfig()))
    S, G2 = slow_scale(group_Pn, NOISE_KEPT_PR.sum(axis=1) >= 2)
    assert metrics["gns/trace_cov"] == pytest.approx(S, rel=1e-4)
    assert metrics["gns/grad_sq"] == pytest.approx(G2, rel=1e-4, abs=1e-5 * S)
    expected_PRR = gram(joined(slopes.logprob).sum(axis=2))
    np.testing.assert_allclose(arrays.gram_PRR, expected_PRR, rtol=1e-5, atol=1e-5 * expected_PRR.max())
    assert arrays.is_finite_PR.all()
    assert float(before.noise.weight) == 0.0
    assert float(state.noise.weight) == pytest.approx(0.1)
    assert float(state.noise.trace_cov) == pytest.approx(0.1 * S, rel=1e-4)


def test_a_shared_update_that_is_not_finite_is_not_applied_and_stays_out_of_the_averages(toy_steps):
    batch = toy_batch(P=Q, R=NOISE_R)
    advantage_PR = batch.advantage_PR.copy()
    advantage_PR[3, 1] = np.nan
    bad = batch.replace(advantage_PR=advantage_PR, loo_advantage_PR=np.where(np.isnan(advantage_PR), np.nan, 1.0))
    plain, (gradient, metrics, arrays, state) = toy_steps(ESTIMATED, bad)
    assert metrics["is_applied"] == plain[1]["is_applied"] == 0.0
    assert not gradient.any()
    assert np.isnan(metrics["gns/trace_cov"])
    assert float(state.noise.weight) == 0.0
    assert arrays.is_finite_PR.all()  # the scores are finite: it is the weight that is not

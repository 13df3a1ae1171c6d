"""The loss under every option against a slow one: its sums, its gradient by tokens, its gradient by parameters."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
from slow_loss import random_tokens, slow_logprobs, slow_loss, with_policies

from rlvr_jax.algo.averaging import AVERAGING_KINDS
from rlvr_jax.models.chunked_head import ALL_AT_ONCE
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.train.config import AlgoConfig
from rlvr_jax.train.loss import build_loss, build_rollout_logprobs, is_trained_token

SPEC = ModelSpec(
    vocab_size=9, width=8, n_layers=2, n_heads=2, n_kv_heads=1, head_width=4, mlp_width=12,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
P, R, S, T, MAX_NEW_TOKENS = 6, 3, 3, 3, 5  # five tokens were allowed, the longest rollout took three
TEMPERATURE = 0.8
PARAMS = initial_params(SPEC, jax.random.key(2))
N_DIRECTIONS, H = 3, 1e-5

# one option away from the default each, then what people use
OPTIONS = {
    "defaults": {},
    "narrow clips": {"clip_low": 0.05, "clip_high": 0.1},
    "dual clip": {"dual_clip": 1.4},
    "sequence ratio": {"ratio": "sequence"},
    "sequence ratio, narrow clips": {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.05, "dual_clip": 1.2},
    "sequence ratio, averaged by sequence": {"ratio": "sequence", "averaging": "sequence"},
    "cispo objective": {"objective": "cispo"},
    "cispo objective, sequence ratio": {"objective": "cispo", "ratio": "sequence", "clip_low": 0.1, "clip_high": 0.1},
    "k1": {"kl_coef": 0.3, "kl_estimator": "k1"},
    "k2": {"kl_coef": 0.3, "kl_estimator": "k2"},
    "k3": {"kl_coef": 0.3, "kl_estimator": "k3"},
    "k3 averaged by sequence": {"kl_coef": 0.3, "averaging": "sequence"},
    "entropy": {"entropy_coef": 0.2},
    "entropy averaged by sequence": {"entropy_coef": 0.2, "averaging": "sequence"},
    "importance weights": {"importance_cap": 1.5},
    "importance weights, cispo": {"importance_cap": 1.1, "objective": "cispo"},
    "averaged by token": {"averaging": "token"},
    "averaged by sequence": {"averaging": "sequence"},
    "everything": {
        "ratio": "sequence", "dual_clip": 1.1, "kl_coef": 0.3, "kl_estimator": "k2", "entropy_coef": 0.2,
        "importance_cap": 1.3, "averaging": "sequence", "clip_low": 0.1, "clip_high": 0.2,
    },
    "GRPO": {"averaging": "sequence", "kl_coef": 0.04, "advantage": "grpo"},
    "Dr. GRPO": {"averaging": "constant_length", "advantage": "centred"},
    "RLOO": {"averaging": "constant_length", "advantage": "rloo", "kl_coef": 0.05, "kl_in": "reward"},
    "DAPO": {"averaging": "token", "clip_high": 0.28, "overlong_buffer_tokens": 2},
    "GSPO": {"ratio": "sequence", "averaging": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "CISPO": {"objective": "cispo", "clip_low": 1.0, "clip_high": 0.28, "averaging": "token"},
    "REINFORCE++": {
        "averaging": "token", "advantage": "reinforce++", "importance_cap": 2.0, "kl_in": "reward", "kl_coef": 0.01,
    },
}  # fmt: skip

# prompt 1 has no rollout that is kept, prompts 0 and 3 lack one
SOME_KEPT_PR = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]], bool)

# the best of each prompt, of the second none that is kept
SOME_SELECTED_PR = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]], bool)


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(np.random.default_rng(0), P=P, R=R, S=S, T=T, vocab_size=SPEC.vocab_size)


@pytest.fixture(scope="module")
def policy(tokens):
    """(log-probability, entropy) of PARAMS in float64."""
    return slow_logprobs(PARAMS, SPEC, tokens, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def slopes(tokens):
    """Directions in the space of parameters, each with the slopes of log-probability and entropy along it."""
    rng, found = np.random.default_rng(1), []
    for _ in range(N_DIRECTIONS):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)
        ahead, behind = (
            slow_logprobs(
                jax.tree.map(lambda leaf, v, h=h: np.asarray(leaf, np.float64) + h * v, PARAMS, direction),
                SPEC, tokens, temperature=TEMPERATURE,
            )
            for h in (H, -H)
        )  # fmt: skip
        found.append((direction, *((a - b) / (2 * H) for a, b in zip(ahead, behind, strict=True))))
    return found


@pytest.fixture(scope="module")
def model_logprobs():
    """The trainer's pass. Jitted by itself: what differs between the tests is cheap enough to run op by op."""
    return jax.jit(
        build_rollout_logprobs(
            SPEC, temperature=TEMPERATURE, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
        )
    )


def make_batch(tokens, policy, algo, *, has_old, is_kept_PR):
    has_reference = algo.kl_coef > 0 and algo.kl_in == "loss"
    return with_policies(
        np.random.default_rng(5), tokens.replace(is_kept_PR=is_kept_PR), policy[0],
        has_old=has_old, has_reference=has_reference,
    )  # fmt: skip


def given_logprobs(params, batch):
    """A model whose log-probabilities and entropies are its parameters."""
    return params["logprob"], params["entropy"]


def assert_equal_terms(got, expected):
    assert set(got.sums) == set(expected.sums)
    assert {name: float(x) for name, x in got.sums.items()} == pytest.approx(expected.sums, rel=2e-5, abs=2e-6)
    assert {name: float(x) for name, x in got.maxima.items()} == pytest.approx(expected.maxima, rel=2e-5)


CASES = [pytest.param(options, True, SOME_KEPT_PR, id=f"{name}, several updates") for name, options in OPTIONS.items()]
CASES += [
    pytest.param(options, False, np.ones((P, R), bool), id=f"{name}, all kept") for name, options in OPTIONS.items()
]


@pytest.mark.parametrize(("options", "has_old", "is_kept_PR"), CASES)
def test_every_option_equals_a_slow_loss_by_value_and_by_token(tokens, policy, options, has_old, is_kept_PR):
    algo = AlgoConfig(**options)
    batch = make_batch(tokens, policy, algo, has_old=has_old, is_kept_PR=is_kept_PR)
    expected = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS)
    is_token_PRT = np.arange(T) < tokens.completion_length_PR[..., None]
    params = {
        name: jnp.asarray(np.where(is_token_PRT, values, np.nan), jnp.float32)  # pads mean nothing
        for name, values in zip(("logprob", "entropy"), policy, strict=True)
    }
    loss = build_loss(given_logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    (loss_sum, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
    assert float(loss_sum) == pytest.approx(expected.loss_sum, rel=2e-5, abs=2e-6)
    assert_equal_terms(terms, expected)
    np.testing.assert_allclose(grads["logprob"], expected.d_logprob_PRT, rtol=5e-5, atol=1e-6)
    np.testing.assert_allclose(grads["entropy"], expected.d_entropy_PRT, rtol=1e-6)


@pytest.mark.parametrize(("options", "has_old", "is_kept_PR"), CASES)
def test_every_option_equals_a_slow_loss_through_the_model(
    tokens, policy, slopes, model_logprobs, options, has_old, is_kept_PR
):
    algo = AlgoConfig(**options)
    batch = make_batch(tokens, policy, algo, has_old=has_old, is_kept_PR=is_kept_PR)
    expected = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS)
    loss = build_loss(model_logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    (loss_sum, _), grads = jax.value_and_grad(loss, has_aux=True)(PARAMS, batch)
    assert float(loss_sum) == pytest.approx(expected.loss_sum, rel=5e-5, abs=5e-6)
    for direction, slope_logprob_PRT, slope_entropy_PRT in slopes:
        products_PRT = expected.d_logprob_PRT * slope_logprob_PRT + expected.d_entropy_PRT * slope_entropy_PRT
        slope = sum(
            float((np.asarray(g, np.float64) * v).sum())
            for g, v in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
        )
        assert slope == pytest.approx(products_PRT.sum(), abs=5e-5 * np.abs(products_PRT).sum())


def test_the_numbers_above_reach_every_branch(tokens, policy):
    def sums(**options):
        algo = AlgoConfig(**options)
        batch = make_batch(tokens, policy, algo, has_old=True, is_kept_PR=SOME_KEPT_PR)
        return slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS).sums

    n_tokens = sums()["tokens"]
    for options in ({}, {"ratio": "sequence"}, {"objective": "cispo"}, OPTIONS["GSPO"]):
        n_low, n_high = (sums(**options)[name] for name in ("policy/clip_frac_low", "policy/clip_frac_high"))
        assert min(n_low, n_high) > 0
        assert n_low + n_high < n_tokens
    for name in ("dual clip", "sequence ratio, narrow clips", "everything"):
        n_clipped, n_without = (
            sums(**options)["policy/clip_frac_high"] for options in (OPTIONS[name], OPTIONS[name] | {"dual_clip": 0.0})
        )
        assert n_clipped > n_without
    for cap in (1.1, 1.5):
        assert 0 < sums(importance_cap=cap)["mismatch/capped_frac"] < n_tokens


def test_the_trainers_pass_equals_the_slow_model_at_every_token(tokens, policy, model_logprobs):
    is_token_PRT = np.arange(T) < tokens.completion_length_PR[..., None]
    for got_PRT, expected_PRT in zip(model_logprobs(PARAMS, tokens), policy, strict=True):
        assert got_PRT.shape == (P, R, T)
        np.testing.assert_allclose(np.asarray(got_PRT)[is_token_PRT], expected_PRT[is_token_PRT], rtol=2e-5)


def test_the_tokens_of_a_rollout_that_is_kept_are_trained_up_to_eos():
    tokens = random_tokens(np.random.default_rng(0), P=1, R=3, S=1, T=4, vocab_size=9).replace(
        completion_length_PR=np.array([[1, 4, 2]], np.int32), is_kept_PR=np.array([[True, True, False]])
    )
    np.testing.assert_array_equal(is_trained_token(tokens), [[[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]])


def test_a_rollout_that_is_not_selected_has_no_trained_token():
    tokens = random_tokens(np.random.default_rng(0), P=1, R=3, S=1, T=2, vocab_size=9).replace(
        completion_length_PR=np.array([[1, 2, 2]], np.int32),
        is_kept_PR=np.array([[True, True, False]]),
        is_selected_PR=np.array([[True, False, True]]),
    )
    np.testing.assert_array_equal(is_trained_token(tokens), [[[1, 0], [0, 0], [0, 0]]])


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
@pytest.mark.parametrize("name", ["defaults", "everything", "RLOO"])
def test_what_is_not_selected_leaves_the_sums_and_what_divides_them(tokens, policy, name, averaging):
    algo = AlgoConfig(**(OPTIONS[name] | {"averaging": averaging}))
    batch = make_batch(tokens, policy, algo, has_old=True, is_kept_PR=SOME_KEPT_PR)
    batch = batch.replace(is_selected_PR=SOME_SELECTED_PR)
    expected = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS)
    params = {name: jnp.asarray(x, jnp.float32) for name, x in zip(("logprob", "entropy"), policy, strict=True)}
    loss = build_loss(given_logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    (loss_sum, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
    assert float(loss_sum) == pytest.approx(expected.loss_sum, rel=2e-5, abs=2e-6)
    assert_equal_terms(terms, expected)
    np.testing.assert_allclose(grads["logprob"], expected.d_logprob_PRT, rtol=5e-5, atol=1e-6)
    n_rows = (SOME_KEPT_PR & SOME_SELECTED_PR).sum()
    n_tokens = tokens.completion_length_PR[SOME_KEPT_PR & SOME_SELECTED_PR].sum()
    weight = {"sequence": n_rows, "token": n_tokens, "constant_length": n_rows * MAX_NEW_TOKENS}[averaging]
    assert float(terms.sums["weight"]) == weight


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_one_update_per_step_has_ratio_exactly_one(tokens, policy, model_logprobs, ratio):
    algo = AlgoConfig(ratio=ratio, clip_low=0.0, clip_high=0.0)
    batch = make_batch(tokens, policy, algo, has_old=False, is_kept_PR=SOME_KEPT_PR)
    _, terms = build_loss(model_logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)(PARAMS, batch)
    assert float(terms.sums["policy/ratio_mean"]) == float(terms.sums["tokens"])
    assert float(terms.maxima["policy/ratio_max"]) == 1.0
    assert float(terms.sums["policy/clip_frac_low"] + terms.sums["policy/clip_frac_high"]) == 0.0


@pytest.mark.parametrize("averaging", AVERAGING_KINDS)
def test_a_batch_without_a_trained_token_has_loss_and_gradient_zero(tokens, policy, averaging):
    algo = AlgoConfig(averaging=averaging, kl_coef=0.1, entropy_coef=0.1, importance_cap=2.0)
    batch = make_batch(tokens, policy, algo, has_old=True, is_kept_PR=np.zeros((P, R), bool))
    params = {name: jnp.full((P, R, T), jnp.nan) for name in ("logprob", "entropy")}
    loss = build_loss(given_logprobs, algo, max_new_tokens=MAX_NEW_TOKENS)
    (loss_sum, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
    assert float(loss_sum) == 0.0
    assert {float(x) for x in (*terms.sums.values(), *terms.maxima.values())} == {0.0}
    assert all((np.asarray(leaf) == 0).all() for leaf in grads.values())

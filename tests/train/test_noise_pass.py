"""The measuring pass against slopes of every token, put together by loops."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "algo"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))
from slow_loss import kl_term, random_tokens, slow_loss, with_policies
from slow_noise import slow_group_gradients
from slow_scores import gram
from toy_policy import PARTS, flat_by_part, joined, toy_batch, toy_logprobs, toy_params, toy_slopes, with_reference

from rlvr_jax.algo.advantages import ADVANTAGE_KINDS
from rlvr_jax.algo.averaging import AVERAGING_KINDS
from rlvr_jax.train import noise_pass as noise_pass_module
from rlvr_jax.train.config import OBJECTIVES, RATIOS, AlgoConfig, NoiseConfig
from rlvr_jax.train.loss import build_loss_of_logprobs
from rlvr_jax.train.noise_pass import build_noise_pass, can_share_backward, noise_loss, score_weights

P, R, MAX_NEW_TOKENS = 6, 4, 5
PARAMS = toy_params()
METRIC = jax.tree.map(lambda leaf: jnp.exp(0.3 * leaf), PARAMS)
ALL_PR = np.ones((P, R), bool)
SOME_PR = ALL_PR.copy()
SOME_PR[0, 0] = SOME_PR[2, 1:] = SOME_PR[3] = SOME_PR[5, ::2] = False  # 3, 4, 1, 0, 4 and 2 are kept
IS_COUNTED_P = SOME_PR.sum(axis=1) >= 2

KL = {"kl_coef": 0.3, "kl_estimator": "k3"}
CASES = {  # algorithm, what is kept, how: (decomposes, shares_backward, method), noise settings
    "a pass of its own": ({}, SOME_PR, (True, False, "taps"), {"keep_sketches": True, "optimizer_metric": True}),
    "shared, masked": (
        {"advantage": "grpo", "averaging": "sequence", "ratio": "sequence", "objective": "cispo", "truncated": "mask"},
        SOME_PR, (True, True, "taps"), {},
    ),
    "shared by vmap": (
        {"advantage": "reinforce++", "averaging": "token"}, SOME_PR, (True, True, "vmap"),
        {"keep_sketches": True, "optimizer_metric": True},
    ),
    "penalties, a pass of its own, masked": (
        KL | {"entropy_coef": 0.2, "advantage": "grpo"}, SOME_PR, (True, False, "taps"), {"optimizer_metric": True},
    ),
    "penalties, shared": (
        KL | {"entropy_coef": 0.2, "kl_estimator": "k2"}, ALL_PR, (True, True, "taps"), {"optimizer_metric": True},
    ),
    "groups alone, by vmap, masked": (KL | {"kl_estimator": "k1"}, SOME_PR, (False, False, "vmap"), {}),
    "groups alone, shared, by vmap": ({}, ALL_PR, (False, True, "vmap"), {"optimizer_metric": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    """By case: (algorithm, batch, slopes, what the pass returned), each compiled once."""
    slopes, done = {}, {}

    def of_case(case):
        if case not in done:
            options, is_kept_PR, (decomposes, shares_backward, method), settings = CASES[case]
            algo = AlgoConfig(**options)
            assert not shares_backward or can_share_backward(algo, updates_per_step=1, decomposes=decomposes)
            batch = toy_batch(P=P, R=R, is_kept_PR=is_kept_PR, advantage=algo.advantage)
            if id(is_kept_PR) not in slopes:
                slopes[id(is_kept_PR)] = toy_slopes(PARAMS, batch)
            of_tokens = slopes[id(is_kept_PR)]
            if algo.kl_coef > 0:
                batch = with_reference(batch, of_tokens.logprob_PRT)
            noise = NoiseConfig(method=method, sketch_width=20_000, **settings)
            noise_pass = build_noise_pass(
                toy_logprobs, build_loss_of_logprobs(algo, max_new_tokens=MAX_NEW_TOKENS), algo, noise,
                n_rollouts=R, n_shards=1, lora=None, decomposes=decomposes, shares_backward=shares_backward,
            )  # fmt: skip
            metric = METRIC if noise.optimizer_metric else None
            done[case] = algo, batch, of_tokens, jax.device_get(jax.jit(noise_pass)(PARAMS, None, batch, metric))
        return done[case]

    return of_case


def scores(slopes):
    return {part: leaf.sum(axis=2) for part, leaf in slopes.logprob.items()}  # 0 where not trained


def policy_gradients(batch, slopes):
    """{part: f64[P, n]} of the policy term alone."""
    bare = batch.replace(reference_logprob_PRT=None)
    return slow_group_gradients(bare, slopes, AlgoConfig())


def counted(group_Pn, batch):
    """Groups of fewer than two have no leave-one-out gradient: they are in no sum."""
    return {part: leaf * (batch.is_kept_PR.sum(axis=1) >= 2)[:, None] for part, leaf in group_Pn.items()}


def assert_groups(found, sums, group_Pn, *, sketch_width=19_997):
    """A GroupReading and its sum against gradients by part, those that are counted."""
    assert set(found.sq_norm) == set(found.sketch) == set(PARTS)
    largest = max((leaf**2).sum(axis=1).max() for leaf in group_Pn.values())
    for part, leaf in group_Pn.items():
        np.testing.assert_allclose(found.sq_norm[part], (leaf**2).sum(axis=1), rtol=2e-5, atol=1e-6 * largest)
        if sums is not None:
            np.testing.assert_allclose(
                flat_by_part(sums)[part], leaf.sum(axis=0), rtol=1e-5, atol=1e-5 * largest**0.5, err_msg=part
            )
        length_P = np.linalg.norm(leaf, axis=1) + 1e-12
        inner_PP = found.sketch[part] @ found.sketch[part].T
        error_PP = (inner_PP - leaf @ leaf.T) / np.outer(length_P, length_P)
        assert np.abs(error_PP).max() < 6 * np.sqrt(2 / sketch_width)


@pytest.mark.parametrize("case", CASES)
def test_the_noise_is_that_of_groups_with_leave_one_out_advantages_and_penalties(case, measured):
    algo, batch, slopes, (_, _, sums, reading) = measured(case)
    group_Pn = counted(slow_group_gradients(batch, slopes, algo), batch)
    assert min(np.linalg.norm(leaf) for leaf in group_Pn.values()) > 1e-2
    assert_groups(reading.loss, sums.loss, group_Pn)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3].get("optimizer_metric")])
def test_in_a_metric_every_parameter_counts_as_much_as_it_says(case, measured):
    algo, batch, slopes, (_, _, _, reading) = measured(case)
    group_Pn = counted(slow_group_gradients(batch, slopes, algo), batch)
    scaled_Pn = {part: leaf * flat_by_part(METRIC)[part] for part, leaf in group_Pn.items()}
    assert_groups(reading.adam, None, scaled_Pn)


@pytest.mark.parametrize("case", CASES)
def test_a_metric_is_read_only_where_there_is_one(case, measured):
    reading = measured(case)[3][3]
    assert (reading.adam is not None) == CASES[case][3].get("optimizer_metric", False)


@pytest.mark.parametrize("case", CASES)
def test_scores_give_inner_products_whatever_the_loss(case, measured):
    algo, batch, slopes, (_, _, sums, reading) = measured(case)
    decomposes, keeps_sketches = CASES[case][2][0], CASES[case][3].get("keep_sketches", False)
    has_penalty = algo.kl_coef > 0 or algo.entropy_coef > 0
    # the policy term's own numbers only where the loss has others, and only where it is decomposed
    assert (reading.policy is not None) == (sums.policy is not None) == (decomposes and has_penalty)
    assert (reading.rollout_sketch_PRW is not None) == keeps_sketches
    assert (reading.gram is not None) == decomposes
    if not decomposes:
        return
    for part, score_PRn in scores(slopes).items():
        expected_PRR = gram(score_PRn)
        np.testing.assert_allclose(reading.gram[part], expected_PRR, rtol=1e-5, atol=1e-5 * expected_PRR.max())
    if has_penalty:
        assert_groups(reading.policy, sums.policy, policy_gradients(batch, slopes))


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3].get("keep_sketches")])
def test_a_groups_sketch_is_the_weighted_sum_of_its_rollouts_sketches(case, measured):
    _, batch, slopes, (_, _, _, reading) = measured(case)
    weight_PR = -batch.loo_advantage_PR / np.maximum(batch.is_kept_PR.sum(axis=1), 1)[:, None]
    summed_PW = np.einsum("pr,prw->pw", weight_PR, reading.rollout_sketch_PRW)
    of_group_PW = sum(reading.loss.sketch.values())
    np.testing.assert_allclose(of_group_PW, summed_PW, atol=1e-5 * np.abs(summed_PW).max())
    score_PRn = joined(scores(slopes))
    length_PR = np.linalg.norm(score_PRn, axis=2) + 1e-12
    error_PRR = gram(reading.rollout_sketch_PRW) - gram(score_PRn)
    assert np.abs(error_PRR / (length_PR[:, :, None] * length_PR[:, None])).max() < 6 * np.sqrt(2 / 19_997)


@pytest.mark.parametrize("case", CASES)
def test_a_shared_pass_gives_the_gradient_and_the_terms_of_the_updates_own_loss(case, measured):
    algo, batch, slopes, (gradient, terms, _, _) = measured(case)
    if not CASES[case][2][1]:
        assert (gradient, terms) == (None, None)
        return
    expected = slow_loss(
        batch.replace(behavior_logprob_PRT=np.zeros_like(batch.behavior_logprob_PRT)), algo, slopes.logprob_PRT,
        slopes.entropy_PRT, max_new_tokens=MAX_NEW_TOKENS,
    )  # fmt: skip
    of_parts = {
        part: np.einsum("prt,prtn->n", expected.d_logprob_PRT, slopes.logprob[part])
        + np.einsum("prt,prtn->n", expected.d_entropy_PRT, slopes.entropy[part])
        for part in PARTS
    }
    largest = max(np.abs(leaf).max() for leaf in of_parts.values())
    for part, leaf in of_parts.items():
        np.testing.assert_allclose(flat_by_part(gradient)[part], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=part)
    assert {name: float(x) for name, x in terms.sums.items()} == pytest.approx(expected.sums, rel=2e-5, abs=2e-5)
    assert {name: float(x) for name, x in terms.maxima.items()} == pytest.approx(expected.maxima, rel=2e-5, abs=2e-5)


def test_half_precision_matmuls_keep_the_inner_products_to_their_own_rounding():
    # operands have 8 bits, so each is off by up to 2^-9; a dozen products in a row make some hundredths of that.
    # The statistics of given operands are exact: test_tapped_ops.py
    def half(params, batch):
        return toy_logprobs(params, batch, dtype=jnp.bfloat16)

    batch = toy_batch(P=P, R=R)
    slopes = toy_slopes(PARAMS, batch)
    noise_pass = build_noise_pass(
        half, build_loss_of_logprobs(AlgoConfig(), max_new_tokens=MAX_NEW_TOKENS), AlgoConfig(),
        NoiseConfig(sketch_width=64), n_rollouts=R, n_shards=1, lora=None, decomposes=True, shares_backward=True,
    )  # fmt: skip
    gradient, _, sums, reading = jax.jit(noise_pass)(PARAMS, None, batch, None)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, sums, reading))} == {jnp.dtype("float32")}
    score_PRn = joined(scores(slopes))
    length_PR = np.linalg.norm(score_PRn, axis=2)
    error_PRR = np.abs(sum(reading.gram.values()) - gram(score_PRn)) / (length_PR[:, :, None] * length_PR[:, None])
    assert 1e-4 < error_PRR.max() < 0.05


@pytest.mark.parametrize("n_shards", [2])
@pytest.mark.parametrize("method", ["taps", "vmap"])
def test_chunks_and_shards_reach_the_pass(method, n_shards, monkeypatch):
    # by memory 1 MiB and none at all; settings arrive where they are for
    seen = {}

    class Reached(Exception):
        pass

    def reach(*arguments):
        raise Reached

    def spy(name):
        def build(objective, *plan, **options):
            seen.update(options, plan=plan)
            return reach

        monkeypatch.setattr(noise_pass_module, name, build)

    spy("build_tapped_pass")
    spy("build_per_rollout_pass")
    for chunk_mib, expected in ((3, 3 * 2**20), (0, {"taps": 4 * 2**20, "vmap": 2**30}[method])):
        measure = build_noise_pass(
            toy_logprobs, build_loss_of_logprobs(AlgoConfig(), max_new_tokens=MAX_NEW_TOKENS), AlgoConfig(),
            NoiseConfig(method=method, chunk_mib=chunk_mib, sketch_width=100, keep_sketches=True),
            n_rollouts=R, n_shards=n_shards, lora=None, decomposes=True, shares_backward=False,
        )  # fmt: skip
        with pytest.raises(Reached):
            measure(PARAMS, None, toy_batch(P=P, R=R), None)
        if method == "vmap":
            assert (seen["budget_bytes"], seen["sketch"].width, seen["keeps_unit_sketches"]) == (expected, 97, True)
        else:
            (plan,) = seen["plan"]
            assert (plan.chunk_bytes, plan.sketch.width, plan.keeps_unit_sketches) == (expected, 97, True)
            assert (plan.n_units, plan.rows_per_unit, plan.n_shards) == (R, 1, n_shards)


# What a rollout weighs, and when one number is enough.


def kept_some(batch, rng):
    is_kept_PR = rng.random(batch.is_kept_PR.shape) < 0.7
    is_kept_PR[0] = True
    return batch.replace(is_kept_PR=is_kept_PR)


def loss_batch(algo, *, some_kept):
    """Random advantages of a leave-one-out kind or not, and a reference where the loss has a KL term."""
    rng = np.random.default_rng(1)
    batch = random_tokens(rng, P=3, R=R, S=2, T=3, vocab_size=7)
    batch = batch.replace(completion_length_PR=rng.integers(1, 4, (3, R)).astype(np.int32))
    batch = kept_some(batch, rng) if some_kept else batch
    logprob_PRT = -np.abs(rng.normal(size=(3, R, 3)))
    batch = with_policies(rng, batch, logprob_PRT, has_old=False, has_reference=algo.kl_coef > 0)
    loo_PR = batch.advantage_PR if algo.advantage == "rloo" else 2.0 * batch.advantage_PR + 1.0
    entropy_PRT = np.abs(rng.normal(size=(3, R, 3)))
    return batch.replace(loo_advantage_PR=np.where(batch.is_kept_PR, loo_PR, 0).astype(np.float32)), (
        logprob_PRT, entropy_PRT,
    )  # fmt: skip


ONE_NUMBER = [
    {"objective": objective, "ratio": ratio, "averaging": averaging, "dual_clip": dual_clip}
    for objective, ratio, averaging, dual_clip in itertools.product(OBJECTIVES, RATIOS, AVERAGING_KINDS, (0.0, 1.2))
    if objective == "clipped" or dual_clip == 0
]


@pytest.mark.parametrize("some_kept", [False, True])
@pytest.mark.parametrize("options", ONE_NUMBER, ids=lambda options: " ".join(map(str, options.values())))
def test_a_rollouts_weight_is_the_slope_of_the_loss_at_each_of_its_tokens(options, some_kept):
    algo = AlgoConfig(**options)
    batch, policy = loss_batch(algo, some_kept=some_kept)
    expected_PRT = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS).d_logprob_PRT
    got_PR = score_weights(build_loss_of_logprobs(algo, max_new_tokens=MAX_NEW_TOKENS), batch)
    is_trained_PRT = (np.arange(3) < batch.completion_length_PR[..., None]) & batch.is_kept_PR[..., None]
    np.testing.assert_allclose(np.where(is_trained_PRT, got_PR[..., None], 0.0), expected_PRT, rtol=1e-5, atol=1e-6)


def slow_noise_slopes(batch, algo, logprob_PRT):
    """d (n_rollouts times the noise's loss) by log-probability and by entropy, token by token."""
    d_logprob_PRT, d_entropy_PRT = np.zeros(logprob_PRT.shape), np.zeros(logprob_PRT.shape)
    for p, r in np.argwhere(batch.is_kept_PR):
        share = R / batch.is_kept_PR[p].sum()
        for t in range(int(batch.completion_length_PR[p, r])):
            d_logprob_PRT[p, r, t] = -share * float(batch.loo_advantage_PR[p, r])
            if batch.reference_logprob_PRT is not None:
                reference = float(batch.reference_logprob_PRT[p, r, t])
                d_logprob_PRT[p, r, t] += (
                    share * algo.kl_coef * kl_term(logprob_PRT[p, r, t], reference, algo.kl_estimator)[1]
                )
            d_entropy_PRT[p, r, t] = -share * algo.entropy_coef
    return d_logprob_PRT, d_entropy_PRT


def test_the_backward_pass_is_shared_exactly_where_it_can_be():
    """One pass over scores yields a gradient in which a rollout's tokens weigh the same, known before the pass; a pass
    over the update's loss measures the noise where that loss is n_rollouts times the noise's. Both by loops."""
    n_shared = dict.fromkeys((True, False), 0)
    for advantage, objective, ratio, averaging, kl_coef, entropy_coef, cap, truncated, decomposes in itertools.product(
        ("rloo", "grpo"), OBJECTIVES, RATIOS, AVERAGING_KINDS, (0.0, 0.3), (0.0, 0.2), (0.0, 1.3), ("train", "mask"),
        (True, False),
    ):  # fmt: skip
        algo = AlgoConfig(
            advantage=advantage, objective=objective, ratio=ratio, averaging=averaging, kl_coef=kl_coef,
            entropy_coef=entropy_coef, importance_cap=cap, truncated=truncated,
        )  # fmt: skip
        batch, policy = loss_batch(algo, some_kept=truncated == "mask")
        own = slow_loss(batch, algo, *policy, max_new_tokens=MAX_NEW_TOKENS)
        is_trained_PRT = (np.arange(3) < batch.completion_length_PR[..., None]) & batch.is_kept_PR[..., None]
        spread = np.ptp(np.where(is_trained_PRT, own.d_logprob_PRT, own.d_logprob_PRT[..., :1]), axis=2).max()
        elsewhere = slow_loss(batch, algo, policy[0] - 0.3, policy[1], max_new_tokens=MAX_NEW_TOKENS)
        is_known = np.allclose(own.d_logprob_PRT, elsewhere.d_logprob_PRT)
        is_one_number = is_known and spread < 1e-6 and not own.d_entropy_PRT.any()
        noise = slow_noise_slopes(batch, algo, policy[0])
        is_noises_loss = np.allclose(own.d_logprob_PRT, noise[0]) and np.allclose(own.d_entropy_PRT, noise[1])
        is_scores_alone = decomposes and kl_coef == entropy_coef == 0
        expected = (is_scores_alone and is_one_number) or is_noises_loss
        got = can_share_backward(algo, updates_per_step=1, decomposes=decomposes)
        assert got == expected, (algo, decomposes)
        n_shared[got] += 1
    assert min(n_shared.values()) > 50


@pytest.mark.parametrize("advantage", ADVANTAGE_KINDS)
def test_no_advantage_but_leave_one_out_is_what_the_noise_is_measured_with(advantage):
    # but for those, a pass over scores is needed, which takes any weights
    algo = AlgoConfig(advantage=advantage)
    assert can_share_backward(algo, updates_per_step=1, decomposes=True)
    assert can_share_backward(algo, updates_per_step=1, decomposes=False) == (advantage == "rloo")


def test_several_updates_per_step_take_parts_of_what_is_measured():
    assert not can_share_backward(AlgoConfig(), updates_per_step=2, decomposes=True)


def test_a_penalty_in_the_reward_is_in_the_advantages_already():
    algo = AlgoConfig(advantage="grpo", averaging="token", kl_coef=0.1, kl_in="reward")
    assert can_share_backward(algo, updates_per_step=1, decomposes=True)


# The loss that noise is defined for.


@pytest.mark.parametrize(
    ("options", "d", "per_token"),  # d = reference - policy log-probability, the same at every token
    [
        ({"kl_coef": 0.3, "kl_estimator": "k1"}, -0.5, 0.3 * 0.5),
        ({"kl_coef": 0.3, "kl_estimator": "k2"}, -0.5, 0.3 * 0.125),
        ({"kl_coef": 0.3, "kl_estimator": "k3"}, -0.5, 0.3 * (np.exp(-0.5) + 0.5 - 1)),
        ({"kl_coef": 0.3, "kl_in": "reward"}, None, 0.0),  # in the advantages already
        ({"entropy_coef": 0.2}, None, -0.2 * 0.7),  # entropy 0.7 everywhere
    ],
)
def test_the_noise_loss_divides_by_the_rollouts_that_are_kept(options, d, per_token):
    # without advantages the penalties alone are left: per token, over 4, 3, 2, 1 kept or none
    is_kept_PR = np.arange(R) < np.array([4, 3, 2, 1, 0, 4])[:, None]
    batch = toy_batch(P=P, R=R, is_kept_PR=is_kept_PR).replace(loo_advantage_PR=np.zeros((P, R), np.float32))
    logprob_PRT = -np.abs(np.random.default_rng(0).normal(size=batch.completion_PRT.shape)).astype(np.float32)
    if d is not None:
        is_trained_PRT = (np.arange(3) < batch.completion_length_PR[..., None]) & is_kept_PR[..., None]
        batch = batch.replace(reference_logprob_PRT=np.where(is_trained_PRT, logprob_PRT + np.float32(d), np.nan))
    loss = noise_loss(lambda params, batch: (logprob_PRT, jnp.full(logprob_PRT.shape, 0.7)), AlgoConfig(**options))
    n_tokens_P = (batch.completion_length_PR * is_kept_PR).sum(axis=1)
    expected = per_token * (n_tokens_P / np.maximum(is_kept_PR.sum(axis=1), 1)).sum()
    assert float(loss(None, batch)[0]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_noise_loss_weighs_log_probabilities_with_leave_one_out_advantages():
    # prompt 0: -(0.5 * -1 + -0.5 * -2) / 2 = -0.25; prompt 1, one rollout of two tokens kept: -(2 * -3 - 2) / 1
    batch = random_tokens(np.random.default_rng(0), P=2, R=2, S=1, T=2, vocab_size=5).replace(
        completion_length_PR=np.array([[1, 1], [2, 2]], np.int32),
        is_kept_PR=np.array([[True, True], [True, False]]),
        loo_advantage_PR=np.array([[0.5, -0.5], [1.0, np.nan]], np.float32),
    )
    logprob_PRT = jnp.array([[[-1.0, 9.0], [-2.0, 9.0]], [[-5.0, -3.0], [np.nan, np.nan]]])
    loss = noise_loss(lambda params, batch: (logprob_PRT, jnp.zeros((2, 2, 2))), AlgoConfig())
    assert float(loss(None, batch)[0]) == pytest.approx(-0.25 + 8.0)

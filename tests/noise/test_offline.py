import itertools
from functools import partial

import numpy as np
import pytest
import scipy.stats

from rlvr_jax.algo.advantages import advantages as named_advantages
from rlvr_jax.noise.offline import offline_noise

rloo = partial(named_advantages, kind="rloo", ddof=0, eps=0.0)
std_normalised = partial(named_advantages, kind="grpo", ddof=1, eps=1e-4)
batch_mean = partial(named_advantages, kind="batch_mean", ddof=0, eps=0.0)
reinforce = partial(named_advantages, kind="none", ddof=0, eps=0.0)
DRAWS = {"n_draws": 3, "seed": 0}


def bandit(*, n_prompts, n_rollouts, n_features=5, n_arms=4, seed=0):
    """(scores f32[P, R, D], rewards f32[P, R]) of a softmax policy with shared parameters, theta fixed.

    Sketches are the exact gradients: D buckets for D parameters.
    """
    rng = np.random.default_rng(seed)
    features_PAD = rng.normal(0, 1, (n_prompts, n_arms, n_features)) + rng.normal(0, 1, (1, n_arms, n_features))
    logits_PA = features_PAD @ rng.normal(0, 0.3, n_features)
    prob_PA = np.exp(logits_PA) / np.exp(logits_PA).sum(axis=1, keepdims=True)
    arm_PR = np.stack([rng.choice(n_arms, n_rollouts, p=prob_A) for prob_A in prob_PA])
    score_PAD = features_PAD - np.einsum("pa,pad->pd", prob_PA, features_PAD)[:, None]
    score_PRD = np.take_along_axis(score_PAD, arm_PR[..., None], axis=1)
    reward_PR = rng.random((n_prompts, n_rollouts)) < np.linspace(0.1, 0.9, n_arms)[arm_PR]
    return score_PRD.astype(np.float32), reward_PR.astype(np.float32)


def all_kept(reward_PR):
    return np.ones(reward_PR.shape, bool)


def moments(g_PD):
    """The noise scale's S and |G|^2, from gradients."""
    P = len(g_PD)
    S = ((g_PD - g_PD.mean(axis=0)) ** 2).sum() / (P - 1)
    return S, (g_PD.mean(axis=0) ** 2).sum() - S / P


class Recording:
    """Advantages that remember which rewards they were shown."""

    def __init__(self, advantages):
        self.advantages, self.seen = advantages, []

    def __call__(self, reward_PQ, is_kept_PQ):
        assert is_kept_PQ.all()
        self.seen.append(reward_PQ)
        return self.advantages(reward_PQ, is_kept_PQ)


def brute_force(score_PRD, reward_PR, batches, advantages):
    """S and |G|^2 averaged over every way to form a batch of one of its subgroups per prompt; rewards are distinct."""
    g_BPD = []
    for reward_PQ in batches:
        advantage_PQ = np.asarray(advantages(reward_PQ, all_kept(reward_PQ)))
        g_PD = [
            sum(A * score_RD[list(reward_R).index(r)] for A, r in zip(A_Q, r_Q, strict=True)) / len(r_Q)
            for A_Q, r_Q, score_RD, reward_R in zip(advantage_PQ, reward_PQ, score_PRD, reward_PR, strict=True)
        ]
        g_BPD.append(g_PD)
    g_BPD, P = np.array(g_BPD, np.float64), len(score_PRD)
    combinations = itertools.product(range(len(batches)), repeat=P)
    return np.mean([moments(g_BPD[list(choice), range(P)]) for choice in combinations], axis=0)


def test_three_prompts_of_two_rollouts_by_hand():
    # A = +-1 (leave-one-out of 1, 0), s = (1, 0), (2, 0), (3, 0) where right and 0 where wrong: g = 1/2, 1, 3/2
    # mean 1, S = 1/4, |G|^2 = 1 - 1/12 = 11/12, B = 3/11
    score_PRW = np.array([[[1, 0], [0, 0]], [[0, 0], [2, 0]], [[3, 0], [0, 0]]], np.float32)
    reward_PR = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    got = offline_noise(score_PRW, reward_PR, all_kept(reward_PR), advantages=rloo, n_rollouts=2, **DRAWS)
    assert got.trace_cov.value == pytest.approx(1 / 4)
    assert got.grad_sq.value == pytest.approx(11 / 12)
    assert got.b_noise_prompts.value == pytest.approx(3 / 11)
    # one left out: S = 1/8, 1/2, 1/8 and |G|^2 = 3/2, 3/4, 1/2; se^2 = 2/3 sum of squares about the mean, t = 4.303
    assert got.trace_cov.high - got.trace_cov.value == pytest.approx(4.302653 * np.sqrt(2 / 3 * 3 / 32))
    assert got.grad_sq.value - got.grad_sq.low == pytest.approx(4.302653 * np.sqrt(2 / 3 * 13 / 24))
    assert (got.n_prompts, got.n_prompts_left_out) == (3, 0)


@pytest.mark.parametrize("advantages", [rloo, std_normalised, batch_mean, reinforce])
def test_at_the_rollouts_drawn_it_is_the_noise_scale_with_each_prompt_left_out(advantages):
    score_PRD, reward_PR = bandit(n_prompts=60, n_rollouts=6)
    got = offline_noise(score_PRD, reward_PR, all_kept(reward_PR), advantages=advantages, n_rollouts=6, **DRAWS)
    advantage_PR = np.asarray(advantages(reward_PR, all_kept(reward_PR)), np.float64)
    g_PD = np.einsum("pr,prd->pd", advantage_PR, score_PRD) / 6
    left_out_P2 = np.array([moments(np.delete(g_PD, x, axis=0)) for x in range(60)])

    def interval(value, left_out_P):
        error = np.sqrt(59 / 60 * ((left_out_P - left_out_P.mean()) ** 2).sum())
        return value + scipy.stats.t.ppf(0.975, 59) * error * np.array([0.0, -1.0, 1.0])

    S, G2 = moments(g_PD)
    assert got.trace_cov == pytest.approx(interval(S, left_out_P2[:, 0]), rel=1e-4)
    assert got.grad_sq == pytest.approx(interval(G2, left_out_P2[:, 1]), rel=1e-4)
    assert got.is_resolved
    log_interval = interval(np.log(S / G2), np.log(left_out_P2[:, 0] / left_out_P2[:, 1]))
    assert got.b_noise_prompts == pytest.approx(np.exp(log_interval), rel=1e-4)
    assert got.prompts_to_resolve == pytest.approx(2 * S / G2, rel=1e-4)


@pytest.mark.parametrize("advantages", [rloo, std_normalised, batch_mean, reinforce])
@pytest.mark.parametrize("n_rollouts", [2, 3])
def test_subgroups_equal_a_loop_over_every_batch_of_them(advantages, n_rollouts):
    score_PRD, _ = bandit(n_prompts=4, n_rollouts=6)
    reward_PR = np.random.default_rng(1).random((4, 6)).astype(np.float32)
    recording = Recording(advantages)
    got = offline_noise(
        score_PRD, reward_PR, all_kept(reward_PR), advantages=recording, n_rollouts=n_rollouts, n_draws=1, seed=2
    )
    assert [batch.shape for batch in recording.seen] == [(4, n_rollouts)] * (6 // n_rollouts)
    np.testing.assert_array_equal(np.sort(np.concatenate(recording.seen, axis=1)), np.sort(reward_PR))  # disjoint
    expected = brute_force(score_PRD, reward_PR, recording.seen, advantages)
    assert (got.trace_cov.value, got.grad_sq.value) == pytest.approx(tuple(expected), rel=1e-5)


def test_groups_of_unequal_size_and_what_is_not_kept():
    score_PRD, _ = bandit(n_prompts=5, n_rollouts=6)
    reward_PR = np.random.default_rng(1).random((5, 6)).astype(np.float32)
    is_kept_PR = np.array(
        [[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1] * 6], bool
    )
    score_PRD[~is_kept_PR], reward_PR[~is_kept_PR] = np.nan, np.nan
    recording = Recording(std_normalised)
    got = offline_noise(score_PRD, reward_PR, is_kept_PR, advantages=recording, n_rollouts=2, n_draws=1, seed=0)
    assert (got.n_prompts, got.n_prompts_left_out) == (4, 1)
    used = [0, 1, 2, 4]
    for x, row in enumerate(used):
        shown = set(np.concatenate([batch[x] for batch in recording.seen]))
        assert len(shown) == is_kept_PR[row].sum() // 2 * 2
        assert shown <= set(reward_PR[row][is_kept_PR[row]])
    expected = brute_force(score_PRD[used], reward_PR[used], recording.seen, std_normalised)
    assert (got.trace_cov.value, got.grad_sq.value) == pytest.approx(tuple(expected), rel=1e-5)


def test_draws_converge_to_all_subgroups_for_std_normalised_advantages():
    score_PRD, reward_PR = bandit(n_prompts=30, n_rollouts=6)
    g_PCD = []  # every subgroup of 3
    for subset in itertools.combinations(range(6), 3):
        advantage_PQ = np.asarray(std_normalised(reward_PR[:, subset], all_kept(reward_PR[:, subset])))
        g_PCD.append(np.einsum("pq,pqd->pd", advantage_PQ, score_PRD[:, subset]) / 3)
    g_PCD = np.stack(g_PCD, axis=1)
    m_PD = g_PCD.mean(axis=1)
    G2 = ((m_PD.sum(axis=0) ** 2).sum() - (m_PD**2).sum()) / (30 * 29)
    S = (g_PCD**2).sum(axis=2).mean() - G2
    got = offline_noise(
        score_PRD, reward_PR, all_kept(reward_PR), advantages=std_normalised, n_rollouts=3, n_draws=400, seed=0
    )
    assert got.trace_cov.value == pytest.approx(S, rel=0.01)
    assert got.grad_sq.value == pytest.approx(G2, rel=0.02)


@pytest.mark.parametrize("n_rollouts", [2, 4])
def test_rloo_agrees_with_the_u_statistic_prediction(n_rollouts):
    # SCIENCE 3: h_jk = (r_j - r_k)(s_j - s_k) / 2; q_c is the mean of <h, h'> over pairs that share c rollouts
    score_PRD, reward_PR = bandit(n_prompts=50, n_rollouts=8)
    pairs = np.array(list(itertools.combinations(range(8), 2)))
    j, k = pairs.T
    h_PCD = 0.5 * (reward_PR[:, j] - reward_PR[:, k])[..., None] * (score_PRD[:, j] - score_PRD[:, k])
    n_shared_CC = (pairs[:, None, :, None] == pairs[None, :, None, :]).sum(axis=(2, 3))
    dots_PCC = np.einsum("pcd,ped->pce", h_PCD, h_PCD)
    q0, q1, q2 = (dots_PCC[:, n_shared_CC == c].mean() for c in range(3))
    g_PD = h_PCD.mean(axis=1)
    G2 = ((g_PD.sum(axis=0) ** 2).sum() - (g_PD**2).sum()) / (50 * 49)
    Q = n_rollouts
    V_rollout = 4 * (Q - 2) / (Q * (Q - 1)) * (q1 - q0) + 2 / (Q * (Q - 1)) * (q2 - q0)
    got = offline_noise(score_PRD, reward_PR, all_kept(reward_PR), advantages=rloo, n_rollouts=Q, n_draws=400, seed=0)
    assert got.trace_cov.value == pytest.approx(q0 - G2 + V_rollout, rel=0.01)
    assert got.grad_sq.value == pytest.approx(G2, rel=0.02)


def test_fewer_rollouts_of_many_are_as_good_as_fresh_ones():
    # the same policy measured with 16 rollouts cut to 4, and with another 4: they differ by sampling error
    score_PRD, reward_PR = bandit(n_prompts=4_000, n_rollouts=20)
    args = {"advantages": std_normalised, "n_rollouts": 4, "n_draws": 4, "seed": 0}
    cut = offline_noise(score_PRD[:, :16], reward_PR[:, :16], all_kept(reward_PR[:, :16]), **args)
    fresh = offline_noise(score_PRD[:, 16:], reward_PR[:, 16:], all_kept(reward_PR[:, 16:]), **args)
    width = fresh.trace_cov.high - fresh.trace_cov.low
    assert cut.trace_cov.value == pytest.approx(fresh.trace_cov.value, abs=width)
    assert cut.grad_sq.value == pytest.approx(fresh.grad_sq.value, abs=fresh.grad_sq.high - fresh.grad_sq.low)
    assert width < 0.1 * fresh.trace_cov.value
    assert cut.grad_sq.high - cut.grad_sq.low < fresh.grad_sq.high - fresh.grad_sq.low


def test_one_rollout_per_prompt_if_the_advantages_allow_it():
    score_PRD, reward_PR = bandit(n_prompts=200, n_rollouts=4)
    got = offline_noise(score_PRD, reward_PR, all_kept(reward_PR), advantages=batch_mean, n_rollouts=1, **DRAWS)
    assert got.trace_cov.value > 0
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        offline_noise(score_PRD, reward_PR, all_kept(reward_PR), advantages=std_normalised, n_rollouts=1, **DRAWS)


def test_equal_rewards_are_zero_noise_and_unresolved():
    score_PRD, reward_PR = bandit(n_prompts=8, n_rollouts=4)
    ones_PR = np.ones_like(reward_PR)
    got = offline_noise(score_PRD, ones_PR, all_kept(reward_PR), advantages=std_normalised, n_rollouts=2, **DRAWS)
    assert got.trace_cov == (0.0, 0.0, 0.0)
    assert got.grad_sq == (0.0, 0.0, 0.0)
    assert not got.is_resolved
    assert np.isnan([*got.b_noise_prompts, got.prompts_to_resolve]).all()


def test_one_prompt_that_carries_the_signal_leaves_it_unresolved():
    g_PD = np.array([[9.0, 0, 0], [0.1, 1.0, 0], [0.1, -1.0, 0], [0.1, 0, 0.1]], np.float32)
    ones_PR = np.ones((4, 1), np.float32)
    got = offline_noise(g_PD[:, None], ones_PR, all_kept(ones_PR), advantages=reinforce, n_rollouts=1, **DRAWS)
    assert got.grad_sq.value > 0
    assert not got.is_resolved
    assert np.isnan(got.b_noise_prompts).all()
    assert got.prompts_to_resolve == pytest.approx(2 * got.trace_cov.value / got.grad_sq.value)


def test_pure_noise_gives_a_lower_bound_of_the_prompts_that_would_resolve_it():
    g_PD = np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.5]], np.float32)
    ones_PR = np.ones((4, 1), np.float32)
    got = offline_noise(g_PD[:, None], ones_PR, all_kept(ones_PR), advantages=reinforce, n_rollouts=1, **DRAWS)
    assert got.grad_sq.value < 0 < got.grad_sq.high
    assert not got.is_resolved
    assert np.isnan(got.b_noise_prompts).all()
    assert got.prompts_to_resolve == pytest.approx(2 * got.trace_cov.value / got.grad_sq.high)


def test_the_same_seed_gives_the_same_numbers():
    score_PRD, reward_PR = bandit(n_prompts=10, n_rollouts=8)
    first, again, other = (
        offline_noise(
            score_PRD, reward_PR, all_kept(reward_PR), advantages=rloo, n_rollouts=2, n_draws=1, seed=seed
        ).trace_cov
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rollouts": 5}, "n_rollouts=5 is not between 1 and the 4 rollouts"),
        ({"n_rollouts": 0}, "n_rollouts=0 is not between 1"),
        ({"n_draws": 0}, "n_draws=0"),
        ({"advantages": partial(named_advantages, kind="grpo", ddof=1, eps=np.nan)}, "advantages are not finite"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, message):
    score_PRD, reward_PR = bandit(n_prompts=6, n_rollouts=4)
    args = {"advantages": rloo, "n_rollouts": 2, **DRAWS} | change
    with pytest.raises(ValueError, match=message):
        offline_noise(score_PRD, reward_PR, all_kept(reward_PR), **args)


def test_too_few_prompts_with_enough_rollouts_are_refused_with_what_would_do():
    score_PRD, reward_PR = bandit(n_prompts=4, n_rollouts=4)
    is_kept_PR = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1]], bool)
    with pytest.raises(ValueError, match=r"2 of 4 prompts kept n_rollouts=4 .* use n_rollouts <= 3"):
        offline_noise(score_PRD, reward_PR, is_kept_PR, advantages=rloo, n_rollouts=4, **DRAWS)


@pytest.mark.parametrize("broken", ["sketch", "reward"])
def test_a_kept_rollout_that_is_not_finite_is_refused(broken):
    score_PRD, reward_PR = bandit(n_prompts=4, n_rollouts=4)
    (score_PRD if broken == "sketch" else reward_PR)[2, 1] = np.inf
    with pytest.raises(ValueError, match="reward or sketch of a kept rollout is not finite"):
        offline_noise(score_PRD, reward_PR, all_kept(reward_PR), advantages=rloo, n_rollouts=2, **DRAWS)


def test_wrong_shapes_are_refused():
    score_PRD, reward_PR = bandit(n_prompts=4, n_rollouts=4)
    with pytest.raises(AssertionError):
        offline_noise(score_PRD[:, :3], reward_PR, all_kept(reward_PR), advantages=rloo, n_rollouts=2, **DRAWS)
    with pytest.raises(AssertionError):
        offline_noise(
            score_PRD, reward_PR, all_kept(reward_PR), advantages=lambda r, k: r[:, :1], n_rollouts=2, **DRAWS
        )

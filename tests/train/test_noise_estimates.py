"""Estimates from readings made of explicit gradients, whose sketches lose nothing, against loops in float64."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))
from slow_noise import slow_left_out, slow_naive, slow_scale, slow_split
from slow_scores import gram
from toy_policy import loo_advantages, toy_batch

from rlvr_jax.train.noise_estimates import (
    centred_rewards,
    group_statistics,
    is_finite_rollout,
    new_averages,
    noise_estimates,
    noise_metrics,
    sq_norms_by_part,
)
from rlvr_jax.train.noise_pass import GradientSums, GroupReading, Reading
from rlvr_jax.train.state import NoiseAverages

N = {"mlp": 5, "norms": 3}  # parameters of each part
ZERO = NoiseAverages(*(jnp.zeros(()) for _ in range(6)))


def made(P, R, *, is_kept_PR=None, reward_PR=None, signal=1.0, decomposes=True, penalty=0.0, seed=0):
    """Rewards, what is kept, scores by part, and g_x with a penalty's gradient of its own."""
    rng = np.random.default_rng(seed)
    reward_PR = rng.normal(size=(P, R)).astype(np.float32) if reward_PR is None else reward_PR
    is_kept_PR = np.ones((P, R), bool) if is_kept_PR is None else is_kept_PR
    loo_PR = loo_advantages(reward_PR, is_kept_PR)
    is_counted_P = is_kept_PR.sum(axis=1) >= min(2, R)
    weight_PR = -loo_PR / np.maximum(is_kept_PR.sum(axis=1), 1)[:, None]
    score, policy, loss = {}, {}, {}
    for part, n in N.items():
        # likelier where the reward is high, all in one direction: a signal
        drift_PRn = signal * np.where(is_kept_PR, reward_PR, 0)[..., None] * np.ones(n)
        score[part] = (rng.normal(size=(P, R, n)) + drift_PRn) * is_kept_PR[..., None]
        policy[part] = np.einsum("pr,prn->pn", weight_PR, score[part])
        loss[part] = policy[part] + penalty * rng.normal(size=(P, n)) * is_counted_P[:, None]
    return {
        "reward_PR": reward_PR,
        "is_kept_PR": is_kept_PR,
        "is_counted_P": is_counted_P,
        "score": score if decomposes else None,
        "policy": policy,
        "loss": loss,
        "has_penalty": penalty > 0,
        "metric": {part: np.exp(rng.normal(size=n)) for part, n in N.items()},
    }


def tree(by_part):
    """As parameters with such parts."""
    return {"mlp": {"up": by_part["mlp"]}, "final_norm": by_part["norms"]}


def group_reading(by_part):
    return GroupReading(
        sq_norm={part: (leaf**2).sum(axis=1) for part, leaf in by_part.items()}, sketch=dict(by_part)
    )  # fmt: skip


def in_float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def summed(by_part):
    return tree({part: leaf.sum(axis=0) for part, leaf in by_part.items()})


def padded(by_part):
    """Sketches of one width; parts side by side, so that what a sum over parts holds is exact too."""
    P, total, at, out = len(by_part["mlp"]), sum(N.values()), 0, {}
    for part, n in N.items():
        out[part] = np.zeros((P, total))
        out[part][:, at : at + n] = by_part[part]
        at += n
    return out


_noise_estimates = jax.jit(noise_estimates, static_argnames="naive_minibatches")  # else it compiles op by op
_noise_metrics = jax.jit(noise_metrics, static_argnames=("n_prompts", "n_rollouts"))


def estimated(given, *, naive_minibatches=4):
    """The reading and its estimates, in Adam's metric too."""
    policy, loss = given["policy"], given["loss"]
    scaled = {part: leaf * given["metric"][part] for part, leaf in loss.items()}
    score = given["score"]
    shows_policy = score is not None and given["has_penalty"]
    reading = Reading(
        loss=group_reading(padded(loss)),
        policy=group_reading(padded(policy)) if shows_policy else None,
        adam=group_reading(padded(scaled)),
        gram={part: gram(leaf) for part, leaf in score.items()} if score is not None else None,
        rollout_sketch_PRW=None,
    )
    sums = GradientSums(loss=summed(loss), policy=summed(policy) if shows_policy else None)
    reading, sums = in_float32((reading, sums))
    reward_PR = np.where(given["is_kept_PR"], given["reward_PR"], np.nan).astype(np.float32)
    return reading, _noise_estimates(
        reading, sums, in_float32(tree(given["metric"])), reward_PR=reward_PR, is_kept_PR=given["is_kept_PR"],
        naive_minibatches=naive_minibatches,
    )  # fmt: skip


def metrics_of(found, averages=ZERO, *, n_prompts=8, n_rollouts=5):
    metrics = _noise_metrics(found, averages, n_prompts=n_prompts, n_rollouts=n_rollouts)
    return {name: float(value) for name, value in metrics.items()}


def whole(by_part):
    return np.concatenate([by_part[part] for part in N], axis=-1)


def naive_parts(P):
    """Of two prompts or more, where there are any."""
    return 4 if P >= 8 else 0


def assert_scale(found, group_Pn, is_counted_P):
    """S, |G|^2, their ratio, its interval, and whether it is resolved."""
    S, G2 = slow_scale(group_Pn, is_counted_P)
    assert float(found.trace_cov) == pytest.approx(S, rel=1e-5)
    assert float(found.grad_sq) == pytest.approx(G2, rel=1e-4, abs=1e-6 * S)
    left_out = np.array(slow_left_out(group_Pn, is_counted_P))
    is_resolved = G2 > 0 and (left_out > 0).all()
    assert bool(found.is_resolved) == is_resolved
    if not is_resolved:
        assert np.isnan([found.b_noise_prompts, found.low_prompts, found.high_prompts]).all()
        return
    n, logs = len(left_out), np.log(left_out[:, 0] / left_out[:, 1])
    half_width = scipy.stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((logs - logs.mean()) ** 2).sum())
    assert float(found.b_noise_prompts) == pytest.approx(S / G2, rel=1e-4)
    assert float(found.low_prompts) == pytest.approx(S / G2 * np.exp(-half_width), rel=1e-3)
    assert float(found.high_prompts) == pytest.approx(S / G2 * np.exp(half_width), rel=1e-3)


SOME_PR = np.ones((8, 5), bool)
SOME_PR[0, 0] = SOME_PR[2, 1:] = SOME_PR[3] = SOME_PR[5, ::2] = False  # 1 of prompt 2, 0 of 3, 2 of 5 are kept
SHAPES = {
    "five rollouts": {"P": 8, "R": 5},
    "five rollouts, some masked": {"P": 8, "R": 5, "is_kept_PR": SOME_PR},
    "a penalty in the loss, some masked": {"P": 8, "R": 5, "is_kept_PR": SOME_PR, "penalty": 0.5},
    "no signal": {"P": 8, "R": 5, "signal": 0.0, "seed": 3},
    "two rollouts": {"P": 8, "R": 2, "decomposes": False},
    "three rollouts, a penalty": {"P": 8, "R": 3, "decomposes": False, "penalty": 0.5},
    "one rollout": {"P": 8, "R": 1, "decomposes": False},
    "two prompts": {"P": 2, "R": 6},
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_noise_of_all_and_of_every_part_equals_loops(case):
    given = made(**SHAPES[case])
    _, found = estimated(given, naive_minibatches=naive_parts(SHAPES[case]["P"]))
    assert_scale(found.total, whole(given["loss"]), given["is_counted_P"])
    assert set(found.by_part) == set(N)
    for part in N:
        assert_scale(found.by_part[part], given["loss"][part], given["is_counted_P"])
    scaled = {part: leaf * given["metric"][part] for part, leaf in given["loss"].items()}
    assert_scale(found.adam, whole(scaled), given["is_counted_P"])


def test_some_of_these_cases_are_resolved_and_some_are_not():
    resolved = {
        case: bool(estimated(made(**shape), naive_minibatches=naive_parts(shape["P"]))[1].total.is_resolved)
        for case, shape in SHAPES.items()
    }
    assert resolved["five rollouts"]
    assert resolved["a penalty in the loss, some masked"]
    assert not resolved["two prompts"]
    assert not resolved["no signal"]


@pytest.mark.parametrize("case", [case for case in SHAPES if SHAPES[case].get("decomposes", True)])
def test_the_split_is_that_of_the_policy_term_alone(case):
    given = made(**SHAPES[case])
    _, found = estimated(given, naive_minibatches=naive_parts(SHAPES[case]["P"]))
    _, G2 = slow_scale(whole(given["policy"]), given["is_counted_P"])
    expected, n_prompts = slow_split(whole(given["score"]), given["reward_PR"], given["is_kept_PR"], G2)
    got = [float(getattr(found.split, name).value) for name in ("v_prompt", "zeta1", "zeta2")]
    assert got == pytest.approx(expected, rel=2e-4, abs=1e-5 * abs(expected[2]))
    assert int(found.split.n_counted) == n_prompts
    assert float(found.split.grad_sq.value) == pytest.approx(G2, rel=1e-4, abs=1e-5 * expected[2])


@pytest.mark.parametrize("case", [case for case in SHAPES if not SHAPES[case].get("decomposes", True)])
def test_without_scores_there_is_no_split_and_no_metric_of_one(case):
    _, found = estimated(made(**SHAPES[case]))
    assert found.split is None
    metrics = metrics_of(found)
    assert not {"gns/prompt_var", "gns/r_star", "gns/zeta1", "gns/running_r_star"} & set(metrics)


@pytest.mark.parametrize("K", [4, 2, 0])
def test_the_naive_estimate_is_that_of_the_spread_of_minibatches(K):
    given = made(8, 5)
    expected = slow_naive(whole(given["loss"]), K, 5) if K else np.nan
    got = float(estimated(given, naive_minibatches=K)[1].naive_rollouts)
    assert got == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_one_prompt_says_nothing():
    _, found = estimated(made(1, 5), naive_minibatches=0)
    for scale in (found.total, *found.by_part.values(), found.adam):
        assert np.isnan([scale.trace_cov, scale.grad_sq, scale.b_noise_prompts]).all()
        assert not bool(scale.is_resolved)
    assert np.isnan(float(found.split.v_prompt.value))
    assert int(found.n_nonfinite_rollouts) == 0


def test_equal_rewards_everywhere_have_no_noise_and_no_ratio():
    _, found = estimated(made(8, 5, reward_PR=np.full((8, 5), 0.1, np.float32)))
    for scale in (found.total, *found.by_part.values(), found.adam):
        assert (float(scale.trace_cov), float(scale.grad_sq), bool(scale.is_resolved)) == (0.0, 0.0, False)
        assert np.isnan(float(scale.b_noise_prompts))
    assert {float(getattr(found.split, name).value) for name in ("v_prompt", "zeta1", "zeta2")} == {0.0}
    assert not bool(found.split.is_r_star_resolved)
    averages = new_averages(ZERO, found, smoothing=0.9)
    metrics = metrics_of(found, averages)
    assert (metrics["gns/running_trace_cov"], metrics["gns/running_grad_sq"]) == (0.0, 0.0)
    assert np.isnan([metrics["gns/running_b_noise_prompts"], metrics["gns/running_r_star"], metrics["gns/naive"]]).all()
    assert metrics["gns/nonfinite_rollouts"] == 0


def poisoned(given, p, r):
    """With a score that is not a number, and so a group."""
    given["score"]["norms"][p, r, 1] = np.nan
    for name in ("policy", "loss"):
        given[name]["norms"][p, 1] = np.nan
    return given


def test_a_gradient_that_is_not_finite_is_counted_and_named_and_leaves_no_estimate():
    reading, found = estimated(poisoned(made(8, 5, seed=1), 3, 2))
    assert int(found.n_nonfinite_rollouts) == 1
    is_finite_PR = is_finite_rollout(reading, jnp.ones((8, 5), bool))
    np.testing.assert_array_equal(np.argwhere(~np.asarray(is_finite_PR)), [[3, 2]])
    for scale in (found.total, found.by_part["norms"], found.adam):
        assert np.isnan([scale.trace_cov, scale.grad_sq, scale.b_noise_prompts, scale.low_prompts]).all()
        assert not bool(scale.is_resolved)
    assert np.isfinite(float(found.by_part["mlp"].trace_cov))  # whose gradients are
    assert np.isnan(float(found.split.zeta2.value))
    before = NoiseAverages(*(jnp.float32(x) for x in (0.3, 1.0, 2.0, 3.0, 4.0, 5.0)))
    after = new_averages(before, found, smoothing=0.9)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_gradient_of_a_rollout_that_is_not_kept_may_be_anything():
    is_kept_PR = np.ones((8, 5), bool)
    is_kept_PR[3, 2] = False
    given = made(8, 5, is_kept_PR=is_kept_PR)
    _, clean = estimated(given)
    given["score"]["norms"][3, 2, 1] = np.nan
    reading, found = estimated(given)
    assert int(found.n_nonfinite_rollouts) == 0
    assert bool(np.asarray(is_finite_rollout(reading, jnp.asarray(is_kept_PR))).all())
    jax.tree.map(np.testing.assert_array_equal, found, clean)


def test_without_scores_all_kept_rollouts_of_a_group_that_is_not_finite_are_named():
    is_kept_PR = np.ones((8, 3), bool)
    is_kept_PR[4, 1] = False
    given = made(8, 3, is_kept_PR=is_kept_PR, decomposes=False)
    given["loss"]["norms"][4, 1] = np.inf
    reading, found = estimated(given)
    is_finite_PR = is_finite_rollout(reading, jnp.asarray(is_kept_PR))
    np.testing.assert_array_equal(np.argwhere(~np.asarray(is_finite_PR)), [[4, 0], [4, 2]])
    assert int(found.n_nonfinite_rollouts) == 2


# Averages over measurements.


def test_running_values_are_averages_without_the_weight_of_their_start_and_a_ratio_of_them():
    averages, weights, series = ZERO, [], []
    for seed in range(4):
        _, found = estimated(made(8, 5, seed=seed))
        averages = new_averages(averages, found, smoothing=0.7)
        of_split = (found.split.v_prompt, found.split.zeta1, found.split.zeta2)
        values = (found.total.trace_cov, found.total.grad_sq, *(x.value for x in of_split))
        series.append([float(x) for x in values])
        weights = [0.7 * w for w in weights] + [0.3]  # sum 1 - 0.7^n
        S, G2, v_prompt, zeta1, zeta2 = np.average(series, axis=0, weights=weights)
        metrics = metrics_of(found, averages)
        assert metrics["gns/running_trace_cov"] == pytest.approx(S, rel=1e-5)
        assert metrics["gns/running_grad_sq"] == pytest.approx(G2, rel=1e-5)
        assert metrics["gns/running_b_noise_prompts"] == pytest.approx(S / G2, rel=1e-4)
        assert metrics["gns/running_noise_to_signal"] == pytest.approx(S / G2 / 8, rel=1e-4)
        surplus = (2 * zeta2 - 4 * zeta1) / v_prompt
        assert metrics["gns/running_r_star"] == pytest.approx(1 + np.sqrt(surplus), rel=1e-4)
    assert float(averages.weight) == pytest.approx(1 - 0.7**4, rel=1e-6)


def test_a_measurement_without_a_split_leaves_its_averages_alone():
    before = NoiseAverages(*(jnp.float32(x) for x in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)))
    _, found = estimated(made(8, 3, decomposes=False))
    after = new_averages(before, found, smoothing=0.9)
    assert float(after.weight) == pytest.approx(0.55)
    assert float(after.trace_cov) == pytest.approx(0.9 + 0.1 * float(found.total.trace_cov))
    assert (float(after.v_prompt), float(after.zeta1), float(after.zeta2)) == (3.0, 4.0, 5.0)


def test_running_ratios_have_no_value_before_or_below_zero():
    _, found = estimated(made(8, 5))

    def running(*values):
        averages = NoiseAverages(*(jnp.float32(x) for x in values))
        metrics = metrics_of(found, averages)
        return [metrics[f"gns/running_{name}"] for name in ("trace_cov", "b_noise_prompts", "r_star")]

    assert np.isnan(running(0, 0, 0, 0, 0, 0)).all()
    assert running(0.5, 2, 1, 1, 1, 4) == pytest.approx([4, 2, 3])  # (2 * 4 - 4 * 1) / 1 = 4, 1 + sqrt(4) = 3
    assert np.isnan(running(0.5, 2, -1, -1, 1, 4)[1:]).all()
    assert np.isnan(running(0.5, 2, 1, 1, 1, 1)[2])  # 2 - 4 < 0


# What is written.


def test_a_ratio_counts_in_prompts_and_rollouts():
    _, found = estimated(made(8, 5))
    metrics = metrics_of(found)
    S, G2 = metrics["gns/trace_cov"], metrics["gns/grad_sq"]
    assert metrics["gns/resolved"] == 1.0
    assert metrics["gns/b_noise_prompts"] == pytest.approx(S / G2, rel=1e-5)
    assert metrics["gns/b_noise_rollouts"] == pytest.approx(5 * S / G2, rel=1e-5)
    assert metrics["gns/noise_to_signal"] == pytest.approx(S / G2 / 8, rel=1e-5)
    assert metrics["gns/prompts_to_resolve"] == pytest.approx(2 * S / G2, rel=1e-5)
    assert 8 * metrics["gns/noise_to_signal_low"] == pytest.approx(metrics["gns/b_noise_prompts_low"])
    assert 8 * metrics["gns/noise_to_signal_high"] == pytest.approx(metrics["gns/b_noise_prompts_high"])
    assert metrics["gns/b_noise_prompts_low"] < metrics["gns/b_noise_prompts"] < metrics["gns/b_noise_prompts_high"]


def test_parts_metric_and_split_have_names_of_their_own():
    _, found = estimated(made(8, 5))
    metrics = metrics_of(found)
    for prefix, scale in (("mlp", found.by_part["mlp"]), ("norms", found.by_part["norms"]), ("adam", found.adam)):
        for name, value in (
            ("trace_cov", scale.trace_cov), ("grad_sq", scale.grad_sq), ("resolved", scale.is_resolved),
            ("b_noise_prompts", scale.b_noise_prompts), ("b_noise_prompts_low", scale.low_prompts),
            ("b_noise_prompts_high", scale.high_prompts),
        ):  # fmt: skip
            np.testing.assert_equal(metrics[f"gns/{prefix}/{name}"], float(value))
    split = found.split
    for name, interval in (("prompt_var", split.v_prompt), ("r_star", split.r_star)):
        got = [metrics[f"gns/{name}{end}"] for end in ("", "_low", "_high")]
        np.testing.assert_array_equal(got, np.float32([interval.value, interval.low, interval.high]))
    assert (metrics["gns/zeta1"], metrics["gns/zeta2"]) == (float(split.zeta1.value), float(split.zeta2.value))
    # V_rollout(5) = 4 * 3 / (5 * 4) zeta1 + 2 / (5 * 4) zeta2
    assert metrics["gns/rollout_var"] == pytest.approx(
        0.6 * metrics["gns/zeta1"] + 0.1 * metrics["gns/zeta2"], rel=1e-5
    )
    assert metrics["gns/split_prompts"] == 8
    assert metrics["gns/naive"] == float(found.naive_rollouts)


def test_inner_products_with_the_sum_take_a_groups_own_from_its_exact_norm():
    # <s_0, s_1> = 1 in part a and -2 in part b; the sketches' own squares 1, 2 and 4, 1 do not count
    groups = GroupReading(
        sq_norm={"a": jnp.array([5.0, 7.0]), "b": jnp.array([1.0, 2.0])},
        sketch={"a": jnp.array([[1.0, 0, 0], [1, 1, 0]]), "b": jnp.array([[0, 0, 2.0], [0, 0, -1]])},
    )
    sums = {"a": jnp.float32(10), "b": jnp.float32(20)}
    for part, expected in (("a", ([5, 7], 10, [6, 8])), ("b", ([1, 2], 20, [-1, 0])), (None, ([6, 9], 30, [5, 8]))):
        for got, wanted in zip(group_statistics(groups, sums, part), expected, strict=True):
            np.testing.assert_allclose(got, wanted)


def test_squared_norms_are_summed_by_part():
    params = {
        "embedding": np.full((2, 2), 3.0),  # 36
        "layers": {"mlp": {"norm": np.ones((2, 2)), "gate": np.full((1, 2), 2.0)}, "attention": {"out": np.ones(5)}},
        "final_norm": np.ones(3),
    }
    got = sq_norms_by_part(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params))
    assert {part: float(x) for part, x in got.items()} == {"embedding": 36, "mlp": 8, "attention": 5, "norms": 4 + 3}


@pytest.mark.parametrize("R", [2, 5])
def test_rewards_less_their_groups_mean_come_back_from_the_advantages(R):
    rng = np.random.default_rng(0)
    reward_PR, is_kept_PR = rng.normal(size=(6, R)).astype(np.float32), rng.random((6, R)) < 0.7
    is_kept_PR[0] = True
    got_PR = centred_rewards(toy_batch(P=6, R=R, is_kept_PR=is_kept_PR, reward_PR=reward_PR))
    for p in range(6):
        kept = reward_PR[p, is_kept_PR[p]]
        np.testing.assert_allclose(got_PR[p, is_kept_PR[p]], kept - kept.mean(), atol=1e-6)

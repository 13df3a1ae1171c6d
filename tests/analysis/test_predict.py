import math

import numpy as np
import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.predict import predict


def three_runs(**changes):
    """S = 20 each and |G|^2 = 1, 2, 3, at 4 rollouts per prompt."""
    return [measured_run(f"s{i}", trace_cov=[20.0], grad_sq=[1.0 + i], **changes) for i in range(3)]


def test_b_noise_is_a_ratio_of_averages_with_a_jackknife_over_runs():
    (found,) = predict(three_runs(), [seen("s0"), seen("s1"), seen("s2")])
    # 20 / 2; the mean of 20, 10 and 6.67 would be 12.2
    assert found.at(4).prompts.estimate.value == pytest.approx(10.0)
    assert found.at(4).rollouts.estimate.value == pytest.approx(40.0)
    # without one run: 20/2.5, 20/2, 20/1.5; standard deviation of their logarithms x sqrt(2/3 x 2) = 0.29574, and
    # Student's t at 0.95 with 2 degrees of freedom is 2.91999: 10 exp(-+0.86357)
    assert found.at(4).prompts.estimate.low == pytest.approx(4.2165, rel=1e-3)
    assert found.at(4).prompts.estimate.high == pytest.approx(23.716, rel=1e-3)
    assert (found.unit, found.n_measurements, found.runs) == ("run", 3, ("s0", "s1", "s2"))


def test_what_a_run_measured_after_it_reached_the_target_does_not_count():
    late = {"updates": [1.0, 10.0, 11.0]}
    runs = [measured_run(f"s{i}", trace_cov=[20.0, 20.0, 9e9], grad_sq=[2.0, 2.0, 9.0], **late) for i in range(3)]
    (found,) = predict(runs, [seen(f"s{i}", at=10.0) for i in range(3)])
    assert found.n_measurements == 6
    assert found.at(4).prompts.estimate.value == pytest.approx(10.0)


def test_each_target_has_the_noise_on_its_own_way():
    runs = [measured_run(f"s{i}", trace_cov=[20.0, 60.0], grad_sq=[2.0, 2.0], updates=[1.0, 20.0]) for i in range(3)]
    observations = [seen(f"s{i}", target=t, at=a) for t, a in ((0.6, 10.0), (0.7, 30.0)) for i in range(3)]
    first, second = predict(runs, observations)
    assert (first.target, first.at(4).prompts.estimate.value) == (0.6, pytest.approx(10.0))
    assert (second.target, second.at(4).prompts.estimate.value) == (0.7, pytest.approx(20.0))  # (20 + 60) / 2 / 2


def test_steps_are_counted_by_the_collection_where_observations_are():
    both = {"updates": [1.0, 4.0], "steps": [1.0, 1.0]}  # of one collection
    runs = [measured_run(f"s{i}", trace_cov=[20.0, 60.0], grad_sq=[2.0, 2.0], **both) for i in range(3)]
    (found,) = predict(runs, [seen(f"s{i}", at=1.5) for i in range(3)], unit="step")
    assert found.at(4).prompts.estimate.value == pytest.approx(20.0)  # (20 + 60) / 2 / 2
    (found,) = predict(runs, [seen(f"s{i}", at=1.5) for i in range(3)], unit="update")
    assert found.at(4).prompts.estimate.value == pytest.approx(10.0)


def test_a_measurement_counts_by_its_pairs_of_prompts():
    runs = [
        measured_run("small", n_prompts=2, trace_cov=[11.0], grad_sq=[5.0]),  # 2 ordered pairs
        measured_run("a", n_prompts=3, trace_cov=[11.0], grad_sq=[1.0]),  # 6
        measured_run("b", n_prompts=3, trace_cov=[11.0], grad_sq=[1.0]),
    ]
    (found,) = predict(runs, [seen("small"), seen("a"), seen("b")])
    assert found.moments.grad_sq == pytest.approx((2 * 5 + 6 + 6) / 14)
    assert found.at(4).prompts.estimate.value == pytest.approx(7.0)


def test_the_split_gives_the_law_at_every_r():
    """Scores independent of rewards: zeta1 = v/4 and zeta2 = v, so V_rollout(R) = v/(R - 1), arXiv:2602.01601."""
    v, v_prompt, grad_sq = 8.0, 2.0, 0.5  # alpha = 4, beta = 16
    runs = [
        measured_run(f"s{i}", n_prompts=4, n_rollouts=5, trace_cov=[4.0], grad_sq=[grad_sq])
        | {"v_prompt": [v_prompt], "zeta1": [v / 4], "zeta2": [v]}
        for i in range(3)
    ]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert found.terms["alpha"].estimate.value == pytest.approx(4.0)
    for n_rollouts in (2, 4, 16):
        at = found.at(n_rollouts)
        assert at.prompts.estimate.value == pytest.approx(4 + 16 / (n_rollouts - 1))
        assert at.rollouts.estimate.value == pytest.approx(n_rollouts * (4 + 16 / (n_rollouts - 1)))
        assert not at.is_measured
    assert found.at(5).is_measured
    assert found.best_rollouts.estimate.value == pytest.approx(3.0)  # 1 + sqrt(8 / 2)
    assert found.critical_rollouts.estimate.value == pytest.approx(5.0)  # 8 / (R - 1) = 2
    assert found.rollout_cbs[4].estimate.value == pytest.approx(3.0)  # 1 + beta / (P + alpha)
    assert found.relative_steps(8, 5) == pytest.approx(2.0)  # 1 + (4 + 4) / 8


def test_signals_of_several_r_are_one_and_noise_is_each_its_own():
    runs = [measured_run(f"a{i}", n_rollouts=2, trace_cov=[40.0], grad_sq=[2.0]) for i in range(2)]
    runs += [measured_run(f"b{i}", n_rollouts=8, trace_cov=[10.0], grad_sq=[1.0]) for i in range(2)]
    (found,) = predict(runs, [seen("a0"), seen("a1"), seen("b0"), seen("b1")])
    # |G|^2 weighs 1/40^2 against 1/10^2: (2 + 16 x 1) / 17
    assert found.moments.grad_sq == pytest.approx(18 / 17)
    assert found.at(2).prompts.estimate.value == pytest.approx(40 * 17 / 18)
    assert found.at(8).prompts.estimate.value == pytest.approx(10 * 17 / 18)


def test_a_signal_that_one_run_alone_makes_positive_is_unresolved():
    runs = [measured_run(f"s{i}", trace_cov=[20.0], grad_sq=[g]) for i, g in enumerate((5.0, -1.0, -1.0))]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert not found.at(4).rollouts.is_resolved
    assert "not told apart from 0" in found.at(4).rollouts.reason
    assert "noise.every_updates" in found.at(4).rollouts.reason
    assert found.terms["alpha"].reason == "no run told prompt noise and rollout noise apart"


def test_runs_that_did_not_get_there_are_left_out_and_named():
    runs = [*three_runs(), measured_run("lost", trace_cov=[9e9], grad_sq=[9.0])]
    (found,) = predict(runs, [*(seen(f"s{i}") for i in range(3)), seen("lost", at=None)])
    assert "lost" not in found.runs
    assert found.notes == ("1 run(s) that did not reach the target are not in it: lost",)


def test_a_loss_with_other_terms_says_nothing_of_the_split():
    why = "the loss has a KL or entropy term, which prompt and rollout noise leave out"
    runs = [one | {"v_prompt": [2.0], "zeta1": [2.0], "zeta2": [8.0], "why_no_split": why} for one in three_runs()]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert found.at(4).prompts.is_resolved
    assert not found.terms["alpha"].is_resolved
    assert found.notes == (f"not decomposed, {why}: s0, s1, s2",)


def test_adams_metric_is_a_set_of_its_own_and_its_scale_counts_for_nothing():
    scales = [1.0, 1e6, 1e-3]  # v changes between measurements
    runs = [
        one | {"adam_trace_cov": [30.0 * c], "adam_grad_sq": [0.5 * c]}
        for one, c in zip(three_runs(), scales, strict=True)
    ]
    gradient, adam = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert (gradient.metric, gradient.at(4).prompts.estimate.value) == ("gradient", pytest.approx(10.0))
    assert (adam.metric, adam.at(4).prompts.estimate.value) == ("adam", pytest.approx(60.0))


def test_a_few_runs_are_taken_apart_into_measurements():
    runs = [measured_run("s0", trace_cov=[20.0] * 4, grad_sq=[1.0, 2.0, 3.0, 2.0], updates=[1.0, 2.0, 3.0, 4.0])]
    (found,) = predict(runs, [seen("s0", at=4.0)])
    assert found.unit == "measurement"
    assert found.at(4).prompts.estimate.value == pytest.approx(10.0)
    (found,) = predict(runs, [seen("s0", at=2.0)])
    assert "2 measurements" in found.at(4).prompts.reason


def test_an_observation_of_an_unknown_run_is_refused():
    with pytest.raises(ValueError, match="no noise series has the name of other"):
        predict(three_runs(), [seen("other")])


def test_steps_of_the_best_size_follow_the_hyperbola_and_normalised_ones_its_root():
    """S = 4 and |G|^2 = 1 exactly, at 4 rollouts per prompt: B_noise = 16 rollouts."""
    sizes = (2, 8, 64)
    runs = [measured_run(f"{P}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for P in sizes]
    observations = [seen(f"{P}", n_prompts=P) for P in sizes]
    (found,) = predict(runs, observations)
    assert found.relative_steps(8, 4) == pytest.approx(1.5)  # 1 + 4 / 8
    assert found.relative_steps(8, 4, steps="normalised") == pytest.approx(math.sqrt(1.5))
    assert found.as_fitted["best_size"].estimate.value == pytest.approx(16.0, rel=1e-4)
    # by a fine grid: the hyperbola nearest to sqrt(1 + 16/B) at B = 8, 32, 256, its level free
    batches, grid = np.array([8.0, 32.0, 256.0]), np.geomspace(1, 16, 20001)
    misfit = [np.std(np.log(np.sqrt(1 + 16 / batches) / (1 + b / batches))) for b in grid]
    assert found.as_fitted["normalised"].estimate.value == pytest.approx(grid[np.argmin(misfit)], rel=1e-3)


def test_one_batch_size_has_no_growth_of_steps_and_still_its_noise():
    (found,) = predict(three_runs(), [seen("s0"), seen("s1"), seen("s2")])
    assert found.as_fitted["best_size"].reason == "one batch size was run, so there is no curve to compare"
    assert found.at(4).rollouts.is_resolved


def test_the_curve_is_taken_at_all_splits_of_the_fit_and_not_at_those_that_got_there_alone():
    """The size that never got there counts in the fit, censored; one rollout per prompt counts in neither."""
    runs = [measured_run(f"{P}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for P in (2, 8, 64)]
    runs.append(measured_run("one", n_prompts=32, n_rollouts=1, trace_cov=[90.0], grad_sq=[1.0]))
    all_there = [seen(f"{P}", n_prompts=P) for P in (2, 8, 64)]
    (there,) = predict(runs, all_there)
    (found,) = predict(runs, [seen("2", n_prompts=2, at=None), *all_there[1:], seen("one", n_prompts=32, n_rollouts=1)])
    assert (2, 4) in found.splits
    for steps in ("best_size", "normalised"):
        assert found.as_fitted[steps].estimate.value == pytest.approx(there.as_fitted[steps].estimate.value)


def test_a_split_whose_noise_is_not_known_is_named():
    runs = [measured_run(f"{P}", n_prompts=P, trace_cov=[4.0], grad_sq=[1.0]) for P in (2, 8, 64)]
    runs.append(measured_run("lost", n_prompts=4, n_rollouts=8, trace_cov=[4.0], grad_sq=[1.0]))
    observations = [seen(f"{P}", n_prompts=P) for P in (2, 8, 64)]
    (found,) = predict(runs, [*observations, seen("lost", n_prompts=4, n_rollouts=8, at=None)])
    assert found.as_fitted["normalised"].reason == "no run measured the noise at R = 8 on its way to the target"


def test_a_normalised_step_does_one_over_the_root_of_a_noiseless_ones_work():
    rng, dimension, noise = np.random.default_rng(0), 400, 3.0  # |G|^2 = 1 and S = 400 x 9 = 3600
    for batch in (400, 3600, 36000):
        gradients = noise / math.sqrt(batch) * rng.normal(size=(400, dimension))
        gradients[:, 0] += 1.0
        advance = (gradients[:, 0] / np.linalg.norm(gradients, axis=1)).mean()
        assert advance == pytest.approx(1 / math.sqrt(1 + 3600 / batch), rel=0.05)


def test_runs_of_one_rollout_per_prompt_have_their_own_noise_alone():
    runs = [measured_run(f"s{i}", n_rollouts=1, trace_cov=[20.0], grad_sq=[2.0]) for i in range(3)]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert [at.n_rollouts for at in found.noise] == [1]
    assert found.at(1).rollouts.estimate.value == pytest.approx(10.0)


@pytest.mark.parametrize("trace_cov", [0.0, math.nan])
def test_a_policy_without_any_gradient_predicts_nothing(trace_cov):
    runs = [measured_run(f"s{i}", trace_cov=[trace_cov], grad_sq=[0.0]) for i in range(3)]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert not found.at(4).rollouts.is_resolved
    assert not any(pooled.is_resolved for pooled in found.as_fitted.values())


def test_noise_that_comes_out_negative_from_its_parts_predicts_nothing_there():
    parts = {"v_prompt": [-5.0], "zeta1": [2.0], "zeta2": [8.0]}
    runs = [measured_run(f"s{i}", n_rollouts=5, trace_cov=[4.0], grad_sq=[0.5]) | parts for i in range(3)]
    (found,) = predict(runs, [seen(f"s{i}") for i in range(3)])
    assert found.at(5).prompts.is_resolved
    assert "not told apart from 0" in found.at(64).prompts.reason
    assert "not told apart from 0" in found.terms["alpha"].reason
    assert math.isnan(found.relative_steps(1, 64, steps="normalised"))


def test_nothing_measured_predicts_nothing():
    runs = [measured_run("s0", trace_cov=[], grad_sq=[], updates=[])]
    assert predict(runs, [seen("s0")]) == []


def test_an_r_that_one_run_measured_makes_measurements_the_units():
    runs = [measured_run(f"s{i}", trace_cov=[20.0, 20.0], grad_sq=[1.0, 2.0], updates=[1.0, 2.0]) for i in range(3)]
    runs.append(measured_run("alone", n_rollouts=8, trace_cov=[20.0, 20.0], grad_sq=[1.0, 2.0], updates=[1.0, 2.0]))
    (found,) = predict(runs, [seen(run.run) for run in runs])
    assert found.unit == "measurement"
    assert found.at(8).prompts.estimate.value == pytest.approx(20 / 1.5)


def test_one_rollout_per_prompt_has_its_noise_over_the_signal_of_the_others():
    runs = [measured_run(f"s{i}", trace_cov=[20.0], grad_sq=[2.0]) for i in range(2)]
    runs += [measured_run(f"one{i}", n_rollouts=1, trace_cov=[50.0], grad_sq=[90.0]) for i in range(2)]
    (found,) = predict(runs, [seen(run.run) for run in runs])
    assert found.moments.grad_sq == pytest.approx(2.0)
    assert found.at(1).prompts.estimate.value == pytest.approx(25.0)


def test_a_long_run_is_taken_apart_into_a_few_stretches():
    """Ten of a hundred measurements each; within a stretch they are averaged."""
    grad_sq = np.tile([1.0, 3.0], 500)
    run = measured_run("s0", trace_cov=[20.0] * 1000, grad_sq=grad_sq, updates=np.arange(1000.0))
    (found,) = predict([run], [seen("s0", at=1000.0)])
    assert (found.unit, found.n_measurements) == ("measurement", 1000)
    assert found.at(4).prompts.estimate.value == pytest.approx(10.0)
    assert found.at(4).prompts.estimate.high == pytest.approx(10.0)  # every stretch has the mean 2

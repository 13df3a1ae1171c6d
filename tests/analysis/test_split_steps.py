import pytest
from noise_runs import measured_run, seen

from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.split_steps import split_steps, split_steps_text


def runs_of_the_law(b_noise=16.0, s_min=48.0):
    """Steps exactly 48 (1 + 16/B) at 4 rollouts, and gradients that say B_noise = 16 rollouts."""
    sizes = (1, 2, 4, 8, 16, 64)
    series = [measured_run(f"{P}", n_prompts=max(P, 2), trace_cov=[b_noise / 4], grad_sq=[1.0]) for P in sizes]
    return series, [seen(f"{P}", n_prompts=P, at=s_min * (1 + b_noise / (4 * P)), is_exact=True) for P in sizes]


def test_a_split_nobody_ran_follows_the_law_and_the_gradients():
    series, observations = runs_of_the_law()
    fits, predictions = fit_targets(observations), predict(series, observations)
    (found,) = split_steps(32, 4, fits, predictions)
    assert found.fitted.value == pytest.approx(48 * (1 + 16 / 128), rel=1e-3)
    assert found.by_gradients["best_size"].value == pytest.approx(48 * (1 + 16 / 128), rel=1e-6)
    assert found.by_gradients["best_size"].miss == pytest.approx(1.0)
    assert found.by_gradients["normalised"].miss > 1.3  # these steps do not follow the root
    assert "| 0.6 | 54 [" in split_steps_text([found])


def test_what_is_not_known_is_unresolved():
    series, observations = runs_of_the_law()
    (found,) = split_steps(32, 8, fit_targets(observations), predict(series, observations))
    assert found.by_gradients == {}  # noise at 8 rollouts was neither measured nor split
    assert "unresolved | - | unresolved | - |" in split_steps_text([found])

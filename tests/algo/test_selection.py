"""Which rollouts are trained on."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.selection import SELECTIONS, selected_rollouts

NAN = float("nan")
REWARD_PR = jnp.array([[0.2, 0.9, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0], [NAN, 0.4, 1.0, NAN]], jnp.float32)
IS_KEPT_PR = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], bool)


def selected(kind, *, threshold=NAN, n=-1, reward_PR=REWARD_PR, is_kept_PR=IS_KEPT_PR):
    return np.asarray(selected_rollouts(reward_PR, is_kept_PR, kind=kind, threshold=threshold, n=n)).astype(int)


def test_all_that_are_kept():
    np.testing.assert_array_equal(selected("all"), IS_KEPT_PR.astype(int))


def test_a_threshold_takes_what_reaches_it():
    np.testing.assert_array_equal(selected("threshold", threshold=0.5), [[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(selected("threshold", threshold=-1.0), IS_KEPT_PR.astype(int))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]),  # the first of equals
        (2, [[0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]]),
        (3, [[0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0]]),  # two are kept of the last prompt
    ],
)
def test_the_best_of_each_prompt(n, expected):
    np.testing.assert_array_equal(selected("best_of_n", n=n), expected)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_best_are_those_a_stable_sort_puts_first(n):
    rng = np.random.default_rng(n)
    reward_PR = rng.integers(0, 4, (20, 5)).astype(np.float32)
    is_kept_PR = rng.random((20, 5)) < 0.7
    expected_PR = np.zeros((20, 5), int)
    for p in range(20):
        kept = [r for r in range(5) if is_kept_PR[p, r]]
        for r in sorted(kept, key=lambda r, p=p: -reward_PR[p, r])[:n]:
            expected_PR[p, r] = 1
    got_PR = selected("best_of_n", n=n, reward_PR=jnp.asarray(reward_PR), is_kept_PR=jnp.asarray(is_kept_PR))
    np.testing.assert_array_equal(got_PR, expected_PR)


def test_a_reward_of_minus_infinity_is_still_the_best_of_its_kind():
    reward_PR = jnp.array([[-jnp.inf, NAN]], jnp.float32)
    got_PR = selected("best_of_n", n=1, reward_PR=reward_PR, is_kept_PR=jnp.array([[True, False]]))
    np.testing.assert_array_equal(got_PR, [[1, 0]])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'best' is not one of"):
        selected("best", n=1)
    assert SELECTIONS == ("all", "threshold", "best_of_n")

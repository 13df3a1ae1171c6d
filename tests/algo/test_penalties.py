import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.penalties import overlong_penalty


@pytest.mark.parametrize(
    ("max_length", "buffer", "table"),  # length -> penalty
    [
        (10, 4, {1: 0, 5: 0, 6: 0, 7: -0.25, 8: -0.5, 9: -0.75, 10: -1}),  # free up to 10 - 4
        (10, 1, {1: 0, 8: 0, 9: 0, 10: -1}),  # all at once
        (4, 4, {1: -0.25, 2: -0.5, 3: -0.75, 4: -1}),  # no free token
        (20480, 4096, {16384: 0, 16385: -1 / 4096, 18432: -0.5, 20480: -1}),  # DAPO's own
    ],
)
def test_the_penalty_by_hand(max_length, buffer, table):
    length_PR = jnp.array([list(table), list(table)])  # two prompts
    got = overlong_penalty(length_PR, max_length=max_length, buffer=buffer)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [list(table.values())] * 2, rtol=1e-6)


def test_the_penalty_never_leaves_its_range():
    got = np.asarray(overlong_penalty(jnp.array([[0, 11, 500]]), max_length=10, buffer=4))
    np.testing.assert_array_equal(got, [[0, -1, -1]])


def test_lengths_of_a_flat_batch_are_refused():
    with pytest.raises(AssertionError):
        overlong_penalty(jnp.array([3, 4]), max_length=10, buffer=4)

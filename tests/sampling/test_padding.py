import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.sampling.padding import bucket_widths, is_completion_token, join_prompt_and_completion, pad_right


def test_rows_stand_left_and_pads_right():
    token_NT, length_N = pad_right([[5, 6], [7]], width=3, pad_id=0)
    np.testing.assert_array_equal(token_NT, [[5, 6, 0], [7, 0, 0]])
    np.testing.assert_array_equal(length_N, [2, 1])


@pytest.mark.parametrize("rows", [[[1, 2, 3, 4]], [[]]], ids=["longer than the width", "empty"])
def test_a_row_that_does_not_fit_is_refused_not_cut(rows):
    with pytest.raises(ValueError, match=r"row lengths .* do not lie in 1\.\.3"):
        pad_right(rows, width=3, pad_id=0)


@pytest.mark.parametrize("prompt_length", [1, 2, 3])
def test_completion_follows_its_prompt_at_once(prompt_length):
    prompt_NS = jnp.array([[5, 6, 7]]).at[0, prompt_length:].set(0)
    got = join_prompt_and_completion(prompt_NS, jnp.array([prompt_length]), jnp.array([[8, 9, 2, 0]]))
    expected = [*[5, 6, 7][:prompt_length], 8, 9, 2, 0]
    np.testing.assert_array_equal(got[0], expected + [0] * (7 - len(expected)))


def test_eos_is_trained_and_nothing_after_it():
    # lengths count EOS: 1 means EOS came first, which is a completion and not "no EOS"
    got = is_completion_token(jnp.array([1, 3]), width=4)
    np.testing.assert_array_equal(got, [[True, False, False, False], [True, True, True, False]])


@pytest.mark.parametrize(
    ("longest", "first", "widths"),
    [(10, 2, (2, 4, 8, 10)), (8, 2, (2, 4, 8)), (3, 4, (3,)), (4, 4, (4,)), (1, 2, (1,))],
)
def test_buckets_double_up_to_the_longest(longest, first, widths):
    assert bucket_widths(longest, first=first) == widths

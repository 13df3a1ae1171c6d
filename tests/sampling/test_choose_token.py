import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.sampling.choose_token import choose_token, rollout_keys

LOGITS_V = jnp.log(jnp.array([0.1, 0.2, 0.7]))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_come_as_often_as_their_probability(temperature):
    n = 20_000
    keys = jax.random.split(jax.random.key(0), n)
    token_N, logprob_N = choose_token(keys, jnp.tile(LOGITS_V, (n, 1)), position=jnp.int32(0), temperature=temperature)
    expected = np.array([0.1, 0.2, 0.7]) ** (1 / temperature)
    expected /= expected.sum()
    np.testing.assert_allclose(np.bincount(token_N, minlength=3) / n, expected, atol=0.012)  # 3.5 standard errors
    np.testing.assert_allclose(logprob_N, np.log(expected)[np.asarray(token_N)], rtol=1e-5)


def test_temperature_zero_takes_the_largest():
    keys = jax.random.split(jax.random.key(0), 4)
    token_N, _ = choose_token(keys, jnp.tile(LOGITS_V, (4, 1)), position=jnp.int32(0), temperature=0.0)
    np.testing.assert_array_equal(token_N, [2, 2, 2, 2])


def test_each_position_draws_anew():
    keys, logits = jax.random.split(jax.random.key(0), 64), jnp.zeros((64, 50))
    first, again, second = (choose_token(keys, logits, position=jnp.int32(t), temperature=1.0)[0] for t in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).mean() > 0.9


def test_a_key_names_the_rollout_not_its_place():
    root = jax.random.key(7)
    all_keys = jax.random.key_data(rollout_keys(root, jnp.array([3, 9]), n_rollouts=4))
    alone = jax.random.key_data(rollout_keys(root, jnp.array([9]), n_rollouts=2))
    np.testing.assert_array_equal(all_keys[1, :2], alone[0])
    flat = {tuple(key) for key in np.asarray(all_keys).reshape(8, -1)}
    assert len(flat) == 8


def test_every_prompt_can_have_a_root_key_of_its_own():
    roots = jax.random.split(jax.random.key(7), 3)
    got = jax.random.key_data(rollout_keys(roots, jnp.array([3, 9, 9]), n_rollouts=2))
    expected = [
        jax.random.key_data(rollout_keys(roots[p], jnp.array([n]), n_rollouts=2))[0] for p, n in enumerate((3, 9, 9))
    ]
    np.testing.assert_array_equal(got, expected)
    assert (got[1] != got[2]).any()

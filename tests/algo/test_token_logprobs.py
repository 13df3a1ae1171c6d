import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax.algo.token_logprobs import token_logprobs

LOGITS_NTV = jnp.log(jnp.array([[[0.1, 0.2, 0.7], [0.25, 0.25, 0.5]]]))
TOKEN_NT = jnp.array([[2, 0]])


def test_log_probabilities_and_entropy_by_hand():
    logprob, entropy = token_logprobs(LOGITS_NTV, TOKEN_NT, temperature=1.0)
    np.testing.assert_allclose(logprob, [[np.log(0.7), np.log(0.25)]], rtol=1e-5)
    np.testing.assert_allclose(entropy[0, 1], 1.5 * np.log(2), rtol=1e-5)  # 1.5 bits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_sharpens_or_flattens(temperature):
    logprob, entropy = token_logprobs(LOGITS_NTV, TOKEN_NT, temperature=temperature)
    p = np.array([0.1, 0.2, 0.7]) ** (1 / temperature)
    p /= p.sum()
    np.testing.assert_allclose(logprob[0, 0], np.log(p[2]), rtol=1e-5)
    np.testing.assert_allclose(entropy[0, 0], -(p * np.log(p)).sum(), rtol=1e-5)


def test_half_precision_logits_are_refused():
    with pytest.raises(AssertionError):
        token_logprobs(LOGITS_NTV.astype(jnp.bfloat16), TOKEN_NT, temperature=1.0)

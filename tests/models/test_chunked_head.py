"""Chunks of the vocabulary against all logits at once, in numpy's float64 and by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax.models.chunked_head import ALL_AT_ONCE, HeadChunks, HeadPlan, chunked_logprobs, head_chunks

N, T, D = 3, 4, 5
TEMPERATURE = 0.7
CASES = {  # vocabulary, W, runs
    "chunks that divide the vocabulary": (12, 4, 1),
    "a last chunk that overlaps by two": (13, 5, 1),
    "one column at a time": (5, 1, 1),
    "all but one column, then that one": (7, 6, 1),
    "two runs": (12, 4, 2),
    "three runs, chunks that overlap": (21, 4, 3),
}


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def operands(V, is_table):
    hidden_NTD, weight_DV = 2 * numbers(0, N, T, D), numbers(1, D, V)
    token_NT = np.random.default_rng(2).integers(0, V, (N, T)).astype(np.int32)
    token_NT[0, :2] = [0, V - 1]  # both ends are chosen
    return hidden_NTD, weight_DV.T.copy() if is_table else weight_DV, token_NT


def at_once(hidden_NTD, weight_DV, token_NT, temperature=TEMPERATURE):
    """In float64."""
    with np.errstate(invalid="ignore"):
        logits_NTV = hidden_NTD.astype(np.float64) @ weight_DV.astype(np.float64) / temperature
        log_q_NTV = logits_NTV - np.logaddexp.reduce(logits_NTV, axis=2, keepdims=True)
        entropy_NT = -(np.exp(log_q_NTV) * log_q_NTV).sum(axis=2)
    return np.take_along_axis(log_q_NTV, token_NT[..., None], axis=2)[..., 0], entropy_NT


def slow_gradients(hidden_NTD, weight_DV, token_NT, slopes):
    """By finite differences of the float64 version, one number at a time."""
    h, found = 1e-6, []

    def value(hidden_NTD, weight_DV):
        return sum(
            (slope * leaf).sum() for slope, leaf in zip(slopes, at_once(hidden_NTD, weight_DV, token_NT), strict=True)
        )

    leaves = [hidden_NTD.astype(np.float64), weight_DV.astype(np.float64)]
    for number in range(2):
        gradient = np.zeros(leaves[number].shape)
        for place in np.ndindex(gradient.shape):
            ends = []
            for step in (h, -h):
                moved = [leaf.copy() for leaf in leaves]
                moved[number][place] += step
                ends.append(value(*moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * h)
        found.append(gradient)
    return found


def by_chunks(chunks, hidden_NTD, weight, token_NT):
    return chunked_logprobs(chunks, None, hidden_NTD, weight, token_NT, None, None, None)


@pytest.mark.parametrize("is_table", [False, True], ids=["head", "table"])
@pytest.mark.parametrize("case", CASES)
def test_chunks_give_what_all_logits_at_once_give_with_gradients(case, is_table):
    V, width, n_runs = CASES[case]
    hidden_NTD, weight, token_NT = operands(V, is_table)
    chunks = HeadChunks(width, n_runs, is_table=is_table, temperature=TEMPERATURE)
    slopes = (numbers(3, N, T), numbers(4, N, T))
    got, pullback = jax.vjp(
        lambda h, w: by_chunks(chunks, h, w, token_NT), jnp.asarray(hidden_NTD), jnp.asarray(weight)
    )
    weight_DV = weight.T if is_table else weight
    for leaf, expected in zip(got, at_once(hidden_NTD, weight_DV, token_NT), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    dhidden_NTD, dweight = pullback(tuple(map(jnp.asarray, slopes)))
    expected = slow_gradients(hidden_NTD, weight_DV, token_NT, slopes)
    for leaf, wanted in zip((dhidden_NTD, dweight.T if is_table else dweight), expected, strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_large_logits_lose_nothing():
    # logits of 3,000 and below: the maximum is taken off before anything is added up
    hidden_NTD, weight_DV, token_NT = operands(13, False)
    hidden_NTD = 500 * hidden_NTD
    got = by_chunks(HeadChunks(5, 1, is_table=False, temperature=1.0), hidden_NTD, weight_DV, token_NT)
    expected = at_once(hidden_NTD, weight_DV, token_NT, temperature=1.0)
    assert expected[0].min() < -1_000
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_shows(value):
    hidden_NTD, weight_DV, token_NT = operands(13, False)
    weight_DV[0, 7] = value
    logprob_NT, entropy_NT = by_chunks(
        HeadChunks(5, 1, is_table=False, temperature=1.0), hidden_NTD, weight_DV, token_NT
    )
    direct_NT, _ = at_once(hidden_NTD, weight_DV, token_NT, temperature=1.0)
    assert (~np.isfinite(logprob_NT) >= ~np.isfinite(direct_NT)).all()
    assert not np.isfinite(entropy_NT[hidden_NTD[..., 0] > 0]).any()


def test_half_precision_states_make_fp32_logits():
    # products of bfloat16 numbers are exact in fp32, so what is left to differ is the order of sums
    hidden_NTD, weight_DV, token_NT = operands(13, False)
    half = jnp.asarray(hidden_NTD, jnp.bfloat16), jnp.asarray(weight_DV, jnp.bfloat16)
    chunks = HeadChunks(5, 1, is_table=False, temperature=TEMPERATURE)
    got, pullback = jax.vjp(lambda h, w: by_chunks(chunks, h, w, token_NT), *half)
    exact = [np.asarray(leaf.astype(jnp.float32)) for leaf in half]
    for leaf, expected in zip(got, at_once(*exact, token_NT), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    slopes = (numbers(3, N, T), numbers(4, N, T))
    expected = slow_gradients(*exact, token_NT, slopes)
    for leaf, wanted in zip(pullback(tuple(map(jnp.asarray, slopes))), expected, strict=True):
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(leaf.astype(jnp.float32), wanted, rtol=2**-8, atol=2**-8 * np.abs(wanted).max())


def test_chunks_under_vmap_and_jit_are_those_of_each_row():
    hidden_NTD, weight_DV, token_NT = operands(13, False)
    chunks = HeadChunks(5, 1, is_table=False, temperature=TEMPERATURE)

    def of_row(hidden_TD, token_T):
        return jax.grad(lambda w: by_chunks(chunks, hidden_TD[None], w, token_T[None])[0].sum())(jnp.asarray(weight_DV))

    got_NDV = jax.jit(jax.vmap(of_row))(hidden_NTD, token_NT)
    for n in range(N):
        np.testing.assert_allclose(got_NDV[n], of_row(hidden_NTD[n], token_NT[n]), rtol=1e-5, atol=1e-5)


def test_how_many_columns_fit():
    def width(chunk_bytes, *, n_tokens=10, vocab_size=100, n_token_shards=1, n_vocab_shards=1):
        plan = HeadPlan(chunk_bytes, n_token_shards=n_token_shards, n_vocab_shards=n_vocab_shards)
        found = head_chunks(plan, n_tokens=n_tokens, vocab_size=vocab_size, is_table=False, temperature=1.0)
        return None if found is None else (found.width, found.n_runs)

    assert width(4 * 10 * 100) is None  # all at once
    assert width(4 * 10 * 100 - 1) == (50, 1)  # 99 fit, so two chunks, as even as can be
    assert width(4 * 10 * 30) == (25, 1)
    assert width(1) == (1, 1)  # at least one
    assert width(4 * 10 * 30, n_token_shards=3) == (50, 1)  # 4 tokens each
    assert width(4 * 10 * 30, n_vocab_shards=2) == (25, 2)  # 50 columns each
    assert width(4 * 10 * 50, n_vocab_shards=2) is None
    assert width(4 * 10 * 30, n_vocab_shards=3) == (25, 1)  # 3 devices cannot have a third of 100 columns each
    # 100,352 columns in 7 chunks of 14,336 = 112 * 128: 16,384 would fit
    assert width(512 * 2**20, n_tokens=8192, vocab_size=100_352) == (14_336, 1)
    # 151,936 in 10: 15,194 rounded up to 119 * 128
    assert width(512 * 2**20, n_tokens=8192, vocab_size=151_936) == (15_232, 1)
    assert head_chunks(ALL_AT_ONCE, n_tokens=10**6, vocab_size=10**6, is_table=True, temperature=1.0) is None


@pytest.mark.parametrize("is_table", [False, True], ids=["head", "table"])
def test_a_large_vocabulary_takes_a_chunks_memory(is_table):
    V, n_tokens, D = 50_000, 256, 16
    at_once_bytes, chunk_bytes = 4 * n_tokens * V, 2**20
    chunks = head_chunks(
        HeadPlan(chunk_bytes, 1, 1), n_tokens=n_tokens, vocab_size=V, is_table=is_table, temperature=1.0
    )

    def loss(hidden_NTD, weight, token_NT):
        logprob_NT, entropy_NT = by_chunks(chunks, hidden_NTD, weight, token_NT)
        return logprob_NT.sum() + 0.1 * entropy_NT.sum()

    shapes = [(2, n_tokens // 2, D), (V, D) if is_table else (D, V)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    token_NT = jax.ShapeDtypeStruct(shapes[0][:2], jnp.int32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays, token_NT).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < at_once_bytes / 4  # a few chunks, and copies of the weight


@pytest.mark.parametrize("is_table", [False, True], ids=["head", "table"])
def test_devices_that_share_the_vocabulary_keep_to_their_own_columns(is_table):
    V, n_runs = 24, 4
    mesh = Mesh(np.array(jax.devices()).reshape(2, n_runs), ("data", "tensor"))
    chunks = HeadChunks(4, n_runs, is_table=is_table, temperature=TEMPERATURE)
    hidden_NTD, weight, token_NT = operands(V, is_table)
    hidden_NTD, token_NT = np.repeat(hidden_NTD, 2, axis=0), np.repeat(token_NT, 2, axis=0)
    of_rows = NamedSharding(mesh, PartitionSpec("data"))
    of_weight = NamedSharding(mesh, PartitionSpec("tensor", None) if is_table else PartitionSpec(None, "tensor"))

    def loss(hidden_NTD, weight, token_NT):
        logprob_NT, entropy_NT = by_chunks(chunks, hidden_NTD, weight, token_NT)
        return logprob_NT.sum() + 0.1 * entropy_NT.sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(of_rows, of_weight))
    arrays = [jax.device_put(x, s) for x, s in ((hidden_NTD, of_rows), (weight, of_weight), (token_NT, of_rows))]
    alone = jax.grad(loss, argnums=(0, 1))(jnp.asarray(hidden_NTD), jnp.asarray(weight), token_NT)
    for got, expected in zip(gradients(*arrays), alone, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    program = gradients.lower(*arrays).compile().as_text()
    assert "all-reduce" in program  # sums over the vocabulary
    assert not any(name in program for name in ("all-gather", "all-to-all", "collective-permute"))

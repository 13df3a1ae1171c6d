"""The cached decoder against whole forward passes, and what DESIGN promises of rollouts."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simple_decode import build_simple_sampler

from rlvr_jax.models import transformer
from rlvr_jax.models.spec import ModelSpec, initial_params
from rlvr_jax.sampling.decode import build_decoder
from rlvr_jax.sampling.rollout import build_sampler
from rlvr_jax.train.perf import compile_count

SPEC = ModelSpec(
    vocab_size=12, width=16, n_layers=2, n_heads=4, n_kv_heads=2, head_width=4, mlp_width=24,
    rope_theta=50.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
)  # fmt: skip
PARAMS = initial_params(SPEC, jax.random.key(5))
BIASED = ModelSpec(**(SPEC.__dict__ | {"has_attention_bias": True, "has_tied_head": True}))
BIASED_PARAMS = jax.tree.map(lambda leaf: leaf + 0.3, initial_params(BIASED, jax.random.key(5)))  # biases begin at 0
PROMPT_PS = jnp.array([[1, 4, 7, 5], [1, 3, 0, 0], [1, 9, 9, 0]])  # 0 pads
LENGTH_P = jnp.array([4, 2, 3])
EOS, PAD, T = 2, 0, 6


def sampler(*, spec=SPEC, n_rollouts=3, temperature=1.0, max_new_tokens=T, eos_ids=(EOS,), seed=1, bucket_tokens=T):
    sample = build_sampler(
        spec, n_rollouts=n_rollouts, max_new_tokens=max_new_tokens, bucket_tokens=bucket_tokens,
        temperature=temperature, eos_ids=eos_ids, pad_id=PAD, compute_dtype=jnp.float32,
    )  # fmt: skip
    return lambda *arguments: sample(*arguments, jax.random.key(seed))


COUNTER_P = jnp.array([10, 11, 12])
ROLLOUTS = sampler()(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)


def full_logits(tokens, params=PARAMS, spec=SPEC):
    hidden, params = transformer.hidden_states(params, spec, jnp.array([tokens]), remat="none")
    return np.asarray(transformer.vocab_logits(params, spec, hidden))[0]


def tokens_of(rollouts, p, r):
    prompt = list(np.asarray(rollouts.prompt_PS)[p, : int(rollouts.prompt_length_P[p])])
    return prompt, list(np.asarray(rollouts.completion_PRT)[p, r, : int(rollouts.completion_length_PR[p, r])])


@pytest.mark.parametrize(("params", "spec"), [(PARAMS, SPEC), (BIASED_PARAMS, BIASED)], ids=["plain", "biased, tied"])
def test_cached_decoding_equals_whole_forward_passes(params, spec):
    rollouts, n_checked = ROLLOUTS, 0
    if spec != SPEC:
        rollouts = sampler(spec=spec, eos_ids=())(params, PROMPT_PS, LENGTH_P, COUNTER_P)
    for p in range(3):
        for r in range(3):
            prompt, completion = tokens_of(rollouts, p, r)
            logits_TV = full_logits(prompt + completion, params, spec)
            for t, token in enumerate(completion):
                logprob_V = jax.nn.log_softmax(logits_TV[len(prompt) + t - 1])
                assert rollouts.behavior_logprob_PRT[p, r, t] == pytest.approx(float(logprob_V[token]), abs=2e-5)
                n_checked += 1
    assert n_checked > 20


def test_greedy_takes_the_most_likely_token_of_each_whole_pass():
    greedy = sampler(temperature=0.0, n_rollouts=1)(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    for p in range(3):
        prompt, completion = tokens_of(greedy, p, 0)
        for t, token in enumerate(completion):
            assert token == full_logits(prompt + completion)[len(prompt) + t - 1].argmax()


def test_a_rollout_ends_with_its_first_eos_and_pads_follow():
    completion_PRT, length_PR = np.asarray(ROLLOUTS.completion_PRT), np.asarray(ROLLOUTS.completion_length_PR)
    assert (~np.asarray(ROLLOUTS.is_truncated_PR)).any()
    assert np.asarray(ROLLOUTS.is_truncated_PR).any()
    for row, length, is_truncated in zip(
        completion_PRT.reshape(9, T), length_PR.reshape(9), np.asarray(ROLLOUTS.is_truncated_PR).reshape(9), strict=True
    ):
        places = np.flatnonzero(row == EOS)
        assert is_truncated == (len(places) == 0)
        assert length == (T if is_truncated else places[0] + 1)
        assert (row[length:] == PAD).all()


def test_any_of_several_eos_ends_a_rollout_and_is_its_last_token():
    # 1 and 11 both occur in the committed draws: each rollout is cut after whichever comes first, EOS included
    got = sampler(eos_ids=(1, 11))(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    free = np.asarray(sampler(eos_ids=())(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P).completion_PRT).reshape(9, T)
    completion_NT, length_N = np.asarray(got.completion_PRT).reshape(9, T), np.asarray(got.completion_length_PR).ravel()
    last = set()
    for row, length, free_row in zip(completion_NT, length_N, free, strict=True):
        places = [t for t, token in enumerate(free_row) if token in (1, 11)]
        assert length == (places[0] + 1 if places else T)
        assert list(row) == [*free_row[:length], *[PAD] * (T - length)]
        last |= {int(row[length - 1])} if places else set()
    assert last == {1, 11}


def test_eos_may_be_the_pad():
    # lengths alone say what is a token: the same rollouts as with another pad, but for what stands behind them
    build = {"n_rollouts": 3, "max_new_tokens": T, "bucket_tokens": T, "temperature": 1.0, "compute_dtype": jnp.float32}
    sample = build_sampler(SPEC, eos_ids=(EOS,), pad_id=EOS, **build)
    got = sample(PARAMS, jnp.where(PROMPT_PS == PAD, EOS, PROMPT_PS), LENGTH_P, COUNTER_P, jax.random.key(1))
    np.testing.assert_array_equal(got.completion_length_PR, ROLLOUTS.completion_length_PR)
    np.testing.assert_allclose(got.behavior_logprob_PRT, ROLLOUTS.behavior_logprob_PRT, atol=1e-6)
    is_token = np.arange(T)[None, None] < np.asarray(ROLLOUTS.completion_length_PR)[..., None]
    committed_PRT = np.asarray(ROLLOUTS.completion_PRT)
    np.testing.assert_array_equal(np.asarray(got.completion_PRT)[is_token], committed_PRT[is_token])


def test_log_probabilities_are_zero_after_the_end():
    beyond = np.arange(T)[None, None] >= np.asarray(ROLLOUTS.completion_length_PR)[..., None]
    assert (np.asarray(ROLLOUTS.behavior_logprob_PRT)[beyond] == 0).all()


@pytest.mark.parametrize(("is_first_eos", "n_steps"), [(False, T - 1), (True, 0)])
def test_the_loop_ends_with_the_last_rollout(is_first_eos, n_steps):
    # greedy on one prompt: if the first token it emits is EOS, no decode step runs at all
    first = int(sampler(temperature=0.0, n_rollouts=1, eos_ids=())(
        PARAMS, PROMPT_PS[:1], LENGTH_P[:1], COUNTER_P[:1]).completion_PRT[0, 0, 0])  # fmt: skip
    chosen = (first,) if is_first_eos else ()
    got = sampler(temperature=0.0, n_rollouts=1, eos_ids=chosen)(PARAMS, PROMPT_PS[:1], LENGTH_P[:1], COUNTER_P[:1])
    assert int(got.n_decode_steps) == n_steps


def test_rollouts_do_not_depend_on_the_batch_they_are_drawn_in():
    sample = sampler()
    one_by_one = [sample(PARAMS, PROMPT_PS[p : p + 1], LENGTH_P[p : p + 1], COUNTER_P[p : p + 1]) for p in range(3)]
    np.testing.assert_array_equal(ROLLOUTS.completion_PRT, jnp.concatenate([x.completion_PRT for x in one_by_one]))
    np.testing.assert_allclose(
        ROLLOUTS.behavior_logprob_PRT, jnp.concatenate([x.behavior_logprob_PRT for x in one_by_one]), atol=1e-5
    )


def test_fewer_rollouts_are_the_first_ones():
    fewer = sampler(n_rollouts=2)(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    np.testing.assert_array_equal(ROLLOUTS.completion_PRT[:, :2], fewer.completion_PRT)


def test_a_wider_prompt_array_changes_nothing():
    wider = sampler()(PARAMS, jnp.pad(PROMPT_PS, ((0, 0), (0, 3))), LENGTH_P, COUNTER_P)
    np.testing.assert_array_equal(ROLLOUTS.completion_PRT, wider.completion_PRT)
    np.testing.assert_allclose(ROLLOUTS.behavior_logprob_PRT, wider.behavior_logprob_PRT, atol=1e-5)


def test_another_seed_or_prompt_counter_draws_others():
    for other in (sampler(seed=2)(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P),
                  sampler()(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P + 100)):  # fmt: skip
        assert (np.asarray(ROLLOUTS.completion_PRT) != np.asarray(other.completion_PRT)).any()


def test_the_committed_rollouts_come_out_on_any_layout():
    # a record, not a derivation: a change of cache, layout or jax version must reproduce these draws (CPU, fp32)
    golden = [
        [[1, 7, 9, 5, 3, 11], [4, 2, 0, 0, 0, 0], [8, 10, 11, 8, 6, 10]],
        [[11, 11, 1, 1, 5, 2], [11, 11, 3, 11, 1, 1], [11, 1, 1, 1, 0, 6]],
        [[10, 10, 11, 7, 10, 11], [10, 10, 9, 11, 8, 1], [1, 9, 10, 11, 8, 10]],
    ]
    np.testing.assert_array_equal(ROLLOUTS.completion_PRT, golden)


def simple_rollouts(*, temperature=1.0, eos_ids=(EOS,), n_rollouts=3, max_new_tokens=T):
    sample = build_simple_sampler(
        SPEC, n_rollouts=n_rollouts, max_new_tokens=max_new_tokens, temperature=temperature, eos_ids=eos_ids,
        pad_id=PAD, compute_dtype=jnp.float32,
    )  # fmt: skip
    return sample(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P, jax.random.key(1))


def assert_same_rollouts(got, simple):
    width = got.completion_PRT.shape[2]
    assert (np.asarray(simple.completion_PRT)[..., width:] == PAD).all()
    np.testing.assert_array_equal(got.completion_PRT, simple.completion_PRT[..., :width])
    np.testing.assert_array_equal(got.completion_length_PR, simple.completion_length_PR)
    np.testing.assert_array_equal(got.is_truncated_PR, simple.is_truncated_PR)
    np.testing.assert_allclose(got.behavior_logprob_PRT, simple.behavior_logprob_PRT[..., :width], atol=1e-5)
    assert int(got.n_decode_steps) == int(simple.n_decode_steps)


@pytest.mark.parametrize(("temperature", "bucket_tokens"), [(1.0, 2), (1.0, 5), (1.0, 17), (0.6, 100), (0.0, 4)])
def test_a_shared_prompt_and_growing_caches_change_nothing(temperature, bucket_tokens):
    got = sampler(temperature=temperature, max_new_tokens=17, eos_ids=(), bucket_tokens=bucket_tokens)(
        PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P
    )
    assert_same_rollouts(got, simple_rollouts(temperature=temperature, max_new_tokens=17, eos_ids=()))


def test_arrays_stop_growing_once_every_rollout_has_ended():
    likely = 11  # as an end
    simple = simple_rollouts(max_new_tokens=40, eos_ids=(likely,))
    longest = int(simple.completion_length_PR.max())
    assert 4 < longest <= 32
    got = sampler(max_new_tokens=40, bucket_tokens=2, eos_ids=(likely,))(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    assert got.completion_PRT.shape[2] == next(w for w in (2, 4, 8, 16, 32) if w >= longest)
    assert_same_rollouts(got, simple)


def test_one_token_at_most_is_a_rollout_too():
    got = sampler(max_new_tokens=1)(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    assert_same_rollouts(got, simple_rollouts(max_new_tokens=1))


def test_a_prompt_is_kept_once_and_what_is_full_is_not_kept_twice():
    # bytes that go into and out of the programs: no cache has a rollout's copy of the prompt's slots
    decoder = build_decoder(
        SPEC, n_rollouts=3, widths=(4, 8), temperature=1.0, eos_ids=(), pad_id=PAD, compute_dtype=jnp.float32
    )
    context, state = decoder.start(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P, jax.random.key(1))
    N, G, K, S = 9, 2, 4, 4
    assert [cache.key_NGSK.shape for cache in context.prompt_caches] == [(3, G, S, K)] * 2
    assert [cache.key_NGSK.shape for cache in state.caches] == [(N, G, 3, K)] * 2  # the last token is fed later
    context, later = decoder.go_on(context, state)
    assert [full[0].key_NGSK.shape for full in context.full_caches] == [(N, G, 3, K)] * 2
    assert context.full_caches[0][0].key_NGSK is state.caches[0].key_NGSK
    assert [cache.key_NGSK.shape for cache in later.caches] == [(N, G, 4, K)] * 2


def test_another_bucket_compiles_once():
    sample, n_before = sampler(max_new_tokens=16, eos_ids=(), bucket_tokens=4), compile_count()
    sample(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P)
    n_first = compile_count() - n_before
    assert n_first >= 3  # widths 4, 8 and 16
    sample(PARAMS, PROMPT_PS, LENGTH_P, COUNTER_P + 50)
    assert compile_count() - n_before == n_first

"""Rollouts of several turns: whose token is where, what each was drawn with, and what that depends on."""

import copy
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from meshes import mesh_of

from rlvr_jax.models.spec import initial_params
from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.problem import Problem
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.batch import batch_without_advantages
from rlvr_jax.train.collect import collected
from rlvr_jax.train.config import TaskConfig
from rlvr_jax.train.converse import converse
from rlvr_jax.train.draw_rollouts import build_policy_sampler, draw_rollouts
from rlvr_jax.train.loss import build_loss_of_logprobs, is_trained_token
from rlvr_jax.train.noise_pass import noise_loss
from rlvr_jax.train.programs import policy_logprobs
from rlvr_jax.train.shared_grading import turn_texts

TOKENIZER = CharTokenizer()
PROBLEMS = [Problem("p", "a", "p"), Problem("qq", "a", "qq")]


class Echo:
    """Replies with the turn in brackets, until it is "stop" or the third."""

    max_turns = 3

    def reply(self, problem, turns):
        return None if turns[-1] == "stop" or len(turns) == 3 else f"<{turns[-1]}>"


def scripted(*calls):
    """A sampler that writes the texts of one list per call, each with EOS, or cut before it where it ends in "..."."""
    remaining, seen = list(calls), []

    def sample(params, prompt_NS, length_N, counter_N, key_N):
        texts = remaining.pop(0)
        seen.append([prompt_NS[n, : length_N[n]].tolist() for n in range(len(texts))])
        texts += texts[:1] * (len(prompt_NS) - len(texts))  # rows that fill the program's shape up
        rows = [TOKENIZER.encode_completion(text) for text in texts]
        rows = [row[:-4] if text.endswith("...") else row for row, text in zip(rows, texts, strict=True)]
        length_NR = np.array([[len(row)] for row in rows])
        width = int(length_NR.max())
        completion_NRT = np.array([[row + [0] * (width - len(row))] for row in rows])
        logprob_NRT = np.where(completion_NRT > 0, -completion_NRT / 100, 0.0).astype(np.float32)
        return Rollouts(
            prompt_NS, length_N, completion_NRT, length_NR, length_NR < 0, logprob_NRT, n_decode_steps=np.int32(width)
        )

    return sample, seen


def conversation(sampler, **options):
    sizes = {"n_rollouts": 2, "max_prompt_tokens": 3, "max_new_tokens": 30, "bucket_tokens": 8, "rows_at_once": 4}
    return converse(
        sampler, {}, Echo(), PROBLEMS, range(7, 9), jax.random.key(0), TOKENIZER, mesh_of(1),
        **sizes | options,
    )  # fmt: skip


SCRIPT = (["ab", "stop", "c", "no..."], ["stop", "d"], ["e"])


def test_tokens_of_the_policy_and_of_the_task_stand_where_they_were_written():
    sampler, _ = scripted(*copy.deepcopy(SCRIPT))
    got = conversation(sampler)
    # $ is EOS:  a b $ < a b > s t o p $      s t o p $      c $ < c > d $ < d > e $      n o
    expected = [[[0, 1, 2, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4]], [[0, 1, 5, 6, 10, 11], [0, 1]]]
    for p, r in np.ndindex(2, 2):
        np.testing.assert_array_equal(np.flatnonzero(got.is_action_PRT[p, r]), expected[p][r])
    np.testing.assert_array_equal(got.completion_length_PR, [[12, 5], [12, 2]])
    np.testing.assert_array_equal(got.own_length_PR, [[8, 5], [6, 2]])
    np.testing.assert_array_equal(got.is_truncated_PR, [[False, False], [False, True]])
    assert got.completion_PRT.shape == (2, 2, 16)  # the bucket after 8
    assert got.n_decode_steps == 5 + 5 + 2

    def ids(text):
        return [2 if character == "$" else TOKENIZER.encode_reply(character, after=2)[0] for character in text]

    assert got.completion_PRT[0, 0].tolist() == [*ids("ab$<ab>stop$"), *[0] * 4]
    assert got.completion_PRT[1, 0].tolist() == [*ids("c$<c>d$<d>e$"), *[0] * 4]
    # the script's log-probability of token i is -i / 100; nothing was drawn where the task wrote
    expected_PRT = np.where(got.is_action_PRT, -got.completion_PRT / 100, 0.0)
    np.testing.assert_allclose(got.behavior_logprob_PRT, expected_PRT, rtol=1e-6)


def test_the_policy_reads_all_that_came_before_its_turn():
    sampler, seen = scripted(*copy.deepcopy(SCRIPT))
    conversation(sampler)
    prompt = [TOKENIZER.encode_prompt(problem.prompt) for problem in PROBLEMS]
    turn = TOKENIZER.encode_completion

    def reply(text):
        return TOKENIZER.encode_reply(text, after=2)

    assert seen[0] == [prompt[0], prompt[0], prompt[1], prompt[1]]
    assert seen[1] == [prompt[0] + turn("ab") + reply("<ab>"), prompt[1] + turn("c") + reply("<c>")]
    assert seen[2] == [prompt[1] + turn("c") + reply("<c>") + turn("d") + reply("<d>")]


def test_what_a_turn_reads_may_be_longer_than_any_completion():
    # the third turn of the third rollout reads <bos>qq and c$<c>d$<d>: 3 + 10 tokens where completions have at most 12
    sampler, seen = scripted(*copy.deepcopy(SCRIPT))
    got = conversation(sampler, max_new_tokens=12)
    assert [len(prompt) for prompt in seen[2]] == [13]
    np.testing.assert_array_equal(got.completion_length_PR, [[12, 5], [12, 2]])


def test_turns_are_read_off_the_mask_so_that_no_reply_can_be_forged():
    sampler, _ = scripted(["<stop>", "stop", "c", "no..."], ["stop", "d"], ["e"])
    got = conversation(sampler)
    texts = turn_texts(got.completion_PRT, got.completion_length_PR, got.is_action_PRT, TOKENIZER)
    assert texts == [[["<stop>", "stop"], ["stop"]], [["c", "d", "e"], ["no"]]]


def test_every_turn_of_every_rollout_has_a_key_of_its_own_whatever_part_it_is_in():
    def keys(rows_at_once, script):
        sampler, _ = scripted(*copy.deepcopy(script))
        found = []

        def recording(params, prompt_NS, length_N, counter_N, key_N):
            drawn = sampler(params, prompt_NS, length_N, counter_N, key_N)
            n_real = min(len(script[len(found)]), len(prompt_NS))
            assert counter_N.shape == key_N.shape
            found.append([tuple(map(int, row)) for row in jax.random.key_data(key_N)[:n_real]])
            return drawn

        conversation(recording, rows_at_once=rows_at_once)
        return [key for call in found for key in call]

    whole = keys(4, SCRIPT)
    assert len(whole) == len(set(whole)) == 7  # 4 + 2 + 1 turns
    assert keys(1, [[text] for texts in SCRIPT for text in texts]) == whole


@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_parts_hold_what_the_whole_holds(rows_at_once):
    in_parts = [row[first : first + rows_at_once] for row in SCRIPT for first in range(0, len(row), rows_at_once)]
    whole = conversation(scripted(*copy.deepcopy(SCRIPT))[0])
    parts = conversation(scripted(*in_parts)[0], rows_at_once=rows_at_once)
    for name in ("completion_PRT", "is_action_PRT", "completion_length_PR", "behavior_logprob_PRT"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


class EagerTokenizer(CharTokenizer):
    """Half of all ids end a turn, so that untrained weights play several."""

    eos_ids = (2, *range(50, 98))


@pytest.fixture(scope="module")
def games(module_config):
    config = copy.deepcopy(module_config)
    config.task = TaskConfig(name="wordle", n_words=10, n_turns=3)
    config.sampling.max_new_tokens, config.sampling.bucket_tokens = 3 * 6 + 2 * 7, 64
    config.sampling.temperature = 0.8
    config.batch.n_prompts, config.batch.n_rollouts = 4, 4
    config.noise.every_updates, config.eval.n_problems, config.warmstart.enabled = 0, 2, False
    parts = dataclasses.replace(assemble(config), tokenizer=EagerTokenizer())
    params = initial_params(parts.spec, jax.random.key(1))

    def draw(first, n_prompts, *, n_rollouts=4):
        sampler = build_policy_sampler(
            parts, config.sampling, n_rollouts=n_rollouts, temperature=config.sampling.temperature
        )
        problems = [parts.task.train_problem(i) for i in range(first, first + n_prompts)]
        counters = range(first, first + n_prompts)
        return problems, draw_rollouts(
            sampler, params, problems, counters, jax.random.key(5), parts, config.sampling, n_rollouts=n_rollouts
        )

    return config, parts, params, draw


def test_the_trainer_agrees_with_what_every_turn_was_drawn_with(games):
    config, parts, params, draw = games
    problems, rollouts = draw(0, 4)
    collection = collected(parts.task, problems, rollouts, parts.tokenizer, config.algo, max_new_tokens=32)
    batch = batch_without_advantages(collection)
    logprob_PRT, _ = policy_logprobs(config, parts)(params, batch)
    is_trained_PRT = np.asarray(is_trained_token(batch))
    np.testing.assert_array_equal(is_trained_PRT, rollouts.is_action_PRT)
    n_turns = (np.diff(rollouts.is_action_PRT.astype(int), prepend=0, axis=2) == 1).sum(axis=2)
    assert n_turns.max() == 3  # else nothing after a reply is compared
    difference_PRT = np.where(is_trained_PRT, logprob_PRT - rollouts.behavior_logprob_PRT, 0.0)
    assert np.abs(difference_PRT).max() < 1e-5
    assert (rollouts.behavior_logprob_PRT[~rollouts.is_action_PRT] == 0).all()
    assert (rollouts.behavior_logprob_PRT[rollouts.is_action_PRT] < 0).all()


def test_a_rollout_does_not_depend_on_what_is_drawn_with_it(games):
    _, _, _, draw = games
    _, whole = draw(0, 4)
    _, part = draw(2, 1, n_rollouts=2)  # the third prompt's first two rollouts, alone
    width = part.completion_PRT.shape[2]
    np.testing.assert_array_equal(part.completion_PRT[0], whole.completion_PRT[2, :2, :width])
    np.testing.assert_array_equal(part.completion_length_PR[0], whole.completion_length_PR[2, :2])
    assert len({row.tobytes() for row in whole.completion_PRT.reshape(16, -1)}) > 8  # rollouts differ
    again = draw(0, 4)[1]
    np.testing.assert_array_equal(again.completion_PRT, whole.completion_PRT)


def test_gradients_do_not_come_from_what_the_task_wrote(games):
    config, parts, _, draw = games
    problems, rollouts = draw(0, 4)
    collection = collected(parts.task, problems, rollouts, parts.tokenizer, config.algo, max_new_tokens=32)
    batch = batch_without_advantages(collection).replace(
        advantage_PR=np.ones((4, 4), np.float32), loo_advantage_PR=np.ones((4, 4), np.float32)
    )
    shape = batch.completion_PRT.shape
    loss = build_loss_of_logprobs(config.algo, max_new_tokens=32)
    slope_PRT = jax.grad(lambda x: loss(x, jnp.zeros(shape), batch)[0])(jnp.full(shape, -1.0))
    np.testing.assert_array_equal(np.asarray(slope_PRT) != 0, rollouts.is_action_PRT)
    objective = noise_loss(lambda x, batch: (x, jnp.zeros(shape)), config.algo)
    slope_PRT = jax.grad(lambda x: objective(x, batch)[0])(jnp.full(shape, -1.0))
    np.testing.assert_array_equal(np.asarray(slope_PRT) != 0, rollouts.is_action_PRT)

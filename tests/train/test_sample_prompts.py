"""Prompts into the sampler's arrays, all at once or in parts."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from meshes import mesh_of

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.sampling.rollout import Rollouts
from rlvr_jax.tasks.arithmetic import DigitArithmetic
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.sample_prompts import joined_rollouts, sample_prompts

TASK, TOKENIZER = DigitArithmetic(operators="+", operand_min=0, operand_max=9), CharTokenizer()
PROBLEMS = [TASK.train_problem(i) for i in range(2)]


def sampler_arguments(*args):
    """A sampler that returns what it was given."""
    return args


@pytest.mark.parametrize(
    ("bucket_tokens", "max_prompt_tokens", "width"),
    [(128, 7, 7), (2, 20, 8), (7, 20, 7), (4, 7, 7), (6, 20, 12)],  # widths 2 4 8 16 20; 7 14 20; 4 7; 6 12 20
)
def test_prompts_stand_in_the_narrowest_bucket_that_holds_them(bucket_tokens, max_prompt_tokens, width):
    params, prompt_PS, length_P, counter_P, key = sample_prompts(
        sampler_arguments, {"w": 1}, PROBLEMS, range(40, 42), jax.random.key(3), TOKENIZER, mesh_of(1),
        max_prompt_tokens=max_prompt_tokens, bucket_tokens=bucket_tokens, prompts_at_once=2,
    )  # fmt: skip
    encoded = [TOKENIZER.encode_prompt(problem.prompt) for problem in PROBLEMS]  # <bos> and 6 characters
    np.testing.assert_array_equal(prompt_PS, [tokens + [0] * (width - 7) for tokens in encoded])
    np.testing.assert_array_equal(length_P, [7, 7])
    np.testing.assert_array_equal(counter_P, [40, 41])
    assert params == {"w": 1}
    assert key == jax.random.key(3)


def test_a_prompt_that_is_too_long_is_never_cut():
    with pytest.raises(ValueError, match=r"7\.\.7 tokens do not lie in 1\.\.6"):
        sample_prompts(
            sampler_arguments, {}, PROBLEMS, range(2), jax.random.key(3), TOKENIZER, mesh_of(1),
            max_prompt_tokens=6, bucket_tokens=4, prompts_at_once=2,
        )  # fmt: skip


@pytest.mark.parametrize("prompts_at_once", [1, 3, 4])
def test_parts_draw_what_one_batch_draws(module_config, tiny_params, prompts_at_once):
    parts = assemble(module_config)
    sampler = build_programs(module_config, parts).sample
    problems = [parts.task.train_problem(i) for i in range(7)]

    def drawn(at_once):
        return jax.device_get(
            sample_prompts(
                sampler, tiny_params, problems, range(20, 27), jax.random.key(3), TOKENIZER, parts.mesh,
                max_prompt_tokens=7, bucket_tokens=128, prompts_at_once=at_once,
            )
        )  # fmt: skip

    whole, in_parts = drawn(7), drawn(prompts_at_once)
    np.testing.assert_allclose(in_parts.behavior_logprob_PRT, whole.behavior_logprob_PRT, atol=1e-5)
    for name in ("prompt_PS", "prompt_length_P", "completion_PRT", "completion_length_PR", "is_truncated_PR"):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(whole, name), err_msg=name)
    assert len({row.tobytes() for row in whole.completion_PRT.reshape(28, -1)}) > 4  # prompts differ in what they draw


def test_parts_of_different_widths_are_joined_with_pads_and_without_what_filled_them_up():
    def part(width, token):
        return Rollouts(
            prompt_PS=np.full((2, 3), token), prompt_length_P=np.array([2, 3]),
            completion_PRT=np.full((2, 1, width), token), completion_length_PR=np.full((2, 1), width),
            is_truncated_PR=np.array([[True], [False]]), behavior_logprob_PRT=np.full((2, 1, width), -1.0),
            n_decode_steps=np.int32(width),
        )  # fmt: skip

    joined = joined_rollouts([part(2, 5), part(4, 6)], n_prompts=3, pad_id=9)
    np.testing.assert_array_equal(joined.completion_PRT[:, 0], [[5, 5, 9, 9], [5, 5, 9, 9], [6, 6, 6, 6]])
    np.testing.assert_array_equal(joined.behavior_logprob_PRT[:, 0], [[-1, -1, 0, 0], [-1, -1, 0, 0], [-1] * 4])
    np.testing.assert_array_equal(joined.completion_length_PR[:, 0], [2, 2, 4])
    np.testing.assert_array_equal(joined.is_truncated_PR[:, 0], [True, False, True])
    np.testing.assert_array_equal(joined.prompt_length_P, [2, 3, 2])
    assert joined.n_decode_steps == 6

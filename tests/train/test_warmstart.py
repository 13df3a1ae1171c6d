import copy

import jax
import numpy as np
import pytest

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.build_task import build_task
from rlvr_jax.train.config import TaskConfig, set_field
from rlvr_jax.train.starting_policy import starting_params
from rlvr_jax.train.warmstart import demonstrations, load_params, save_params, warmstart_hash


def hash_of(config, task, *, tokenizer="", weights=""):
    return warmstart_hash(config, task, tokenizer=tokenizer, weights=weights)


def never(*_):
    pytest.fail("a cached warm start was trained again")


def test_a_warm_start_is_trained_once_and_then_read(tiny_config, tmp_path):
    tiny_config.warmstart.n_updates, tiny_config.warmstart.warmup_updates = 5, 1
    parts, calls = assemble(tiny_config), []
    first = starting_params(tiny_config, parts, tmp_path, progress=lambda *a: calls.append(a))
    assert calls
    again = starting_params(tiny_config, parts, tmp_path, progress=never)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_demonstrations_are_right_at_first_and_only_then_sometimes_wrong(tiny_config, tmp_path, monkeypatch):
    from rlvr_jax.train import warmstart

    asked, made = [], warmstart.demonstrations
    monkeypatch.setattr(warmstart, "demonstrations", lambda *a, **kw: asked.append(kw["p_correct"]) or made(*a, **kw))
    tiny_config.warmstart = type(tiny_config.warmstart)(
        n_updates=5, n_correct_updates=3, p_correct=0.4, warmup_updates=1
    )
    starting_params(tiny_config, assemble(tiny_config), tmp_path, progress=lambda *_: None)
    assert asked == [1.0, 1.0, 1.0, 0.4, 0.4]


@pytest.mark.parametrize(
    ("field", "value", "is_another"),
    [
        ("task.operand_max", 5, True),
        ("model.width", 32, True),
        ("warmstart.p_correct", 0.4, True),
        ("warmstart.seed", 1, True),
        ("seed", 1, False),
        ("batch.n_prompts", 4, False),
        ("task.judge.budget_requests", 5, False),
        ("task.code.limit_s", 5.0, False),
        ("optimizer.peak_lr", 0.5, False),
    ],
)
def test_points_of_a_study_share_a_warm_start_and_other_policies_do_not(tiny_config, field, value, is_another):
    other = copy.deepcopy(tiny_config)
    set_field(other, field, value)
    task = assemble(tiny_config).task
    assert (hash_of(other, task) != hash_of(tiny_config, task)) == is_another


def test_other_data_are_another_warm_start_and_other_rewards_are_not(tiny_config):
    class Data:
        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

    before = hash_of(tiny_config, Data("one"))
    assert hash_of(tiny_config, Data("two")) != before
    tiny_config.task.rewards, tiny_config.task.correct_at = ("mine:score",), 0.5
    assert hash_of(tiny_config, Data("one")) == before


def test_another_tokenizer_or_other_weights_below_are_another_warm_start(tiny_config):
    hashes = {
        hash_of(tiny_config, assemble(tiny_config).task, **files)
        for files in ({}, {"tokenizer": "a"}, {"tokenizer": "b"}, {"weights": "a"}, {"weights": "b"})
    }
    assert len(hashes) == 5


def test_a_cached_file_of_another_model_is_named(tiny_config, tmp_path):
    parts = assemble(tiny_config)
    tiny_config.warmstart.enabled = False
    save_params(tmp_path / "p.safetensors", starting_params(tiny_config, parts, tmp_path, progress=never))
    tiny_config.model.mlp_width = 48
    with pytest.raises(ValueError, match=r"does not hold this model's parameters.*layers/mlp/down"):
        load_params(tmp_path / "p.safetensors", assemble(tiny_config).spec)


def test_a_torn_cached_file_says_what_to_do(tiny_config, tmp_path):
    (tmp_path / "p.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(ValueError, match=r"cannot be read as safetensors.*delete it"):
        load_params(tmp_path / "p.safetensors", assemble(tiny_config).spec)


def test_demonstrations_are_right_as_often_as_asked(tiny_config):
    task, tokenizer = assemble(tiny_config).task, CharTokenizer()
    rng = np.random.default_rng(0)
    got = demonstrations(task, tokenizer, rng, n=2_000, p_correct=0.3, prompt=7, completion=4)
    is_right = []
    for prompt, completion in zip(got["prompt"], got["completion"], strict=True):
        left, right = tokenizer.decode(prompt).rstrip("=").split("+")
        is_right.append(int(tokenizer.decode(completion)[::-1]) == int(left) + int(right))
    assert np.mean(is_right) == pytest.approx(0.3, abs=0.04)  # 4 standard errors
    assert (got["completion_length"] == 4).all()
    assert (got["completion"][:, 3] == tokenizer.eos_ids[0]).all()


def test_demonstrations_of_stages_are_of_the_last_one_in_its_proportions(tiny_config):
    tiny_config.task = TaskConfig(
        name="mixture", mixture=("digits", "comparison"), mixture_weights=(3.0, 1.0), operators="+", operand_max=9,
        stages=("operand_min=8", "operand_max=7"), stage_prompts=(8,),
    )  # fmt: skip
    task, tokenizer = build_task(tiny_config.task), CharTokenizer()
    got = demonstrations(task, tokenizer, np.random.default_rng(0), n=2_000, p_correct=1.0, prompt=24, completion=4)
    prompts = [tokenizer.decode(row[:length]) for row, length in zip(got["prompt"], got["prompt_length"], strict=True)]
    assert not any(digit in prompt for prompt in prompts for digit in "89")
    share = np.mean([prompt.startswith("Is") for prompt in prompts])
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2_000) ** 0.5


def test_demonstrated_turns_stand_between_replies_that_are_not_imitated(tiny_config):
    tiny_config.task = type(tiny_config.task)(name="wordle", n_words=45, n_turns=3)
    task, tokenizer = build_task(tiny_config.task), CharTokenizer()
    got = demonstrations(task, tokenizer, np.random.default_rng(0), n=50, p_correct=0.5, prompt=8, completion=40)
    own = [*range(6), *range(13, 19), *range(26, 32)]  # words of 5 letters and EOS, between replies of 7 characters
    n_turns = set()
    for tokens, length, is_action in zip(got["completion"], got["completion_length"], got["is_action"], strict=True):
        assert length in (6, 19, 32)
        n_turns.add(int(length))
        np.testing.assert_array_equal(np.flatnonzero(is_action), [place for place in own if place < length])
        for first in range(6, int(length) - 6, 13):
            reply = tokenizer.decode(tokens[first : first + 7])
            assert (reply[0], reply[-1]) == (" ", "\n")
            assert set(reply[1:-1]) <= set("GY-")
    assert len(n_turns) > 1

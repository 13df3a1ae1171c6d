"""Which models and tokenizers are refused before anything is read, and with what words."""

import pytest

from rlvr_jax.models.presets import PRESETS
from rlvr_jax.train.config import TrainConfig, set_field
from rlvr_jax.train.validate_model import model_problems, tokenizer_problems


def problems_of(**changes):
    """Of the default config without a warm start; model__width=8 sets model.width."""
    config = TrainConfig()
    config.warmstart.enabled = False
    for name, value in changes.items():
        set_field(config, name.replace("__", "."), value)
    return model_problems(config)


@pytest.mark.parametrize("name", ["builtin", *PRESETS, "someone/A-model_1.5", "someone/model@main"])
def test_known_names_and_hub_ids_may_be_asked_for(name):
    assert problems_of(model__name=name) == []


def test_a_folder_may_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert problems_of(model__name="mine") == problems_of(model__name=str(tmp_path / "mine")) == []
    assert problems_of(model__tokenizer="mine") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("olmo2", "did you mean 'olmo2-1b'?"),
        ("Qwen2.5-1.5B", "did you mean 'qwen2.5-1.5b'?"),
        ("buildin", "did you mean 'builtin'?"),
        ("zzz", "known are builtin, olmo2-1b"),
        ("", "known are builtin, olmo2-1b"),
        ("/nowhere/at/all", "is no folder here and not of the form OWNER/NAME[@REVISION]"),
        ("./checkpoint", "is no folder here"),
        ("someone/model@main and more", "is no folder here and not of the form OWNER/NAME[@REVISION]"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, words):
    (problem,) = problems_of(model__name=name)
    assert problem.startswith(f"model.name={name!r}")
    assert words in problem


def test_sizes_beside_a_published_model_are_refused_together():
    (problem,) = problems_of(model__name="olmo2-1b", model__width=64, model__has_tied_head=True)
    assert problem.startswith("model.width=64 (default 96), model.has_tied_head=True (default False): ")
    assert "model.name='olmo2-1b' brings its own sizes; leave these at their defaults" in problem


def test_fresh_weights_of_a_preset_need_a_tokenizer_by_name():
    (problem,) = problems_of(model__name="olmo2-1b", model__has_random_weights=True)
    assert "name one: model.tokenizer='char', a folder, or 'allenai/OLMo-2-0425-1B" in problem
    assert problems_of(model__name="olmo2-1b", model__has_random_weights=True, model__tokenizer="char") == []
    assert problems_of(model__name="someone/model", model__has_random_weights=True) == []  # which brings its own


def test_fresh_weights_of_the_built_in_model_have_another_switch():
    (problem,) = problems_of(model__has_random_weights=True)
    assert problem.endswith("warmstart.enabled=False")


def test_the_warm_start_of_the_built_in_model_would_spoil_published_weights():
    (problem,) = problems_of(model__name="olmo2-1b", warmstart__enabled=True)
    assert "warmstart.peak_lr=0.003 would spoil them; set warmstart.enabled=False" in problem
    assert problems_of(model__name="olmo2-1b", warmstart__enabled=True, warmstart__peak_lr=1e-5) == []
    fresh = {"model__has_random_weights": True, "model__tokenizer": "char"}
    assert problems_of(model__name="olmo2-1b", warmstart__enabled=True, **fresh) == []


@pytest.mark.parametrize("changes", [{}, {"model__tokenizer": "char"}])
def test_characters_have_no_chat_template(changes):
    (problem,) = problems_of(model__uses_chat_template=True, **changes)
    assert "has no template; set model.tokenizer, or model.uses_chat_template=False" in problem
    assert problems_of(model__uses_chat_template=True, model__tokenizer="someone/model") == []


def test_a_tokenizer_that_is_nowhere_is_refused():
    (problem,) = problems_of(model__tokenizer="./tokenizer")
    assert "model.tokenizer='./tokenizer' is neither a folder here, nor OWNER/NAME[@REVISION]" in problem


def test_leaving_out_long_prompts_needs_a_limit():
    (problem,) = problems_of(sampling__long_prompts="leave_out")
    assert "set sampling.max_prompt_tokens" in problem
    assert problems_of(sampling__long_prompts="leave_out", sampling__max_prompt_tokens=9) == []


def test_a_tokenizer_may_have_fewer_ids_than_the_model_and_not_more():
    model = TrainConfig().model
    model.name = "olmo2-1b"
    assert tokenizer_problems(model, vocab_size=320, tokenizer_vocab_size=279) == []
    assert tokenizer_problems(model, vocab_size=279, tokenizer_vocab_size=279) == []
    (problem,) = tokenizer_problems(model, vocab_size=278, tokenizer_vocab_size=279)
    assert "has ids up to 278, and model.name='olmo2-1b' has a vocabulary of 278" in problem

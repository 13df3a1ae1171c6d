"""Where a run's first weights come from, and that a config which names a published model gets that model."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from published_folder import save_model, save_published, save_tokenizer, write_json
from tokenizers import Tokenizer

from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.train import config as c
from rlvr_jax.train.assemble import assemble, build_task, longest_completion_tokens
from rlvr_jax.train.starting_policy import starting_key, starting_params, starting_words


def never(*_):
    pytest.fail("nothing is trained here")


def config_of(name, **model):
    """Of the tiny digits task, without a warm start."""
    return c.TrainConfig(
        study="tiny",
        task=c.TaskConfig(name="digits", operators="+", operand_max=4),
        model=c.ModelConfig(name=str(name), **model),
        warmstart=c.WarmstartConfig(enabled=False, n_updates=3, n_correct_updates=0, batch_size=4, warmup_updates=1),
        batch=c.BatchConfig(n_prompts=8, n_rollouts=4),
        sampling=c.SamplingConfig(max_new_tokens=6),
        eval=c.EvalConfig(n_problems=3, n_samples=4, k=(1, 4)),
        placement=c.PlacementConfig(data=1),
    )


@pytest.fixture(scope="module")
def olmo2(tmp_path_factory):
    return save_published(tmp_path_factory.mktemp("olmo2"), "olmo2")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return save_published(tmp_path_factory.mktemp("qwen2"), "qwen2", seed=1)


def problems_of(config):
    with pytest.raises(c.ConfigError) as refused:
        assemble(config)
    return refused.value.problems


def test_a_folder_brings_its_sizes_weights_and_tokenizer(olmo2, tmp_path):
    config = config_of(olmo2)
    parts = assemble(config)
    assert (parts.spec.qk_norm, parts.spec.has_post_norm, parts.spec.vocab_size) == ("all_heads", True, 320)
    assert (parts.tokenizer.eos_ids, parts.hf_model.max_positions) == ((1, 2), 64)
    params = starting_params(config, parts, tmp_path, progress=never)
    theirs = safetensors.numpy.load_file(olmo2 / "model.safetensors")
    np.testing.assert_array_equal(params["embedding"], theirs["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params["head"], theirs["lm_head.weight"].T)
    up = [theirs[f"model.layers.{i}.mlp.up_proj.weight"].T for i in range(2)]  # theirs are [out, in]
    np.testing.assert_array_equal(params["layers"]["mlp"]["up"], up)
    assert not list(tmp_path.iterdir())  # and nothing is kept a second time
    assert starting_words(config, parts) == f"weights of {olmo2}"


def test_weights_lie_where_they_belong_on_a_mesh(qwen2, tmp_path):
    config = config_of(qwen2)
    config.placement = c.PlacementConfig(data=2, fsdp=2, tensor=2)
    parts = assemble(config)
    spread = starting_params(config, parts, tmp_path, progress=never)
    whole = starting_params(config_of(qwen2), assemble(config_of(qwen2)), tmp_path, progress=never)
    jax.tree.map(np.testing.assert_array_equal, spread, whole)
    assert spread["embedding"].sharding.shard_shape((320, 16)) == (160, 8)
    wanted = jax.tree.leaves(parts.layout.of(spread))
    assert all(
        leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        for leaf, sharding in zip(jax.tree.leaves(spread), wanted, strict=True)
    )


def test_fresh_weights_have_the_shapes_and_not_the_numbers(olmo2, tmp_path):
    loaded_config, config = config_of(olmo2), config_of(olmo2, has_random_weights=True)
    loaded = starting_params(loaded_config, assemble(loaded_config), tmp_path, progress=never)
    fresh = starting_params(config, assemble(config), tmp_path, progress=never)
    again = starting_params(config, assemble(config), tmp_path, progress=never)
    jax.tree.map(np.testing.assert_array_equal, fresh, again)
    assert jax.tree.map(lambda leaf: leaf.shape, fresh) == jax.tree.map(lambda leaf: leaf.shape, loaded)
    assert not np.array_equal(fresh["embedding"], loaded["embedding"])


def test_fresh_weights_of_a_folder_need_no_weights_in_it(tmp_path):
    save_model(tmp_path, "olmo2")
    save_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config = config_of(tmp_path, has_random_weights=True)
    assert starting_params(config, assemble(config), tmp_path, progress=never)["embedding"].shape == (320, 16)
    config = config_of(tmp_path)
    parts = assemble(config)
    with pytest.raises(c.ConfigError, match=r"model\.name=.*model\.safetensors"):
        starting_params(config, parts, tmp_path, progress=never)


def test_a_preset_with_fresh_weights_downloads_nothing(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = assemble(config_of("olmo2-1b", has_random_weights=True, tokenizer="char"))
    # V, D, F, L of OLMo-2-0425-1B with as many key heads as heads; two norms of D and two of H * K = D per layer
    V, D, F, L = 100_352, 2_048, 8_192, 16
    assert parts.plan.n_parameters == 2 * V * D + D + L * (4 * D * D + 3 * D * F + 4 * D)
    assert (parts.tokenizer.name, parts.hf_model.max_positions) == ("char", 4_096)


def test_a_warm_start_goes_on_from_the_loaded_weights_and_is_kept(olmo2, qwen2, tmp_path):
    config, calls = config_of(olmo2), []
    parts = assemble(config)
    loaded = starting_params(config, parts, tmp_path, progress=never)
    config.warmstart.enabled, config.warmstart.peak_lr = True, 1e-4
    parts = assemble(config)
    trained = starting_params(config, parts, tmp_path, progress=lambda *a: calls.append(a))
    assert calls
    # 3 updates of Adam at 1e-4 at most move no number by more than about 3e-4
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), trained, loaded)
    assert 0 < max(jax.tree.leaves(moved)) < 1e-3
    again = starting_params(config, parts, tmp_path, progress=never)
    jax.tree.map(np.testing.assert_array_equal, again, trained)
    other = config_of(qwen2)
    other.warmstart = config.warmstart
    calls.clear()
    starting_params(other, assemble(other), tmp_path, progress=lambda *a: calls.append(a))
    assert calls


def test_a_warm_start_of_a_folder_that_changed_is_made_again(tmp_path):
    folder, cache, calls = tmp_path / "model", tmp_path / "cache", []
    for seed in (0, 1):
        config = config_of(save_published(folder, "qwen2", seed=seed))
        config.warmstart.enabled, config.warmstart.peak_lr = True, 1e-4
        starting_params(config, assemble(config), cache, progress=lambda *a: calls.append(a))
    assert len(list(cache.iterdir())) == len(calls) == 2


def test_points_that_start_from_the_same_weights_have_one_key(olmo2, qwen2):
    config, other = config_of(olmo2), config_of(qwen2)
    key = starting_key(config, assemble(config))
    config.seed, config.batch.n_rollouts = 5, 8
    assert starting_key(config, assemble(config)) == key
    assert starting_key(other, assemble(other)) != key


def test_the_built_in_model_may_have_a_published_tokenizer(olmo2, tmp_path):
    config = config_of("builtin", tokenizer=str(olmo2))
    parts = assemble(config)
    n_ids = len(Tokenizer.from_file(str(olmo2 / "tokenizer.json")).get_vocab())
    assert parts.spec.vocab_size == parts.tokenizer.vocab_size == n_ids
    config.warmstart.enabled = True
    parts = assemble(config)
    assert starting_params(config, parts, tmp_path, progress=lambda *_: None)["embedding"].shape == (n_ids, 96)


def test_a_folder_of_tokenizer_files_alone_is_a_tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    parts = assemble(config_of("qwen2.5-0.5b", has_random_weights=True, tokenizer=str(tmp_path)))
    assert (parts.tokenizer.eos_ids, parts.spec.vocab_size) == ((1,), 151_936)


def test_a_chat_template_makes_prompts_longer(qwen2):
    plain, chat = config_of(qwen2), config_of(qwen2, uses_chat_template=True)
    lengths = [assemble(config).plan.max_prompt_tokens for config in (plain, chat)]
    assert lengths[0] < lengths[1]


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(olmo2, tmp_path):
    save_model(tmp_path, "qwen2", vocab_size=200)
    (problem,) = problems_of(config_of(tmp_path, tokenizer=str(olmo2)))
    n_ids = len(Tokenizer.from_file(str(olmo2 / "tokenizer.json")).get_vocab())
    assert (
        f"the tokenizer of '{olmo2}' has ids up to {n_ids - 1}, and model.name='{tmp_path}' has a vocabulary of 200"
        in problem
    )


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    save_model(tmp_path, "qwen2")
    save_tokenizer(tmp_path, eos=None)
    (problem,) = problems_of(config_of(tmp_path))
    assert problem.startswith(f"model.name='{tmp_path}': the tokenizer {tmp_path} names no EOS token")


def test_an_answer_that_cannot_be_written_is_refused():
    class WithoutDigits(CharTokenizer):
        def completion_lengths(self, texts):
            raise ValueError(f"cannot encode {texts[0]!r}")

    task = build_task(config_of("builtin").task)
    with pytest.raises(c.ConfigError, match=r"task 'digits', answers: cannot encode '\d+'"):
        longest_completion_tokens(task, WithoutDigits(), is_demonstration=False)


def test_rollouts_longer_than_the_model_was_made_for_are_refused(tmp_path):
    save_published(tmp_path, "qwen2", max_positions=8)
    (problem,) = problems_of(config_of(tmp_path))
    assert "more than the 8 positions" in problem


def test_a_model_of_another_kind_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "mamba"})
    (problem,) = problems_of(config_of(tmp_path))
    assert problem.startswith(f"model.name='{tmp_path}': ")
    assert "mamba" in problem


def test_a_hub_id_that_is_not_here_is_refused_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (problem,) = problems_of(config_of("someone/a-model"))
    assert problem.startswith("model.name='someone/a-model': ")
    assert "HF_HUB_OFFLINE" in problem or "offline" in problem


def test_a_damaged_config_is_not_taken_for_a_damaged_tokenizer(tmp_path):
    save_published(tmp_path, "qwen2")
    for content, words in (("[]", "holds list, not an object"), ('{"model_type": ["qwen2"]}', "is not supported")):
        (tmp_path / "config.json").write_text(content)
        (problem,) = problems_of(config_of(tmp_path))
        assert problem.startswith(f"model.name='{tmp_path}': {tmp_path / 'config.json'}")
        assert words in problem
        assert "tokenizer" not in problem


@pytest.mark.parametrize(
    ("key", "value"), [("model.layers.1.mlp.up_proj.weight", np.nan), ("model.norm.weight", -np.inf)]
)
def test_numbers_that_are_none_are_found_when_weights_are_read(key, value, tmp_path):
    save_published(tmp_path, "qwen2")
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors[key].flat[-1] = value
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = config_of(tmp_path)
    with pytest.raises(c.ConfigError, match=rf"has numbers that are NaN or infinite in {key}; fetch the files again"):
        starting_params(config, assemble(config), tmp_path, progress=never)


def test_weights_that_are_not_the_models_are_one_clear_message(olmo2, qwen2, tmp_path):
    save_published(tmp_path, "olmo2")
    (tmp_path / "model.safetensors").write_bytes((qwen2 / "model.safetensors").read_bytes())
    config = config_of(tmp_path)
    with pytest.raises(c.ConfigError, match=r"model\.name=.* does not hold the weights of its config\.json") as refused:
        starting_params(config, assemble(config), tmp_path, progress=never)
    assert "model.layers.0.self_attn.q_proj.bias" in str(refused.value)

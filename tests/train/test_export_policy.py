"""A checkpoint of a run as a folder in the HF layout: the same weights, and what cannot be written."""

import copy
import json
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_folder import save_published, save_tokenizer, write_json
from safetensors.numpy import load_file

from rlvr_jax.models.hf_config import read_hf_model
from rlvr_jax.models.load_hf import load_params
from rlvr_jax.models.lora import LoraSpec, merged_params
from rlvr_jax.models.tokenizer import CharTokenizer
from rlvr_jax.train import config as c
from rlvr_jax.train import export_policy as export_module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.export_policy import export_policy
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.run_directory import config_as_json
from rlvr_jax.train.starting_policy import starting_params
from rlvr_jax.train.starting_state import starting_state


def saved_run(config, folder):
    """A checkpoint of update 3 with weights unlike those at the start, and these weights."""
    parts = assemble(config)
    start = starting_params(config, parts, folder / "cache", progress=lambda *_: None)
    state = starting_state(config, parts, start, build_programs(config, parts).optimizer)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), state.params
    )
    checkpoints = Checkpoints(folder / "checkpoints", keep_newest=1, keep_best=0)
    checkpoints.save(state.replace(params=moved), {"update": 3}, update=3, accuracy=None)
    checkpoints.close()
    return start, moved


def exported(config, run, out, **options):
    return export_policy(config, run, out, **({"is_adapter": False, "dtype": "", "max_shard_mib": 100} | options))


def loaded(folder):
    whole = load_params(folder, read_hf_model(folder), place=lambda _, shape, read: read((slice(None),) * len(shape)))
    return flax.traverse_util.flatten_dict(whole, sep="/")


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


@pytest.fixture(scope="module")
def builtin(module_config, tmp_path_factory):
    """(config, run, its weights) of a built-in model."""
    config, run = copy.deepcopy(module_config), tmp_path_factory.mktemp("builtin")
    config.warmstart.enabled = False
    return config, run, saved_run(config, run)[1]


@pytest.fixture(scope="module")
def published(module_config, tmp_path_factory):
    """(config, run, weights under the adapter, its factors) of a published model."""
    folder = tmp_path_factory.mktemp("published")
    config = copy.deepcopy(module_config)
    config.warmstart.enabled = False
    config.model = c.ModelConfig(name=str(save_published(folder / "model", "olmo2")))
    config.lora = c.LoraConfig(enabled=True, rank=2, alpha=3.0)
    return config, folder, *saved_run(config, folder)


def test_a_built_in_model_becomes_a_published_architecture_with_the_same_weights(builtin, tmp_path):
    config, run, params = builtin
    said = exported(config, run, tmp_path / "out")
    assert said == f"{tmp_path / 'out'}: llama of update 3, float32"
    model = read_hf_model(tmp_path / "out")
    assert (model.spec, model.family) == (assemble(config).spec, "llama")
    assert {name: model.config[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")} == {
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 2
    for path, leaf in loaded(tmp_path / "out").items():
        np.testing.assert_array_equal(leaf, flat(params)[path], err_msg=path)


def test_the_character_tokenizer_is_read_by_transformers_with_the_same_ids(builtin, tmp_path):
    config, run, _ = builtin
    exported(config, run, tmp_path / "out")
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True), CharTokenizer()
    text = "What is 3 * (4 - 1)?\n  It's 9 <ok> ~\\\"."
    assert theirs(text)["input_ids"] == ours.encode_prompt(text)
    assert theirs.decode(ours.encode_prompt(text), skip_special_tokens=True) == text
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    assert len(theirs) == ours.vocab_size


def test_an_exported_built_in_model_is_a_published_model_itself(builtin, tmp_path):
    config, run, params = builtin
    exported(config, run, tmp_path / "out")
    config = copy.deepcopy(config)
    config.model = c.ModelConfig(name=str(tmp_path / "out"))
    parts = assemble(config)
    loaded_params = flat(starting_params(config, parts, tmp_path, progress=lambda *_: None))
    for path, leaf in flat(params).items():
        np.testing.assert_array_equal(loaded_params[path], leaf, err_msg=path)
    assert parts.tokenizer.encode_prompt("1+2=") == CharTokenizer().encode_prompt("1+2=")
    assert parts.tokenizer.eos_ids == (2,)


def test_a_dtype_and_a_size_of_files_can_be_asked_for(builtin, tmp_path):
    config, run, params = builtin
    assert exported(config, run / "checkpoints" / "3", tmp_path / "out", dtype="bfloat16").endswith("3, bfloat16")
    assert read_hf_model(tmp_path / "out").config["torch_dtype"] == "bfloat16"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(value.dtype) for value in tensors.values()} == {"bfloat16"}
    expected = np.asarray(params["embedding"].astype(jnp.bfloat16))
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], expected)


def test_an_adapter_is_merged_into_the_published_weights(published, tmp_path):
    config, run, start, factors = published
    said = exported(config, run, tmp_path / "out")
    assert said.endswith("olmo2 of update 3, its adapter merged, float32")
    merged = flat(merged_params(start, factors, LoraSpec(2, 3.0, config.lora.targets)))
    for path, leaf in loaded(tmp_path / "out").items():
        np.testing.assert_array_equal(leaf, merged[path], err_msg=path)
    changed = [path for path, leaf in merged.items() if np.abs(leaf - flat(start)[path]).max() > 1e-3]
    assert {path.rsplit("/", 1)[1] for path in changed} == set(config.lora.targets)


def test_an_adapter_is_merged_in_fp32_whatever_the_passes_are_in(published, tmp_path):
    config, run, start, factors = published
    config = copy.deepcopy(config)
    config.model.compute_dtype = "bfloat16"
    exported(config, run, tmp_path / "out")
    merged = flat(merged_params(start, factors, LoraSpec(2, 3.0, config.lora.targets)))
    for path, leaf in loaded(tmp_path / "out").items():
        np.testing.assert_array_equal(leaf, merged[path], err_msg=path)


@pytest.mark.parametrize("is_adapter", [False, True])
def test_an_adapter_is_not_joined_with_other_weights_than_it_was_trained_beside(published, tmp_path, is_adapter):
    config, run = published[:2]
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    record = {"config": config_as_json(config), "starting_params": "0123456789abcdef"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"was trained beside other weights \(0123456789abcdef\)"):
        exported(config, tmp_path / "run", tmp_path / "out", is_adapter=is_adapter)
    assert not (tmp_path / "out").exists()


def test_files_of_the_published_model_come_along(published, tmp_path):
    config, run, *_ = published
    exported(config, run, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "model" / name).read_bytes()
    source = json.loads((run / "model" / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == source | {"torch_dtype": "float32"}


@pytest.mark.parametrize("has_generation_config", [True, False])
def test_an_eos_that_only_the_tokenizer_names_ends_generations_too(published, tmp_path, has_generation_config):
    source = tmp_path / "model"
    shutil.copytree(published[1] / "model", source)
    fields = {"eos_token_id": 2, "temperature": 0.5} if has_generation_config else {}
    (source / "generation_config.json").unlink()
    if has_generation_config:
        write_json(source / "generation_config.json", fields)
    config = copy.deepcopy(published[0])
    config.model.name = str(source)
    exported(config, published[1], tmp_path / "out")
    expected = fields | {"eos_token_id": [1, 2] if has_generation_config else 1}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == expected


@pytest.mark.parametrize("is_char", [True, False])
def test_with_another_tokenizer_its_token_ids_take_the_place_of_the_models(published, tmp_path, is_char):
    source, other = tmp_path / "model", tmp_path / "tokenizer"
    shutil.copytree(published[1] / "model", source)
    fields = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", fields | {"bos_token_id": 9, "eos_token_id": 300, "pad_token_id": 301})
    save_tokenizer(other, eos="<|turn|>", pad_token="<|pad|>")
    write_json(other / "generation_config.json", {"pad_token_id": 7, "top_p": 0.5})
    config = copy.deepcopy(published[0])
    config.model = c.ModelConfig(name=str(source), tokenizer="char" if is_char else str(other))
    exported(config, published[1], tmp_path / "out")
    bos, eos, pad = (1, 2, 0) if is_char else (0, 2, 3)
    expected = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {name: value for name, value in found.items() if name != "_from_model_config"} == expected | (
        {} if is_char else {"top_p": 0.5}
    )
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: found[name] for name in expected} == expected


def test_the_base_of_an_adapter_is_found_from_everywhere(published, tmp_path, monkeypatch):
    folder = tmp_path / "me" / "olmo2@v1"  # which is no revision of me/olmo2
    shutil.copytree(published[1] / "model", folder)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    config = copy.deepcopy(published[0])
    config.model.name = "~/olmo2@v1"
    exported(config, published[1], tmp_path / "out", is_adapter=True)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (str(folder.resolve()), None)


def test_an_adapter_alone_is_written_for_peft(published, tmp_path):
    config, run, _, factors = published
    said = exported(config, run, tmp_path / "out", is_adapter=True)
    assert "the adapter of update 3 in the layout of peft" in said
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 3.0)
    assert settings["base_model_name_or_path"] == config.model.name
    down = load_file(tmp_path / "out" / "adapter_model.safetensors")[
        "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    ]
    np.testing.assert_array_equal(down, factors["layers"]["mlp"]["up"]["lora_down"][1].T)


def test_options_that_do_not_fit_are_refused_together(builtin, published, tmp_path):
    with pytest.raises(ConfigError) as raised:
        exported(builtin[0], builtin[1], tmp_path / "out", is_adapter=True, dtype="int8", max_shard_mib=0)
    message = str(raised.value)
    for words in ("trains whole weights", "an adapter is written in float32", "must be one of float32", "at least 1"):
        assert words in message
    config = copy.deepcopy(published[0])
    config.model.has_random_weights = True
    with pytest.raises(ConfigError, match=r"published nowhere .*model.has_random_weights=True"):
        exported(config, published[1], tmp_path / "out", is_adapter=True)
    assert not (tmp_path / "out").exists()


def test_a_model_that_no_published_architecture_computes_is_refused(builtin, tmp_path):
    config = copy.deepcopy(builtin[0])
    config.model.has_post_norm = True
    with pytest.raises(ValueError, match=r"no published architecture has has_attention_bias=False with qk_norm='none'"):
        exported(config, builtin[1], tmp_path / "out")


def test_a_folder_in_use_is_refused_before_anything_is_computed(builtin, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(export_module, "assemble", lambda config: pytest.fail("too late"))
    with pytest.raises(ConfigError, match=r"exists and is not empty; name another folder"):
        exported(builtin[0], builtin[1], tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(builtin, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "assemble", lambda config: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for out in (tmp_path / "file" / "below" / "out", tmp_path / "circle" / "out", Path("/proc/out")):
        with pytest.raises(ConfigError, match=rf"--out={out} cannot be written \(.+\); name another folder"):
            exported(builtin[0], builtin[1], out)


def test_a_checkpoint_that_is_not_there_is_refused(builtin, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no complete checkpoint of update 7; it has \[3\]"):
        exported(builtin[0], builtin[1] / "checkpoints" / "7", tmp_path / "out")
    assert not (tmp_path / "out").exists()

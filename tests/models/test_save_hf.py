"""Our parameters as folders in the HF layout, and back."""

import json
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))
from hf_checkpoints import FAMILIES, random_tensors, whole, write

from rlvr_jax.models import save_hf as save_hf_module
from rlvr_jax.models.hf_config import read_hf_model
from rlvr_jax.models.load_hf import load_params
from rlvr_jax.models.lora import LORA_TARGETS, LoraSpec, lora_table, merged_params
from rlvr_jax.models.save_hf import save_hf, save_peft
from rlvr_jax.models.spec import initial_values

GIB = 2**30


def saved(source, folder, *, dtype="float32", max_shard_bytes=GIB, tokenizer_files=()):
    model = read_hf_model(source)
    params = jax.tree.map(jax.numpy.asarray, load_params(source, model, place=whole))
    save_hf(folder, params, model, dtype=dtype, max_shard_bytes=max_shard_bytes, tokenizer_files=list(tokenizer_files))
    return folder


def tensors_in(folder):
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_checkpoint_that_is_read_and_written_is_the_same_byte_for_byte(family, dtype, tmp_path):
    tensors = random_tensors(family, dtype=ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    again = tensors_in(saved(write(tmp_path / "in", family, tensors), tmp_path / "out", dtype=dtype))
    assert set(again) == set(tensors)
    for key, value in tensors.items():
        assert (again[key].dtype, again[key].shape) == (value.dtype, value.shape)
        assert again[key].tobytes() == value.tobytes(), key


def test_files_are_no_larger_than_asked_for_and_an_index_says_what_is_where(tmp_path):
    tensors = random_tensors("llama")
    folder = saved(write(tmp_path / "in", "llama", tensors), tmp_path / "out", max_shard_bytes=3_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 2
    largest = 12 * 20 * 4  # of mlp.up: a file that it would have fitted in was closed too early
    assert all(path.stat().st_size > 3_000 - largest for path in sorted(folder.glob("*.safetensors"))[:-1])
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    for name in files:
        with safe_open(folder / name, "np") as handle:
            assert handle.metadata() == {"format": "pt"}
            assert {key for key, file in index["weight_map"].items() if file == name} == set(handle.keys())
            assert sum(tensors[key].nbytes for key in handle.keys()) <= 3_000  # noqa: SIM118  a handle is no mapping
    assert set(index["weight_map"]) == set(tensors)
    np.testing.assert_array_equal(
        load_params(folder, read_hf_model(folder), place=whole)["head"], tensors["lm_head.weight"].T
    )


def test_parameters_spread_over_devices_are_saved_whole(tmp_path):
    tensors = random_tensors("olmo2")
    source = write(tmp_path / "in", "olmo2", tensors)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"))

    def place(path, shape, read):
        axes = ["fsdp" if size % 4 == 0 else "tensor" if size % 2 == 0 else None for size in shape]
        axes = [axis if axis not in axes[:i] else None for i, axis in enumerate(axes)]
        return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(*axes)), read)

    model = read_hf_model(source)
    params = load_params(source, model, place=place)
    assert len(params["layers"]["mlp"]["up"].sharding.device_set) == 8
    save_hf(tmp_path / "out", params, model, dtype="float32", max_shard_bytes=GIB, tokenizer_files=[])
    for key, value in tensors_in(tmp_path / "out").items():
        np.testing.assert_array_equal(value, tensors[key])


def test_a_tensor_larger_than_a_file_may_be_has_one_of_its_own(tmp_path):
    tensors = random_tensors("qwen2")
    folder = saved(write(tmp_path / "in", "qwen2", tensors), tmp_path / "out", max_shard_bytes=1)
    assert len(list(folder.glob("*.safetensors"))) == len(tensors)


def test_config_token_ids_and_tokenizer_files_come_along(tmp_path):
    source = write(tmp_path / "in", "llama", random_tensors("llama"))
    config = FAMILIES["llama"] | {"eos_token_id": [2, 7], "pad_token_id": 0, "torch_dtype": "float32", "anything": 5}
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text("{}")
    folder = saved(source, tmp_path / "out", dtype="bfloat16", tokenizer_files=[source / "tokenizer.json"])
    assert json.loads((folder / "config.json").read_text()) == config | {"torch_dtype": "bfloat16"}
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "_from_model_config": True, "eos_token_id": [2, 7], "pad_token_id": 0,
    }  # fmt: skip
    assert (folder / "tokenizer.json").read_text() == "{}"
    (source / "generation_config.json").write_text('{"eos_token_id": 9}')
    folder = saved(source, tmp_path / "again", tokenizer_files=[source / "generation_config.json"])
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": 9}


@pytest.mark.parametrize("error", [OSError("no space left"), SafetensorError("I/O error: no space left")])
def test_a_reader_sees_all_of_a_folder_or_nothing(error, tmp_path, monkeypatch):
    source = write(tmp_path / "in", "llama", random_tensors("llama"))
    n_written, original = [], save_hf_module.save_file

    def full_disk(arrays, path, metadata):
        assert not (tmp_path / "out").exists()
        n_written.append(path)
        if len(n_written) == 2:
            raise error
        original(arrays, path, metadata=metadata)

    monkeypatch.setattr(save_hf_module, "save_file", full_disk)
    with pytest.raises(
        OSError, match=r"writing .*/out failed \(.*no space left\); nothing is left of it; free the disk"
    ):
        saved(source, tmp_path / "out", max_shard_bytes=3_000)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_to_an_empty_folder_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    saved(write(tmp_path / "in", "llama", random_tensors("llama")), tmp_path / "out")
    assert (tmp_path / "there" / "model.safetensors").is_file()
    assert (tmp_path / "out").is_symlink()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    source = write(tmp_path / "in", "llama", random_tensors("llama"))
    with pytest.raises(OSError, match=r"config.json/out cannot be made \(Not a directory\); name another folder"):
        saved(source, source / "config.json" / "out")


def test_what_is_there_already_is_not_overwritten(tmp_path):
    source = write(tmp_path / "in", "llama", random_tensors("llama"))
    (tmp_path / "out").mkdir()
    folder = saved(source, tmp_path / "out")  # an empty one is taken
    with pytest.raises(ValueError, match=r"out exists and is not empty; name another folder, or remove it"):
        saved(source, folder)
    with pytest.raises(ValueError, match=r"dtype 'int8' is none of float32, bfloat16, float16"):
        saved(source, tmp_path / "other", dtype="int8")


def test_numbers_that_the_dtype_cannot_hold_are_not_saved_as_infinite(tmp_path):
    tensors = random_tensors("llama")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = 7e4
    source = write(tmp_path / "in", "llama", tensors)
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.down_proj.weight has numbers above 65504"):
        saved(source, tmp_path / "out", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_adapter_is_laid_out_as_peft_has_it(tmp_path):
    model = read_hf_model(write(tmp_path / "in", "olmo2", random_tensors("olmo2")))
    lora = LoraSpec(rank=2, alpha=3.0, targets=("query", "out", "down"))
    factors = random_factors(model.spec, lora)
    save_peft(tmp_path / "out", factors, lora, model, base_name="me/base@v1")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 3.0, ["q_proj", "o_proj", "down_proj"])
    assert (config["base_model_name_or_path"], config["revision"], config["bias"]) == ("me/base", "v1", "none")
    tensors = tensors_in(tmp_path / "out")
    assert len(tensors) == 2 * 2 * 3  # two factors, two layers, three matrices
    names = {"query": "self_attn.q_proj", "out": "self_attn.o_proj", "down": "mlp.down_proj"}
    merged = merged_params(jax.tree.map(np.zeros_like, load_params(tmp_path / "in", model, place=whole)), factors, lora)
    for name, module in names.items():
        block = "mlp" if name == "down" else "attention"
        for layer in range(2):
            key = f"base_model.model.model.layers.{layer}.{module}"
            down, up = tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"]  # [r, in], [out, r]
            ours = merged["layers"][block][name][layer]
            n_out = up.shape[0]
            np.testing.assert_allclose(3.0 / 2 * up @ down, np.reshape(ours, (-1, n_out)).T, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(down[0], np.asarray(pair(factors, name)["lora_down"])[layer, ..., 0].ravel())


def test_merged_weights_are_the_frozen_ones_and_the_scaled_product_of_the_factors(tmp_path):
    model = read_hf_model(write(tmp_path, "llama", random_tensors("llama")))
    frozen = load_params(tmp_path, model, place=whole)
    lora = LoraSpec(rank=3, alpha=4.0, targets=LORA_TARGETS)
    factors = random_factors(model.spec, lora)
    merged = merged_params(frozen, factors, lora)
    out, up = merged["layers"]["attention"]["out"], merged["layers"]["mlp"]["up"]
    lhkr, lrd = pair(factors, "out").values()
    expected = frozen["layers"]["attention"]["out"] + 4 / 3 * np.einsum("lhkr,lrd->lhkd", lhkr, lrd)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    ldr, lrf = pair(factors, "up").values()
    expected = frozen["layers"]["mlp"]["up"] + 4 / 3 * np.einsum("ldr,lrf->ldf", ldr, lrf)
    np.testing.assert_allclose(up, expected, rtol=1e-5, atol=1e-5)
    assert merged["layers"]["attention"]["norm"] is frozen["layers"]["attention"]["norm"]
    assert merged["embedding"] is frozen["embedding"]


def random_factors(spec, lora):
    factors = initial_values(lora_table(spec, lora), jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.key(leaf.size), leaf.shape), factors)


def pair(factors, name):
    return factors["layers"]["attention" if name in ("query", "out") else "mlp"][name]

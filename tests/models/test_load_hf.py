"""Checkpoints in the HF layout into our parameters: which number goes where, and which files are refused."""

import json
import sys
import tracemalloc
from pathlib import Path

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from hf_checkpoints import FAMILIES, L, ours, random_tensors, whole, write

from rlvr_jax.models.checkpoint_files import Tensors
from rlvr_jax.models.hf_config import read_hf_model
from rlvr_jax.models.hf_layout import hf_layout
from rlvr_jax.models.load_hf import load_params
from rlvr_jax.models.spec import parameter_table

LAST_NORM = f"model.layers.{L - 1}.post_attention_layernorm.weight"


def loaded(folder, place=whole):
    return flax.traverse_util.flatten_dict(load_params(folder, read_hf_model(folder), place=place), sep="/")


def refusal(folder):
    with pytest.raises(ValueError, match=r"does not hold the weights of its config.json") as raised:
        loaded(folder)
    return str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_where_the_family_means_it(family, tmp_path):
    tensors = random_tensors(family)
    flat = loaded(write(tmp_path, family, tensors))
    spec = read_hf_model(tmp_path).spec
    assert {path: leaf.shape for path, leaf in flat.items()} == {
        path: row.shape for path, row in parameter_table(spec).items()
    }
    for path, expected in ours(family, tensors).items():
        np.testing.assert_array_equal(flat[path], expected, err_msg=path)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_stored_floats_are_read_exactly_whatever_their_width(dtype, tmp_path):
    tensors = random_tensors("qwen2", dtype=dtype)
    flat = loaded(write(tmp_path, "qwen2", tensors))
    assert {leaf.dtype for leaf in flat.values()} == {np.dtype(np.float32)}
    for path, expected in ours("qwen2", tensors).items():
        np.testing.assert_array_equal(flat[path], expected, err_msg=path)


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_are_one_checkpoint_with_or_without_an_index(has_index, tmp_path):
    tensors = random_tensors("llama")
    flat = loaded(write(tmp_path, "llama", tensors, n_shards=3, has_index=has_index))
    for path, expected in ours("llama", tensors).items():
        np.testing.assert_array_equal(flat[path], expected)


def test_any_slice_of_a_parameter_is_that_slice_of_it(tmp_path):
    rng = np.random.default_rng(0)

    def place(path, shape, read):
        leaf = whole(path, shape, read)
        for _ in range(8):
            bounds = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
            index = tuple(slice(int(first), int(last)) for first, last in bounds)
            np.testing.assert_array_equal(read(index), leaf[index], err_msg=f"{path} {index}")
        assert read((slice(None, 1), *[slice(None)] * (len(shape) - 1))).shape == (1, *shape[1:])
        return leaf

    for family in FAMILIES:
        loaded(write(tmp_path / family, family, random_tensors(family)), place)


def test_parameters_can_be_spread_over_devices_as_they_are_read(tmp_path):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
    tensors = random_tensors("olmo2")

    def place(path, shape, read):
        axes = [None] * len(shape)
        for axis, size in enumerate(shape):
            if size % 2 == 0 and "fsdp" not in axes:
                axes[axis] = "fsdp"
            elif size % 2 == 0 and "tensor" not in axes:
                axes[axis] = "tensor"
        return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(*axes)), read)

    flat = loaded(write(tmp_path, "olmo2", tensors), place)
    assert flat["layers/mlp/up"].addressable_shards[0].data.size < flat["layers/mlp/up"].size
    for path, expected in ours("olmo2", tensors).items():
        np.testing.assert_array_equal(flat[path], expected, err_msg=path)


def test_only_what_a_slice_needs_is_read(tmp_path, monkeypatch):
    n_read, original = [], Tensors.read

    def counted(self, key, index):
        values = original(self, key, index)
        n_read.append(values.size)
        return values

    monkeypatch.setattr(Tensors, "read", counted)

    def place(path, shape, read):
        if path != "layers/attention/query":
            return np.zeros(shape)
        n_read.clear()
        read((slice(1, 2), slice(0, 12), slice(1, 3), slice(0, 4)))  # a layer of two, two heads of three
        assert sum(n_read) == 2 * 4 * 12
        return np.zeros(shape)

    loaded(write(tmp_path, "llama", random_tensors("llama")), place)


def test_the_host_holds_one_row_of_the_table_at_a_time(tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 64}
    config = FAMILIES["llama"] | wide | {"num_attention_heads": 64, "num_key_value_heads": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = read_hf_model(tmp_path)
    tensors = {
        key: np.zeros(tensor.hf_shape, ml_dtypes.bfloat16)
        for tensor in hf_layout(model.spec).values()
        for key in tensor.keys
    }
    save_file(tensors, tmp_path / "model.safetensors")
    del tensors
    tracemalloc.start()
    load_params(tmp_path, model, place=lambda path, shape, read: whole(path, shape, read).sum())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    row, tensor = 4 * 256 * 1024 * 4, 256 * 1024 * 2  # a matrix of the mlp: 4 layers of f32, one of bf16
    assert row < peak < row + 4 * tensor  # one layer is in the file's dtype, turned, and on its way to f32


# What is wrong with the files, all of it at once.


def test_missing_left_over_and_misshapen_tensors_and_other_dtypes_are_one_message(tmp_path):
    tensors = random_tensors("llama")
    del tensors[LAST_NORM]
    tensors["model.layers.0.self_attn.q_proj.lora_A"] = np.zeros(2, np.float32)
    tensors["model.norm.weight"] = np.zeros(5, np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((20, 12), np.int8)
    message = refusal(write(tmp_path, "llama", tensors))
    assert message.splitlines() == [
        f"{tmp_path} does not hold the weights of its config.json:",
        f"  missing: {LAST_NORM}",
        "  left over: model.layers.0.self_attn.q_proj.lora_A",
        "  of another shape: model.norm.weight is [5] and should be [12]",
        "  of a dtype that is none of F32, F16, BF16: model.layers.0.mlp.up_proj.weight is I8",
        "fetch the files again",
    ]


def test_a_long_list_is_cut_after_a_few_names(tmp_path):
    message = refusal(write(tmp_path, "llama", {"model.norm.weight": np.zeros(12, np.float32)}))
    assert "missing: model.embed_tokens.weight, model.layers.0" in message
    assert " and 15 more" in message  # 2 + 2 * 9 tensors in all but one; 5 are named


def test_a_missing_shard_is_named_and_what_it_would_hold_is_not(tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"), n_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "  model-00002-of-00003.safetensors is missing\n" in message
    assert "missing: model" not in message
    (folder / "model.safetensors.index.json").unlink()
    assert "  model-00002-of-00003.safetensors is missing\n" in refusal(folder)


@pytest.mark.parametrize("n_left", [0, 5, 400, -1])
def test_a_shard_that_is_cut_short_is_named(n_left, tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"), n_shards=2)
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:n_left])
    assert "model-00002-of-00002.safetensors cannot be read, it may be cut short (" in refusal(folder)


def test_an_index_that_names_what_is_not_there_is_refused(tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"), n_shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = index["weight_map"]
    files["model.norm.weight"] = next(name for name in files.values() if name != files["model.norm.weight"])
    path.write_text(json.dumps(index))
    assert "index.json says that model-" in refusal(folder)
    files["model.norm.weight"] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names ../elsewhere.safetensors, which is no file beside it"):
        loaded(folder)
    path.write_text('{"weight_map": 3}')
    with pytest.raises(ValueError, match=r"is no index of weights"):
        loaded(folder)


def test_a_file_of_weights_beside_those_of_the_index_is_refused(tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"), n_shards=2)
    save_file({"x": np.zeros(2, np.float32)}, folder / "model-00001-of-00003.safetensors")
    assert "model.safetensors.index.json does not name model-00001-of-00003.safetensors" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file({"x": np.zeros(2, np.float32)}, folder / "model.safetensors")
    assert "model.safetensors lies beside model-00001-of-00002.safetensors" in refusal(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"), n_shards=2, has_index=False)
    path = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(path) | {"model.embed_tokens.weight": np.zeros((11, 12), np.float32)}, path)
    assert "has tensors that another file has too: model.embed_tokens.weight" in refusal(folder)


def test_a_folder_without_safetensors_is_refused_with_what_it_has(tmp_path):
    folder = write(tmp_path, "llama", random_tensors("llama"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model.safetensors .*it has pytorch_model.bin, which is of another"):
        loaded(folder)


def test_rotary_frequencies_of_older_checkpoints_are_let_pass(tmp_path):
    tensors = random_tensors("llama")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    assert loaded(write(tmp_path, "llama", tensors))


def test_the_head_of_a_tied_model_may_be_there_twice_but_must_be_its_embedding(tmp_path):
    tensors = random_tensors("qwen3")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert "head" not in loaded(write(tmp_path, "qwen3", tensors))
    tensors["lm_head.weight"][10, 11] += 1
    assert "lm_head.weight differs from model.embed_tokens.weight, although tie_word_emb" in refusal(
        write(tmp_path, "qwen3", tensors)
    )

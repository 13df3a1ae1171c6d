"""Our parameters as a folder in the HF layout, whole or as an adapter that peft reads.

A folder gets its name when it is complete: a reader sees all of it or nothing.
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rlvr_jax.models.checkpoint_files import GENERATION_FILE, INDEX_FILE
from rlvr_jax.models.hf_config import CONFIG_FILE, SAVED_DTYPES, HfModel, exported_config
from rlvr_jax.models.hf_layout import HfTensor, hf_layout, hf_module
from rlvr_jax.models.lora import LORA_TARGETS, LoraSpec, n_in_axes
from rlvr_jax.models.spec import Params

METADATA = {"format": "pt"}  # transformers refuses files without


def save_hf(
    folder: Path, params: Params, model: HfModel, *, dtype: str, max_shard_bytes: int, tokenizer_files: list[Path]
) -> None:
    """Writes config.json, generation_config.json, copies of `tokenizer_files` and the weights.

    The head of a model whose head is its embedding is not written, as transformers leaves it out too. A tensor is on
    the host only while its file is written.

    Args:
        params: as of `parameter_table(model.spec)`.
        dtype: of the tensors, one of SAVED_DTYPES.
        max_shard_bytes: of one file; a larger tensor has a file of its own.
        tokenizer_files: may hold a generation_config.json; else one is made of the config's token ids.

    Raises ValueError if the folder exists with something in it, or the dtype is no such or too narrow; OSError if it
    cannot be written.
    """
    if dtype not in SAVED_DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(SAVED_DTYPES)}")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shards = _shards(_in_order(model), item_bytes=jnp.dtype(dtype).itemsize, max_shard_bytes=max_shard_bytes)
    with _complete_or_absent(folder) as partial:
        file_of_key = {}
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            arrays = {key: _cast(key, _theirs(flat[path], tensor, layer), dtype) for key, path, tensor, layer in shard}
            save_file(arrays, partial / name, metadata=METADATA)
            file_of_key |= dict.fromkeys(arrays, name)
        if len(shards) > 1:
            n_bytes = sum(_n_bytes(tensor, jnp.dtype(dtype).itemsize) for shard in shards for *_, tensor, _ in shard)
            index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(file_of_key.items()))}
            _save_json(partial / INDEX_FILE, index)
        config = exported_config(model, dtype=dtype)
        _save_json(partial / CONFIG_FILE, config)
        token_ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
        _save_json(partial / GENERATION_FILE, {"_from_model_config": True, **token_ids})
        for path in tokenizer_files:
            shutil.copyfile(path, partial / path.name)


def save_peft(folder: Path, factors: Params, lora: LoraSpec, model: HfModel, *, base_name: str) -> None:
    """Writes an adapter as peft lays it out, f32: adapter_config.json and adapter_model.safetensors.

    Args:
        factors: as of `lora_table(model.spec, lora)`.
        base_name: where peft finds the frozen weights, a folder or OWNER/NAME[@REVISION].

    Raises ValueError if the folder exists with something in it, OSError if it cannot be written.
    """
    flat, arrays = flax.traverse_util.flatten_dict(factors, sep="/"), {}
    for path, leaf in flat.items():
        *_, matrix, factor = path.split("/")
        n_in = n_in_axes(matrix) if factor == "lora_down" else 1
        for layer in range(model.spec.n_layers):
            ours = np.asarray(leaf[layer], np.float32)
            theirs = ours.reshape(math.prod(ours.shape[:n_in]), -1).T  # [r, in] and [out, r]
            side = {"lora_down": "lora_A", "lora_up": "lora_B"}[factor]
            key = f"base_model.model.model.layers.{layer}.{hf_module(matrix)}.{side}.weight"
            arrays[key] = np.ascontiguousarray(theirs)
    name, revision = base_name, None
    if not Path(base_name).is_dir() and "@" in base_name:
        name, revision = base_name.rsplit("@", 1)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": [hf_module(matrix).rsplit(".", 1)[-1] for matrix in LORA_TARGETS if matrix in lora.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }
    with _complete_or_absent(folder) as partial:
        save_file(arrays, partial / "adapter_model.safetensors", metadata=METADATA)
        _save_json(partial / "adapter_config.json", config)


def _in_order(model: HfModel) -> list[tuple[str, str, HfTensor, int | None]]:
    """(key, path, tensor, layer) as the tensors follow each other in the network."""
    entries = [
        (key, path, tensor, None if tensor.n_layers is None else layer)
        for path, tensor in hf_layout(model.spec).items()
        for layer, key in enumerate(tensor.keys)
    ]

    def place(entry: tuple[str, str, HfTensor, int | None]) -> tuple[int, int]:
        _, path, _, layer = entry
        return ("embedding", "layers", "final_norm", "head").index(path.split("/")[0]), layer or 0

    return sorted(entries, key=place)


def _shards(entries: list[tuple], *, item_bytes: int, max_shard_bytes: int) -> list[list[tuple]]:
    shards: list[list[tuple]] = [[]]
    n_bytes = 0
    for entry in entries:
        size = _n_bytes(entry[2], item_bytes)
        if shards[-1] and n_bytes + size > max_shard_bytes:
            shards.append([])
            n_bytes = 0
        shards[-1].append(entry)
        n_bytes += size
    return shards


def _n_bytes(tensor: HfTensor, item_bytes: int) -> int:
    return math.prod(tensor.shape) * item_bytes


def _theirs(leaf: jax.Array, tensor: HfTensor, layer: int | None) -> np.ndarray:
    return tensor.as_theirs(np.asarray(leaf if layer is None else leaf[layer]))


@contextlib.contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `folder` at the end of the block, or goes if the block fails.

    Raises ValueError if there is something in `folder`, OSError if it cannot be written.
    """
    folder = folder.resolve()  # where a link points, since no folder can take the place of a link
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name another folder, or remove it")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")  # beside it: renaming needs the same disk
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{folder} cannot be made ({error.strerror}); name another folder") from error
    try:
        yield partial
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter of a full disk, too
        raise OSError(
            f"writing {folder} failed ({error}); nothing is left of it; free the disk or name another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _cast(key: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """In C order, since safetensors writes the buffer as it lies. Raises ValueError if a number has no room."""
    with np.errstate(over="ignore"):  # said below
        cast = np.ascontiguousarray(values.astype(dtype))
    if dtype == "float16" and (np.isinf(cast) & np.isfinite(values)).any():
        raise ValueError(f"{key} has numbers above 65504, which float16 cannot hold; save as bfloat16 or float32")
    return cast


def _save_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

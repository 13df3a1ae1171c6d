"""Weights of a published model into our parameters, one row of the table at a time.

Nothing is read before every tensor is accounted for: all that is missing, left over, of another shape or
of a dtype that is no plain float is said in one message.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np

from rlvr_jax.models.checkpoint_files import READ_DTYPES, Tensors, open_tensors, shown
from rlvr_jax.models.hf_config import HfModel
from rlvr_jax.models.hf_layout import EMBEDDING_KEY, HEAD_KEY, HfTensor, hf_layout
from rlvr_jax.models.spec import Params

ReadSlice = Callable[[tuple[slice, ...]], np.ndarray]
Place = Callable[[str, tuple[int, ...], ReadSlice], jax.Array]
COMPARED_ROWS = 4_096


def load_params(folder: Path, model: HfModel, *, place: Place) -> Params:
    """The parameters of a checkpoint in the HF layout.

    A tensor is read in the parts that `place` asks for, so that the host never holds more than one row of the table
    (all layers of one matrix) besides what `place` keeps.

    Args:
        place: (path, shape, read) -> array, called once per row of `parameter_table(model.spec)`; `read(index)` is
            that slice of it as f32, index one slice of step 1 per axis.

    Raises ValueError with all that is wrong with the files.
    """
    problems: list[str] = []
    layout = hf_layout(model.spec)
    with open_tensors(folder, problems) as tensors:
        problems += _unaccounted(tensors, layout, has_tied_head=model.spec.has_tied_head, are_all_open=not problems)
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems)
            raise ValueError(f"{folder} does not hold the weights of its config.json:{listed}\nfetch the files again")
        flat = {}
        for path, tensor in layout.items():
            shape = tensor.shape if tensor.n_layers is None else (tensor.n_layers, *tensor.shape)
            flat[path] = place(path, shape, build_read(tensors, tensor))
        return flax.traverse_util.unflatten_dict(flat, sep="/")


def build_read(tensors: Tensors, tensor: HfTensor) -> ReadSlice:
    """Returns `read(index) -> f32` of one row of our table; only what a slice needs is read from the files."""
    keys = tensor.keys

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if tensor.n_layers is None:
            return _ours(tensors, keys[0], tensor, index).astype(np.float32)
        layers = range(tensor.n_layers)[index[0]]
        sizes = [len(range(size)[part]) for size, part in zip(tensor.shape, index[1:], strict=True)]
        out = np.empty((len(layers), *sizes), np.float32)
        for i, layer in enumerate(layers):
            out[i] = _ours(tensors, keys[layer], tensor, index[1:])
        return out

    return read


def _ours(tensors: Tensors, key: str, tensor: HfTensor, index: tuple[slice, ...]) -> np.ndarray:
    """A slice of one tensor in our shape and the file's dtype.

    Axes that are one axis there are read as far as the first of them says; the others are cut afterwards.
    """
    n_in = tensor.n_in_axes
    groups = ([tensor.shape[n_in:], index[n_in:]], [tensor.shape[:n_in], index[:n_in]]) if n_in else ()
    if not groups and len(tensor.hf_shape) == len(tensor.shape):
        return tensors.read(
            key, tuple(slice(*part.indices(n)[:2]) for n, part in zip(tensor.shape, index, strict=True))
        )
    if not groups:  # a bias
        groups = ([tensor.shape, index],)
    there, wanted, left = [], [], []
    for shape, parts in groups:
        first, step = parts[0].indices(shape[0])[:2], math.prod(shape[1:])
        there.append(slice(first[0] * step, first[1] * step))
        wanted.append((first[1] - first[0], *shape[1:]))
        left.append((slice(None), *parts[1:]))
    values = tensors.read(key, tuple(there))
    if n_in:
        values, wanted, left = values.T, wanted[::-1], left[::-1]
    return values.reshape(*itertools.chain(*wanted))[tuple(itertools.chain(*left))]


def _unaccounted(
    tensors: Tensors, layout: dict[str, HfTensor], *, has_tied_head: bool, are_all_open: bool
) -> list[str]:
    """What keeps the tensors from being the model's, a line each.

    Rotary frequencies that older checkpoints carry are computed from the config and are let pass. So is the head of a
    model whose head is its embedding, provided that the two are equal: the config would be wrong otherwise.
    """
    expected = {key: tensor for tensor in layout.values() for key in tensor.keys}
    found = set(tensors.shapes)
    missing = [key for key in expected if key not in found]
    extra = sorted(key for key in found - set(expected) if not key.endswith("rotary_emb.inv_freq"))
    problems = []
    if missing and are_all_open:  # else a file that is not there explains them
        problems.append(f"missing: {shown(missing)}")
    if has_tied_head and HEAD_KEY in extra:
        extra.remove(HEAD_KEY)
        if EMBEDDING_KEY in found and not _are_equal(tensors, HEAD_KEY, EMBEDDING_KEY):
            problems.append(
                f"{HEAD_KEY} differs from {EMBEDDING_KEY}, although tie_word_embeddings is true; "
                "set it to false in the config.json if the model has a head of its own"
            )
    if extra:
        problems.append(f"left over: {shown(extra)}")
    shapes = [
        f"{key} is {list(tensors.shapes[key])} and should be {list(tensor.hf_shape)}"
        for key, tensor in expected.items()
        if key in found and tensors.shapes[key] != tensor.hf_shape
    ]
    if shapes:
        problems.append(f"of another shape: {shown(shapes)}")
    dtypes = [
        f"{key} is {tensors.dtypes[key]}" for key in expected if key in found and tensors.dtypes[key] not in READ_DTYPES
    ]
    if dtypes:
        problems.append(f"of a dtype that is none of {', '.join(READ_DTYPES)}: {shown(dtypes)}")
    return problems


def _are_equal(tensors: Tensors, one: str, other: str) -> bool:
    if tensors.shapes[one] != tensors.shapes[other] or tensors.dtypes[one] != tensors.dtypes[other]:
        return False
    n_rows = tensors.shapes[one][0]
    parts = [(slice(i, min(i + COMPARED_ROWS, n_rows)),) for i in range(0, n_rows, COMPARED_ROWS)]
    return all(np.array_equal(tensors.read(one, part), tensors.read(other, part)) for part in parts)

"""The files of a checkpoint in the HF layout, here or on the Hugging Face Hub, and the tensors in them."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the bfloat16 that safetensors reads
import numpy as np
from safetensors import SafetensorError, safe_open

from rlvr_jax.models.hf_config import CONFIG_FILE
from rlvr_jax.models.hf_tokenizer import MORE_FILES, VOCABULARY_FILES

INDEX_FILE = "model.safetensors.index.json"
READ_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as named in a file, and here
GENERATION_FILE = "generation_config.json"
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")
_SHARD_NAME = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
N_SHOWN = 5  # names of each kind in a message


def checkpoint_folder(name: str, *, weights: bool) -> Path:
    """The folder of a checkpoint: `name` itself, or OWNER/NAME[@REVISION] of the Hub, from its cache where it is there.

    Of the Hub only config, tokenizer and safetensors files are fetched, the last only for `weights`; with
    HF_HUB_OFFLINE=1 nothing is. Raises ValueError with what stands in the way and the fix.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{name} is a folder without {CONFIG_FILE}; name the folder of a model in the HF layout")
        return folder
    parts = HUB_NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"there is no folder {name}, and it is no OWNER/NAME[@REVISION] of the Hugging Face Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.disable_propagation()  # it has a handler of its own, and would be heard twice

    wanted = [CONFIG_FILE, GENERATION_FILE, *VOCABULARY_FILES, *MORE_FILES]
    if weights:
        wanted += [INDEX_FILE, "model.safetensors", "model-*.safetensors"]
    repo, revision = parts["repo"], parts["revision"]
    try:
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the transport below the library, which differs between its versions
        raise _unreachable(repo, revision, error) from error
    lacking = [] if (found / CONFIG_FILE).is_file() else [CONFIG_FILE]
    if weights and not any(found.glob("*.safetensors")):
        lacking.append("safetensors files")
    if lacking:
        raise ValueError(
            f"{name} on the Hugging Face Hub has no {' and no '.join(lacking)}, or the copy here lacks them; "
            "if HF_HUB_OFFLINE is set, fetch the model once without it"
        )
    return found


class Tensors:
    """The tensors of a checkpoint by key: shapes and dtypes known, values read slice by slice."""

    def __init__(self, handle_of_key: dict[str, Any]):
        self._slice_of = {key: handle.get_slice(key) for key, handle in handle_of_key.items()}
        self.shapes = {key: tuple(part.get_shape()) for key, part in self._slice_of.items()}
        self.dtypes = {key: part.get_dtype() for key, part in self._slice_of.items()}  # as named in the file: "BF16"

    def read(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of one tensor in its own dtype."""
        return self._slice_of[key][index]


@contextlib.contextmanager
def open_tensors(folder: Path, problems: list[str]) -> Iterator[Tensors]:
    """All tensors of a folder's safetensors files, open until the end of the block.

    What cannot be opened or contradicts the index is added to `problems`, a line each. Raises ValueError if there is
    no weights file at all.
    """
    said_to_be_in = _index(folder, problems)
    names = sorted(set(said_to_be_in.values())) if said_to_be_in else _files_without_index(folder, problems)
    handle_of_key: dict[str, Any] = {}
    in_file: dict[str, set[str]] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                handle = stack.enter_context(safe_open(folder / name, framework="np"))
            except FileNotFoundError:
                problems.append(f"{name} is missing")
                continue
            except (SafetensorError, OSError) as error:
                problems.append(f"{name} cannot be read, it may be cut short ({error})")
                continue
            in_file[name] = set(handle.keys())
            twice = sorted(in_file[name] & set(handle_of_key))
            if twice:
                problems.append(f"{name} has tensors that another file has too: {shown(twice)}")
            handle_of_key |= dict.fromkeys(in_file[name], handle)
        for name, keys in in_file.items():
            lost = sorted(key for key, file in said_to_be_in.items() if file == name and key not in keys)
            if lost:
                problems.append(f"{INDEX_FILE} says that {name} has {shown(lost)}, which it has not")
        yield Tensors(handle_of_key)


def shown(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(names[:N_SHOWN]) + more


def _index(folder: Path, problems: list[str]) -> dict[str, str]:
    """File by key; {} if there is no index."""
    path = folder / INDEX_FILE
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = set(files.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of weights ({type(error).__name__}: {error}); fetch it again") from error
    outside = sorted(str(name) for name in names if not isinstance(name, str) or Path(name).name != name)
    if outside or not names:
        raise ValueError(f"{path} names {shown(outside) or 'no file'}, which is no file beside it; fetch it again")
    unnamed = sorted(set(_shards(folder)) - names)
    if unnamed:
        problems.append(f"{INDEX_FILE} does not name {shown(unnamed)}")
    return files


def _files_without_index(folder: Path, problems: list[str]) -> list[str]:
    shards = _shards(folder)
    if (folder / "model.safetensors").is_file():
        if shards:
            problems.append(f"model.safetensors lies beside {shown(shards)} without {INDEX_FILE}: keep one of both")
        return ["model.safetensors"]
    if not shards:
        others = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".safetensors")
        )
        hint = f"; it has {shown(others)}, which is of another layout or may run code when it is read" if others else ""
        raise ValueError(f"{folder} has no model.safetensors and no model-*-of-*.safetensors{hint}")
    n_shards = max((_SHARD_NAME.fullmatch(name)[2] for name in shards), key=int)
    numbers = [str(i).zfill(len(n_shards)) for i in range(1, int(n_shards) + 1)]
    return [f"model-{number}-of-{n_shards}.safetensors" for number in numbers]  # those not there are reported


def _shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name))


def _unreachable(repo: str, revision: str | None, error: Exception) -> ValueError:
    from huggingface_hub import errors

    at = "there is no such folder here, and on the Hugging Face Hub"
    if isinstance(error, errors.GatedRepoError):
        return ValueError(f"{at} {repo} is gated; accept its terms on its page, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ValueError(f"{at} there is no model {repo}; correct the name, or `hf auth login` if it is private")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{at} {repo} has no revision {revision!r}; correct what stands after the @")
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return ValueError(
        f"{at} {repo} cannot be reached and is not in the cache here ({type(error).__name__}: {why}); check the "
        "network and HF_HUB_OFFLINE, or fetch the model elsewhere and name its folder"
    )

"""Where a checkpoint is: a folder, the Hub's cache, or an error that says what stands in the way."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from rlvr_jax.models.checkpoint_files import checkpoint_folder


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint_folder(str(tmp_path), weights=True) == tmp_path


def test_what_is_neither_a_folder_of_a_model_nor_a_name_on_the_hub_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder without config.json"):
        checkpoint_folder(str(tmp_path), weights=False)
    with pytest.raises(ValueError, match=r"there is no folder .*missing/model/x, and it is no OWNER/NAME\[@REVISION\]"):
        checkpoint_folder(str(tmp_path / "missing/model/x"), weights=False)


@pytest.mark.parametrize("weights", [True, False])
def test_only_files_without_code_are_fetched_and_weights_only_if_they_are_wanted(weights, tmp_path, monkeypatch):
    asked = []
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert checkpoint_folder("me/Model-2.5@v1", weights=weights) == tmp_path
    ((repo, revision, patterns),) = asked
    assert (repo, revision) == ("me/Model-2.5", "v1")
    on_hub = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "modeling_x.py",
        "pytorch_model.bin", "consolidated.00.pth", "original/params.json", "README.md",
    ]  # fmt: skip
    of_weights = ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    fetched = [name for name in on_hub + of_weights if any(fnmatch(name, pattern) for pattern in patterns)]
    assert fetched == on_hub[:4] + (of_weights if weights else [])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, r"me/model is gated; accept its terms on its page"),
        (errors.RepositoryNotFoundError, r"there is no model me/model; correct the name, or `hf auth login`"),
        (errors.RevisionNotFoundError, r"me/model has no revision 'v9'; correct what stands after the @"),
        (None, r"cannot be reached and is not in the cache here \(ConnectionError: no route\); check the network"),
    ],
)
def test_what_stands_in_the_way_is_said(kind, message, monkeypatch):
    response = httpx.Response(401, request=httpx.Request("GET", "https://host.invalid"))
    error = ConnectionError("no route") if kind is None else kind("not for you", response=response)

    def snapshot_download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=message) as refused:
        checkpoint_folder("me/model@v9", weights=True)
    assert str(refused.value).count("me/model") == 1


def test_a_cache_without_the_weights_is_said_to_lack_them(tmp_path, monkeypatch):
    # as after a run with random weights, which fetches the small files only
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert checkpoint_folder("me/model", weights=False) == tmp_path
    with pytest.raises(ValueError, match=r"me/model on .* has no safetensors files, or .*; if HF_HUB_OFFLINE is set"):
        checkpoint_folder("me/model", weights=True)


def test_offline_a_model_comes_from_the_cache_or_is_said_to_be_missing(tmp_path):
    snapshot = tmp_path / "models--me--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    code = (
        "from rlvr_jax.models.checkpoint_files import checkpoint_folder\n"
        "print(checkpoint_folder('me/model', weights=True))\n"
        "try:\n    checkpoint_folder('me/other', weights=True)\nexcept ValueError as error:\n    print(error)"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        cwd=Path(__file__).parents[2],
    )
    found, *message = done.stdout.splitlines()
    assert Path(found) == snapshot, done.stderr
    assert "me/other cannot be reached and is not in the cache here" in message[0]
    assert "HF_HUB_OFFLINE" in message[0]

"""Files of datasets on the Hugging Face Hub: `OWNER/NAME[/FILE][@REVISION]`; FILE may have wildcards."""

import fnmatch
import glob
import re
from collections.abc import Callable
from pathlib import Path

HUB_PREFIX = "hf://datasets/"
N_CANDIDATES_SHOWN = 10
_HUB_PATH = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(/(?P<file>[^@]+))?(@(?P<revision>.+))?")


def is_hub_path(path: str) -> bool:
    """Whether `path` has the form of one on the Hub; whether it exists is another matter."""
    return _HUB_PATH.fullmatch(path.removeprefix(HUB_PREFIX)) is not None


def hub_files(path: str, *, is_data_file: Callable[[str], bool]) -> list[tuple[str, Path]]:
    """The downloaded files with a name for each, from the Hub's own cache where they have not changed since.

    A wildcard means all that fit it, by name; OWNER/NAME alone means its only data file, or the only one
    with "train" in its name. Raises ValueError with the candidates, or with what stands in the way and the fix.
    """
    parts = _HUB_PATH.fullmatch(path.removeprefix(HUB_PREFIX))
    if parts is None:
        raise ValueError(f"{path} is no dataset on the Hugging Face Hub; write {HUB_PREFIX}OWNER/NAME/FILE@REVISION")
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.utils import logging as hub_logging
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no file {path} here, and to look for it on the Hugging Face Hub takes: "
            "pip install huggingface_hub"
        ) from error
    hub_logging.disable_propagation()  # it has a handler of its own, and would be heard twice
    repo, file, revision = parts["repo"], parts["file"], parts["revision"]
    is_wildcard = file is not None and glob.has_magic(file)
    try:
        names = (
            [file]
            if file and not is_wildcard
            else HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        )
    except Exception as error:  # of the transport below the library, which differs between its versions
        raise _unreachable(path, repo, revision, error) from error
    if is_wildcard:
        names = sorted(name for name in names if is_data_file(name) and fnmatch.fnmatchcase(name, file))
        if not names:
            raise ValueError(f"{path}: no file of the dataset fits; leave the file out of the path to see which it has")
    else:
        names = [file or _only_data_file(path, [name for name in names if is_data_file(name)])]
        if not is_data_file(names[0]):
            raise ValueError(f"{path}: {names[0]} is of no kind that can be read; name another file of the dataset")
    try:
        local = [Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision)) for name in names]
        shown = [f"{HUB_PREFIX}{repo}/{name}" for name in names] if is_wildcard else [path]
        return list(zip(shown, local, strict=True))
    except Exception as error:
        raise _unreachable(path, repo, revision, error) from error


def _only_data_file(path: str, names: list[str]) -> str:
    of_training = [name for name in names if "train" in name.lower()]
    candidates = of_training or names
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ValueError(f"{path} holds no .jsonl, .json or .parquet file on the Hugging Face Hub")
    shown = "".join(f"\n  {name}" for name in candidates[:N_CANDIDATES_SHOWN])
    more = f"\n  and {len(candidates) - N_CANDIDATES_SHOWN} more" if len(candidates) > N_CANDIDATES_SHOWN else ""
    raise ValueError(f"{path} holds {len(candidates)} files that could be meant; add one to the path:{shown}{more}")


def _unreachable(path: str, repo: str, revision: str | None, error: Exception) -> ValueError:
    from huggingface_hub import errors

    at = f"{path}: there is no such file here, and on the Hugging Face Hub"
    if path.startswith(HUB_PREFIX):
        at = f"{path}: on the Hugging Face Hub"
    if isinstance(error, errors.GatedRepoError):
        return ValueError(f"{at} {repo} is gated; accept its terms on its page, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ValueError(f"{at} there is no dataset {repo}; correct the path, or `hf auth login` if it is private")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{at} {repo} has no revision {revision!r}; correct what stands after the @")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return ValueError(f"{at} {repo} has no such file; leave the file out of the path to see which it has")
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return ValueError(
        f"{at} {repo} cannot be reached ({type(error).__name__}: {why}); check the network, "
        "or download the file and name it in task.path"
    )

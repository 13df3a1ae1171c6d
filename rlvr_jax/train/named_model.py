"""The published model and the tokenizer that a config names; only their small files are read."""

import functools
from pathlib import Path

from rlvr_jax.models.checkpoint_files import GENERATION_FILE, checkpoint_folder
from rlvr_jax.models.hf_config import HfModel, hf_model, read_hf_model
from rlvr_jax.models.hf_tokenizer import MORE_FILES, VOCABULARY_FILES, HfTokenizer
from rlvr_jax.models.presets import PRESETS
from rlvr_jax.models.tokenizer import CharTokenizer, Tokenizer
from rlvr_jax.train.config import BUILTIN_MODEL, CHAR_TOKENIZER, ConfigError, ModelConfig

_CHAR_TOKENIZER = CharTokenizer()  # one: what is counted in its tokens is counted once for all points of a study


def published_model(config: ModelConfig) -> HfModel | None:
    """Sizes and family of the published model that a config names; None for the built-in one.

    A preset with fresh weights needs no file. Raises ConfigError when there is no such model, or none that can be run.
    """
    if config.name == BUILTIN_MODEL:
        return None
    try:
        return _published(config.name, config.has_random_weights and config.name in PRESETS)
    except (ValueError, OSError) as error:
        raise ConfigError([f"model.name={config.name!r}: {error}"]) from error


def weights_folder(config: ModelConfig) -> Path:
    """Where the published weights are, downloaded if they are not here. Raises ConfigError when they cannot be had."""
    try:
        return checkpoint_folder(hub_name(config.name), weights=True)
    except (ValueError, OSError) as error:
        raise ConfigError([f"model.name={config.name!r}: {error}"]) from error


def named_tokenizer(config: ModelConfig) -> Tokenizer:
    """The tokenizer that a config names: the model's own, unless it says otherwise. Raises ConfigError."""
    name = _tokenizer_name(config)
    if name == CHAR_TOKENIZER:
        return _CHAR_TOKENIZER
    try:
        return _hf_tokenizer(name, config.uses_chat_template)
    except (ValueError, OSError) as error:
        setting = f"model.tokenizer={name!r}" if config.tokenizer else f"model.name={name!r}"
        raise ConfigError([f"{setting}: {error}"]) from error


def text_files(config: ModelConfig) -> list[Path]:
    """Files of the tokenizer that a config names, and the generation config beside it; [] of a built-in tokenizer.

    Raises ConfigError when they cannot be had.
    """
    name = _tokenizer_name(config)
    if name == CHAR_TOKENIZER:
        return []
    try:
        folder = _tokenizer_folder(name)
    except (ValueError, OSError) as error:
        raise ConfigError([f"the tokenizer {name!r}: {error}"]) from error
    paths = [folder / file for file in (*VOCABULARY_FILES, *MORE_FILES, GENERATION_FILE)]
    return [path for path in paths if path.is_file()]


@functools.lru_cache(maxsize=4)  # all points of a study share one
def _published(name: str, is_known_by_heart: bool) -> HfModel:
    if is_known_by_heart:
        return hf_model(PRESETS[name].config)
    return read_hf_model(checkpoint_folder(hub_name(name), weights=False))


@functools.lru_cache(maxsize=4)
def _hf_tokenizer(name: str, uses_chat_template: bool) -> HfTokenizer:
    return HfTokenizer(_tokenizer_folder(name), name=name, uses_chat_template=uses_chat_template)


def _tokenizer_name(config: ModelConfig) -> str:
    return config.tokenizer or (CHAR_TOKENIZER if config.name == BUILTIN_MODEL else config.name)


def _tokenizer_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir() and name not in PRESETS:
        return folder  # which need not be a model's
    return checkpoint_folder(hub_name(name), weights=False)


def hub_name(name: str) -> str:
    """A preset's id on the Hub; any other name as it is."""
    return PRESETS[name].hub_id if name in PRESETS else name

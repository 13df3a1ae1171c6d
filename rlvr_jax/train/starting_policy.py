"""The policy a run starts from: loaded or random weights, and on top of them a warm start where one is asked for."""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from rlvr_jax.models import load_hf
from rlvr_jax.models.checkpoint_files import shown
from rlvr_jax.models.hf_layout import hf_layout
from rlvr_jax.models.spec import ModelSpec, Params, initial_params, parameter_table
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.config import ConfigError, TrainConfig
from rlvr_jax.train.named_model import weights_folder
from rlvr_jax.train.params_hash import params_hash
from rlvr_jax.train.placement import param_shardings
from rlvr_jax.train.processes import on_host
from rlvr_jax.train.warmstart import Progress, warm_started_params, warmstart_hash

log = logging.getLogger(__name__)


def starting_params(config: TrainConfig, parts: Parts, cache_folder: Path, *, progress: Progress) -> Params:
    """The weights at update 0, fp32, where they belong on the mesh.

    Those of the published checkpoint, or random ones for the built-in model and where model.has_random_weights. A warm
    start trains them further; its result is kept in `cache_folder`.

    Raises:
        ConfigError: the checkpoint cannot be had or does not hold this model.
        ValueError: a cached warm start does not.
        FloatingPointError: the warm start diverged.
    """
    if not config.warmstart.enabled:
        return _first_params(config, parts)
    if _is_loaded(config, parts):  # first, for its hash: a folder may hold other weights than the last time
        loaded = _first_params(config, parts)
        of_weights, first_params = params_hash(loaded), lambda: loaded
    else:
        of_weights, first_params = "", lambda: _first_params(config, parts)
    key = warmstart_hash(config, parts.task, tokenizer=parts.tokenizer.fingerprint, weights=of_weights)
    path = cache_folder / f"{key}.safetensors"
    return warm_started_params(config, parts, first_params, path, progress=progress)


def starting_key(config: TrainConfig, parts: Parts) -> str:
    """What points of a study have in common if they start from the same weights."""
    return warmstart_hash(config, parts.task, tokenizer=parts.tokenizer.fingerprint, weights="")


def starting_words(config: TrainConfig, parts: Parts) -> str:
    """What making the starting weights is called, for a progress line."""
    if config.warmstart.enabled:
        return "warm start"
    return f"weights of {config.model.name}" if _is_loaded(config, parts) else "random weights"


def _is_loaded(config: TrainConfig, parts: Parts) -> bool:
    return parts.hf_model is not None and not config.model.has_random_weights


def _first_params(config: TrainConfig, parts: Parts) -> Params:
    if not _is_loaded(config, parts):
        key = root_key(config.warmstart.seed, "parameters")
        return parts.layout.built(lambda key: initial_params(parts.spec, key), key)
    folder, started = weights_folder(config.model), time.monotonic()
    table = parameter_table(parts.spec)
    shardings = flax.traverse_util.flatten_dict(param_shardings(table, parts.mesh), sep="/")

    def place(path: str, shape: tuple[int, ...], read: Callable[[tuple[slice, ...]], np.ndarray]) -> jax.Array:
        parts_read: dict[str, np.ndarray] = {}  # devices with the same part of a parameter would each read it

        def read_once(index: tuple[slice, ...]) -> np.ndarray:
            if str(index) not in parts_read:
                parts_read[str(index)] = read(index)
            return parts_read[str(index)]

        return jax.make_array_from_callback(shape, shardings[path], read_once)

    try:
        params = load_hf.load_params(folder, parts.hf_model, place=place)
    except (ValueError, OSError) as error:
        raise ConfigError([f"model.name={config.model.name!r}: {error}"]) from error
    if broken := _not_finite(params, parts.spec):
        raise ConfigError(
            [
                f"model.name={config.model.name!r}: {folder} has numbers that are NaN or infinite in {shown(broken)}; "
                "fetch the files again, or name another model"
            ]
        )
    log.info("weights of %s: read in %.0f s", folder, time.monotonic() - started)
    return params


def _not_finite(params: Params, spec: ModelSpec) -> list[str]:
    """The tensors, as a checkpoint names them, in which a number is NaN or infinite."""
    layout, found = hf_layout(spec), []
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        tensor = layout[path]
        is_finite_L = np.atleast_1d(on_host(_is_finite(leaf, has_layers=tensor.n_layers is not None)))
        found += [key for key, is_finite in zip(tensor.keys, is_finite_L, strict=True) if not is_finite]
    return found


@functools.partial(jax.jit, static_argnames="has_layers")
def _is_finite(leaf: jax.Array, *, has_layers: bool) -> jax.Array:
    """bool[], or bool[L] of a leaf with layers: looked for where the weights are, which may not fit the host."""
    return jnp.isfinite(leaf).all(axis=tuple(range(int(has_layers), leaf.ndim)))

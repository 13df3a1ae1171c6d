"""A run's policy as a folder that other programs load: the whole network, or an adapter alone."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from rlvr_jax.models.char_tokenizer_files import save_char_tokenizer
from rlvr_jax.models.checkpoint_files import GENERATION_FILE
from rlvr_jax.models.hf_config import SAVED_DTYPES, HfModel, hf_model_of_spec, source_dtype
from rlvr_jax.models.lora import merged_params
from rlvr_jax.models.save_hf import save_hf, save_peft
from rlvr_jax.models.tokenizer import CharTokenizer, Tokenizer
from rlvr_jax.train.assemble import Parts, assemble
from rlvr_jax.train.cache_folder import cache_folder
from rlvr_jax.train.config import BUILTIN_MODEL, ConfigError, TrainConfig
from rlvr_jax.train.named_model import hub_name, text_files
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.saved_policy import check_base_weights, saved_state
from rlvr_jax.train.starting_policy import starting_params, starting_words
from rlvr_jax.train.starting_state import held_params


def export_policy(
    config: TrainConfig, checkpoint: Path, out: Path, *, is_adapter: bool, dtype: str, max_shard_mib: int
) -> str:
    """Writes the policy of a checkpoint in the HF layout, and says in words what was written.

    An adapter is multiplied into the weights under it, unless it is asked for alone.

    Args:
        checkpoint: a run directory (its newest checkpoint) or one folder of its `checkpoints/`.
        is_adapter: in the layout of peft, which needs the published weights beside it.
        dtype: of the tensors; "": that of the published model, float32 for the built-in one.

    Raises:
        ConfigError: as `assemble`, or these options do not fit the config.
        CheckpointError: there is no such checkpoint, or it does not hold this config's model.
        ValueError: the model has no HF layout.
        OSError: the disk is full.
    """
    _check_options(config, is_adapter=is_adapter, dtype=dtype, max_shard_mib=max_shard_mib)
    _check_out(out)  # before anything is computed
    parts = assemble(config)
    model = parts.hf_model or _builtin_model(parts)
    state, update = saved_state(config, parts, checkpoint)
    params, said = state.params, f"update {update}"
    if parts.lora is not None:
        progress = Progress(starting_words(config, parts))
        start = starting_params(config, parts, cache_folder() / "warmstart", progress=progress.update)
        progress.close()
        check_base_weights(checkpoint, held_params(start, parts))
        if is_adapter:
            base_name = _base_name(config.model.name)
            save_peft(out, params, parts.lora, model, base_name=base_name)
            return f"{out}: the adapter of {said} in the layout of peft, float32, for the weights of {base_name}"
        params, said = merged_params(start, params, parts.lora), f"{said}, its adapter merged"
    dtype = dtype or (source_dtype(model) if parts.hf_model else "float32")
    token_ids = _token_ids(parts.tokenizer)
    if config.model.tokenizer in ("", config.model.name):  # whose files may name a pad that the tokenizer does not
        token_ids = {"eos_token_id": token_ids["eos_token_id"]}
    else:
        model = dataclasses.replace(model, config=_with_token_ids(model.config, token_ids))
    with tempfile.TemporaryDirectory() as scratch:
        is_char = isinstance(parts.tokenizer, CharTokenizer)
        tokenizer_files = save_char_tokenizer(Path(scratch)) if is_char else text_files(config.model)
        save_hf(
            out,
            params,
            model,
            dtype=dtype,
            max_shard_bytes=max_shard_mib * 2**20,
            tokenizer_files=_with_generation_file(tokenizer_files, model, token_ids, Path(scratch)),
        )
    return f"{out}: {model.family} of {said}, {dtype}"


def _check_options(config: TrainConfig, *, is_adapter: bool, dtype: str, max_shard_mib: int) -> None:
    problems = []
    if is_adapter and not config.lora.enabled:
        problems.append("--adapter: this config trains whole weights (lora.enabled=False); leave --adapter out")
    elif is_adapter and (
        config.model.name == BUILTIN_MODEL or config.model.has_random_weights or config.warmstart.enabled
    ):
        problems.append(
            f"--adapter: the weights under this adapter are published nowhere (model.name={config.model.name!r}, "
            f"model.has_random_weights={config.model.has_random_weights}, warmstart.enabled={config.warmstart.enabled})"
            "; leave --adapter out, which writes them with the adapter merged"
        )
    if is_adapter and dtype:
        problems.append(f"--dtype={dtype}: an adapter is written in float32; leave --dtype out")
    if dtype and dtype not in SAVED_DTYPES:
        problems.append(f"--dtype={dtype} must be one of {', '.join(SAVED_DTYPES)}")
    if max_shard_mib < 1:
        problems.append(f"--max_shard_mib={max_shard_mib} must be at least 1")
    if problems:
        raise ConfigError(problems)


def _builtin_model(parts: Parts) -> HfModel:
    """The published architecture that is the built-in model. Raises ValueError if there is none."""
    longest = parts.plan.max_prompt_tokens + parts.plan.max_new_tokens  # what it was trained on
    return hf_model_of_spec(parts.spec, max_positions=longest, token_ids=_token_ids(parts.tokenizer))


def _check_out(out: Path) -> None:
    """Raises ConfigError if no folder can be made there, or something is there."""
    try:
        folder = out.resolve()
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if is_free:
            with tempfile.TemporaryDirectory(dir=next(parent for parent in folder.parents if parent.exists())):
                pass
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        why = getattr(error, "strerror", None) or error
        raise ConfigError([f"--out={out} cannot be written ({why}); name another folder"]) from error
    if not is_free:
        raise ConfigError([f"--out={out} exists and is not empty; name another folder, or remove it"])


def _base_name(name: str) -> str:
    """What peft is to load under an adapter, from wherever it is called."""
    name = hub_name(name)
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer decides of config.json and generation_config.json."""
    eos_ids = list(tokenizer.eos_ids)
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos_ids if len(eos_ids) > 1 else eos_ids[0],
        "pad_token_id": tokenizer.pad_id,
    }


def _with_token_ids(fields: dict[str, Any], token_ids: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file with these ids; what means the same already stays as it is written."""

    def meant(value: Any) -> set[Any]:
        return set(value) if isinstance(value, list) else {value}

    changed = {
        name: value
        for name, value in token_ids.items()
        if name not in fields or meant(fields[name]) != meant(value)  # absent is no null: a family has defaults
    }
    return fields | changed


def _with_generation_file(paths: list[Path], model: HfModel, token_ids: dict[str, Any], scratch: Path) -> list[Path]:
    """`paths` with a generation_config.json that has these ids, made in `scratch` where none of them has."""
    found = next((path for path in paths if path.name == GENERATION_FILE), None)
    if found is None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        fields = {name: model.config[name] for name in names if name in model.config}
    else:
        fields = json.loads(found.read_text(encoding="utf-8"))
    merged = _with_token_ids(fields, token_ids)
    if merged == fields:
        return paths
    made = scratch / GENERATION_FILE
    made.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
    return [path for path in paths if path != found] + [made]

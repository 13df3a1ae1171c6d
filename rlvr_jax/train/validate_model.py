"""What cannot work in the settings of the model and its tokenizer, seen from the config alone."""

import difflib
from pathlib import Path

from rlvr_jax.models.checkpoint_files import HUB_NAME
from rlvr_jax.models.presets import PRESETS
from rlvr_jax.train.config import BUILTIN_MODEL, CHAR_TOKENIZER, ModelConfig, TrainConfig

OF_BUILTIN = (  # sizes that a published model brings itself
    *("width", "n_layers", "n_heads", "n_kv_heads", "mlp_width", "rope_theta", "norm_eps"),
    *("has_tied_head", "has_attention_bias", "qk_norm", "has_post_norm"),
)
LARGEST_WARMSTART_LR = 1e-3  # of loaded weights: the default suits a small model that knows nothing yet


def is_on_hub(name: str) -> bool:
    """Whether `name` has the form OWNER/NAME[@REVISION] and is no folder here; whether it exists is another matter."""
    return HUB_NAME.fullmatch(name) is not None and not Path(name).is_dir()


def model_problems(config: TrainConfig) -> list[str]:
    """One message per setting that cannot work, with the fix."""
    model = config.model
    if model.name == BUILTIN_MODEL:
        problems = _builtin_problems(model)
    else:
        problems = _name_problems(model) or _published_problems(config)
    named = model.tokenizer
    if named not in ("", CHAR_TOKENIZER, *PRESETS) and not Path(named).expanduser().is_dir() and not is_on_hub(named):
        problems.append(
            f"model.tokenizer={named!r} is neither a folder here, nor OWNER/NAME[@REVISION] on the Hugging Face Hub, "
            f"nor {CHAR_TOKENIZER!r}; correct the path"
        )
    if model.uses_chat_template and (named == CHAR_TOKENIZER or (model.name == BUILTIN_MODEL and not named)):
        problems.append(
            "model.uses_chat_template=True needs a published tokenizer, one token per character has no template; "
            "set model.tokenizer, or model.uses_chat_template=False"
        )
    if config.sampling.long_prompts == "leave_out" and config.sampling.max_prompt_tokens == 0:
        problems.append(
            "sampling.long_prompts='leave_out' needs to know what is long; set sampling.max_prompt_tokens "
            "(0 means the longest prompt)"
        )
    return problems


def _builtin_problems(model: ModelConfig) -> list[str]:
    problems = []
    if model.n_heads > 0 and (model.width % model.n_heads or model.width // model.n_heads % 2):
        problems.append(
            f"model.width={model.width} must be model.n_heads={model.n_heads} times an even head width; "
            f"use a multiple of {2 * model.n_heads}"
        )
    if model.n_kv_heads > 0 and model.n_heads % model.n_kv_heads:
        problems.append(f"model.n_heads={model.n_heads} is not a multiple of model.n_kv_heads={model.n_kv_heads}")
    if model.has_random_weights:
        problems.append(
            "model.has_random_weights=True is for published models; the built-in one starts from random weights with "
            "warmstart.enabled=False"
        )
    return problems


def _name_problems(model: ModelConfig) -> list[str]:
    if model.name in PRESETS or is_on_hub(model.name) or (model.name and Path(model.name).expanduser().is_dir()):
        return []
    known = (BUILTIN_MODEL, *PRESETS)
    if "/" in model.name:
        return [
            f"model.name={model.name!r} is no folder here and not of the form OWNER/NAME[@REVISION]; correct the path, "
            f"or use one of {', '.join(known)}"
        ]
    near = difflib.get_close_matches(model.name.lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? Known are" if near else "known are"
    return [
        f"model.name={model.name!r} is no model that is known by name and no folder here; {hint} "
        f"{', '.join(known)}; or use OWNER/NAME of the Hugging Face Hub"
    ]


def _published_problems(config: TrainConfig) -> list[str]:
    model, default, problems = config.model, ModelConfig(), []
    changed = [
        f"model.{name}={getattr(model, name)!r} (default {getattr(default, name)!r})"
        for name in OF_BUILTIN
        if getattr(model, name) != getattr(default, name)
    ]
    if changed:
        problems.append(
            f"{', '.join(changed)}: model.name={model.name!r} brings its own sizes; leave these at their defaults, "
            f"or use model.name={BUILTIN_MODEL!r}"
        )
    if model.has_random_weights and model.name in PRESETS and not model.tokenizer:
        problems.append(
            f"model.has_random_weights=True downloads nothing, so the tokenizer of model.name={model.name!r} is not "
            f"there; name one: model.tokenizer={CHAR_TOKENIZER!r}, a folder, or {PRESETS[model.name].hub_id!r}, which "
            "is downloaded"
        )
    warmstart = config.warmstart
    if warmstart.enabled and not model.has_random_weights and warmstart.peak_lr > LARGEST_WARMSTART_LR:
        problems.append(
            f"warmstart.enabled=True would first train the weights of model.name={model.name!r} on demonstrations, and "
            f"warmstart.peak_lr={warmstart.peak_lr} would spoil them; set warmstart.enabled=False, or for supervised "
            f"training warmstart.peak_lr to {LARGEST_WARMSTART_LR} at most (1e-5 is usual)"
        )
    return problems


def tokenizer_problems(model: ModelConfig, *, vocab_size: int, tokenizer_vocab_size: int) -> list[str]:
    """At most one message: a tokenizer with more ids than the model has rows. Fewer are usual, models are padded."""
    if tokenizer_vocab_size <= vocab_size:
        return []
    name = model.tokenizer or model.name
    return [
        f"the tokenizer of {name!r} has ids up to {tokenizer_vocab_size - 1}, and model.name={model.name!r} has a "
        f"vocabulary of {vocab_size}; name the tokenizer that belongs to the model in model.tokenizer"
    ]

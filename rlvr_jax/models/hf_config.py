"""The config.json of a published model, read as sizes of our decoder and written back.

Whatever would compute another network than ours is refused here, by name.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rlvr_jax.models.hf_fields import flag, positive_int, positive_number
from rlvr_jax.models.hf_rope import fields_of_scaling, rope_of_fields
from rlvr_jax.models.spec import ModelSpec

CONFIG_FILE = "config.json"
SAVED_DTYPES = ("float32", "bfloat16", "float16")

# What a config.json that leaves a field out means by it, as in the config classes of transformers 5.23.
_LLAMA_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4_096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # num_attention_heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "max_position_embeddings": 2_048,
    "rms_norm_eps": 1e-6,
}
_QWEN2_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
}
_DEFAULTS = {
    "llama": _LLAMA_DEFAULTS,
    "qwen2": _QWEN2_DEFAULTS,
    "qwen3": _QWEN2_DEFAULTS | {"head_dim": 128},
    "olmo2": _LLAMA_DEFAULTS | {"vocab_size": 50_304, "rms_norm_eps": 1e-5},
}
FAMILIES = tuple(_DEFAULTS)  # values of model_type
ARCHITECTURES = {family: f"{family.capitalize()}ForCausalLM" for family in FAMILIES}
_FEATURES = {  # of ModelSpec: has_attention_bias, qk_norm, has_post_norm
    "llama": (False, "none", False),
    "qwen2": (True, "none", False),
    "qwen3": (False, "each_head", False),
    "olmo2": (False, "all_heads", True),
}


@dataclasses.dataclass(frozen=True)
class HfModel:
    """A published architecture with its sizes."""

    spec: ModelSpec
    family: str  # one of FAMILIES
    max_positions: int  # tokens the model was made for
    config: dict[str, Any] = dataclasses.field(compare=False)  # the config.json it came from


def read_hf_model(folder: Path) -> HfModel:
    """The model of a folder's config.json. Raises ValueError if it is missing, damaged or of another network."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {CONFIG_FILE}; name the folder of a model in the HF layout") from error
    except ValueError as error:  # of json or of the encoding
        raise ValueError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, not an object of fields; fetch it again")
    try:
        return hf_model(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def hf_model(config: dict[str, Any]) -> HfModel:
    """The architecture that a config.json describes. Raises ValueError where ours would compute something else."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type={family!r} is not supported; use a model of one of {', '.join(FAMILIES)}")
    fields = _DEFAULTS[family] | {
        name: value
        for name, value in config.items()
        if value is not None or name in ("num_key_value_heads", "head_dim")  # where null has a meaning of its own
    }
    sizes = {
        name: positive_int(fields, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        )
    }
    _refuse_other_networks(fields, family)
    width, n_heads = sizes["hidden_size"], sizes["num_attention_heads"]
    n_kv_heads = n_heads if fields["num_key_value_heads"] is None else positive_int(fields, "num_key_value_heads")
    if n_heads % n_kv_heads:
        raise ValueError(f"num_attention_heads={n_heads} is not a multiple of num_key_value_heads={n_kv_heads}")
    if fields["head_dim"] is None and width % n_heads:
        raise ValueError(f"hidden_size={width} is not a multiple of num_attention_heads={n_heads}; set head_dim")
    head_width = width // n_heads if fields["head_dim"] is None else positive_int(fields, "head_dim")
    if head_width % 2:
        raise ValueError(f"heads of width {head_width} cannot be turned by rotary positions; head_dim must be even")
    theta, scaling = rope_of_fields(fields, max_positions=sizes["max_position_embeddings"])
    has_attention_bias, qk_norm, has_post_norm = _FEATURES[family]
    spec = ModelSpec(
        vocab_size=sizes["vocab_size"],
        width=width,
        n_layers=sizes["num_hidden_layers"],
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_width=head_width,
        mlp_width=sizes["intermediate_size"],
        rope_theta=theta,
        norm_eps=positive_number(fields, "rms_norm_eps"),
        has_tied_head=flag(fields, "tie_word_embeddings"),
        has_attention_bias=has_attention_bias,
        qk_norm=qk_norm,
        has_post_norm=has_post_norm,
        rope_scaling=scaling,
    )
    return HfModel(spec, family, sizes["max_position_embeddings"], config)


def hf_model_of_spec(spec: ModelSpec, *, max_positions: int, token_ids: dict[str, int | list[int]]) -> HfModel:
    """The published architecture that computes what a spec does, with a config.json made for it.

    Args:
        token_ids: fields of the config.json such as "eos_token_id".

    Raises ValueError if no family has the spec's combination of features.
    """
    features = (spec.has_attention_bias, spec.qk_norm, spec.has_post_norm)
    family = next((family for family, theirs in _FEATURES.items() if theirs == features), None)
    if family is None:
        combinations = "; ".join(
            f"{family}: model.has_attention_bias={bias}, model.qk_norm={norm}, model.has_post_norm={post}"
            for family, (bias, norm, post) in _FEATURES.items()
        )
        raise ValueError(
            f"no published architecture has has_attention_bias={features[0]} with qk_norm={features[1]!r} and "
            f"has_post_norm={features[2]}, so this model has no HF layout; those that have one are {combinations}"
        )
    scaling = {}
    if spec.rope_scaling is not None:
        scaling = {"rope_scaling": fields_of_scaling(spec.rope_scaling)}
    config = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope_theta,
        **scaling,
        "tie_word_embeddings": spec.has_tied_head,
        **({} if family == "qwen2" else {"attention_bias": False}),
        **token_ids,
    }
    return HfModel(spec, family, max_positions, config)


def exported_config(model: HfModel, *, dtype: str) -> dict[str, Any]:
    """The model's config.json with the dtype of what is saved beside it, all other fields as they came."""
    names = [name for name in ("dtype", "torch_dtype") if name in model.config]
    return {**model.config, **dict.fromkeys(names or ["torch_dtype"], dtype)}


def source_dtype(model: HfModel) -> str:
    """The dtype that a config.json says its weights have; float32 where it does not say."""
    named = str(model.config.get("dtype") or model.config.get("torch_dtype") or "float32").removeprefix("torch.")
    return named if named in SAVED_DTYPES else "float32"


def _refuse_other_networks(fields: dict[str, Any], family: str) -> None:
    refusals = []
    if fields.get("hidden_act", "silu") not in ("silu", "swish"):
        refusals.append(f"hidden_act={fields['hidden_act']!r}: only silu is supported")
    if fields.get("quantization_config"):
        refusals.append("quantization_config: quantised weights are not supported; use the unquantised model")
    if any(str(name).startswith("AutoModel") for name in _of_type(fields, "auto_map", dict)):
        refusals.append(
            f"auto_map={fields['auto_map']}: the model brings code of its own, which is never run; use one without"
        )
    if family != "qwen2" and flag(fields, "attention_bias"):
        refusals.append("attention_bias=true also biases the output projection, which is not supported")
    if flag(fields, "mlp_bias"):
        refusals.append("mlp_bias=true is not supported")
    slides = _sliding_layers(fields, family)
    if slides:
        refusals.append(f"{slides}: attention over a sliding window is not supported; use a model without")
    if refusals:
        raise ValueError("; ".join(refusals))


def _of_type(fields: dict[str, Any], name: str, kind: type[dict] | type[list]) -> Any:
    """An object or a list; an empty one where it is absent. Raises ValueError."""
    value = fields.get(name, kind())
    if not isinstance(value, kind):
        what = {dict: "an object of fields", list: "a list"}[kind]
        raise ValueError(f"{name}={value!r} must be {what}; correct the config.json")
    return value


def _sliding_layers(fields: dict[str, Any], family: str) -> str:
    """What in the config makes a layer see less than everything before it; "" if nothing does."""
    of_others = [kind for kind in _of_type(fields, "layer_types", list) if kind != "full_attention"]
    if of_others:
        return f"layer_types has {of_others[0]!r}"
    if not family.startswith("qwen") or not flag(fields, "use_sliding_window") or "layer_types" in fields:
        return ""
    first, n_layers = fields.get("max_window_layers", 28), fields["num_hidden_layers"]
    is_never = isinstance(first, int) and first >= n_layers
    return "" if is_never else f"use_sliding_window=true from layer {first} of {n_layers} on"

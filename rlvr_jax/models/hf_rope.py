"""The rotary settings of a config.json, read and written."""

import math
from typing import Any

from rlvr_jax.models.hf_fields import flag, positive_int, positive_number
from rlvr_jax.models.rope import ROPE_SCALINGS, RopeScaling


def rope_of_fields(fields: dict[str, Any], *, max_positions: int) -> tuple[float, RopeScaling | None]:
    """theta and the scaling, from either spelling: rope_theta and rope_scaling, or rope_parameters with both.

    Raises ValueError where the positions would be turned in another way than ours can.
    """
    old, new = fields.get("rope_scaling") or {}, fields.get("rope_parameters") or {}
    for name, value in (("rope_scaling", old), ("rope_parameters", new)):
        if not isinstance(value, dict):
            raise ValueError(f"{name}={value!r} must be an object of fields; correct the config.json")
    if old and new and old != new:
        raise ValueError(f"rope_scaling={old} and rope_parameters={new} differ; keep one of them")
    given = {name: value for name, value in (old or new).items() if value is not None}
    if any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"rope_parameters={given} differ between kinds of layers, which is not supported")
    turned = given.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if turned != 1:
        raise ValueError(f"partial_rotary_factor={turned} is not supported: rotary positions turn whole heads")
    theta = positive_number({"rope_theta": 10_000.0} | fields | given, "rope_theta")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ROPE_SCALINGS:
        raise ValueError(f"rope type {kind!r} is not supported; use a model with default or {', '.join(ROPE_SCALINGS)}")
    # a field of its own outside the rope's has priority, as in transformers
    given = {"original_max_position_embeddings": max_positions} | given
    if "original_max_position_embeddings" in fields:
        given["original_max_position_embeddings"] = fields["original_max_position_embeddings"]
    if kind == "linear":
        return theta, RopeScaling("linear", positive_number(given, "factor"))
    length = positive_int(given, "original_max_position_embeddings")
    if kind == "llama3":
        low, high = positive_number(given, "low_freq_factor"), positive_number(given, "high_freq_factor")
        if high <= low:
            raise ValueError(f"rope: high_freq_factor={high} must be larger than low_freq_factor={low}")
        scaling = RopeScaling(
            "llama3", positive_number(given, "factor"), length, low_freq_factor=low, high_freq_factor=high
        )
        return theta, scaling
    if theta <= 1:  # with which no pair turns slower than another
        raise ValueError(f"rope_theta={theta} must be above 1 for rope type 'yarn'; correct the config.json")
    factor = positive_number({"factor": max_positions / length} | given, "factor")
    scaling = RopeScaling(
        "yarn",
        factor,
        length,
        beta_fast=positive_number({"beta_fast": 32.0} | given, "beta_fast"),
        beta_slow=positive_number({"beta_slow": 1.0} | given, "beta_slow"),
        attention_factor=_yarn_attention_factor(given, factor=factor),
        is_range_rounded=flag({"truncate": True} | given, "truncate"),
    )
    return theta, scaling


def _yarn_attention_factor(given: dict[str, Any], *, factor: float) -> float:
    """Of cos and sin: 0.1 ln(factor) + 1 unless the config says otherwise. arXiv:2309.00071 sec. 3.4."""
    if "attention_factor" in given:
        return positive_number(given, "attention_factor")

    def growth(strength: float) -> float:
        return 0.1 * strength * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return growth(positive_number(given, "mscale")) / growth(positive_number(given, "mscale_all_dim"))
    return growth(1.0)


def fields_of_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """The rope_scaling of a config.json, in the older spelling, which every version of transformers reads."""
    fields: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = scaling.original_length
    names = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_fast", "beta_slow", "attention_factor")}
    fields |= {name: getattr(scaling, name) for name in names.get(scaling.kind, ())}
    if scaling.kind == "yarn":
        fields["truncate"] = scaling.is_range_rounded
    return fields

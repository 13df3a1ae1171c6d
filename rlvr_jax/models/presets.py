"""Published models by short name: where their weights are, and their config.json as published.

The configs make shapes, plans and randomly weighted models without a download.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preset:
    """One published model."""

    hub_id: str  # OWNER/NAME on the Hugging Face Hub
    config: dict[str, Any]  # the fields of its config.json that say what network it is


def _qwen(model_type: str, **fields: Any) -> dict[str, Any]:
    """What the Qwen models here have in common."""
    return {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "vocab_size": 151_936,
        "hidden_act": "silu",
        "num_hidden_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "torch_dtype": "bfloat16",
        **fields,
    }


PRESETS: dict[str, Preset] = {
    # the supervised stage, which is where the studies of RLVR start from
    "olmo2-1b": Preset(
        "allenai/OLMo-2-0425-1B-SFT",
        {
            "architectures": ["Olmo2ForCausalLM"],
            "model_type": "olmo2",
            "vocab_size": 100_352,
            "hidden_size": 2_048,
            "intermediate_size": 8_192,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "hidden_act": "silu",
            "max_position_embeddings": 4_096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500_000.0,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "eos_token_id": 100_257,
            "pad_token_id": 100_277,
            "torch_dtype": "bfloat16",
        },
    ),
    "qwen2.5-0.5b": Preset(
        "Qwen/Qwen2.5-0.5B-Instruct",
        _qwen(
            "qwen2",
            hidden_size=896,
            intermediate_size=4_864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
        ),
    ),
    "qwen2.5-1.5b": Preset(
        "Qwen/Qwen2.5-1.5B-Instruct",
        _qwen(
            "qwen2",
            hidden_size=1_536,
            intermediate_size=8_960,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
        ),
    ),
    "qwen3-0.6b": Preset(
        "Qwen/Qwen3-0.6B",
        _qwen(
            "qwen3",
            hidden_size=1_024,
            intermediate_size=3_072,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40_960,
            attention_bias=False,
        ),
    ),
    "qwen3-1.7b": Preset(
        "Qwen/Qwen3-1.7B",
        _qwen(
            "qwen3",
            hidden_size=2_048,
            intermediate_size=6_144,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40_960,
            attention_bias=False,
        ),
    ),
    "llama3.2-1b": Preset(
        "meta-llama/Llama-3.2-1B-Instruct",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 2_048,
            "intermediate_size": 8_192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "hidden_act": "silu",
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8_192,
            },
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 128_000,
            "eos_token_id": [128_001, 128_008, 128_009],
            "torch_dtype": "bfloat16",
        },
    ),
}

"""Folders as published models come in, made on the spot: a small tokenizer that is really trained, random weights."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, END, TURN, PAD = "<|bos|>", "<|end|>", "<|turn|>", "<|pad|>"  # ids 0 1 2 3
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn|>{{ message.role }}:{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
)
TEXTS = ["12+34=64", "the sum of 12 and 34 is 46", "07+01=80", "user: assistant:"] * 4


def save_tokenizer(folder: Path, *, adds_bos: bool = True, eos: str | None = END, **more: str) -> None:
    """A byte-level BPE of 300 ids or fewer. `more` goes into tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[BOS, END, TURN, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if adds_bos:  # and EOS, which is right for training texts and wrong for prompts
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {END}", special_tokens=[(BOS, 0), (END, 1)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, **more}
    write_json(folder / "tokenizer_config.json", config | ({"eos_token": eos} if eos else {}))


def save_model(folder: Path, family: str, *, vocab_size: int = 320, max_positions: int = 64, seed: int = 0) -> None:
    """config.json and model.safetensors of 2 layers of width 16, by the names the family's files have."""
    rng = np.random.default_rng(seed)
    V, D, F, H, G, K = vocab_size, 16, 32, 2, 1, 8

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    tensors = {"model.embed_tokens.weight": random(V, D), "model.norm.weight": np.ones(D, np.float32)}
    for layer in (f"model.layers.{i}." for i in range(2)):
        for name, n_out in (("q", H * K), ("k", G * K), ("v", G * K)):
            tensors[f"{layer}self_attn.{name}_proj.weight"] = random(n_out, D)
            if family == "qwen2":
                tensors[f"{layer}self_attn.{name}_proj.bias"] = random(n_out)
        tensors[layer + "self_attn.o_proj.weight"] = random(D, H * K)
        for name in ("gate", "up"):
            tensors[f"{layer}mlp.{name}_proj.weight"] = random(F, D)
        tensors[layer + "mlp.down_proj.weight"] = random(D, F)
        norms = {"post_attention_layernorm": D}
        norms |= {"input_layernorm": D} if family == "qwen2" else {}
        norms |= (
            {"post_feedforward_layernorm": D, "self_attn.q_norm": H * K, "self_attn.k_norm": G * K}
            if (family == "olmo2")
            else {}
        )
        tensors |= {f"{layer}{name}.weight": 1 + 0.1 * random(size) for name, size in norms.items()}
    if family == "olmo2":
        tensors["lm_head.weight"] = random(V, D)
    config = {
        "architectures": [{"olmo2": "Olmo2ForCausalLM", "qwen2": "Qwen2ForCausalLM"}[family]],
        "model_type": family,
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": 2,
        "num_attention_heads": H,
        "num_key_value_heads": G,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": family == "qwen2",
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_published(folder: Path, family: str, **sizes: int) -> Path:
    """Model and tokenizer with two EOS ids, 1 and 2."""
    save_model(folder, family, **sizes)
    save_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 1], "pad_token_id": 3})
    return folder


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))

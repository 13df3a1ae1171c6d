"""Small models of each published architecture, and what transformers with torch says of them.

Only the last functions need torch; tests of the default suite read files that were written with them.
"""

import json

import numpy as np

SIZES = {
    "vocab_size": 48, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
# every family, both spellings of the rotary settings, every kind of scaling, heads tied and not
CONFIGS = {
    "llama": SIZES | {
        "model_type": "llama", "head_dim": 8, "tie_word_embeddings": True, "rope_theta": 500.0,
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    },
    "qwen2": SIZES | {
        "model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
                            "original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 0.5},
    },
    "qwen3": SIZES | {
        "model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "olmo2": SIZES | {
        "model_type": "olmo2", "num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
    },
}  # fmt: skip
N_TOKENS, N_NEW = 40, 64


def random_torch_model(config, *, seed, dtype="float32"):
    """With weights that make every part of the network count: no norm scale is 1, no bias is 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)  # such small models only wait for more of them
    fields = json.loads(json.dumps(config))  # transformers writes into nested fields
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            spread = 0.3 if weight.ndim == 1 else 1.5 / weight.shape[1] ** 0.5
            weight.copy_(spread * noise + (1.0 if "norm" in name else 0.0))
    return model.to(getattr(torch, dtype))


def read_in_float32(folder):
    """The torch model of a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def random_tokens(seed):
    """int32[2, N_TOKENS], none of the special ones."""
    return np.random.default_rng(seed).integers(3, SIZES["vocab_size"], (2, N_TOKENS)).astype(np.int32)


def torch_answers(model, token_NT, *, n_new=N_NEW):
    """Arrays by name, of a model in fp32: logits, states after 0, 1, ... layers, log-probabilities, a greedy text.

    The last state has been through the final norm, as transformers returns it.
    """
    import torch

    tokens = torch.tensor(np.asarray(token_NT)).long()
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True)
        logprob = torch.log_softmax(out.logits, dim=-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        text, gap = tokens, np.inf
        for _ in range(n_new):
            logits = model(text).logits[:, -1]
            best = logits.topk(2, dim=-1)
            gap = min(gap, float((best.values[:, 0] - best.values[:, 1]).min()))
            text = torch.cat([text, best.indices[:, :1]], dim=1)
    return {
        "tokens": np.asarray(token_NT),
        "logits": out.logits.numpy(),
        "hidden": np.stack([state.numpy() for state in out.hidden_states]),
        "logprob": logprob.numpy(),
        "greedy": text[:, tokens.shape[1] :].numpy().astype(np.int32),
        "smallest_gap": np.array([gap], np.float32),  # of the two best logits along the greedy text
    }

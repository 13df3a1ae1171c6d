"""Small checkpoints in the HF layout, written key by key with numpy, and what ours must make of them."""

import json

import numpy as np
from safetensors.numpy import save_file

V, D, F, L, H, G, K = 11, 12, 20, 2, 3, 1, 4
CONFIG = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H,
    "num_key_value_heads": G, "head_dim": K, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": CONFIG | {"model_type": "llama"},
    "qwen2": CONFIG | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": CONFIG | {"model_type": "qwen3", "tie_word_embeddings": True},
    "olmo2": CONFIG | {"model_type": "olmo2"},
}
_ATTENTION, _MLP = "self_attn.{}_proj.weight", "mlp.{}_proj.weight"


def shapes(family):
    """Of every tensor, as the family's checkpoints have them."""
    of_layer = {
        _ATTENTION.format("q"): (H * K, D), _ATTENTION.format("k"): (G * K, D), _ATTENTION.format("v"): (G * K, D),
        _ATTENTION.format("o"): (D, H * K), _MLP.format("gate"): (F, D), _MLP.format("up"): (F, D),
        _MLP.format("down"): (D, F), "post_attention_layernorm.weight": (D,),
    }  # fmt: skip
    of_layer["post_feedforward_layernorm.weight" if family == "olmo2" else "input_layernorm.weight"] = (D,)
    if family == "qwen2":
        of_layer |= {f"self_attn.{name}_proj.bias": (n * K,) for name, n in (("q", H), ("k", G), ("v", G))}
    if family == "qwen3":
        of_layer |= {"self_attn.q_norm.weight": (K,), "self_attn.k_norm.weight": (K,)}
    if family == "olmo2":
        of_layer |= {"self_attn.q_norm.weight": (H * K,), "self_attn.k_norm.weight": (G * K,)}
    of_all = {f"model.layers.{i}.{name}": shape for i in range(L) for name, shape in of_layer.items()}
    of_all |= {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    return of_all if FAMILIES[family].get("tie_word_embeddings") else of_all | {"lm_head.weight": (V, D)}


def random_tensors(family, *, dtype="float32", seed=0):
    """By key, no two numbers of a tensor alike in f32."""
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=shape).astype(np.float32).astype(dtype) for key, shape in shapes(family).items()}


def write(folder, family, tensors, *, n_shards=1, has_index=True):
    """config.json and the tensors, dealt out to so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(FAMILIES[family]))
    names = [f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors" for i in range(n_shards)]
    names = ["model.safetensors"] if n_shards == 1 else names
    keys = list(tensors)
    for i, name in enumerate(names):
        save_file({key: tensors[key] for key in keys[i::n_shards]}, folder / name, metadata={"format": "pt"})
    if n_shards > 1 and has_index:
        index = {"metadata": {}, "weight_map": {key: names[i % n_shards] for i, key in enumerate(keys)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def ours(family, tensors):
    """f32 by path, turned by hand."""

    def stacked(name, turn=lambda weight: weight):
        return np.stack([turn(tensors[f"model.layers.{i}.{name}"].astype(np.float32)) for i in range(L)])

    norms = ("input_layernorm", "post_attention_layernorm")
    if family == "olmo2":
        norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    flat = {
        "embedding": tensors["model.embed_tokens.weight"],
        "final_norm": tensors["model.norm.weight"],
        "layers/attention/norm": stacked(f"{norms[0]}.weight"),
        "layers/mlp/norm": stacked(f"{norms[1]}.weight"),
        "layers/attention/query": stacked(_ATTENTION.format("q"), lambda w: w.T.reshape(D, H, K)),
        "layers/attention/key": stacked(_ATTENTION.format("k"), lambda w: w.T.reshape(D, G, K)),
        "layers/attention/value": stacked(_ATTENTION.format("v"), lambda w: w.T.reshape(D, G, K)),
        "layers/attention/out": stacked(_ATTENTION.format("o"), lambda w: w.T.reshape(H, K, D)),
        **{f"layers/mlp/{name}": stacked(_MLP.format(name), np.transpose) for name in ("gate", "up", "down")},
    }
    if family == "qwen2":
        for name, n in (("query", H), ("key", G), ("value", G)):
            flat[f"layers/attention/{name}_bias"] = stacked(
                f"self_attn.{name[0]}_proj.bias", lambda b, n=n: b.reshape(n, K)
            )
    if family in ("qwen3", "olmo2"):
        for name in ("query", "key"):
            flat[f"layers/attention/{name}_norm"] = stacked(f"self_attn.{name[0]}_norm.weight")
    if "lm_head.weight" in tensors:
        flat["head"] = tensors["lm_head.weight"].T
    return {path: np.asarray(leaf, np.float32) for path, leaf in flat.items()}


def whole(path, shape, read):
    """A `place` that keeps everything on the host."""
    del path
    return read((slice(None),) * len(shape))

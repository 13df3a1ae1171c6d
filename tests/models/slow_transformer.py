"""The decoder once more, in numpy float64, one token and one head at a time."""

import numpy as np


def slow_logits(params, spec, tokens):
    """[T, V] logits of one sequence of token ids."""
    p = _float64(params)
    x = np.stack([p["embedding"][token] for token in tokens])
    for i in range(spec.n_layers):
        attention = {name: leaf[i] for name, leaf in p["layers"]["attention"].items()}
        mlp = {name: leaf[i] for name, leaf in p["layers"]["mlp"].items()}
        x = x + _attention(attention, spec, _rms(x, attention["norm"], spec.norm_eps))
        h = _rms(x, mlp["norm"], spec.norm_eps)
        gate = h @ mlp["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ mlp["up"])) @ mlp["down"]
    x = _rms(x, p["final_norm"], spec.norm_eps)
    return x @ (p["embedding"].T if spec.has_tied_head else p["head"])


def _attention(weights, spec, h):
    out = np.zeros_like(h)
    per_group = spec.n_heads // spec.n_kv_heads
    for head in range(spec.n_heads):
        group = head // per_group
        query, key, value = (
            h @ weights[name][:, i] + (weights[f"{name}_bias"][i] if spec.has_attention_bias else 0.0)
            for name, i in (("query", head), ("key", group), ("value", group))
        )
        query, key = (np.stack([_turn(x[t], t, spec.rope_theta) for t in range(len(h))]) for x in (query, key))
        for t in range(len(h)):
            score = np.array([query[t] @ key[s] / np.sqrt(spec.head_width) for s in range(t + 1)])
            weight = np.exp(score - score.max())
            out[t] += (weight / weight.sum()) @ value[: t + 1] @ weights["out"][head]
    return out


def _turn(vector, position, theta):
    half = len(vector) // 2
    out = np.empty_like(vector)
    for i in range(half):  # pairs (i, i + half) turn by position / theta^(i / half)
        angle = position / theta ** (i / half)
        a, b = vector[i], vector[i + half]
        out[i] = a * np.cos(angle) - b * np.sin(angle)
        out[i + half] = a * np.sin(angle) + b * np.cos(angle)
    return out


def _rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * scale


def _float64(tree):
    return {k: _float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}

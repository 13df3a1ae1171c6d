"""The decoder once more, in numpy float64, one token and one head at a time."""

import numpy as np
from slow_rope import slow_frequencies


def slow_logits(params, spec, tokens):
    """[T, V] logits of one sequence of token ids."""
    p = _float64(params)
    x = np.stack([p["embedding"][token] for token in tokens])
    for i in range(spec.n_layers):
        attention = {name: leaf[i] for name, leaf in p["layers"]["attention"].items()}
        mlp = {name: leaf[i] for name, leaf in p["layers"]["mlp"].items()}
        for part, weights in ((_attention, attention), (_mlp, mlp)):
            norm = weights["norm"]
            added = part(weights, spec, x if spec.has_post_norm else _rms(x, norm, spec.norm_eps))
            x = x + (_rms(added, norm, spec.norm_eps) if spec.has_post_norm else added)
    x = _rms(x, p["final_norm"], spec.norm_eps)
    return x @ (p["embedding"].T if spec.has_tied_head else p["head"])


def _mlp(weights, spec, h):
    gate = h @ weights["gate"]
    return (gate / (1 + np.exp(-gate)) * (h @ weights["up"])) @ weights["down"]


def _attention(weights, spec, h):
    out = np.zeros_like(h)
    frequencies, factor = slow_frequencies(head_width=spec.head_width, theta=spec.rope_theta, scaling=spec.rope_scaling)
    per_group = spec.n_heads // spec.n_kv_heads
    for head in range(spec.n_heads):
        group = head // per_group
        query, key, value = (
            h @ weights[name][:, i] + (weights[f"{name}_bias"][i] if spec.has_attention_bias else 0.0)
            for name, i in (("query", head), ("key", group), ("value", group))
        )
        if spec.qk_norm != "none":
            query = _normed_head(query, head, "query", weights, spec, h)
            key = _normed_head(key, group, "key", weights, spec, h)
        query, key = (factor * np.stack([_turn(x[t], t, frequencies) for t in range(len(h))]) for x in (query, key))
        for t in range(len(h)):
            score = np.array([query[t] @ key[s] / np.sqrt(spec.head_width) for s in range(t + 1)])
            weight = np.exp(score - score.max())
            out[t] += (weight / weight.sum()) @ value[: t + 1] @ weights["out"][head]
    return out


def _normed_head(x, head, name, weights, spec, h):
    """Queries or keys of one head, by its own size or by that of all heads."""
    scale = weights[f"{name}_norm"]
    if spec.qk_norm == "each_head":
        return _rms(x, scale, spec.norm_eps)
    n_heads, width = weights[name].shape[1], spec.head_width
    biases = weights.get(f"{name}_bias", np.zeros((n_heads, width)))
    of_all = np.concatenate([h @ weights[name][:, i] + biases[i] for i in range(n_heads)], axis=1)
    return _rms(of_all, scale, spec.norm_eps)[:, head * width : (head + 1) * width]


def _turn(vector, position, frequencies):
    half = len(vector) // 2
    out = np.empty_like(vector)
    for i in range(half):  # pairs (i, i + half)
        angle = position * frequencies[i]
        a, b = vector[i], vector[i + half]
        out[i] = a * np.cos(angle) - b * np.sin(angle)
        out[i + half] = a * np.sin(angle) + b * np.cos(angle)
    return out


def _rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * scale


def _float64(tree):
    return {k: _float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}

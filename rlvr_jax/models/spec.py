"""The parameter table: every parameter of an architecture, named once.

Initialisation, sharding, counts and the memory plan all read this table.
"""

import dataclasses
import math

import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.models.rope import RopeScaling

QK_NORMS = ("none", "each_head", "all_heads")

Params = dict  # nested dict of arrays, one leaf per row of the table


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Sizes of a Llama-style decoder, and where the families around Llama differ from it.

    Hashable: functions take it as a static argument.
    """

    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float
    norm_eps: float
    has_tied_head: bool
    has_attention_bias: bool  # on queries, keys and values, as Qwen2.5 has
    qk_norm: str = "none"  # of queries and keys: one of QK_NORMS; Qwen3 norms each head, OLMo-2 all of them together
    has_post_norm: bool = False  # a block norms what it adds to the stream, as OLMo-2 does, not what it reads from it
    rope_scaling: RopeScaling | None = None


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One row: shape, a logical name per axis, and the spread of the initial values.

    `init_std` None means ones (the scale of a norm), 0 zeros (a bias).
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init_std: float | None


def parameter_table(spec: ModelSpec) -> dict[str, Parameter]:
    """Rows by path, such as "layers/attention/query".

    Layers are stacked on a leading axis so that the training pass can scan over them.
    Matrices start with variance 1 / fan_in; those that write into the residual stream are
    shrunk by sqrt(2 n_layers) so that its variance does not grow with depth (GPT-2 report, sec. 2.3).
    """
    V, D, L, F = spec.vocab_size, spec.width, spec.n_layers, spec.mlp_width
    H, G, K = spec.n_heads, spec.n_kv_heads, spec.head_width
    into, out_of_heads, out_of_mlp = (1 / math.sqrt(n) for n in (D, 2 * L * H * K, 2 * L * F))
    table = {
        "embedding": Parameter((V, D), ("vocab", "embed"), 0.02 if spec.has_tied_head else 1.0),
        "layers/attention/norm": Parameter((L, D), ("layers", "embed"), None),
        "layers/attention/query": Parameter((L, D, H, K), ("layers", "embed", "heads", "head_width"), into),
        "layers/attention/key": Parameter((L, D, G, K), ("layers", "embed", "kv_heads", "head_width"), into),
        "layers/attention/value": Parameter((L, D, G, K), ("layers", "embed", "kv_heads", "head_width"), into),
        "layers/attention/out": Parameter((L, H, K, D), ("layers", "heads", "head_width", "embed"), out_of_heads),
        "layers/mlp/norm": Parameter((L, D), ("layers", "embed"), None),
        "layers/mlp/gate": Parameter((L, D, F), ("layers", "embed", "mlp"), into),
        "layers/mlp/up": Parameter((L, D, F), ("layers", "embed", "mlp"), into),
        "layers/mlp/down": Parameter((L, F, D), ("layers", "mlp", "embed"), out_of_mlp),
        "final_norm": Parameter((D,), ("embed",), None),
    }
    if spec.has_attention_bias:
        for name, axis, n_heads in (("query", "heads", H), ("key", "kv_heads", G), ("value", "kv_heads", G)):
            bias = Parameter((L, n_heads, K), ("layers", axis, "head_width"), 0.0)
            table[f"layers/attention/{name}_bias"] = bias
    if spec.qk_norm != "none":
        for name, n_heads in (("query", H), ("key", G)):
            size, axis = (K, "head_width") if spec.qk_norm == "each_head" else (n_heads * K, "normed_heads")
            table[f"layers/attention/{name}_norm"] = Parameter((L, size), ("layers", axis), None)
    if not spec.has_tied_head:
        table["head"] = Parameter((D, V), ("embed", "vocab"), into)
    return table


MODEL_PARTS = ("embedding", "attention", "mlp", "norms", "head")


def model_part(path: tuple[str, ...]) -> str:
    """Which of MODEL_PARTS a parameter belongs to; a table that is also the head counts as embedding."""
    if path[-1].endswith("norm"):
        return "norms"
    return next(part for part in MODEL_PARTS if part in path)


def initial_params(spec: ModelSpec, key: jax.Array) -> Params:
    """Fresh fp32 parameters of an architecture."""
    return initial_values(parameter_table(spec), key)


def initial_values(table: dict[str, Parameter], key: jax.Array) -> Params:
    """Fresh fp32 values of a table's rows; they depend on the names in it and on `key` alone."""
    flat = {}
    for number, (path, row) in enumerate(sorted(table.items())):
        if row.init_std is None:
            flat[path] = jnp.ones(row.shape, jnp.float32)
        else:
            flat[path] = row.init_std * jax.random.normal(jax.random.fold_in(key, number), row.shape, jnp.float32)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def does_decay(path: str) -> bool:
    """Whether weight decay acts on a parameter: on matrices, not on norm scales and biases.

    Pulling a scale to 0 would shrink the signal, not the weights. By name, since the factor of an adapter that starts
    at 0 is a matrix as well.
    """
    return not path.endswith(("norm", "bias"))


def parameter_count(spec: ModelSpec) -> int:
    """Number of parameters."""
    return value_count(parameter_table(spec))


def value_count(table: dict[str, Parameter]) -> int:
    """Number of values in all rows of a table."""
    return sum(math.prod(row.shape) for row in table.values())

"""Where each of our parameters lies in a checkpoint of the HF layout, and how it is turned.

Theirs has one tensor per layer and stores a matrix as [out, in]; ours stacks the layers and stores [in, out], with
heads and head widths as axes of their own.
"""

import dataclasses
import math

import numpy as np

from rlvr_jax.models.lora import n_in_axes
from rlvr_jax.models.spec import ModelSpec, parameter_table

_MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
EMBEDDING_KEY, HEAD_KEY = "model.embed_tokens.weight", "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class HfTensor:
    """One tensor per layer (or a single one) of theirs, as a row of our table."""

    key: str  # with {layer} where there is one per layer
    n_layers: int | None  # None: a single tensor
    shape: tuple[int, ...]  # of ours without the layers' axis
    n_in_axes: int  # leading axes of `shape` that are theirs' last one; 0: nothing is turned

    @property
    def keys(self) -> list[str]:
        """One per layer, in order."""
        return [self.key] if self.n_layers is None else [self.key.format(layer=i) for i in range(self.n_layers)]

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Of each tensor of theirs."""
        if self.n_in_axes:
            return math.prod(self.shape[self.n_in_axes :]), math.prod(self.shape[: self.n_in_axes])
        # a bias has one axis there; the embedding has the same two
        return (math.prod(self.shape),) if self.key.endswith(".bias") else self.shape

    def as_theirs(self, ours: np.ndarray) -> np.ndarray:
        """A parameter of one layer in their shape; a view where that is possible."""
        if self.n_in_axes:
            return ours.reshape(math.prod(self.shape[: self.n_in_axes]), -1).T
        return ours.reshape(self.hf_shape)


def hf_layout(spec: ModelSpec) -> dict[str, HfTensor]:
    """For each path of `parameter_table(spec)`, the tensors it comes from."""
    layout = {}
    for path, row in parameter_table(spec).items():
        name = path.rsplit("/", 1)[-1]
        if path.startswith("layers/"):
            n_in = n_in_axes(name) if name in _MODULES else 0
            key = f"model.layers.{{layer}}.{_layer_tensor(path, spec)}"
            layout[path] = HfTensor(key, spec.n_layers, row.shape[1:], n_in)
        else:
            key = {"embedding": EMBEDDING_KEY, "final_norm": "model.norm.weight", "head": HEAD_KEY}[name]
            layout[path] = HfTensor(key, None, row.shape, 1 if name == "head" else 0)
    return layout


def hf_module(name: str) -> str:
    """The module within a layer that a matrix such as "query" is the weight of."""
    return _MODULES[name]


def _layer_tensor(path: str, spec: ModelSpec) -> str:
    _, block, name = path.split("/")
    if name == "norm":  # the same name there means another norm in OLMo-2
        names = ("input_layernorm", "post_attention_layernorm")
        if spec.has_post_norm:
            names = ("post_attention_layernorm", "post_feedforward_layernorm")
        return f"{names[block == 'mlp']}.weight"
    if name.endswith("_bias"):
        return f"{_MODULES[name.removesuffix('_bias')]}.bias"
    if name.endswith("_norm"):
        return f"self_attn.{name[0]}_norm.weight"
    return f"{_MODULES[name]}.weight"

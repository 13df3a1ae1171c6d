"""Low-rank adapters: thin factors that are trained beside matrices that are not. arXiv:2106.09685.

Trained and frozen weights are two trees; `policy_params` joins them into the one that the model's passes take.
"""

import dataclasses
import math

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from rlvr_jax.models.spec import ModelSpec, Parameter, Params, parameter_table

LORA_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Which matrices have an adapter, and how wide and strong it is. Hashable."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # of LORA_TARGETS


@flax.struct.dataclass
class Adapted:
    """A frozen matrix W with its factors: used like one matrix W + scale * down up.

    Leaves may have a leading axis of layers; `down` and `up` may be tapped. What all of them become in a pass is the
    dtype of the matmuls, in which the frozen weights can be kept from the start.
    """

    weight: jax.Array  # [..in, ..out]
    down: jax.Array  # [..in, r]
    up: jax.Array  # [r, ..out]
    scale: float = flax.struct.field(pytree_node=False)  # alpha / r


def lora_table(spec: ModelSpec, lora: LoraSpec) -> dict[str, Parameter]:
    """The trained parameters by path, such as "layers/attention/query/lora_down".

    A product of both starts at 0, because `lora_up` does; the spread of `lora_down` is that of a uniform
    distribution on +-1/sqrt(fan_in).
    """
    table = {}
    for path, row in _targets(spec, lora.targets).items():
        n_in = 1 + n_in_axes(path)  # the layers' axis too
        fan_in = math.prod(row.shape[1:n_in])
        table[f"{path}/lora_down"] = Parameter(
            (*row.shape[:n_in], lora.rank), (*row.axes[:n_in], "rank"), 1 / math.sqrt(3 * fan_in)
        )
        table[f"{path}/lora_up"] = Parameter(
            (row.shape[0], lora.rank, *row.shape[n_in:]), ("layers", "rank", *row.axes[n_in:]), 0.0
        )
    return table


def trained_table(spec: ModelSpec, lora: LoraSpec | None) -> dict[str, Parameter]:
    """The parameters that an optimiser moves: all of the architecture, or an adapter's factors."""
    return parameter_table(spec) if lora is None else lora_table(spec, lora)


def policy_params(trained: Params, frozen: Params | None, lora: LoraSpec | None) -> Params:
    """What the model's passes take: `trained` as it is, or the frozen weights with the trained factors in place."""
    if lora is None:
        return trained
    flat_trained = flax.traverse_util.flatten_dict(trained)
    joined = {}
    for path, weight in flax.traverse_util.flatten_dict(frozen).items():
        if (*path, "lora_up") in flat_trained:
            factors = (flat_trained[(*path, name)] for name in ("lora_down", "lora_up"))
            joined[path] = Adapted(weight, *factors, lora.alpha / lora.rank)
        else:
            joined[path] = weight
    return flax.traverse_util.unflatten_dict(joined)


def merged_params(frozen: Params, factors: Params, lora: LoraSpec) -> Params:
    """The weights of a network without adapters that computes the same: W + scale * down up, in fp32.

    Other leaves are those of `frozen` as they are.
    """

    def merged(weight: jax.Array | Adapted) -> jax.Array:
        if not isinstance(weight, Adapted):
            return weight
        n_layers, rank = weight.weight.shape[0], lora.rank
        product = jnp.einsum(
            "lir,lro->lio",
            weight.down.astype(jnp.float32).reshape(n_layers, -1, rank),
            weight.up.astype(jnp.float32).reshape(n_layers, rank, -1),
            precision=jax.lax.Precision.HIGHEST,  # a GPU would round the factors to fewer bits
        )
        return weight.weight.astype(jnp.float32) + weight.scale * product.reshape(weight.weight.shape)

    return jax.tree.map(merged, policy_params(factors, frozen, lora), is_leaf=lambda leaf: isinstance(leaf, Adapted))


def adapted_matrices(spec: ModelSpec, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """By target, the sizes (n_in, n_out) of the matrix that it is in every layer."""
    sizes = {}
    for path, row in _targets(spec, targets).items():
        n_in = 1 + n_in_axes(path)
        sizes[path.rsplit("/", 1)[-1]] = (math.prod(row.shape[1:n_in]), math.prod(row.shape[n_in:]))
    return sizes


def _targets(spec: ModelSpec, targets: tuple[str, ...]) -> dict[str, Parameter]:
    return {
        path: row
        for path, row in parameter_table(spec).items()
        if path.startswith("layers/") and path.rsplit("/", 1)[-1] in targets
    }


def n_in_axes(path: str) -> int:
    """How many axes of a matrix of a layer it contracts with its input, the layers' axis aside."""
    return 2 if path.rsplit("/", 1)[-1] == "out" else 1

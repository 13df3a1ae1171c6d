"""Which device holds what: one mesh of three axes, and the rules that split parameters, state and batches over it.

    data      another part of each batch; parameters are repeated
    fsdp      another part of each batch, and of every parameter and its optimiser state
    tensor    another part of each matrix product; batches are repeated

Devices of one process are next to each other along the last axes, where most is exchanged.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax.models.lora import LoraSpec, trained_table
from rlvr_jax.models.spec import ModelSpec, Parameter, parameter_table
from rlvr_jax.models.transformer import PassPlacement
from rlvr_jax.sampling.decode import SamplerPlacement
from rlvr_jax.train.config import ConfigError, PlacementConfig
from rlvr_jax.train.processes import placed
from rlvr_jax.train.state import TrainState, initial_state

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
# of a parameter's logical axes; those that are not here are never split
MESH_AXIS = {"embed": "fsdp", "vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor"}


def build_mesh(placement: PlacementConfig) -> Mesh:
    """The mesh a config asks for; 0 along `data` takes all devices that the other axes leave, along those 1.

    A mesh of fewer devices than there are takes the first ones, but not when several processes share the work.
    Raises ConfigError with the fix if the devices cannot be arranged so.
    """
    devices = jax.devices()
    n, fsdp, tensor = len(devices), placement.fsdp or 1, placement.tensor or 1
    if n % (fsdp * tensor):
        raise ConfigError(
            [
                f"placement.fsdp={fsdp} x placement.tensor={tensor} does not divide the {n} device(s) here; "
                f"use {_fitting(n, fsdp=fsdp, tensor=tensor)}"
            ]
        )
    data = placement.data or n // (fsdp * tensor)
    size = data * fsdp * tensor
    if n % size:
        more = f" x placement.fsdp={fsdp} x placement.tensor={tensor}" if fsdp * tensor > 1 else ""
        fits = [d for d in range(1, n + 1) if n % (d * fsdp * tensor) == 0]
        nearest = min(fits, key=lambda d: (abs(d - data), d))
        problem = f"is more than the {n} device(s) here" if size > n else f"does not divide the {n} device(s) here"
        raise ConfigError(
            [f"placement.data={data}{more} {problem}; use placement.data={nearest}, or 0 for all that are left"]
        )
    if size < n and jax.process_count() > 1:
        raise ConfigError(
            [
                f"the mesh has {size} devices and {jax.process_count()} processes have {n}, so that some would have "
                "nothing to do; use placement.data=0"
            ]
        )
    return Mesh(np.array(devices[:size]).reshape(data, fsdp, tensor), AXES)


def _fitting(n: int, *, fsdp: int, tensor: int) -> str:
    """The nearest sizes that fit n devices."""
    pairs = [(f, t) for f in range(1, n + 1) for t in range(1, n + 1) if n % (f * t) == 0]
    f, t = min(pairs, key=lambda pair: (abs(pair[0] - fsdp) + abs(pair[1] - tensor), pair))
    return f"placement.fsdp={f} and placement.tensor={t}"


def n_batch_shards(mesh: Mesh) -> int:
    """How many parts the prompts of a batch are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(table: Mapping[str, Parameter], mesh: Mesh) -> dict:
    """A NamedSharding per parameter, nested as parameters are.

    A dimension that its mesh axis does not divide is not split: slower or larger, never wrong.
    """
    flat = {path: NamedSharding(mesh, _spec(row, mesh)) for path, row in table.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def unsplit_dimensions(table: Mapping[str, Parameter], mesh: Mesh) -> list[str]:
    """The dimensions that would be split if their mesh axis divided them, in words, for the plan of a run."""
    return [
        f"{path}: {size} {axis} over placement.{MESH_AXIS[axis]}={mesh.shape[MESH_AXIS[axis]]}"
        for path, row in table.items()
        for size, axis in zip(row.shape, row.axes, strict=True)
        if axis in MESH_AXIS and size % mesh.shape[MESH_AXIS[axis]]
    ]


def _spec(row: Parameter, mesh: Mesh) -> PartitionSpec:
    def mesh_axis(size: int, axis: str) -> str | None:
        name = MESH_AXIS.get(axis)
        return name if name is not None and mesh.shape[name] > 1 and size % mesh.shape[name] == 0 else None

    return PartitionSpec(*(mesh_axis(size, axis) for size, axis in zip(row.shape, row.axes, strict=True)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where parameters lie on a mesh, and with them whatever has their names and shapes: gradients, Adam's moments."""

    mesh: Mesh
    trained: Mapping[str, Parameter]
    frozen: Mapping[str, Parameter]  # those under an adapter

    def of(self, tree: Any) -> Any:
        """A NamedSharding per leaf; one whose path does not end in a parameter's, with its shape, is replicated."""

        def sharding(key_path: tuple, leaf: Any) -> NamedSharding:
            path = _parameter_path(key_path)
            row = self.trained.get(path) or self.frozen.get(path)
            is_like_parameter = row is not None and row.shape == np.shape(leaf)
            return NamedSharding(self.mesh, _spec(row, self.mesh)) if is_like_parameter else replicated(self.mesh)

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def constrained(self, tree: Any) -> Any:
        """`tree` within a program, held where it belongs."""
        if self.mesh.size == 1:
            return tree
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, self.of(tree))

    def place(self, tree: Any) -> Any:
        """`tree`, which every process has, where it belongs."""
        return jax.tree.map(placed, tree, self.of(tree))

    def built(self, build: Callable[..., Any], *args: Any) -> Any:
        """build(*args), each leaf made where it belongs: nothing is ever whole on one device."""
        return jax.jit(build, out_shardings=self.of(jax.eval_shape(build, *args)))(*args)

    def rows(self, x: jax.Array) -> jax.Array:
        """Activations [N, ...] within a program, split like the batch they are of.

        Without being told, the compiler may follow a parameter's split into the residual stream.
        """
        if x.shape[0] % n_batch_shards(self.mesh):
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(BATCH_AXES)))

    def caches(self, x_NGSK: jax.Array) -> jax.Array:
        """Keys or values within a program, split over sequences and, where they divide, over heads."""
        n_rows, n_heads = x_NGSK.shape[:2]
        spec = PartitionSpec(
            None if n_rows % n_batch_shards(self.mesh) else BATCH_AXES,
            None if n_heads % self.mesh.shape["tensor"] else "tensor",
        )
        return jax.lax.with_sharding_constraint(x_NGSK, NamedSharding(self.mesh, spec))

    def lookup_table(self, table_VD: jax.Array) -> jax.Array:
        """The embedding within a program, no longer split over `fsdp`, as its rows are by then.

        Else what is looked up would come split over `fsdp` along D, and be whole on every device on its way to rows.
        """
        return self.gathered({"embedding": table_VD})["embedding"]

    @property
    def of_pass(self) -> PassPlacement | None:
        """For passes over whole sequences."""
        return PassPlacement(self.rows, self.lookup_table) if self.mesh.size > 1 else None

    @property
    def of_sampler(self) -> SamplerPlacement | None:
        """For decoding."""
        return SamplerPlacement(self.gathered, self.caches) if self.mesh.size > 1 else None

    def gathered(self, params: Any) -> Any:
        """Parameters within a program, no longer split over `fsdp`.

        For decoding, which reads every weight once per token: it is exchanged once, not once per token.
        """

        def without_fsdp(sharding: NamedSharding) -> NamedSharding:
            return NamedSharding(
                self.mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in sharding.spec))
            )

        return jax.tree.map(jax.lax.with_sharding_constraint, params, jax.tree.map(without_fsdp, self.of(params)))


def parameter_layout(mesh: Mesh, spec: ModelSpec, lora: LoraSpec | None) -> Layout:
    """The layout of a model's parameters, those of its adapters among them."""
    return Layout(mesh, trained_table(spec, lora), parameter_table(spec) if lora is not None else {})


def state_shardings(layout: Layout, optimizer: optax.GradientTransformation) -> Any:
    """A NamedSharding per leaf of a TrainState: moments lie where their parameters do, counters everywhere."""
    return layout.of(abstract_state(layout.trained, optimizer))


def placed_abstract_state(layout: Layout, optimizer: optax.GradientTransformation) -> TrainState:
    """The state's shapes, each with its sharding: what a checkpoint is read into."""
    state = abstract_state(layout.trained, optimizer)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, layout.of(state)
    )


def abstract_state(table: Mapping[str, Parameter], optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state that trains the parameters of a table."""
    flat = {path: jax.ShapeDtypeStruct(row.shape, jnp.float32) for path, row in table.items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return jax.eval_shape(lambda params: initial_state(params, optimizer), params)


_OF_ADAPTED = {"weight": "", "down": "/lora_down", "up": "/lora_up"}  # fields of models/lora.Adapted


def _parameter_path(key_path: tuple) -> str:
    """Names of the innermost dicts, such as "layers/mlp/up" in an optimiser's state."""
    keys, ending = list(key_path), ""
    if keys and isinstance(keys[-1], jax.tree_util.GetAttrKey):
        ending = _OF_ADAPTED.get(keys.pop().name, "/")  # "/": no parameter
    names = []
    while keys and isinstance(keys[-1], jax.tree_util.DictKey):
        names.append(str(keys.pop().key))
    return "/".join(reversed(names)) + ending


def place_batch(batch: Any, mesh: Mesh, *, axis: int) -> Any:
    """`batch`, which every process has, on the mesh, its leaves split over the devices that share a batch.

    Along `axis`; leaves without it, or whose size there the devices do not divide, go to every device:
    slower, never wrong.
    """
    n_shards = n_batch_shards(mesh)

    def sharding(leaf: Any) -> NamedSharding:
        if np.ndim(leaf) <= axis or np.shape(leaf)[axis] % n_shards:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))

    return jax.tree.map(lambda leaf: placed(leaf, sharding(leaf)), batch)

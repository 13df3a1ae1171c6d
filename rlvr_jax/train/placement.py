"""Which device holds what: one mesh, batches split over its `data` axis, the rest on every device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax.train.config import ConfigError


def build_mesh(*, data: int) -> Mesh:
    """A mesh with a `data` axis over the first `data` devices (0: all of them)."""
    devices = jax.devices()
    if data > len(devices):
        raise ConfigError(
            [f"placement.data={data} is more than the {len(devices)} device(s) here; use {len(devices)} or 0 for all"]
        )
    return Mesh(np.array(devices[: data or len(devices)]), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Any, mesh: Mesh, *, axis: int) -> Any:
    """`batch` on the mesh, its leaves split over devices along `axis`.

    Leaves without that axis, or whose size there the devices do not divide, go to every device:
    slower, never wrong.
    """
    n_devices = mesh.shape["data"]

    def sharding(leaf: Any) -> NamedSharding:
        if np.ndim(leaf) <= axis or np.shape(leaf)[axis] % n_devices:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf)), batch)

"""Meshes and layouts of tests that have no model of their own."""

from rlvr_jax.train.config import PlacementConfig
from rlvr_jax.train.placement import Layout, build_mesh


def mesh_of(n_devices):
    """So many devices that share a batch."""
    return build_mesh(PlacementConfig(data=n_devices))


def layout_of(mesh):
    """Every parameter on every device."""
    return Layout(mesh, trained={}, frozen={})

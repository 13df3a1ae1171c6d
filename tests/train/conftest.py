"""Runs of the tiny config in one process."""

from pathlib import Path

import jax
import pytest

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run import run_point
from rlvr_jax.train.stop import StopRequest


@pytest.fixture(scope="session")
def start(tiny_params):
    """Runs a config in a folder."""

    def run(config, folder: Path, *, stop=None, params=tiny_params):
        parts = assemble(config)
        folder.mkdir(parents=True, exist_ok=True)
        params = jax.device_put(params, replicated(parts.mesh))
        return run_point(config, parts, params, folder, stop=stop or StopRequest(), progress=Progress("test"))

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, module_config, start):
    """An uninterrupted run that others are compared with."""
    folder = tmp_path_factory.mktemp("finished")
    assert start(module_config, folder) == "finished"
    return folder

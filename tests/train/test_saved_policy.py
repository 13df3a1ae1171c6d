"""Which saved policies are taken for a config's, and which are refused."""

import logging

import jax
import numpy as np
import pytest

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.checkpoint import CheckpointError
from rlvr_jax.train.progress import Progress
from rlvr_jax.train.run import run_point
from rlvr_jax.train.saved_policy import saved_state
from rlvr_jax.train.stop import StopRequest


@pytest.fixture(scope="module")
def run(module_config, tiny_params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "point"
    module_config.n_updates = 2
    module_config.noise.every_updates = 0
    run_point(
        module_config, assemble(module_config), tiny_params, folder, stop=StopRequest(), progress=Progress("test")
    )
    return folder


def test_a_run_and_one_of_its_checkpoints_are_found(run, tiny_config):
    parts = assemble(tiny_config)
    newest, update = saved_state(tiny_config, parts, run)
    named, named_update = saved_state(tiny_config, parts, run / "checkpoints" / "2")
    assert (update, named_update, int(newest.n_updates)) == (2, 2, 2)
    jax.tree.map(np.testing.assert_array_equal, newest.params, named.params)


def test_another_network_with_weights_of_the_same_shapes_is_refused(run, tiny_config):
    tiny_config.model.rope_theta = 10_000.0
    with pytest.raises(CheckpointError, match=r"another model: model.rope_theta was 100.0 and is 10000.0 now"):
        saved_state(tiny_config, assemble(tiny_config), run)


def test_settings_of_memory_alone_make_no_other_network(run, tiny_config):
    tiny_config.model.remat, tiny_config.model.logprob_chunk_mib = "full", 1
    saved_state(tiny_config, assemble(tiny_config), run)


def test_other_settings_that_change_what_is_measured_are_warned_about(run, tiny_config, caplog):
    tiny_config.sampling.temperature = 0.7
    with caplog.at_level(logging.WARNING):
        saved_state(tiny_config, assemble(tiny_config), run)
    assert "sampling.temperature was 1.0 and is 0.7 now" in caplog.text

"""The folder of a large measurement when something in it is damaged: said at once, and nothing is overwritten."""

import json

import numpy as np
import pytest

from rlvr_jax.train.noise_folder import SETTINGS_FILE, SUMS_FILE, NoiseFolder, NoiseFolderError, load_settings
from rlvr_jax.train.noise_pass import GradientSums

SETTINGS = {"seed": 0}


@pytest.fixture
def begun(tmp_path):
    """A folder with two chunks of one prompt each."""
    disk = NoiseFolder(tmp_path, SETTINGS, remarks={})
    for number in range(2):
        disk.add({"reward_PR": np.full((1, 4), number)}, GradientSums({"w": np.full(3, 1.0)}, None))
    return tmp_path


def test_what_was_added_is_found_again(begun):
    disk = NoiseFolder(begun, SETTINGS, remarks={})
    assert disk.n_chunks == 2
    np.testing.assert_array_equal(disk.sums.loss["w"], [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(disk.arrays()["reward_PR"][:, 0], [0, 1])


def test_a_missing_chunk_is_named_when_the_folder_is_opened(begun):
    (begun / "chunk_00001.npz").unlink()
    with pytest.raises(NoiseFolderError, match=r"lacks chunk_00001.npz of its 2 chunks"):
        NoiseFolder(begun, SETTINGS, remarks={})


@pytest.mark.parametrize("arrays", [{}, {"n_chunks": np.int64(1)}, {"n_chunks": np.zeros(2), "loss/w": np.zeros(3)}])
def test_sums_that_are_not_ours_are_refused(begun, arrays):
    np.savez(begun / SUMS_FILE, **arrays)
    with pytest.raises(NoiseFolderError, match=r"sums.npz cannot be read .*delete .* to measure again"):
        NoiseFolder(begun, SETTINGS, remarks={})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', "\x00"])
def test_settings_that_cannot_be_read_are_refused(begun, text):
    (begun / SETTINGS_FILE).write_text(text)
    with pytest.raises(NoiseFolderError, match=r"measurement.json cannot be read .*start over"):
        load_settings(begun)


def test_other_settings_are_refused_with_both_values(begun):
    with pytest.raises(NoiseFolderError, match=r"seed was 0 when .* and is 1 now"):
        NoiseFolder(begun, {"seed": 1}, remarks={})
    assert json.loads((begun / SETTINGS_FILE).read_text())["settings"] == SETTINGS

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.state import initial_state

OPTIMIZER = optax.adam(0.1)


def state(value: float):
    return initial_state({"w": jnp.full((3,), value)}, OPTIMIZER).replace(n_updates=jnp.int32(value))


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", keep_newest=2, keep_best=1)
    yield opened
    opened.close()


def save(checkpoints, update, accuracy):
    checkpoints.save(state(update), {"update": update}, update=update, accuracy=accuracy)
    checkpoints.wait()


def test_what_is_restored_is_what_was_saved(checkpoints):
    save(checkpoints, 3, 0.5)
    restored, progress = checkpoints.restore_newest(state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))
    assert progress == {"update": 3}


def test_an_empty_folder_has_nothing_to_restore(checkpoints):
    assert checkpoints.restore_newest(state(0)) is None


@pytest.mark.parametrize("bad", [0.1, None, float("nan")], ids=["worse", "not evaluated", "NaN"])
def test_the_newest_stays_whatever_its_metric_and_so_does_the_best(checkpoints, bad):
    for update, accuracy in ((1, 0.2), (2, 0.9), (3, 0.3), (4, 0.4), (5, bad)):
        save(checkpoints, update, accuracy)
    assert checkpoints.all_updates() == [2, 4, 5]


def damage(folder):
    for file in folder.rglob("*"):
        if file.is_file() and "ocdbt" in str(file):
            file.write_bytes(file.read_bytes()[:10])


def test_a_damaged_newest_is_set_aside_with_a_warning(checkpoints, caplog):
    save(checkpoints, 1, None)
    save(checkpoints, 2, None)
    damage(checkpoints.folder / "2")
    _, progress = checkpoints.restore_newest(state(0))
    assert progress == {"update": 1}
    assert "checkpoint of update 2 is damaged" in caplog.text
    assert (checkpoints.folder / "damaged_2").is_dir()
    save(checkpoints, 2, None)  # its number is free again
    assert checkpoints.all_updates() == [1, 2]


def test_a_checkpoint_with_a_missing_part_is_damaged_too(checkpoints):
    save(checkpoints, 1, None)
    save(checkpoints, 2, None)
    (checkpoints.folder / "2" / "state" / "manifest.ocdbt").unlink()
    assert checkpoints.restore_newest(state(0))[1] == {"update": 1}


def test_when_all_are_damaged_it_says_so(checkpoints):
    save(checkpoints, 1, None)
    damage(checkpoints.folder / "1")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* \(updates \[1\]\) can be read"):
        checkpoints.restore_newest(state(0))
    assert (checkpoints.folder / "1").is_dir()  # nothing is moved when the fault may lie elsewhere


def test_another_process_keeps_the_newest_and_the_best_as_the_first_did(tmp_path):
    for update, accuracy in ((1, 0.2), (2, 0.9), (3, 0.3), (4, None), (5, 0.4), (6, 0.1)):
        one = Checkpoints(tmp_path / "checkpoints", keep_newest=1, keep_best=1)  # as after a resume
        save(one, update, accuracy)
        one.close()
    assert one.all_updates() == [2, 6]
    again = Checkpoints(tmp_path / "checkpoints", keep_newest=1, keep_best=1)
    save(again, 7, 0.95)
    assert again.all_updates() == [7]
    again.close()

"""A large noise measurement on disk: its settings, a file per chunk, and the sums over all of them.

    measurement.json   what is measured, how, on what; written first
    chunk_00000.npz    everything known of the first prompts; scores as sketches
    sums.npz           sum_x g_x over the chunks so far, and how many they are

A chunk is on disk before the sums hold it. So a process may be killed at any moment, and the next one goes on with
the chunk that the sums do not hold yet.
"""

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np

from rlvr_jax.models.spec import Params
from rlvr_jax.train.log import save_arrays, write_json
from rlvr_jax.train.noise_pass import GradientSums, GroupReading, Reading
from rlvr_jax.train.run_directory import RunDirectoryError

Arrays = dict[str, np.ndarray]
Settings = dict[str, Any]  # as JSON has them

SETTINGS_FILE, SUMS_FILE = "measurement.json", "sums.npz"
ROLLOUT_SKETCH = "sketch_PRW"  # named as in a run's noise/update_N.npz


class NoiseFolderError(RunDirectoryError):
    """The folder of a measurement cannot be used; the message says why and what to do."""


class NoiseFolder:
    """The measurement in a folder, new or begun before."""

    def __init__(self, folder: Path, settings: Settings, *, remarks: Settings):
        """Raises NoiseFolderError if what the folder holds was measured with other settings, or cannot be read.

        Args:
            settings: what every number depends on; flat.
            remarks: what is written beside them and may change.
        """
        self.folder, self.n_chunks, self.sums = folder, 0, None
        if not (folder / SUMS_FILE).exists():  # nothing is measured yet, so settings may change
            with self.writing():
                write_json(folder / SETTINGS_FILE, {"settings": settings, "remarks": remarks})
            return
        earlier = load_settings(folder)
        if earlier is None:
            raise NoiseFolderError(f"{folder} holds {SUMS_FILE} but no {SETTINGS_FILE}; choose another --out=DIR")
        _check_same(earlier, json.loads(json.dumps(settings)), folder)
        arrays = self._load(folder / SUMS_FILE)
        try:
            self.n_chunks, self.sums = int(arrays.pop("n_chunks")), _sums_of(arrays)
        except (KeyError, TypeError, ValueError) as error:  # a zip file, but not one of ours
            raise self._unreadable(folder / SUMS_FILE, error) from error
        missing = [path.name for path in map(self._chunk, range(self.n_chunks)) if not path.exists()]
        if missing:  # before hours are spent on the rest
            raise NoiseFolderError(
                f"{folder} lacks {', '.join(missing[:5])} of its {self.n_chunks} chunks; put them back, delete "
                f"{folder} to measure again, or choose another --out=DIR"
            )

    def add(self, arrays: Arrays, sums: GradientSums) -> None:
        """One more chunk. Raises NoiseFolderError if it cannot be written; the chunks before it stay."""
        total = sums if self.sums is None else jax.tree.map(np.add, self.sums, sums)
        with self.writing():
            save_arrays(self._chunk(self.n_chunks), arrays)
            save_arrays(self.folder / SUMS_FILE, {"n_chunks": np.int64(self.n_chunks + 1), **_sums_arrays(total)})
        self.n_chunks, self.sums = self.n_chunks + 1, total

    def arrays(self) -> Arrays:
        """Those of all chunks together, without the sketches of single rollouts, which may not fit into memory."""
        chunks = [self._load(self._chunk(number), leave_out=ROLLOUT_SKETCH) for number in range(self.n_chunks)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk_{number:05d}.npz"

    def _load(self, path: Path, *, leave_out: str = "") -> Arrays:
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if name != leave_out}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: Path, error: Exception) -> NoiseFolderError:
        return NoiseFolderError(
            f"{path} cannot be read ({type(error).__name__}: {error}) and the measurement cannot be finished "
            f"without it; delete {self.folder} to measure again, or choose another --out=DIR"
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: of a zip file that could not be closed
            raise NoiseFolderError(
                f"writing {self.folder} failed ({getattr(error, 'strerror', None) or error}); the chunks written "
                "before are whole. Free the disk or make it writable, and run the same command to go on"
            ) from error


def load_settings(folder: Path) -> Settings | None:
    """The settings of the measurement in a folder, or None if there is none."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoiseFolderError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete {folder} to start over, "
            "or choose another --out=DIR"
        ) from error


def _check_same(old: Settings, new: Settings, folder: Path) -> None:
    different = [
        f"{name} was {old.get(name)!r} when {folder} was begun and is {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if different:
        raise NoiseFolderError(
            "\n".join(different) + "\na measurement keeps its settings: change them back, choose another --out=DIR, "
            f"or delete {folder}"
        )


def reading_arrays(reading: Reading) -> Arrays:
    """By name, such as loss/sq_norm/attention and gram/attention; what was not read is missing."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(reading), sep="/")
    found = {name: leaf for name, leaf in flat.items() if leaf is not None}
    if "rollout_sketch_PRW" in found:
        found[ROLLOUT_SKETCH] = found.pop("rollout_sketch_PRW")
    return found


def reading_of(arrays: Arrays) -> Reading:
    """The inverse of `reading_arrays`, among other arrays."""
    nested = flax.traverse_util.unflatten_dict(arrays, sep="/")

    def groups(name: str) -> GroupReading | None:
        return GroupReading(**nested[name]) if name in nested else None

    return Reading(groups("loss"), groups("policy"), groups("adam"), nested.get("gram"), nested.get(ROLLOUT_SKETCH))


def _sums_arrays(sums: GradientSums) -> Arrays:
    return flax.traverse_util.flatten_dict(_without_none({"loss": sums.loss, "policy": sums.policy}), sep="/")


def _sums_of(arrays: Arrays) -> GradientSums:
    nested = flax.traverse_util.unflatten_dict(arrays, sep="/")
    return GradientSums(nested["loss"], nested.get("policy"))


def _without_none(tree: dict[str, Params | None]) -> dict[str, Params]:
    return {name: leaf for name, leaf in tree.items() if leaf is not None}

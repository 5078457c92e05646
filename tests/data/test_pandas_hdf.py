"""Data frames in HDF5: labels are read from the bytes, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroattn.data.pandas_hdf import open_frame, pickled_labels
from neuroattn.errors import FileError
from tests.data.things_mini import write_labels


def objects(labels: list) -> np.ndarray:
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_labels_of_every_protocol_are_found_in_order(protocol) -> None:
    # Catches numbers of two and four bytes, batches of a thousand, text that occurs before.
    labels = ["voxel_id", *range(2500), 70_000, "x", 2**40]
    assert pickled_labels(pickle.dumps(objects(labels), protocol)) == labels


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "labels", [[1, None], [1.5], [(1, 2)], ["a", ["b"]], [np.int64(3)], [b"a"], [True]]
)
def test_other_labels_are_not_guessed(labels) -> None:
    # Catches a label that is passed over, so that all that follow shift.
    assert pickled_labels(pickle.dumps(objects(labels), 4)) is None


def test_nothing_is_executed(tmp_path) -> None:
    # Catches the unpickling of a file from elsewhere.
    for content in (objects([Bomb(tmp_path / "a")]), Bomb(tmp_path / "b")):
        assert pickled_labels(pickle.dumps(content, 4)) is None
    tail = pickle.dumps(objects([1, 2]), 2)[:-1] + pickle.dumps(Bomb(tmp_path / "c"), 2)[2:]
    assert pickled_labels(tail) is None
    assert pickled_labels(b"no pickle") is None
    assert not any(tmp_path.iterdir())


def frame(path: Path, labels: list, how: str, values: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group.attrs["nblocks"] = 1
        write_labels(group, "block0_items", labels, how)
        group["block0_values"] = values
    return path


@pytest.mark.parametrize(
    ("labels", "how", "expected"),
    [
        ([0, 1, 2], "numbers", [0, 1, 2]),
        ([0, 1, 2], "text", ["0", "1", "2"]),
        (["voxel_id", 0, 1], "pickled", ["voxel_id", 0, 1]),
    ],
)
def test_blocks_are_read_with_their_labels(tmp_path, labels, how, expected) -> None:
    # Catches values that are turned, or read before they are asked for.
    values = np.arange(6.0).reshape(2, 3)
    with open_frame(frame(tmp_path / "a.h5", labels, how, values)) as (block,):
        assert block.columns == expected
        assert isinstance(block.values, h5py.Dataset)
        np.testing.assert_array_equal(block.values[:], values)


def test_other_files_are_told(tmp_path) -> None:
    # Catches a key error without the name of the file.
    path = frame(tmp_path / "a.h5", [0, 1], "numbers", np.zeros((2, 3)))
    with pytest.raises(FileError, match="2 columns"), open_frame(path):
        pass
    frame(path, [1.5, None], "pickled", np.zeros((2, 2)))
    with pytest.raises(FileError, match="astype"), open_frame(path):
        pass
    with h5py.File(path, "w") as file:
        file["array"] = np.zeros(3)
    with pytest.raises(FileError, match="of no pandas type"), open_frame(path):
        pass
    path.write_bytes(b"pandas")
    with pytest.raises(FileError, match=r"a\.h5.*not HDF5"), open_frame(path):
        pass
    with pytest.raises(FileError, match="does not exist"), open_frame(tmp_path / "b.h5"):
        pass

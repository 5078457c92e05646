"""An HDF5 file that was sent shows its own values, never those of other files here."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroattn.data.arrays import read_array
from neuroattn.data.episodes import read_episodes
from neuroattn.data.nsd.betas import HDF5Betas
from neuroattn.data.nsd.matlab import read_matlab
from neuroattn.data.pandas_hdf import open_frame
from neuroattn.errors import FileError
from neuroattn.features.episode_tables import EpisodeTables
from neuroattn.images import ImageHDF5

KEY = "ses-001_task-s01e01a"


def _frame(path: Path) -> None:
    with open_frame(path):
        pass


def _array(path: Path) -> None:
    read_array(path, "x", "a b", ("a", "b"))


READERS = {
    "betas": ("betas", np.ones((4, 30), np.int16), HDF5Betas),
    "design": ("order", np.ones((4, 3)), lambda path: read_matlab(path, ["order"])),
    "images": (
        "imgBrick",
        np.ones((2, 4, 4, 3), np.uint8),
        lambda path: ImageHDF5(path, "imgBrick"),
    ),
    "episodes": (KEY, np.ones((9, 3), np.float32), lambda path: read_episodes(path, "friends", 0)),
    "frame": ("ResponseData/block0_values", np.ones((4, 2)), _frame),
    "tables": ("friends-s01e01a", np.ones((9, 3)), EpisodeTables),
    "array": ("x", np.ones((9, 3)), _array),
}


def _write(path: Path, name: str, values: np.ndarray, how: str) -> None:
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as file:
        file["inside"] = values
    raw = path.with_name("secret.bin")
    raw.write_bytes(values.tobytes())
    with h5py.File(path, "w") as file:
        if name.startswith("ResponseData"):
            group = file.create_group("ResponseData")
            group.attrs.update({"pandas_type": np.bytes_("frame"), "nblocks": 1})
            group["block0_items"] = np.arange(2)
        if how == "own":
            file[name] = values
        elif how == "soft":
            file["elsewhere/in/the/file"] = values
            file[name] = h5py.SoftLink("/elsewhere/in/the/file")
        elif how == "link":
            file[name] = h5py.ExternalLink("secret.h5", "inside")
        elif how == "raw":
            kind, shape = values.dtype, values.shape
            external = [(str(raw), 0, values.nbytes)]
            file.create_dataset(name, shape, kind, external=external)
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(secret), "inside", values.shape)
            file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("how", ["link", "raw", "virtual"])
@pytest.mark.parametrize("reader", READERS)
def test_values_of_other_files_are_refused(tmp_path: Path, reader: str, how: str) -> None:
    """Catches a file from elsewhere that brings bytes of this machine into a conversion."""
    name, values, read = READERS[reader]
    path = tmp_path / "given.h5"
    _write(path, name, values, how)
    with pytest.raises(FileError, match=r"given\.h5.*(another file|holds 0|no table|no dataset)"):
        read(path)


@pytest.mark.parametrize("how", ["own", "soft"])
@pytest.mark.parametrize("reader", READERS)
def test_values_of_the_file_itself_are_read(tmp_path: Path, reader: str, how: str) -> None:
    """Catches a check that refuses what is in order, also under a relative name or a link."""
    name, values, read = READERS[reader]
    if reader in ("episodes", "tables", "array") and how == "soft":
        how = "own"  # links are not looked at, or every key is an episode
    _write(tmp_path / "given.h5", name, values, how)
    (tmp_path / "linked.h5").symlink_to("given.h5")
    read(tmp_path / "linked.h5")

"""Arrays of users' files, with their axes named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from neuroattn.data.arrays import read_array, read_npy
from neuroattn.errors import FileError, InputError

DATA = np.arange(5 * 3 * 1 * 2, dtype=np.float32).reshape(5, 3, 1, 2)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    np.savez(tmp_path / "a.npz", beta=DATA, other=np.arange(3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/beta"] = DATA
        file["other"] = np.arange(3)
        file["#refs#/b"] = np.arange(2)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "dataset"), [("a.npy", None), ("a.npz", "beta"), ("a.h5", "group/beta")]
)
@pytest.mark.parametrize("suffix", [None, ".mat", ".hdf5"])
def test_axes_are_brought_into_order_by_name(files, name, dataset, suffix) -> None:
    # Catches a transpose that is its own inverse only for two axes, and dropping the wrong axis.
    path = files / name
    if suffix and name == "a.h5":
        path = path.rename(path.with_suffix(suffix))
    result = read_array(path, dataset, "image voxel . bootstrap", ("bootstrap", "image", "voxel"))
    assert result.shape == (2, 5, 3)
    for b, i, v in np.ndindex(result.shape):
        assert result[b, i, v] == DATA[i, v, 0, b]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("image voxel", ["2 names for 4 axes", "(5, 3, 1, 2)", "a.npy"]),
        ("image . voxel bootstrap", ["'.' drops axis 1", "length is not 1"]),
        ("image voxel . voxel", ["name image, voxel, bootstrap once"]),
        ("image voxel . boot", ["name image, voxel, bootstrap once"]),
    ],
)
def test_axes_that_do_not_fit_are_told_with_the_shape(files, axes, words) -> None:
    # Catches numpy's "axes don't match array".
    with pytest.raises(InputError) as caught:
        read_array(files / "a.npy", None, axes, ("image", "voxel", "bootstrap"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("name", "known"), [("a.npz", "beta"), ("a.h5", "group/beta")])
def test_an_unknown_dataset_is_answered_with_what_is_there(files, name, known) -> None:
    # Catches a KeyError, and MATLAB's hidden cells in the list.
    with pytest.raises(FileError) as caught:
        read_array(files / name, known + "s", "x", ("x",))
    message = str(caught.value)
    assert f"did you mean '{known}'?" in message
    assert f"It holds: {known}, other." in message
    with pytest.raises(FileError, match="needs the name of a dataset"):
        read_array(files / name, None, "x", ("x",))


def test_a_file_with_one_array_needs_no_name(tmp_path) -> None:
    # Catches a name that must be given though there is no choice.
    np.savez(tmp_path / "one.npz", x=np.arange(3.0))
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["y"] = np.arange(3.0)
    for name in ("one.npz", "one.h5"):
        assert read_array(tmp_path / name, None, "voxel", ("voxel",)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.97])
def test_a_truncated_file_is_named(files, name, keep) -> None:
    # Catches a library error without a file name, and numbers that are not there.
    path = files / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    dataset = {"a.npy": None, "a.npz": "beta", "a.h5": "group/beta"}[name]
    with pytest.raises(FileError, match=rf"{name} \(\d+ bytes\) is truncated"):
        read_array(path, dataset, "image voxel . b", ("image", "voxel", "b"))


def test_pickled_arrays_are_refused(tmp_path) -> None:
    # Catches allow_pickle=True.
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(FileError, match=name):
            read_array(tmp_path / name, None, "x", ("x",))


def test_text_missing_files_and_other_endings_are_refused(tmp_path) -> None:
    # Catches strings that numpy would turn into an error further down.
    np.save(tmp_path / "t.npy", np.array(["a"]))
    with pytest.raises(InputError, match=r"t\.npy is <U1; needed are real numbers"):
        read_array(tmp_path / "t.npy", None, "x", ("x",))
    with pytest.raises(FileError, match="does not exist"):
        read_array(tmp_path / "none.npy", None, "x", ("x",))
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(InputError, match=r"'\.xls'; allowed: \.npy"):
        read_array(tmp_path / "a.xls", None, "x", ("x",))
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 600)
    with pytest.raises(FileError, match=r"old\.mat.*no MATLAB file"):
        read_array(tmp_path / "old.mat", "x", "x", ("x",))


def test_npy_is_mapped_not_read(tmp_path) -> None:
    # Catches a reading of the whole file.
    np.save(tmp_path / "a.npy", DATA)
    assert isinstance(read_npy(tmp_path / "a.npy"), np.memmap)

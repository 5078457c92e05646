"""Images and responses in MATLAB files of any version, as rows of numbers, shown more than once."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from neuroattn.data import ImageSource, ResponseSource, TableData
from neuroattn.data.array_images import merged, open_images
from neuroattn.data.arrays import is_old_matlab, read_array
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.images import ImageArray, ImageHDF5

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 2, (5, 4, 3)).astype(np.uint8)  # (row, column, image)
ORDER = [2, 0, 1, 2, 2, 0, 1]


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """Return a MATLAB 5 file: one column of numbers a presentation, beside things no array."""
    shown = PIXELS[:, :, ORDER]
    content = {
        "I": shown.reshape(20, len(ORDER), order="F"),
        "R": np.arange(14.0).reshape(2, 7),
        "flag": np.array([[True, False]]),
        "struct": {"hidden": np.ones(3)},
        "cell": np.array([np.ones(2), "text"], dtype=object),
        "text": "R",
    }
    savemat(tmp_path / "old.mat", content, do_compression=True)
    return tmp_path / "old.mat"


def test_matlab_5_arrays_come_as_matlab_shows_them(mat: Path) -> None:
    """Catches axes reversed as those of version 7.3 are."""
    found = read_array(mat, "R", "voxel image", ("image", "voxel"))
    np.testing.assert_array_equal(found, np.arange(14.0).reshape(2, 7).T)
    assert is_old_matlab(mat)
    newer = mat.with_name("new.mat")
    with h5py.File(newer, "w", userblock_size=512) as file:
        file["R"] = np.arange(14.0).reshape(2, 7).T
    assert not is_old_matlab(newer)
    np.testing.assert_array_equal(read_array(newer, "R", "image voxel", ("image", "voxel")), found)


def test_only_arrays_of_numbers_are_read(mat: Path) -> None:
    """Catches a struct, a cell or text handed on as an array of objects."""
    for name in ("struct", "cell", "text"):
        with pytest.raises(FileError, match=rf"no dataset '{name}'.*holds: I, R, flag"):
            read_array(mat, name, "x y", ("x", "y"))
    with pytest.raises(FileError, match="needs the name of a dataset"):
        read_array(mat, None, "x y", ("x", "y"))
    assert read_array(mat, "flag", ". x", ("x",)).tolist() == [1, 0]


def test_a_truncated_matlab_file_is_named(mat: Path) -> None:
    """Catches a stack trace of the library where a download broke off."""
    whole = mat.read_bytes()
    for length in (0, 10, 130, 200, len(whole) - 40):
        mat.write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"old\.mat \(\d+ bytes\)|needs the name|no dataset"):
            read_array(mat, "text" if length > 200 else "I", "x y", ("x", "y"))


def test_rows_of_numbers_become_images_the_right_way_round(mat: Path) -> None:
    """Catches images that are turned, because MATLAB counts down the columns."""
    spec = ImageSource("old.mat", dataset="I", shape=[4, 5, 7], axes="column row image", scale=255)
    images = open_images(mat, spec)
    assert isinstance(images, ImageArray)
    for place, image in enumerate(ORDER):
        np.testing.assert_array_equal(images.read(place)[..., 1], 255 * PIXELS[:, :, image])


def test_the_same_pixels_are_one_image_shown_again(mat: Path) -> None:
    """Catches presentations that keep ids of their own, so that a fold sees the test image."""
    spec = {"path": "old.mat", "dataset": "I", "shape": [4, 5, 7], "axes": "column row image"}
    data = TableData(
        ImageSource(**spec, scale=255, merge=True),
        ResponseSource("old.mat", dataset="R", axes="voxel image"),
        folder=str(mat.parent),
    )
    assert data.images().ids == ("00000", "00001", "00002")
    responses = data.responses()
    names = {2: "00000", 0: "00001", 1: "00002"}
    assert responses["image"].values.tolist() == [names[image] for image in ORDER]
    assert responses["repetition"].values.tolist() == [0, 0, 0, 1, 2, 1, 1]
    np.testing.assert_array_equal(responses["response"].values[3], [3, 10])
    for place, image in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(data.images().read(place)[..., 0], 255 * PIXELS[:, :, image])
    apart = TableData(ImageSource(**spec, scale=255), ResponseSource("old.mat", "R", "voxel image"))
    apart.folder = str(mat.parent)
    assert len(set(apart.responses()["image"].values.tolist())) == 7


def test_merging_keeps_the_first_of_each(mat: Path) -> None:
    """Catches ids that move to a later showing."""
    once, rows = merged(ImageArray(np.array([PIXELS[:, :, i] for i in (0, 1, 0)]), list("abc")))
    assert (once.ids, rows) == (("a", "b"), ["a", "b", "a"])


def test_arrays_of_numpy_and_colour_work_as_well(tmp_path: Path) -> None:
    """Catches a channel axis that is lost, and floats from 0 to 1 that become black."""
    colour = GENERATOR.random((3, 4, 5, 3))
    np.save(tmp_path / "images.npy", colour.transpose(3, 0, 1, 2))
    spec = ImageSource("images.npy", axes="channel image row column", scale=255)
    images = open_images(tmp_path / "images.npy", spec)
    np.testing.assert_array_equal(images.read(2), np.rint(255 * colour[2]))
    np.save(tmp_path / "grey.npy", np.rint(255 * colour[..., :1]))
    grey = open_images(tmp_path / "grey.npy", ImageSource("grey.npy"))
    assert grey.read(1).shape == (4, 5, 3)


def test_hdf5_images_are_still_read_one_by_one(tmp_path: Path) -> None:
    """Catches 73,000 images read into memory."""
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["imgBrick"] = np.zeros((2, 4, 5, 3), np.uint8)
    source = ImageSource("images.h5", dataset="imgBrick")
    assert isinstance(open_images(tmp_path / "images.h5", source), ImageHDF5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": [4, 5, 6]}, InputError, r"shape=\[4, 5, 6\] has 120 numbers.*140 numbers"),
        ({"shape": None}, InputError, "3 names for 2 axes"),
        ({"scale": 400}, InputError, r"lie from 0 to 400 \(scale=400\); allowed are 0 to 255"),
        ({"scale": -1}, InputError, "lie from -1 to"),
        ({"dataset": "J"}, FileError, "no dataset 'J'"),
    ],
)
def test_what_does_not_fit_is_named(mat: Path, options, error, message: str) -> None:
    """Catches images cut from the wrong numbers without a word."""
    spec = {"dataset": "I", "shape": [4, 5, 7], "axes": "column row image", "scale": 255}
    with pytest.raises(error, match=message):
        open_images(mat, ImageSource("old.mat", **{**spec, **options}))


def test_counts_of_places_and_rows_are_compared_also_when_images_are_merged(mat: Path) -> None:
    """Catches rows matched with the three images instead of their seven places."""
    np.save(mat.with_name("r.npy"), np.zeros((3, 2)))
    spec = {"path": "old.mat", "dataset": "I", "shape": [4, 5, 7], "axes": "column row image"}
    data = TableData(ImageSource(**spec, merge=True), "r.npy", folder=str(mat.parent))
    with pytest.raises(MismatchError, match=r"3 rows, .* has 7 images"):
        data.responses()

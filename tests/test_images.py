"""Images: what is read is what was written, whatever the file format, and damage is named."""

from __future__ import annotations

import copy

import h5py
import numpy as np
import pytest
from PIL import Image

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.images import (
    ImageArray,
    ImageFiles,
    ImageFolder,
    ImageHDF5,
    JoinedImages,
    NamedStimuli,
    resize,
    to_float,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_array_gives_back_pixels_and_repeats_grey_over_rgb():
    """Catches a swapped axis and grey put into one channel only."""
    colour, grey = noise(3, 5, 7, 3), noise(3, 5, 7)
    assert np.array_equal(ImageArray(colour).read(1), colour[1])
    assert np.array_equal(ImageArray(grey).read(2), np.stack([grey[2]] * 3, axis=-1))
    assert ImageArray(colour).ids == ("00000", "00001", "00002")


def test_list_may_hold_images_of_different_sizes():
    """Catches stacking."""
    images = ImageArray([noise(3, 4), noise(5, 2, 3)], ids=["a", "b"])
    assert [images.read(i).shape for i in range(len(images))] == [(3, 4, 3), (5, 2, 3)]


@pytest.mark.parametrize(
    "bad",
    [np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4, 4), np.uint8), [np.zeros(3, np.uint8)]],
)
def test_array_that_is_no_image_is_refused_with_its_shape(bad):
    """Catches floats in 0..1 taken for 0..255 and RGBA taken for RGB."""
    with pytest.raises(InputError, match=r"array\[0\] is (uint8|float32) of shape \("):
        ImageArray(bad)


def test_ids_must_be_unique_and_as_many_as_images():
    """Catches a lookup that silently takes the last of two."""
    with pytest.raises(InputError, match="'x' occurs twice"):
        ImageArray(noise(2, 3, 3), ids=["x", "x"])
    with pytest.raises(MismatchError, match="3 entries for 2 images"):
        ImageArray(noise(2, 3, 3), ids=["x", "y", "z"])


def test_digest_depends_on_content_and_on_shape():
    """Catches a hash of the bytes alone: 2 x 6 and 3 x 4 black pixels have the same bytes."""
    tall, wide = np.zeros((2, 6), np.uint8), np.zeros((3, 4), np.uint8)
    digests = {ImageArray([image]).digest(0) for image in (tall, wide, tall + 1)}
    assert len(digests) == 3
    assert ImageArray([tall]).digest(0) == ImageArray([tall.copy()], ids=["other"]).digest(0)


def test_subset_keeps_order_ids_and_digests():
    """Catches a subset that sorts, or indexes itself instead of its parent."""
    images = ImageArray(noise(5, 4, 4, 3), ids=list("abcde"))
    part = images.subset([3, 0, 4]).subset(np.array([2, 0]))
    assert part.ids == ("e", "d")
    assert np.array_equal(part.read(0), images.read(4))
    assert part.digest(1) == images.digest(3)
    with pytest.raises(InputError, match="index=2 is outside the 2 images"):
        part.read(2)
    with pytest.raises(InputError, match="index=-1"):
        images.read(-1)


def test_find_gives_positions_and_names_the_missing_id():
    """Catches positions in the order of the collection instead of the request."""
    images = ImageArray(noise(3, 2, 2), ids=["face", "body", "place"])
    assert images.find(["place", "face"]) == [2, 0]
    with pytest.raises(MismatchError, match=r"1 of 2 .* 'plase'; did you mean 'place'"):
        images.find(["face", "plase"])


def test_folder_reads_sorted_files_of_every_format(tmp_path):
    """Catches order of the file system, and lossless formats that lose."""
    image = noise(6, 9, 3)
    for name in ("b.png", "a.bmp", "c.tiff", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"") if name.endswith("txt") else Image.fromarray(image).save(
            tmp_path / name
        )
    Image.fromarray(image).save(tmp_path / "d.webp", lossless=True)
    folder = ImageFolder(tmp_path)
    assert folder.ids == ("a", "b", "c", "d")
    assert all(np.array_equal(folder.read(i), image) for i in range(4))
    assert ImageFolder(tmp_path, ids="name").ids[0] == "a.bmp"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1", "LA"])
def test_folder_turns_every_mode_into_rgb(tmp_path, mode):
    """Catches 16-bit grey clipped to white and alpha taken for a colour."""
    grey = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (4, 1))
    if mode == "I;16":
        made = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        # a palette made from grey is exact, one made from RGB would dither
        made = Image.fromarray(grey if mode == "P" else np.stack([grey] * 3, -1)).convert(mode)
    made.save(tmp_path / "x.tif")
    read = ImageFolder(tmp_path).read(0)
    expected = (grey > 127) * 255 if mode == "1" else grey
    assert read.shape == (*grey.shape, 3)
    # dithering of one-bit images moves single pixels, so means are compared there
    error = np.abs(read.astype(float) - expected[..., None])
    assert error.mean() < (64 if mode == "1" else 1)


def test_transparent_pixels_show_the_background(tmp_path):
    """Catches the hidden colour under alpha = 0 entering the features."""
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    read = ImageFolder(tmp_path, background=(200, 100, 50)).read(0)
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[1, 1].tolist() == [200, 100, 50]
    digests = {ImageFolder(tmp_path, background=(shade,) * 3).digest(0) for shade in (0, 127)}
    assert len(digests) == 2


def test_exif_orientation_is_applied(tmp_path):
    """Catches photographs that lie on their side."""
    image = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(ImageFolder(tmp_path).read(0), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif", "webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7])
def test_truncated_image_is_an_error_that_names_the_file(tmp_path, suffix, kept):
    """Catches grey or black rest of a truncated file served as an image."""
    path = tmp_path / f"scene.{suffix}"
    Image.fromarray(noise(40, 40, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(FileError, match=rf"image 'scene' \(.*scene\.{suffix}, \d+ bytes\)"):
        ImageFolder(tmp_path).read(0)


def test_folder_refuses_what_leads_out_or_finds_nothing(tmp_path):
    """Catches a pattern that reads a neighbour's folder, and an empty collection."""
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(2, 2)).save(tmp_path / "secret.png")
    for pattern in ("../*", "/etc/*", ""):
        with pytest.raises(InputError, match="leads out of the folder"):
            ImageFolder(tmp_path / "in", pattern)
    with pytest.raises(FileError, match="holds no file that fits"):
        ImageFolder(tmp_path / "in")
    with pytest.raises(FileError, match="does not exist"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(FileError, match="is a file"):
        ImageFolder(tmp_path / "secret.png")
    with pytest.raises(InputError, match="ids='uuid' is unknown"):
        ImageFolder(tmp_path, ids="uuid")


def test_same_stem_twice_is_refused_and_paths_tell_them_apart(tmp_path):
    """Catches two images under one id."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        Image.fromarray(noise(2, 2)).save(tmp_path / place / "a.png")
    with pytest.raises(InputError, match="ids='path'"):
        ImageFolder(tmp_path, "**/*")
    assert ImageFolder(tmp_path, "**/*", ids="path").ids == ("one/a.png", "two/a.png")


def test_folder_digest_follows_the_file(tmp_path):
    """Catches a digest remembered past a change of the file."""
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png")
    folder = ImageFolder(tmp_path)
    before = folder.digest(0)
    assert folder.digest(0) == before
    Image.fromarray(noise(4, 4, seed=1)).save(tmp_path / "a.png", compress_level=0)
    assert folder.digest(0) != before
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileError, match="image 'a'"):
        folder.digest(0)


@pytest.mark.parametrize(
    ("axes", "order"),
    [
        ("image row column channel", (0, 1, 2, 3)),
        ("channel column row image", (3, 2, 1, 0)),
        ("row image channel column", (1, 0, 3, 2)),
    ],
)
def test_hdf5_reads_any_order_of_axes(tmp_path, axes, order):
    """Catches a transposition undone the wrong way: sizes differ on every axis."""
    brick = noise(4, 5, 6, 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["brick"] = brick.transpose(order)
    images = ImageHDF5(tmp_path / "x.h5", "brick", axes)
    assert len(images) == 4
    assert all(np.array_equal(images.read(i), brick[i]) for i in range(4))
    assert images.digest(2) == ImageArray(brick).digest(2)


def test_hdf5_drops_axes_of_length_one_and_takes_grey(tmp_path):
    """Catches MATLAB's (image, 1, column, row) read untransposed."""
    brick = noise(3, 5, 6)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stimuli"] = brick.transpose(0, 2, 1)[:, None]
    images = ImageHDF5(tmp_path / "x.h5", "stimuli", "image . column row", ids=list("abc"))
    assert np.array_equal(images.read(1), np.stack([brick[1]] * 3, -1))
    # a copy goes the way to another process: without the open file
    again = copy.deepcopy(images)
    assert np.array_equal(again.read(2), images.read(2))


def test_hdf5_says_what_does_not_fit(tmp_path):
    """Catches wrong axes that would give garbage images, and a wrong dataset name."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["brick"], file["real"] = noise(4, 5, 6, 3), np.zeros((2, 3, 3))
        file.create_group("group")
    for axes in (
        "image row column",
        "image row row channel",
        "image row column .",
        "row column . .",
    ):
        with pytest.raises(InputError, match=r"axes=.*shape \(4, 5, 6, 3\)"):
            ImageHDF5(path, "brick", axes)
    with pytest.raises(InputError, match="real is float64; images are uint8"):
        ImageHDF5(path, "real", "image row column")
    for name in ("nothing", "group"):
        with pytest.raises(FileError, match=f"no dataset '{name}'"):
            ImageHDF5(path, name)


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_truncated_hdf5_is_an_error_that_names_the_file(tmp_path, kept):
    """Catches an HDF5 stack trace, and rows past the end read as black."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["brick"] = noise(20, 16, 16, 3)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=rf"x\.h5 \({kept} bytes\) is truncated or not HDF5"):
        ImageHDF5(path, "brick")


def test_resize_is_antialiased_and_to_float_ends_at_one():
    """Catches nearest-neighbour sampling, swapped height and width, and division by 256."""
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 4, 8)
    assert small.shape == (4, 8, 3)
    assert np.ptp(small[:, 2:-2].astype(int)) <= 2
    assert abs(float(small.mean()) - 127.5) < 3
    assert resize(stripes, 8, 64) is stripes
    assert to_float(stripes).dtype == np.float32
    assert to_float(stripes).max() == 1


def test_joined_images_stand_one_after_the_other_and_shared_ones_once():
    """Catches an image read from the wrong collection, and a shared image that comes twice."""
    pixels = noise(5, 4, 6, 3)
    first = ImageArray(pixels[[3, 0, 1]], ids=["d", "a", "b"])
    second = ImageArray([pixels[1].copy(), pixels[4], pixels[0].copy()], ids=["b", "e", "a"])
    third = ImageArray([noise(7, 3)], ids=["z"])
    joined = JoinedImages([first, second, third])
    assert joined.ids == ("d", "a", "b", "e", "z")
    assert len(joined) == 5
    for index, row in enumerate([3, 0, 1, 4]):
        assert np.array_equal(joined.read(index), pixels[row])
    assert joined.read(4).shape == (7, 3, 3)
    expected = [first.digest(0), first.digest(1), first.digest(2), second.digest(1)]
    assert [joined.digest(index) for index in range(4)] == expected
    assert joined.subset([3, 0]).ids == ("e", "d")
    assert JoinedImages([first, first]).ids == first.ids
    for index in (-1, 5):
        with pytest.raises(InputError, match=f"index={index} is outside the 5 images"):
            joined.read(index)
        with pytest.raises(InputError, match=f"index={index} is outside the 5 images"):
            joined.digest(index)


@pytest.mark.parametrize("shape", [(4, 6, 3), (6, 4, 3)])
def test_joined_images_refuse_an_id_that_stands_for_two_images(shape):
    """Catches responses to one image that are learned with the features of another."""
    first = ImageArray([noise(4, 6, 3), noise(4, 6, 3, seed=1)], ids=["a", "b"])
    other = ImageArray([noise(4, 6, 3), noise(*shape, seed=2)], ids=["a", "b"])
    with pytest.raises(MismatchError, match="image id 'b' stands for different images"):
        JoinedImages([ImageArray(noise(1, 2, 2)), first, other])


def test_joined_images_know_the_same_image_in_a_file_and_in_memory(tmp_path):
    """Catches a digest of a file's bytes compared with one of pixels."""
    pixels = noise(2, 4, 5, 3)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    folder = ImageFolder(tmp_path)
    assert JoinedImages([folder, ImageArray(pixels, ids=["a", "b"])]).ids == ("a", "b")
    with pytest.raises(MismatchError, match="image id 'a' stands for different images"):
        JoinedImages([folder, ImageArray(pixels[::-1], ids=["a", "b"])])


def test_joining_nothing_is_refused():
    """Catches a run that starts with no image and fails far from its cause."""
    with pytest.raises(InputError, match="at least one collection"):
        JoinedImages([])


def test_named_stimuli_have_ids_and_say_why_they_have_no_pixels():
    # Catches grey pictures in place of those that are missing, and equal digests.
    images = NamedStimuli(["face", "house"], "The data set ships no pictures.")
    assert images.ids == ("face", "house")
    assert images.digest(0) != images.digest(1)
    with pytest.raises(FileError, match=r"'house' has no pixels here: The data set ships no"):
        images.read(1)
    with pytest.raises(InputError, match="twice"):
        NamedStimuli(["face", "face"], "")


def test_files_are_images_in_the_order_given(tmp_path):
    # Catches files that are sorted, or ids that go to the wrong file.
    for value in (10, 20, 30):
        Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(tmp_path / f"{value}.png")
    images = ImageFiles([tmp_path / "30.png", tmp_path / "10.png"], ["last", "first"])
    assert [images.read(index).max() for index in range(2)] == [30, 10]
    assert images.digest(1) == ImageFolder(tmp_path).digest(0)
    with pytest.raises(MismatchError, match="ids has 1 entries for 2"):
        ImageFiles([tmp_path / "30.png", tmp_path / "10.png"], ["one"])


def test_a_subset_may_have_other_ids():
    # Catches new names on the images of the old order.
    images = ImageArray(np.arange(4, dtype=np.uint8).reshape(4, 1, 1).repeat(3, 2)[:, :, None])
    chosen = images.subset([2, 0], ["c", "a"])
    assert chosen.ids == ("c", "a")
    assert chosen.read(0).max() == 2
    with pytest.raises(MismatchError, match="ids has 1 entries for 2"):
        images.subset([2, 0], ["c"])

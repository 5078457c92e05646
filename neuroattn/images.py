"""Images: where stimuli come from. One small interface over arrays, folders and HDF5 files."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import existing
from neuroattn.names import did_you_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")


class Images(ABC):
    """A fixed, ordered collection of images, each with an id that no other has.

    Attributes
    ----------
    ids : tuple of str
        One unique id an image, in reading order.
    """

    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` as uint8 of shape (height, width, 3), RGB, 0 to 255."""

    def digest(self, index: int) -> str:
        """Return the SHA-256 (hexadecimal) of the content and size of image ``index``."""
        image = self.read(index)
        head = "x".join(map(str, image.shape)).encode()
        return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()

    def find(self, ids: Iterable[str]) -> list[int]:
        """Return the positions of ``ids``.

        Raises
        ------
        MismatchError
            If an id is not among these images; the message names the first one.
        """
        places = {name: index for index, name in enumerate(self.ids)}
        wanted = [str(name) for name in ids]
        missing = [name for name in wanted if name not in places]
        if missing:
            raise MismatchError(
                f"{len(missing)} of {len(wanted)} image ids are not among these {len(self)} "
                f"images, the first is {missing[0]!r}{did_you_mean(missing[0], places)}. "
                "Check how the ids are made (with or without the file ending?)."
            )
        return [places[name] for name in wanted]

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Images:
        """Return the images at ``indices``, in that order, reading from this collection."""
        return ImageSubset(self, indices)

    def _check(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise InputError(f"index={index} is outside the {len(self)} images (0 to n - 1).")
        return int(index)


class ImageSubset(Images):
    """Some images of another collection, by position; made by :meth:`Images.subset`."""

    def __init__(self, images: Images, indices: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        self._parent = images
        self._indices = [images._check(int(index)) for index in indices]
        self.ids = _unique([images.ids[index] for index in self._indices], "indices")

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` of the subset, (height, width, 3)."""
        return self._parent.read(self._indices[self._check(index)])

    def digest(self, index: int) -> str:
        """Return the digest that the parent gives for the same image."""
        return self._parent.digest(self._indices[self._check(index)])


class JoinedImages(Images):
    """The images of several collections, one after the other; an id that several hold comes once.

    Parameters
    ----------
    parts : sequence of Images
        At least one.

    Raises
    ------
    InputError
        If there is none.
    MismatchError
        If an id stands for different images.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        if not len(parts):
            raise InputError("parts is empty: give at least one collection of images.")
        self._places: dict[str, tuple[Images, int]] = {}
        for part in parts:
            for index, name in enumerate(part.ids):
                first, place = self._places.setdefault(name, (part, index))
                if first is not part and not _same(first, place, part, index):
                    raise MismatchError(
                        f"image id {name!r} stands for different images in two collections. Give "
                        "ids that are the same only where the images are."
                    )
        self.ids = tuple(self._places)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` as uint8 (height, width, 3)."""
        images, place = self._places[self.ids[self._check(index)]]
        return images.read(place)

    def digest(self, index: int) -> str:
        """Return the digest of image ``index``."""
        images, place = self._places[self.ids[self._check(index)]]
        return images.digest(place)


class ImageArray(Images):
    """Images that are in memory.

    Parameters
    ----------
    array : ndarray or sequence of ndarray
        uint8 of shape (image, height, width) or (image, height, width, 3), or a list of
        (height, width[, 3]) arrays whose sizes may differ. Kept, not copied.
    ids : sequence of str, optional
        One id an image; by default the position with five digits ("00000", "00001", ...).
    """

    def __init__(
        self,
        array: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        ids: Sequence[str] | None = None,
    ) -> None:
        for position, image in enumerate(array):
            _check_image(image, f"array[{position}]")
        self._array = array
        self.ids = _given_ids(ids, len(array))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index``, (height, width, 3); grey is repeated over RGB."""
        return _as_rgb(self._array[self._check(index)])


class ImageFolder(Images):
    """Image files of a folder, sorted by path; decoded by Pillow when they are read.

    Grey, palette, CMYK and 16-bit grey files become 8-bit RGB, transparency is laid over
    ``background``, EXIF orientation is applied, of an animation the first frame counts.

    Parameters
    ----------
    path : str or Path
        The folder.
    pattern : str
        Glob below the folder, e.g. ``"shared*.png"`` or ``"**/*"``; files with other endings
        than png, jpg, jpeg, bmp, tif, tiff, gif and webp, and hidden files, are passed over.
    ids : {"stem", "name", "path"}
        What the id is: file name without ending, with ending, or the path below the folder.
    background : tuple of int
        RGB, 0 to 255, seen through transparent pixels.

    Raises
    ------
    FileError
        If the folder is missing or holds no image that fits.
    InputError
        If ``pattern`` leads out of the folder or two files have the same id.
    """

    def __init__(
        self,
        path: str | Path,
        pattern: str = "*",
        ids: str = "stem",
        background: tuple[int, int, int] = (127, 127, 127),
    ) -> None:
        if ids not in ("stem", "name", "path"):
            raise InputError(f"ids={ids!r} is unknown; allowed: 'stem', 'name', 'path'.")
        if ".." in Path(pattern).parts or Path(pattern).is_absolute() or not pattern:
            raise InputError(
                f"pattern={pattern!r} leads out of the folder {path}; "
                "give a pattern below it, such as '*.png' or '**/*'."
            )
        root = existing(path, "image folder")
        if not root.is_dir():
            raise FileError(f"image folder {root} is a file; give the folder that holds it.")
        self._files = sorted(
            file
            for file in root.glob(pattern)
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not self._files:
            raise FileError(
                f"image folder {root} holds no file that fits pattern={pattern!r} and ends in "
                f"one of {', '.join(SUFFIXES)}; use '**/*' for images in folders below it."
            )
        self._background = tuple(background)
        self._digests: dict[tuple[int, int, int], str] = {}
        names = {
            "stem": [file.stem for file in self._files],
            "name": [file.name for file in self._files],
            "path": [file.relative_to(root).as_posix() for file in self._files],
        }[ids]
        self.ids = _unique(names, f"{root} with ids={ids!r} (use ids='path')")

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode image ``index``, (height, width, 3).

        Raises
        ------
        FileError
            If the file is missing, truncated or no image; the message names it.
        """
        file = self._files[self._check(index)]
        try:
            with warnings.catch_warnings():
                # Pillow warns of damaged tags, which say nothing about the pixels; damaged
                # pixels are an error below.
                warnings.simplefilter("ignore", UserWarning)
                with Image.open(file) as image:
                    return _decode(image, self._background)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            size = file.stat().st_size if file.exists() else 0
            raise FileError(
                f"image {self.ids[index]!r} ({file}, {size} bytes) cannot be decoded: {error}. "
                "Copy the file again, or leave it out by another pattern."
            ) from error

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the file's bytes (and of ``background``), without decoding."""
        file = self._files[self._check(index)]
        try:
            facts = file.stat()
            mark = (index, facts.st_size, facts.st_mtime_ns)
            if mark not in self._digests:
                content = file.read_bytes() + repr(self._background).encode()
                self._digests[mark] = hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise FileError(
                f"image {self.ids[index]!r} ({file}) cannot be read: {error.strerror}. "
                "It was there when the folder was listed; put it back or list again."
            ) from error
        return self._digests[mark]


class ImageHDF5(Images):
    """Images in one dataset of an HDF5 (or MATLAB 7.3) file, read one at a time.

    Parameters
    ----------
    path : str or Path
        The file.
    dataset : str
        Path of the dataset in it, e.g. ``"imgBrick"``; its type is uint8.
    axes : str
        The name of each axis of the dataset as h5py shows it, separated by spaces: ``image``,
        ``row``, ``column``, optionally ``channel`` (of length 1 or 3), and ``.`` for an axis of
        length 1 to drop. MATLAB files come reversed: a (row, column, 1, image) array there is
        ``"image . column row"`` here.
    ids : sequence of str, optional
        One id an image; by default the position with five digits.

    Raises
    ------
    FileError
        If the file is missing, truncated or not HDF5, or the dataset is not in it.
    InputError
        If ``axes`` does not fit the dataset.
    """

    def __init__(
        self,
        path: str | Path,
        dataset: str,
        axes: str = "image row column channel",
        ids: Sequence[str] | None = None,
    ) -> None:
        self._path = existing(path, "image file")
        self._name = dataset
        self._axes = axes.split()
        self._digests: dict[int, str] = {}
        self._opened: tuple[int, Any] | None = None
        shape = self._check_axes()
        self.ids = _given_ids(ids, shape[self._axes.index("image")])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: another process opens its own."""
        return {**self.__dict__, "_opened": None}

    def _data(self) -> Any:
        # An HDF5 handle must not cross a fork: each process opens its own.
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        import h5py

        try:
            data = h5py.File(self._path, "r").get(self._name)
        except OSError as error:
            raise FileError(
                f"image file {self._path} ({self._path.stat().st_size} bytes) is truncated or "
                f"not HDF5: {error}. Copy it again and compare sizes."
            ) from error
        if not isinstance(data, h5py.Dataset):
            raise FileError(
                f"image file {self._path} has no dataset {self._name!r}; "
                f"list what it has with h5py.File({str(self._path)!r}).visit(print)."
            )
        self._opened = (os.getpid(), data)
        return data

    def _check_axes(self) -> tuple[int, ...]:
        data, named = self._data(), [axis for axis in self._axes if axis != "."]
        here = f"axes={' '.join(self._axes)!r} of {self._path}:{self._name}, shape {data.shape}"
        if sorted({*named, "channel"}) != ["channel", "column", "image", "row"] or len(
            set(named)
        ) != len(named):
            raise InputError(f"{here}: name image, row, column, at most one channel, and '.'.")
        sizes = dict(zip(self._axes, data.shape, strict=False))
        dropped = [n for axis, n in zip(self._axes, data.shape, strict=False) if axis == "."]
        if (
            len(self._axes) != data.ndim
            or set(dropped) - {1}
            or sizes.get("channel", 3) not in (1, 3)
        ):
            raise InputError(
                f"{here}: give one name an axis; '.' must have length 1, channel length 1 or 3."
            )
        if data.dtype != np.uint8:
            raise InputError(
                f"{self._path}:{self._name} is {data.dtype}; images are uint8, 0 to 255. "
                "Convert it once and store it again."
            )
        return tuple(data.shape)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Read image ``index``, (height, width, 3); grey is repeated over RGB.

        Raises
        ------
        FileError
            If the bytes of this image are damaged.
        """
        place = {"image": self._check(index), ".": 0}
        left = [axis for axis in self._axes if axis not in place]
        try:
            image = self._data()[tuple(place.get(axis, slice(None)) for axis in self._axes)]
        except OSError as error:
            raise FileError(
                f"image {self.ids[index]!r} of {self._path}:{self._name} cannot be read: {error}. "
                "Copy the file again."
            ) from error
        order = [left.index(axis) for axis in ("row", "column", "channel") if axis in left]
        return _as_rgb(np.transpose(image, order))

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the pixels and size of image ``index``; read once, then known."""
        if index not in self._digests:
            self._digests[index] = super().digest(index)
        return self._digests[index]


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a (rows, columns, 3) uint8 image by Pillow: bicubic, antialiased when it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def to_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a uint8 image as float32 from 0 (black) to 1 (white)."""
    return image.astype(np.float32) / np.float32(255)


def _decode(image: Image.Image, background: tuple[int, ...]) -> NDArray[np.uint8]:
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        return _as_rgb((np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8))
    if turned.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {turned.mode!r} have no fixed range; save it with 8 bits")
    if turned.has_transparency_data:
        front = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", front.size, (*background, 255)), front)
    return np.asarray(turned.convert("RGB"))


def _as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _same(one: Images, index: int, other: Images, place: int) -> bool:
    if one.digest(index) == other.digest(place):
        return True
    # A folder's digest is of the file, an array's of the pixels: the same image may have both.
    return np.array_equal(one.read(index), other.read(place))


def _check_image(image: Any, name: str) -> None:
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    fits = shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))
    if not fits or kind != np.uint8 or 0 in shape:  # type: ignore[operator]
        raise InputError(
            f"{name} is {kind} of shape {shape}; an image is uint8 of shape (height, width) "
            "or (height, width, 3), 0 to 255, and not empty."
        )


def _given_ids(ids: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if ids is None:
        return tuple(f"{index:05d}" for index in range(count))
    if len(ids) != count:
        raise MismatchError(f"ids has {len(ids)} entries for {count} images; give one an image.")
    return _unique([str(name) for name in ids], "ids")


def _unique(ids: Sequence[str], where: str) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(f"image id {name!r} occurs twice in {where}; ids must be unique.")
        seen.add(name)
    return tuple(ids)

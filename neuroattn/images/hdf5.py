"""Images in a dataset of an HDF5 file, read one at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError
from neuroattn.images.base import Images
from neuroattn.images.checks import as_rgb, given_ids
from neuroattn.io import check_own_values, existing


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
        self.ids = given_ids(ids, shape[self._axes.index("image")])

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
        check_own_values(data, self._path)
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
        return as_rgb(np.transpose(image, order))

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the pixels and size of image ``index``; read once, then known."""
        if index not in self._digests:
            self._digests[index] = super().digest(index)
        return self._digests[index]

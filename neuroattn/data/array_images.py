"""Images of a user's own: a folder, an HDF5 file, or an array of numbers; which of them are one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.arrays import HDF5_SUFFIXES, is_old_matlab, read_array
from neuroattn.data.sources import ImageSource
from neuroattn.errors import InputError
from neuroattn.images import ImageArray, ImageFolder, ImageHDF5, Images


def open_images(path: Path, source: ImageSource) -> Images:
    """Open the images of a source, one for each place in it (nothing is merged).

    Parameters
    ----------
    path : Path
        Its ``path``, made absolute or relative to here.
    source : ImageSource
        What it is.

    Raises
    ------
    FileError
        If folder, file or dataset is missing or damaged.
    InputError
        If axes or shape do not fit, or a number is not in 0..255 after scaling.
    """
    array = path.suffix in (".npy", ".npz", ".mat") or source.shape is not None
    if not array and source.dataset is None:
        return ImageFolder(path, source.pattern, ids=source.ids)
    stored = source.shape is None and source.scale == 1.0 and source.dataset is not None
    if stored and path.suffix in HDF5_SUFFIXES and not is_old_matlab(path):
        return ImageHDF5(path, str(source.dataset), source.axes)
    colour = ("channel",) if "channel" in source.axes.split() else ()
    order = ("image", "row", "column", *colour)
    values = read_array(path, source.dataset, source.axes, order, source.shape)
    return ImageArray(_levels(values, source.scale, path))


def merged(images: Images) -> tuple[Images, list[str]]:
    """Return each different image once, and for every place the id of the image that is there.

    Parameters
    ----------
    images : Images
        Some of which have the same pixels.
    """
    first: dict[str, int] = {}
    rows = [first.setdefault(images.digest(place), place) for place in range(len(images))]
    kept: Sequence[int] = list(first.values())
    return images.subset(kept), [images.ids[place] for place in rows]


def _levels(values: NDArray[np.generic], scale: float, path: Path) -> NDArray[np.uint8]:
    """Return numbers as uint8; a single channel stands for grey."""
    scaled = np.asarray(values, dtype=np.float64) * scale
    # A scale of 1 / 3 gives 255.00000000000003.
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() < 255.5):
        raise InputError(
            f"images of {path} lie from {scaled.min():g} to {scaled.max():g} (scale={scale:g}); "
            "allowed are 0 to 255. Give scale=255 for images from 0 to 1."
        )
    if scaled.ndim == 4 and scaled.shape[-1] == 1:
        scaled = scaled[..., 0]
    return np.rint(scaled).astype(np.uint8)

"""The stimuli of NSD, read from their HDF5 files one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuroattn.data.nsd.design import Ids
from neuroattn.errors import MismatchError
from neuroattn.images import ImageHDF5, Images
from neuroattn.io import existing

DATASET = "imgBrick"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"


def brick(path: Path, numbers: Ids, name: Callable[[int], str], count: int | None = None) -> Images:
    """Return images of a brick (image, row, column, channel), under their own ids.

    Parameters
    ----------
    path : Path
        The HDF5 file; each image is read when it is asked for.
    numbers : ndarray
        The rows wanted, from 0.
    name : callable
        Row to id.
    count : int, optional
        How many images the file must hold.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    MismatchError
        If it holds another number of images.
    """
    total = len(ImageHDF5(existing(path, "stimuli"), DATASET))
    if count is not None and total != count:
        raise MismatchError(
            f"stimuli {path} hold {total} images, there should be {count}: the file is another "
            "version. Download it again."
        )
    named = ImageHDF5(path, DATASET, ids=[name(row) for row in range(total)])
    return named.subset(numbers)

"""Parcels of an atlas: their networks, and their values back in the atlas's volume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn.data.volumes import open_volume, read_volume
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import atomic_path, existing

#: The networks of Yeo et al. (2011) as Schaefer's parcels name them.
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
_NAME = re.compile(r"\b7Networks_(LH|RH)_([A-Za-z]+)_\S*?\d+(?![^\s,;])")
_SIDES = {"LH": "left", "RH": "right"}


class ParcelNames(NamedTuple):
    """Name, hemisphere ("left", "right") and network of each parcel, in the order of the atlas."""

    name: list[str]
    hemisphere: list[str]
    network: list[str]


def read_parcel_names(path: str | Path) -> ParcelNames:
    """Read the names of Schaefer's parcels from the atlas's label file.

    Parameters
    ----------
    path : str or Path
        Any text file that names the parcels in their order, such as
        ``Schaefer2018_1000Parcels_7Networks_order.txt``: names are taken from wherever
        "7Networks_LH_Vis_1" stands in a line.

    Raises
    ------
    FileError
        If it is missing, no text, or names no parcel, a network that is not among
        :data:`NETWORKS`, or a parcel twice.

    References
    ----------
    Schaefer et al. (2018), Cerebral Cortex 28, 3095-3114; Yeo et al. (2011), Journal of
    Neurophysiology 106, 1125-1165.
    """
    place = existing(path, "label file of the parcels")
    try:
        found = list(_NAME.finditer(place.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise FileError(f"label file of the parcels {place} is no text: {error}.") from error
    names = [match[0] for match in found]
    unknown = [match[0] for match in found if match[2] not in NETWORKS]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if not names or unknown or twice:
        wrong = f"{unknown[0]!r} of no known network" if unknown else "no such name"
        wrong = f"{twice[0]!r} more than once" if twice else wrong
        raise FileError(
            f"label file of the parcels {place} holds {wrong}; needed are names such as "
            f"'7Networks_LH_Vis_1', once each, of the networks {', '.join(NETWORKS)}."
        )
    return ParcelNames(names, [_SIDES[m[1]] for m in found], [m[2] for m in found])


def parcel_volume(values: ArrayLike, atlas: str | Path, path: str | Path) -> NDArray[np.float32]:
    """Write one value a parcel as a volume on the grid of the atlas; nothing is resampled.

    Parameters
    ----------
    values : array_like
        (parcel,), NaN where undefined; the first belongs to the parcel labelled 1.
    atlas : str or Path
        Volume of labels, 0 outside the brain.
    path : str or Path
        The ``.nii.gz`` to write, float32, with shape, affine and space codes of the atlas.

    Returns
    -------
    ndarray
        What was written: float32 (i, j, k), NaN outside the brain.

    Raises
    ------
    FileError
        If the atlas is missing, damaged or holds no labels, or ``path`` cannot be written.
    MismatchError
        If the atlas has another number of parcels.
    InputError
        If ``values`` is not (parcel,), or ``path`` does not end in .nii.gz.
    """
    numbers = np.asarray(values, dtype=np.float32)
    if numbers.ndim != 1 or not str(path).endswith(".nii.gz"):
        raise InputError(
            f"values has shape {numbers.shape}, path is {str(path)!r}; needed: (parcel,), and a "
            "name that ends in .nii.gz."
        )
    labels = np.asarray(read_volume(atlas))
    if labels.ndim != 3 or (labels != np.rint(labels)).any() or labels.min() < 0:
        raise FileError(
            f"atlas {atlas} has shape {labels.shape} and values from {labels.min()} to "
            f"{labels.max()}; needed are three axes and whole labels, 0 outside the brain."
        )
    highest = int(labels.max())
    if highest != len(numbers):
        raise MismatchError(
            f"atlas {atlas} has labels up to {highest}, values has {len(numbers)} parcels: it is "
            "another atlas. Give the one that the responses were averaged with."
        )
    table = np.concatenate([[np.float32(np.nan)], numbers]).astype(np.float32)
    filled = np.asarray(table[labels.astype(np.intp)], dtype=np.float32)
    _write(filled, atlas, path)
    return filled


def _write(filled: NDArray[np.float32], atlas: str | Path, path: str | Path) -> None:
    import gzip

    import nibabel

    kit: Any = nibabel
    source = open_volume(atlas)
    image = kit.Nifti1Image(filled, source.affine)
    if isinstance(source, kit.Nifti1Image):
        image.set_qform(*source.get_qform(coded=True), update_affine=False)
        image.set_sform(*source.get_sform(coded=True), update_affine=False)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as beside:
        # Without the time of writing, so that equal values give equal bytes.
        beside.write_bytes(gzip.compress(image.to_bytes(), mtime=0))

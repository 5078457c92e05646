"""Where the parts of a user's own data are: plain dataclasses that YAML can fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from neuroattn.errors import InputError

Source = TypeVar("Source")


@dataclass(frozen=True)
class ImageSource:
    """Where the images are.

    Parameters
    ----------
    path : str
        A folder, or an HDF5 file if ``dataset`` is given.
    pattern : str
        Glob below the folder.
    ids : str
        What a folder's image ids are: "stem", "name" or "path" of the file.
    dataset : str, optional
        Dataset of the HDF5 file, uint8.
    axes : str
        Its axes as h5py shows them, see :class:`neuroattn.images.ImageHDF5`.
    """

    path: str
    pattern: str = "*"
    ids: str = "stem"
    dataset: str | None = None
    axes: str = "image row column channel"


@dataclass(frozen=True)
class ArraySource:
    """Where an array is: bootstraps, a ceiling, an ncsnr.

    Parameters
    ----------
    path : str
        ``.npy``, ``.npz``, or HDF5 (``.mat`` of MATLAB 7.3 included).
    dataset : str, optional
        Name of the array in the file; not needed where there is only one.
    axes : str, optional
        Name of each axis, ``.`` for one of length 1 to drop: "bootstrap image voxel" is the
        default for bootstraps, "voxel" for a ceiling or an ncsnr.
    """

    path: str
    dataset: str | None = None
    axes: str | None = None


@dataclass(frozen=True)
class ResponseSource:
    """Where the responses are.

    Parameters
    ----------
    path : str
        ``.csv`` or ``.tsv`` (one line a presentation; columns ``image``, ``session``, ``run``,
        ``repetition`` say which, every other column is a voxel or ROI), ``.npy``, ``.npz``, HDF5
        (``.mat`` of MATLAB 7.3 included), or ``.zarr`` / ``.nc`` written by
        :func:`neuroattn.data.save`.
    dataset : str, optional
        Name of the array in a ``.npz`` or HDF5 file.
    axes : str
        Name of each axis of an array: ``image`` (or ``presentation``), ``voxel``, ``.`` for an
        axis of length 1 to drop.
    """

    path: str
    dataset: str | None = None
    axes: str = "image voxel"


@dataclass(frozen=True)
class VoxelSource:
    """What is known of the voxels.

    Parameters
    ----------
    path : str, optional
        Table with one line a voxel; columns ``name``, ``subject``, ``hemisphere``, ``vertex``,
        ``i``, ``j``, ``k``, any of them.
    names : sequence of str, optional
        Names of the voxels, instead of a column ``name``.
    as_rois : bool
        Each name is also a ROI (of all voxels with that name).
    subject, hemisphere : str
        For voxels of which no table says it.
    reference : str, optional
        NIfTI image whose affine and shape ``i, j, k`` refer to.
    """

    path: str | None = None
    names: Sequence[str] | None = None
    as_rois: bool = False
    subject: str = "subject-1"
    hemisphere: str = "both"
    reference: str | None = None


def as_source(kind: type[Source], argument: str, given: Any) -> Source:
    """Return a source that may be given as its path or as a mapping of its fields.

    Parameters
    ----------
    kind : type
        One of the classes of this module.
    argument : str
        Named in messages.
    given
        Of that class, a path, or a mapping.

    Raises
    ------
    InputError
        If it is none of these, or a field is unknown or missing.
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str | Path):
        return kind(path=str(given))  # type: ignore[call-arg]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        raise InputError(
            f"{argument}={given!r} must be a path, a {kind.__name__}, or a mapping of "
            f"{', '.join(names)}."
        )
    try:
        return kind(**given)
    except TypeError as error:
        raise InputError(f"{argument}={dict(given)!r}: {error}.") from error

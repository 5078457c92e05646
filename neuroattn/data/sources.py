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
        A folder; or a file with an array of all images: HDF5 (MATLAB 7.3 included), which is read
        image by image if ``dataset`` is given and nothing has to be reshaped or scaled; ``.npy``,
        ``.npz`` or ``.mat``.
    pattern : str
        Glob below the folder.
    ids : str
        What a folder's image ids are: "stem", "name" or "path" of the file.
    dataset : str, optional
        Name of the array in the file.
    axes : str
        Its axes as numpy or h5py shows them, see :class:`neuroattn.images.ImageHDF5`.
    shape : sequence of int, optional
        Lengths of these axes, where the file holds each image as a row of numbers, see
        :func:`neuroattn.data.arrays.read_array`.
    scale : float
        What the numbers are multiplied by to lie in 0..255: 255 for images from 0 to 1.
    merge : bool
        Images with the same pixels are one image, shown again: an array with one image a
        presentation. The image keeps the id of its first place.
    """

    path: str
    pattern: str = "*"
    ids: str = "stem"
    dataset: str | None = None
    axes: str = "image row column channel"
    shape: Sequence[int] | None = None
    scale: float = 1.0
    merge: bool = False


@dataclass(frozen=True)
class ArraySource:
    """Where an array is: bootstraps, a ceiling, an ncsnr.

    Parameters
    ----------
    path : str
        ``.npy``, ``.npz``, HDF5 or ``.mat``.
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
        ``repetition`` say which, every other column is a voxel or ROI), ``.npy``, ``.npz``, HDF5,
        ``.mat``, ``.zarr`` / ``.nc`` written by :func:`neuroattn.data.save`, or a volume
        (``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz``) whose fourth axis is the presentation.
    dataset : str, optional
        Name of the array in a ``.npz``, HDF5 or MATLAB file.
    axes : str
        Name of each axis of an array: ``image`` (or ``presentation``), ``voxel``, ``.`` for an
        axis of length 1 to drop.
    left, right : str, optional
        Instead of ``path``: responses on the surface, ``.gii`` (one array a presentation) or
        ``.mgh`` (vertices, 1, 1, presentations), one or both sides.
    """

    path: str = ""
    dataset: str | None = None
    axes: str = "image voxel"
    left: str | None = None
    right: str | None = None

    def __post_init__(self) -> None:
        sides = self.left is not None or self.right is not None
        if bool(self.path) == sides:
            raise InputError(f"responses={self}: give path, or left and right (one or both).")


@dataclass(frozen=True)
class RoiSource:
    """Where ROIs are that are images of the brain, on the grid or mesh of the responses.

    Parameters
    ----------
    path : str, optional
        A folder of masks (each called by its file's name), or an atlas: a volume in which each
        number other than 0 and -1 is a ROI.
    left, right : str, optional
        Instead of ``path``, for responses on the surface: folder or atlas of each side.
    labels : str, optional
        Table with the columns ``index`` and ``name``: the names of the atlas's numbers. GIFTI
        label files have their own.
    """

    path: str | None = None
    left: str | None = None
    right: str | None = None
    labels: str | None = None


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
    mask : str, optional
        For responses that are a volume: a volume on the same grid; voxels that are not 0 in it
        are kept, in Fortran order. Without it all are.
    mask_left, mask_right : str, optional
        For responses on the surface: a file of one value a vertex of each side.
    """

    path: str | None = None
    names: Sequence[str] | None = None
    as_rois: bool = False
    subject: str = "subject-1"
    hemisphere: str = "both"
    reference: str | None = None
    mask: str | None = None
    mask_left: str | None = None
    mask_right: str | None = None


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

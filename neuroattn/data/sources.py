"""Where the parts of a user's own data are: plain dataclasses that YAML can fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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

"""The ROI files of BOLD5000, volumes and tables, some of which were published misnamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.volumes import Grid, check_same_grid, read_volume
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import existing

#: The functional ROIs, of each hemisphere.
ROIS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
SIDES = {"LH": "left", "RH": "right"}
#: What misnamed files are called in place of the ROI: CSI2 and CSI3 have LO, CSI2 has RRSC.
MISNAMED = {"LOC": ("LO",), "RSC": ("RRSC",)}


def roi_files(name: Callable[[str], Path]) -> dict[tuple[str, str], Path]:
    """Find the file of each side and ROI under its own name or the published misnomer.

    Parameters
    ----------
    name : callable
        Gives the path for a label such as "LHLOC".

    Returns
    -------
    dict of (side, ROI) to Path
        The file that is there, else the path of the right name.

    Raises
    ------
    FileError
        If a ROI is there under both names.
    """
    found = {}
    for roi in ROIS:
        for side in SIDES:
            paths = [name(f"{side}{label}") for label in (roi, *MISNAMED.get(roi, ()))]
            there = [path for path in paths if path.exists()]
            if len(there) > 1:
                raise FileError(
                    f"{there[0]} and {there[1]} are both there; the second is the published "
                    f"misnomer of {side}{roi}. Keep one of them."
                )
            found[side, roi] = there[0] if there else paths[0]
    return found


def renamed(files: Mapping[tuple[str, str], Path]) -> str:
    """Say which files were read under another name than theirs; "" if none was."""
    notes = [
        f"{path.name} is {side}{roi}"
        for (side, roi), path in files.items()
        if not path.name.partition(".")[0].endswith(f"{side}{roi}")
    ]
    return "; ".join(notes)


def roi_masks(
    files: Mapping[tuple[str, str], Path], grid: Grid, brain: Path, flat: NDArray[np.intp]
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.str_]]:
    """Read the ROI volumes at some voxels.

    Parameters
    ----------
    files : mapping of (side, ROI) to Path
        From :func:`roi_files`, all there.
    grid : Grid
        The grid that they must be on.
    brain : Path
        The file of that grid, for messages.
    flat : ndarray
        The voxels, places in ``volume.ravel(order="F")``.

    Returns
    -------
    masks : dict of str to ndarray
        ROI of both hemispheres to bool (voxel,).
    hemisphere : ndarray
        "left" or "right" for the voxels of ROIs of one side, else "both".

    Raises
    ------
    FileError
        If a file is missing, damaged, or no mask.
    MismatchError
        If one is on another grid.
    """
    sides = {side: np.zeros(len(flat), dtype=bool) for side in SIDES}
    masks = {roi: np.zeros(len(flat), dtype=bool) for roi in ROIS}
    for (side, roi), path in files.items():
        existing(path, f"mask of {side}{roi}")
        check_same_grid(path, grid, brain)
        inside = as_mask(read_volume(path), path).ravel(order="F")[flat]
        masks[roi] |= inside
        sides[side] |= inside
    hemisphere = np.full(len(flat), "both", dtype="<U5")
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        hemisphere[sides[side] & ~sides[other]] = SIDES[side]
    return masks, hemisphere


def as_mask(values: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    """Return a volume of 0 and 1 (or one other number) as bool.

    Raises
    ------
    FileError
        If it has another number of axes, or more values than two.
    """
    volume = np.squeeze(values, axis=3) if values.ndim == 4 and values.shape[3] == 1 else values
    inside = np.nan_to_num(volume) != 0
    levels = np.unique(volume[inside])
    if volume.ndim != 3 or len(levels) > 1:
        raise FileError(
            f"mask {path} has shape {values.shape} and {len(levels)} values besides 0 (such as "
            f"{levels[:3].tolist()}); needed is one volume of 0 and 1."
        )
    return np.asarray(inside)


def table_columns(path: Path, trials: int) -> int:
    """Return the number of voxels of a ``.npy`` table of a ROI, (trial, voxel).

    Raises
    ------
    FileError
        If the file is missing, damaged, or no table of numbers.
    MismatchError
        If it has another number of trials.
    """
    from neuroattn.data.arrays import read_npy

    array = read_npy(path)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise FileError(
            f"{path} is {array.dtype} of shape {array.shape}; needed: floats (trial, voxel)."
        )
    if len(array) != trials:
        turned = ": it is transposed" if array.shape[1] == trials else ""
        raise MismatchError(
            f"{path} has {len(array)} rows of {array.shape[1]}, the names list {trials} trials"
            f"{turned}; needed is one row a trial."
        )
    return int(array.shape[1])


def check_orientation(mask: NDArray[np.bool_], trial: NDArray[Any], names: Sequence[Path]) -> None:
    """See that a brain mask lies on the voxels that have values, and not mirrored on them.

    Parameters
    ----------
    mask : ndarray
        bool (i, j, k).
    trial : ndarray
        A trial, (voxel,) with i fastest; NaN or 0 where nothing was estimated.
    names : sequence of Path
        The files of mask and trial.

    Raises
    ------
    MismatchError
        If the mask turned round along some axes fits the values clearly better, or fewer than
        half of its voxels have values.
    """
    filled = (np.isfinite(trial) & (trial != 0)).reshape(mask.shape, order="F")
    if filled.all():
        return
    fits = {}
    for code in range(8):
        axes = tuple(axis for axis in range(3) if code >> axis & 1)
        fits[axes] = (np.flip(mask, axes) & filled).sum() / max(1, mask.sum())
    best = max(fits, key=lambda axes: float(fits[axes]))
    if fits[best] > fits[()] + 0.05:
        turned = ", ".join("ijk"[axis] for axis in best)
        raise MismatchError(
            f"{names[0]} covers {fits[()]:.0%} voxels with values in {names[1]}, turned round "
            f"along {turned} {fits[best]:.0%}: the arrays of the two files run in different "
            "directions. Save one of them in the orientation of the other."
        )
    if fits[()] < 0.5:
        raise MismatchError(
            f"only {fits[()]:.0%} of the voxels of {names[0]} have values in {names[1]}: the mask "
            "is of another subject or space. Take the files of one subject."
        )

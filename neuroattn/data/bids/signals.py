"""Time series of a run: when its volumes were taken, its voxels, percent signal change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.bids.design import Frames
from neuroattn.data.bids.layout import BoldRun, Layout, check_filled
from neuroattn.data.volumes import (
    Grid,
    check_own_values,
    check_same_grid,
    grid_of,
    mask_voxels,
    open_volume,
    read_volume,
    reading,
)
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import existing

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Voxels:
    """Which voxels of the images are read.

    Parameters
    ----------
    flat : ndarray
        Indices into the volume raveled in Fortran order, or into left and right vertices.
    columns : dict of str to ndarray
        Coordinates for the response set: ``i, j, k``, or ``hemisphere`` and ``vertex``.
    attrs : dict
        Affine, shape and header of the grid, or the vertices of each mesh.
    grid : Grid, optional
        Of volumes.
    """

    flat: NDArray[np.intp]
    columns: dict[str, Any]
    attrs: dict[str, Any]
    grid: Grid | None = None


def find_voxels(runs: Sequence[BoldRun], raw: Layout, mask: str | None) -> Voxels:
    """Return the voxels inside the mask, or all vertices of both hemispheres.

    Parameters
    ----------
    runs : sequence of BoldRun
        All on one grid.
    raw : Layout
        The data set; masks of volumes that have none beside them are looked for in its
        ``derivatives/*``.
    mask : str, optional
        A NIfTI file, or "all" for every voxel. Left out: the voxels in the masks of all runs.

    Raises
    ------
    FileError
        If no mask is found, or a file is missing, empty or damaged.
    MismatchError
        If a mask or a run is on another grid than the first run.
    InputError
        If no voxel is in the mask, or a mask is given for surfaces.
    """
    for run in runs:
        for path in run.images:
            check_filled(path, "bold image")
    if runs[0].surface:
        if mask is not None:
            raise InputError(f"mask={mask!r} is for volumes; surfaces are read with all vertices.")
        return _vertices(runs)
    first = runs[0].images[0]
    grid = grid_of(first)
    for run in runs[1:]:
        check_same_grid(run.images[0], grid, first)
    inside = np.ones(grid.shape, dtype=bool)
    masks = [] if mask == "all" else _mask_files(runs, raw, mask)
    for path in masks:
        check_same_grid(check_filled(path, "mask"), grid, first)
        values = read_volume(path)
        inside &= (values if values.ndim == 3 else values[..., 0]) > 0
    if not inside.any():
        raise InputError(f"no voxel is inside {', '.join(map(str, masks))}.")
    flat, places = mask_voxels(inside)
    return Voxels(flat, {"hemisphere": "both", **places}, grid.attrs(), grid)


def frames_of(run: BoldRun, tr: float | None) -> Frames:
    """Return when the volumes of a run were taken.

    Volume n stands at ``StartTime + n * RepetitionTime``; ``StartTime`` is what fMRIPrep writes
    where it corrected slices to a reference time, and 0 without it.

    Parameters
    ----------
    run : BoldRun
        Its JSON metadata and its images' headers are read.
    tr : float, optional
        Repetition time in s that overrides both.

    Raises
    ------
    MismatchError
        If JSON and header have different repetition times.
    FileError
        If neither has one, the JSON lists times of uneven volumes (``VolumeTiming``), or an image
        is damaged or no time series.
    """
    count, own = _count_and_tr(run)
    if "VolumeTiming" in run.metadata:
        raise FileError(
            f"{run.images[0]}: its JSON metadata have VolumeTiming (volumes that are not taken at "
            "regular times, as in sparse sampling); the model needs a RepetitionTime. Leave this "
            "run out with entities, or, if its times are regular, write RepetitionTime instead."
        )
    noted = run.metadata.get("RepetitionTime")
    stated = float(noted) if isinstance(noted, int | float) and noted > 0 else None
    if tr is None and stated is not None and own is not None and abs(stated - own) > 1e-3:
        raise MismatchError(
            f"{run.images[0]}: its header has a repetition time of {own:.6g} s, its JSON "
            f"metadata have RepetitionTime {stated:.6g} s. Mend the wrong one, or give the true "
            "one as glm.tr."
        )
    step = tr or stated or own
    if step is None:
        raise FileError(
            f"{run.images[0]}: neither its header nor a JSON file with RepetitionTime tells the "
            "repetition time; give it as glm.tr, in seconds."
        )
    start = run.metadata.get("StartTime", 0.0)
    begin = float(start) if isinstance(start, int | float) else 0.0
    return Frames(begin + np.arange(count, dtype=np.float64) * step, step)


def read_signal(run: BoldRun, voxels: Voxels) -> NDArray[np.float32]:
    """Read the time series of a run, (time, voxel), as scaled by the files.

    Parameters
    ----------
    run : BoldRun
        One volume, or two GIFTI files.
    voxels : Voxels
        Which voxels.

    Raises
    ------
    FileError
        If a file is truncated or damaged.
    """
    if run.surface:
        sides = [np.stack(_arrays(path)) for path in run.images]
        return np.concatenate(sides, axis=1, dtype=np.float32)
    path = run.images[0]
    image = open_volume(path)
    with reading(path):
        values = np.asarray(image.dataobj, dtype=np.float32)
    by_time = values.reshape(-1, values.shape[3], order="F")
    return np.ascontiguousarray(by_time[voxels.flat].T)


def percent_change(
    values: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return 100 (y / mean - 1) over time, and which voxels it is defined for.

    Parameters
    ----------
    values : ndarray
        (time, voxel).

    Returns
    -------
    change : ndarray
        float64 (time, voxel); undefined voxels are 0.
    usable : ndarray
        bool (voxel,): finite, changing, mean above 0.
    """
    exact = values.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = exact.mean(axis=0)
        usable = np.isfinite(exact).all(axis=0) & (mean > 0) & (exact != exact[:1]).any(axis=0)
    safe = np.where(usable, mean, 1.0)
    change = np.where(usable, exact, 1.0) / safe - np.where(usable, 1.0, 1.0)
    return 100 * change * usable, usable


def check_distinct(runs: Sequence[BoldRun]) -> None:
    """Check that no two runs have the same content.

    Parameters
    ----------
    runs : sequence of BoldRun
        Compared by the size and the first MiB of their first image.

    Raises
    ------
    MismatchError
        Names the two files.
    """
    seen: dict[str, Path] = {}
    for run in runs:
        path = check_filled(run.images[0], "bold image")
        with path.open("rb") as stream:
            mark = hashlib.sha256(stream.read(_SAMPLE)).hexdigest() + str(path.stat().st_size)
        if mark in seen:
            raise MismatchError(
                f"{path} has the same content as {seen[mark]}: one run was copied over another. "
                "Download it again."
            )
        seen[mark] = path


def _mask_files(runs: Sequence[BoldRun], raw: Layout, mask: str | None) -> list[Path]:
    if mask is not None:
        return [existing(mask, "mask")]
    beside = [run.mask for run in runs if run.mask is not None]
    if len(beside) == len(runs):
        return sorted(set(beside))
    found: list[Path] = []
    for folder in sorted(raw.root.glob("derivatives/*")):
        if not any(folder.glob("sub-*")):
            continue
        for file in Layout(folder).find("mask", (".nii.gz", ".nii"), runs[0].entities["sub"]):
            own = {k: v for k, v in file.entities.items() if k != "desc"}
            fits = all(runs[0].entities.get(key) == label for key, label in own.items())
            if file.entities.get("desc") == "brain" and fits:
                found.append(file.path)
    if not found:
        raise FileError(
            f"there is no brain mask (*_desc-brain_mask.nii.gz) beside {runs[0].images[0]} or in "
            f"{raw.root / 'derivatives'}/*; give mask=FILE, or mask='all' for every voxel."
        )
    return found[:1]


def _vertices(runs: Sequence[BoldRun]) -> Voxels:
    counts = [len(_arrays(path)[0]) for path in runs[0].images]
    for run in runs[1:]:
        for path, first, count in zip(run.images, runs[0].images, counts, strict=True):
            own = len(_arrays(path)[0])
            if own != count:
                raise MismatchError(
                    f"{path} has {own} vertices, {first} has {count}: they are of different "
                    "meshes or subjects."
                )
    columns = {
        "hemisphere": np.repeat(["left", "right"], counts),
        "vertex": np.concatenate([np.arange(count) for count in counts]),
    }
    attrs = {"vertices_left": counts[0], "vertices_right": counts[1]}
    return Voxels(np.arange(sum(counts)), columns, attrs)


def _arrays(path: Path) -> list[NDArray[np.float32]]:
    from xml.parsers.expat import ExpatError

    import nibabel

    check_filled(path, "bold image")
    try:
        with reading(path):
            image: Any = nibabel.load(path)
            check_own_values(path, image)
            arrays = [np.asarray(array.data, dtype=np.float32) for array in image.darrays]
    except (ExpatError, AttributeError) as error:
        raise FileError(f"bold image {path} is truncated or no GIFTI file: {error}.") from error
    if len(arrays) == 1 and arrays[0].ndim == 2:
        arrays = list(arrays[0].T)
    if len(arrays) < 2 or len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise FileError(
            f"bold image {path} has {len(arrays)} arrays of shapes "
            f"{sorted({array.shape for array in arrays})}; needed: one value a vertex for each of "
            "several time points."
        )
    return arrays


def _count_and_tr(run: BoldRun) -> tuple[int, float | None]:
    path = check_filled(run.images[0], "bold image")
    if run.surface:
        counts = [len(_arrays(side)) for side in run.images]
        if counts[0] != counts[1]:
            raise MismatchError(
                f"{run.images[0]} has {counts[0]} time points, {run.images[1]} has {counts[1]}."
            )
        return counts[0], None
    image = open_volume(path)
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise FileError(f"bold image {path} has shape {image.shape}; needed: (i, j, k, time).")
    unit = image.header.get_xyzt_units()[1]
    step = float(image.header.get_zooms()[3]) * _SECONDS.get(unit, 1.0)
    # A header of a time axis without unit and with the default step 1 says nothing.
    known = step > 0 and not (unit == "unknown" and step == 1.0)
    return int(image.shape[3]), step if known else None

"""Own responses, masks and atlases that are images of the brain: volumes, or a surface a side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.tables import numbers, read_table
from neuroattn.data.volumes import (
    VOLUME_SUFFIXES,
    Grid,
    check_own_values,
    check_same_grid,
    grid_of,
    is_volume,
    mask_voxels,
    open_volume,
    read_volume,
    reading,
)
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import existing

SIDES = ("left", "right")
_BLOCK = 32


@dataclass(frozen=True)
class BrainImage:
    """Responses of an image of the brain, and where its voxels are.

    Parameters
    ----------
    values : ndarray
        float32 (presentation, voxel).
    voxel : dict
        Columns of the voxels: ``i``, ``j``, ``k``, or ``hemisphere`` and ``vertex``.
    attrs : dict
        ``affine``, ``shape``, ``header``, or ``vertices_left`` and ``vertices_right``.
    grid : Grid or None
        Of a volume.
    flat : dict of str to ndarray
        Side ("both" for a volume) to the indices of the kept voxels, Fortran order.
    path : Path
        Named in messages.
    """

    values: NDArray[np.float32]
    voxel: dict[str, Any]
    attrs: dict[str, Any]
    grid: Grid | None
    flat: dict[str, NDArray[np.intp]]
    path: Path

    def at(self, path: Path) -> NDArray[np.float64]:
        """Return the values of another volume on the same grid at these voxels, (voxel,)."""
        return np.asarray(_at_voxels(path, self, "both"), dtype=np.float64)


def is_surface(path: str | Path) -> bool:
    """Say whether the name of a file ends as GIFTI does."""
    return str(path).lower().endswith(".gii")


def read_volume_responses(path: Path, mask: Path | None) -> BrainImage:
    """Read a 4-D volume whose last axis is the presentation.

    Parameters
    ----------
    path : Path
        NIfTI or MGH. Slope and intercept of the header are applied; a NaN stays NaN.
    mask : Path, optional
        A volume on the same grid: voxels that are neither 0 nor NaN in it are kept. Without it
        every voxel of the grid is.

    Raises
    ------
    FileError
        If a file is missing, truncated, or no volume.
    MismatchError
        If the mask is on another grid, or keeps no voxel.
    InputError
        If the volume has not four axes.
    """
    image, grid = open_volume(path), grid_of(path)
    if len(image.shape) != 4:
        raise InputError(
            f"responses {path} have shape {image.shape}; needed: (i, j, k, presentation). Join "
            "one volume a presentation with nibabel.concat_images."
        )
    if mask is None:
        kept = np.ones(grid.shape, dtype=bool)
    else:
        check_same_grid(mask, grid, path)
        kept = _inside(_three_axes(mask), mask)
    flat, places = mask_voxels(kept)
    values = np.empty((image.shape[3], len(flat)), dtype=np.float32)
    with reading(path):
        for start in range(0, len(values), _BLOCK):
            block = np.asanyarray(image.dataobj[..., start : start + _BLOCK])
            rows = block.reshape((-1, block.shape[3]), order="F")
            values[start : start + _BLOCK] = rows[flat].T
    return BrainImage(values, dict(places), grid.attrs(), grid, {"both": flat}, path)


def read_surface_responses(
    paths: Mapping[str, Path], masks: Mapping[str, Path] | None
) -> BrainImage:
    """Read responses on the surface, one file a hemisphere.

    Parameters
    ----------
    paths : mapping of str to Path
        "left" and/or "right" to a GIFTI file (one array a presentation) or an MGH file
        (vertices, 1, 1, presentations).
    masks : mapping of str to Path, optional
        Side to a GIFTI or MGH file of one value a vertex: those neither 0 nor NaN are kept.
        Without it every vertex is.

    Raises
    ------
    FileError
        If a file is missing, damaged, or of another format.
    MismatchError
        If the sides differ in presentations, or a mask in vertices, or it keeps none.
    """
    parts, hemisphere, vertices, attrs, flat = [], [], [], {}, {}
    for side in (side for side in SIDES if side in paths):
        data = read_vertices(paths[side])
        count = data.shape[1]
        attrs[f"vertices_{side}"] = int(count)
        kept = np.arange(count)
        if masks is not None and side in masks:
            mask = _one_map(masks[side], count, paths[side])
            kept = np.flatnonzero(_inside(mask, masks[side]))
        parts.append(np.asarray(data[:, kept], dtype=np.float32))
        hemisphere += [side] * len(kept)
        vertices.append(kept)
        flat[side] = kept
    rows = {str(paths[side]): len(part) for side, part in zip(flat, parts, strict=True)}
    if len(set(rows.values())) > 1:
        raise MismatchError(
            "the hemispheres differ in presentations: "
            + ", ".join(f"{path} has {count}" for path, count in rows.items())
            + ". Give both sides of the same session."
        )
    voxel = {"hemisphere": hemisphere, "vertex": np.concatenate(vertices)}
    path = Path(next(iter(paths.values())))
    return BrainImage(np.concatenate(parts, axis=1), voxel, attrs, None, flat, path)


def read_vertices(path: Path) -> NDArray[Any]:
    """Read values on a surface, (map, vertex), from GIFTI, MGH or a NIfTI of (vertices, 1, 1).

    Raises
    ------
    FileError
        If the file is missing, damaged, or of another format.
    """
    place = existing(path, "surface file")
    if not is_surface(place):
        data = read_volume(place)
        if data.shape[1:3] != (1, 1):
            raise FileError(f"surface file {place} has shape {data.shape}; needed (V, 1, 1[, n]).")
        return data.reshape((data.shape[0], -1), order="F").T
    image = _gifti(place)
    columns = [np.asarray(array.data) for array in image.darrays]
    shapes = [column.shape for column in columns]
    table = len(shapes) == 1 and len(shapes[0]) == 2
    if not table and (len(set(shapes)) != 1 or len(shapes[0]) != 1):
        raise FileError(
            f"surface file {place} holds arrays of {shapes[:3]}; needed: arrays of one length with "
            "a value a vertex, or a single one of (vertex, presentation)."
        )
    # Time series are stored as one array a presentation, or as one of (vertex, presentation).
    return columns[0].T if table else np.stack(columns)


def read_brain_rois(
    source: Mapping[str, Path], labels: Path | None, image: BrainImage
) -> dict[str, NDArray[np.bool_]]:
    """Read ROIs from masks or an atlas on the grid (or the mesh) of the responses.

    Parameters
    ----------
    source : mapping of str to Path
        "both" to a volume or a folder of volumes; or "left" and/or "right" to a surface file or
        a folder of them. A file in a folder is a mask, called by its name without endings; a
        single file is an atlas: each whole number other than 0 and -1 in it is a ROI.
    labels : Path, optional
        Table with the columns ``index`` and ``name``, one line a number of the atlas. Without it
        a GIFTI label file gives its own names, and other ROIs are called by their numbers.
    image : BrainImage
        The responses.

    Returns
    -------
    dict of str to ndarray
        Name to bool (voxel,). ROIs of the two sides with one name are one ROI.

    Raises
    ------
    FileError
        If a file is missing, damaged, or of another format.
    MismatchError
        If a file is on another grid or mesh than the responses.
    InputError
        If a number of the atlas is not whole.
    """
    sides = list(image.flat)
    if not set(source) <= set(sides):
        raise InputError(f"rois are given for {list(source)}, the responses of {sides}.")
    sizes = [len(image.flat[side]) for side in sides]
    ends = np.cumsum([0, *sizes])
    masks: dict[str, NDArray[np.bool_]] = {}
    for side, path in source.items():
        place = sides.index(side)
        for name, inside in _rois_of(path, labels, image, side).items():
            whole = masks.setdefault(name, np.zeros(int(ends[-1]), dtype=bool))
            whole[ends[place] : ends[place + 1]] |= inside
    return masks


def _rois_of(
    path: Path, labels: Path | None, image: BrainImage, side: str
) -> dict[str, NDArray[np.bool_]]:
    place = existing(path, "ROI image or folder of ROI images")
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if is_volume(file) or is_surface(file))
        if not files:
            raise FileError(
                f"folder {place} holds no ROI image ({', '.join((*VOLUME_SUFFIXES, '.gii'))})."
            )
        return {_stem(file): _inside(_at_voxels(file, image, side), file, True) for file in files}
    atlas = _at_voxels(place, image, side)
    known = np.nan_to_num(np.asarray(atlas, dtype=np.float64))
    found = np.unique(known)
    broken = found[found != np.round(found)]
    if broken.size:
        raise InputError(
            f"atlas {place} holds {broken[0]:g}; an atlas holds whole numbers. For a mask, or a "
            "map of probabilities that was cut into one, give a folder of masks."
        )
    names = _names(place, labels, side)
    indices = [int(index) for index in found if index not in (0, -1)]
    # Named areas that the image does not hold stay, empty.
    rois = dict.fromkeys([*(index for index in names if index not in (0, -1)), *indices])
    return {names.get(index, str(index)): known == index for index in rois}


def _at_voxels(path: Path, image: BrainImage, side: str) -> NDArray[Any]:
    """Return the values of an image on the same grid or mesh at the kept voxels."""
    if image.grid is not None:
        check_same_grid(path, image.grid, image.path)
        return np.asarray(_three_axes(path).ravel(order="F")[image.flat[side]])
    count = image.attrs[f"vertices_{side}"]
    return np.asarray(_one_map(path, count, image.path)[image.flat[side]])


def _names(path: Path, labels: Path | None, side: str) -> dict[int, str]:
    if labels is not None:
        table = read_table(labels)
        if not {"index", "name"} <= set(table):
            raise FileError(f"table {labels} has the columns {list(table)}; needed: index, name.")
        indices = numbers(table["index"], "index", labels, int).tolist()
        return dict(zip(indices, table["name"], strict=True))
    if is_surface(path):
        table = _gifti(path).labeltable.get_labels_as_dict()
        return {int(key): str(name) for key, name in table.items() if name}
    return {}


def _three_axes(path: Path) -> NDArray[Any]:
    data = read_volume(path)
    if int(np.prod(data.shape[3:])) != 1:
        raise FileError(f"mask or atlas {path} has shape {data.shape}; needed: one volume.")
    return data.reshape(data.shape[:3])


def _one_map(path: Path, count: int, other: Path) -> NDArray[Any]:
    data = read_vertices(path)
    if data.shape != (1, count):
        raise MismatchError(
            f"{path} has {data.shape[0]} maps of {data.shape[1]} vertices, {other} has {count} "
            "vertices; give one map on the same mesh."
        )
    return np.asarray(data[0])


def _inside(mask: NDArray[Any], path: Path, empty: bool = False) -> NDArray[np.bool_]:
    kept = np.nan_to_num(mask) != 0
    if not empty and not kept.any():
        raise MismatchError(f"mask {path} is 0 everywhere; no voxel would be left.")
    return np.asarray(kept)


def _gifti(path: Path) -> Any:
    from xml.parsers.expat import ExpatError

    import nibabel

    kit: Any = nibabel
    with reading(path):
        try:
            image = kit.load(path)
        except ExpatError as error:
            raise FileError(f"surface file {path} is truncated or no GIFTI: {error}.") from error
    if not isinstance(image, kit.GiftiImage):
        raise FileError(f"surface file {path} is {type(image).__name__}, no GIFTI.")
    check_own_values(path, image)
    return image


def _stem(path: Path) -> str:
    """Return the name of a file without the endings of brain images."""
    endings = (".func.gii", ".shape.gii", ".label.gii", ".gii", *VOLUME_SUFFIXES)
    name = path.name
    longest = max((end for end in endings if name.lower().endswith(end)), key=len)
    return name[: -len(longest)]

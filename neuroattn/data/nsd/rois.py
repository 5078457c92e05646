"""Which voxels or vertices are kept, and in which ROIs of NSD's label files they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.nsd.layout import SIDES, Layout, times
from neuroattn.data.volumes import Grid, check_same_grid, grid_of, mask_voxels, read_volume
from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.io import existing
from neuroattn.names import check_name

#: NSD's label files, in the order in which their ROIs are listed.
ATLASES = (
    "nsdgeneral",
    "prf-visualrois",
    "prf-eccrois",
    "floc-faces",
    "floc-bodies",
    "floc-places",
    "floc-words",
    "streams",
    "HCP_MMP1",
    "Kastner2015",
    "corticalsulc",
    "MTL",
    "thalamus",
)
DEFAULT = "nsdgeneral"
#: The published names of labels 1, 2, ...; a ``.ctab`` file beside the labels goes first.
NAMES = {
    "nsdgeneral": ("nsdgeneral",),
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "prf-eccrois": ("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": (
        "early",
        "midventral",
        "midlateral",
        "midparietal",
        "ventral",
        "lateral",
        "parietal",
    ),
}
_ALL, _BRAIN = "all", "brainmask"
_OUTSIDE = -1

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Selection:
    """The kept voxels in their order, and what is known of them.

    Parameters
    ----------
    keep : dict of str to ndarray
        "both" (a volume), or "left" and "right": sorted flat indices (first axis fastest).
    sizes : dict of str to tuple of int
        The whole grid, or the number of vertices, of each.
    columns : dict of str to ndarray
        ``hemisphere`` and ``i``, ``j``, ``k`` or ``vertex`` of each kept voxel.
    roi : dict of str to ndarray
        Name to bool, one a kept voxel.
    attrs : dict
        Of the response set: where the grid is, or how large the meshes are.
    source : Path
        The file that the grid or the mesh is known from.
    grid : Grid or None
        Of a volume.
    """

    keep: dict[str, NDArray[np.intp]]
    sizes: dict[str, tuple[int, ...]]
    columns: dict[str, NDArray[Any]]
    roi: dict[str, NDArray[np.bool_]]
    attrs: dict[str, Any]
    source: Path
    grid: Grid | None = field(default=None)

    @property
    def count(self) -> int:
        """Number of kept voxels."""
        return sum(len(keep) for keep in self.keep.values())


def wanted(roi: Sequence[str] | None) -> list[str]:
    """Return the names of the ROIs to keep, NSD's own mask where none are given."""
    if roi is None:
        return [DEFAULT]
    return [roi] if isinstance(roi, str) else list(roi)


def needed_files(layout: Layout, roi: Sequence[str] | None) -> list[tuple[Path, str, bool]]:
    """Return the label files as (path, what, whether it must be there)."""
    names = wanted(roi)
    found: list[tuple[Path, str, bool]] = []
    for atlas in ATLASES:
        files = layout.roi_files(atlas)
        must = atlas in names
        whole = files.pop("both", None)
        if whole is not None:
            found.append((whole, f"ROIs of {atlas}", must and not _all_there(files)))
            files = {side: path for side, path in files.items() if path.exists()}
        found += [
            (path, f"ROIs of {atlas}, {side}", must and whole is None)
            for side, path in files.items()
        ]
        found.append((_table(layout, atlas), f"names of {atlas}", False))
    if _BRAIN in names and layout.volume:
        found.append((layout.anatomy / f"{_BRAIN}.nii.gz", "brain mask", True))
    return found


def select(layout: Layout, roi: Sequence[str] | None) -> Selection:
    """Read the label files and choose the voxels that are in any of the wanted ROIs.

    Parameters
    ----------
    layout : Layout
        Whose files.
    roi : sequence of str or None
        Names of ROIs, of label files (every label of it), "brainmask", or "all"; None is
        "nsdgeneral".

    Raises
    ------
    FileError
        If a file is missing or damaged, or holds labels that are not published.
    MismatchError
        If files are of different grids or meshes, or of another subject.
    InputError
        If a ROI is unknown or no voxel is left.
    """
    names = wanted(roi)
    labels, sides, sizes, source, grid = (
        _volume(layout, names) if layout.volume else _surface(layout)
    )
    for atlas in [name for name in names if name in ATLASES and name not in labels]:
        existing(next(iter(layout.roi_files(atlas).values())), f"ROIs of {atlas}")
    rois = _named(layout, labels)
    chosen = _chosen(names, rois, labels, len(sides))
    if not chosen.any():
        raise InputError(
            f"roi={names} holds no voxel of {layout.name} in {layout.rois}; that ROI is empty for "
            "this subject. Choose another, or more."
        )
    masks = {name: labels[atlas][chosen] == number for name, (atlas, number) in rois.items()}
    columns: dict[str, NDArray[Any]] = {"hemisphere": sides[chosen]}
    if grid is not None:
        flat, places = mask_voxels(chosen.reshape(grid.shape, order="F"))
        return Selection({"both": flat}, sizes, columns | places, masks, grid.attrs(), source, grid)
    halves = np.split(chosen, [sizes["left"][0]])
    keep = {side: np.flatnonzero(half) for side, half in zip(SIDES, halves, strict=True)}
    columns["vertex"] = np.concatenate(list(keep.values()))
    attrs = {f"vertices_{side}": sizes[side][0] for side in SIDES}
    return Selection(keep, sizes, columns, masks, attrs, source)


_Read = tuple[dict[str, Labels], NDArray[np.str_], dict[str, tuple[int, ...]], Path, Grid | None]


def _volume(layout: Layout, names: list[str]) -> _Read:
    """Read the label volumes, flat with x fastest, and the hemisphere of each voxel."""
    brain = layout.anatomy / f"{_BRAIN}.nii.gz"
    files = {atlas: layout.roi_files(atlas) for atlas in ATLASES}
    if _BRAIN in names:
        existing(brain, "brain mask")
    found = [path for sides in files.values() for path in sides.values() if path.exists()]
    found += [brain] if brain.exists() else []
    if not found:
        raise FileError(
            f"{layout.rois} holds no ROI file, {brain} does not exist: one of them must say where "
            "the voxels are. Download nsdgeneral.nii.gz."
        )
    grid = grid_of(found[0])
    layout.check_size(found[0], grid.shape)
    count = int(np.prod(grid.shape))
    labels: dict[str, Labels] = {}
    inside = {side: np.zeros(count, dtype=bool) for side in SIDES}
    for atlas, sides in files.items():
        values: dict[str, Labels] = {}
        for side, path in sides.items():
            if path.exists():
                check_same_grid(path, grid, found[0])
                values[side] = _integers(path).ravel(order="F")
        for side in set(values) & set(SIDES):
            # Without the mark of what lies outside, 0 says nothing about the hemisphere.
            marked = (values[side] == _OUTSIDE).any()
            inside[side] |= values[side] > (_OUTSIDE if marked else 0)
        if "both" not in values and len(values) == 1:
            other = next(side for side in SIDES if side not in values)
            existing(sides[other], f"ROIs of {atlas} in the {other} hemisphere")
        if values:
            both = values.get("both")
            labels[atlas] = np.maximum.reduce(list(values.values())) if both is None else both
    if _BRAIN in names:
        check_same_grid(brain, grid, found[0])
        labels[_BRAIN] = (_integers(brain).ravel(order="F") > 0).astype(np.int32)
    hemisphere = np.full(count, "both", dtype="<U5")
    hemisphere[inside["left"] & ~inside["right"]] = "left"
    hemisphere[inside["right"] & ~inside["left"]] = "right"
    return labels, hemisphere, {"both": grid.shape}, found[0], grid


def _surface(layout: Layout) -> _Read:
    """Read the label files of both hemispheres, the left one's vertices first."""
    files = {atlas: layout.roi_files(atlas) for atlas in ATLASES}
    labels: dict[str, Labels] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    source = Path()
    for atlas, sides in files.items():
        if not any(path.exists() for path in sides.values()):
            continue
        halves = []
        for side, path in sides.items():
            half = _integers(existing(path, f"ROIs of {atlas}")).ravel()
            layout.check_size(path, (len(half),), side)
            if len(half) != sizes.setdefault(side, (len(half),))[0]:
                raise MismatchError(
                    f"{path} has {len(half)} vertices, {source} and its fellows have "
                    f"{times(sizes[side])} in the {side} hemisphere; they are of different meshes."
                )
            halves.append(half)
            source = path
        labels[atlas] = np.concatenate(halves)
    if not labels:
        existing(files[DEFAULT]["left"], f"ROIs of {DEFAULT}")
    hemisphere = np.repeat(list(SIDES), [sizes[side][0] for side in SIDES])
    return labels, hemisphere, sizes, source, None


def _all_there(files: dict[str, Path]) -> bool:
    return all(path.exists() for path in files.values())


def _integers(path: Path) -> Labels:
    values = read_volume(path)
    if values.dtype.kind not in "iuf" or not np.array_equal(values, np.round(values)):
        raise FileError(
            f"{path} holds {values.dtype} that are no whole numbers; labels are -1 (outside), 0 "
            "(unlabelled), 1 and above. Was it resampled? Use the file as published."
        )
    return values.astype(np.int32)


def _table(layout: Layout, atlas: str) -> Path:
    return layout.label_folder / f"{atlas}.mgz.ctab"


def _names(layout: Layout, atlas: str) -> dict[int, str] | None:
    if _table(layout, atlas).exists():
        return read_ctab(_table(layout, atlas))
    if atlas in NAMES:
        return dict(enumerate(NAMES[atlas], start=1))
    return {1: _BRAIN} if atlas == _BRAIN else None


def read_ctab(path: Path) -> dict[int, str]:
    """Read a FreeSurfer colour table: lines of a number, a name, and perhaps colours.

    Parameters
    ----------
    path : Path
        The file; ``#`` starts a comment.

    Returns
    -------
    dict of int to str
        Without the label 0.

    Raises
    ------
    FileError
        If a line is another, or a number stands twice.
    """
    names: dict[int, str] = {}
    try:
        lines = existing(path, "label names").read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise FileError(f"label names {path} are no UTF-8 text: {error}.") from error
    for row, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) < 2 or not words[0].isdigit() or int(words[0]) in names:
            raise FileError(f"label names {path}, line {row}: {line!r}; needed: number and name.")
        names[int(words[0])] = words[1]
    return {number: name for number, name in names.items() if number}


def _named(layout: Layout, labels: dict[str, Labels]) -> dict[str, tuple[str, int]]:
    """Return ROI name to (atlas, label); the file goes before a name that an earlier file has."""
    rois: dict[str, tuple[str, int]] = {}
    for atlas, values in labels.items():
        present = [int(label) for label in np.unique(values) if label > 0]
        names = _names(layout, atlas)
        known = {label: f"{atlas}-{label}" for label in present} if names is None else names
        unknown = [label for label in present if label not in known]
        if unknown:
            raise FileError(
                f"{layout.roi_files(atlas)} hold the label {unknown[0]}, which is no ROI of "
                f"{atlas}; its labels are {sorted(known)}. Download labels and names again."
            )
        for label, name in known.items():
            rois[f"{atlas}-{name}" if name in rois else name] = (atlas, label)
    return rois


def _chosen(
    names: list[str], rois: dict[str, tuple[str, int]], labels: dict[str, Labels], count: int
) -> NDArray[np.bool_]:
    chosen = np.zeros(count, dtype=bool)
    for name in names:
        check_name("roi", name, {*rois, *labels, _ALL})
        if name == _ALL:
            chosen[:] = True
        elif name in rois:
            atlas, label = rois[name]
            # Never "not outside": nsdgeneral is 1 inside, 0 in the rest of cortex, -1 elsewhere.
            chosen |= labels[atlas] == label
        else:
            chosen |= labels[name] > 0
    return chosen

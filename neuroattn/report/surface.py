"""Pictures of values on the inflated cortex, on the fsaverage5 mesh that nilearn ships."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.data import to_fsaverage
from neuroattn.errors import InputError, MismatchError
from neuroattn.report.style import INK, new_figure, styled
from neuroattn.report.volume import affine, has_volume, nifti_image, volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Vertices a hemisphere of fsaverage5, 6 and 7; each mesh begins with those of the coarser one.
_MESHES = (10242, 40962, 163842)
_VERTICES = _MESHES[0]
_SPACES = ("fsaverage", "fsaverage5", "challenge")
_SIDES = ("left", "right")
_VIEWS = ("lateral", "posterior", "medial", "ventral")


def why_no_surface(voxels: xr.Dataset) -> str:
    """Say why there is no surface picture of these voxels, or return "" if there is one.

    Parameters
    ----------
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder.
    """
    space = str(voxels.attrs.get("space", "none"))
    if space in _SPACES and "vertex" in voxels.coords:
        counts = {side: voxels.attrs.get(f"vertices_{side}") for side in _present(voxels)}
        if all(count in _MESHES for count in counts.values()):
            return ""
        return f"the mesh has {counts} vertices; fsaverage5, 6 and 7 have {_MESHES}"
    if space == "MNI" and has_volume(voxels):
        return ""
    return (
        f"the voxels are in space {space!r}; a surface picture needs vertices of fsaverage, or "
        "i, j, k in MNI space"
    )


def surface_values(
    values: ArrayLike, voxels: xr.Dataset, radius: float = 6.0
) -> dict[str, NDArray[np.float64]]:
    """Bring one value a voxel to the vertices of fsaverage5; subjects are averaged.

    Parameters
    ----------
    values : array_like
        (voxel,), NaN where unknown.
    voxels : xarray.Dataset
        With vertices of an fsaverage mesh (finer meshes are read at the vertices they share with
        fsaverage5), or with i, j, k in MNI space.
    radius : float
        MNI only: points without a voxel take the nearest voxel within so many mm, so that single
        voxels stay visible; then each vertex averages ten points from white matter to pia. NaN
        never spreads. MNI space and the mesh differ by some millimetres: a picture, no analysis.

    Returns
    -------
    dict of str to ndarray
        "left" and "right" to (10242,), NaN where there is nothing.

    Raises
    ------
    InputError
        If there is no way from these voxels to the surface.
    MismatchError
        If ``values`` has another number of voxels.
    """
    reason = why_no_surface(voxels)
    if reason:
        raise InputError(f"no surface picture: {reason}.")
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (voxels.sizes["voxel"],):
        raise MismatchError(
            f"values has shape {numbers.shape}; the dataset has {voxels.sizes['voxel']} voxels."
        )
    subject = voxels["subject"].to_numpy().astype(str)
    parts: dict[str, list[NDArray[np.float64]]] = {side: [] for side in _SIDES}
    for name in dict.fromkeys(subject.tolist()):
        here = np.flatnonzero(subject == name)
        own = voxels.isel(voxel=here)
        if "vertex" in voxels.coords and voxels.attrs["space"] in _SPACES:
            for side in _present(own):
                parts[side].append(to_fsaverage(numbers[here], own, side)[:_VERTICES])
        else:
            for side in _SIDES:
                parts[side].append(_sampled(numbers[here], own, side, radius))
    return {side: _mean(columns) for side, columns in parts.items()}


@styled
def surface_picture(
    values: ArrayLike,
    voxels: xr.Dataset,
    label: str,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure | None:
    """Draw values on the inflated cortex, seen from four sides, left and right.

    Parameters
    ----------
    values : array_like
        (voxel,), NaN where unknown.
    voxels : xarray.Dataset
        As for :func:`surface_values`.
    label : str
        What the colours mean, with unit.
    limits : tuple of float
        Values of the ends of the colour bar, which points where values go beyond. With a negative
        lower limit (a difference) the colours diverge from its middle.

    Returns
    -------
    matplotlib.figure.Figure or None
        None where there is no picture; :func:`why_no_surface` says why.
    """
    if why_no_surface(voxels):
        return None
    textures = surface_values(values, voxels)
    low, high = limits
    name = colour_map(limits)
    figure = new_figure(8.4, 4.3)
    # The engine of the other figures would give each brain an empty frame.
    figure.set_layout_engine("none")
    step, height = 1 / len(_VIEWS), 0.42
    for row, side in enumerate(_SIDES):
        for column, view in enumerate(_VIEWS):
            left, bottom = column * step, 0.58 - row * height
            box = (left - 0.04, bottom - 0.05, step + 0.08, height + 0.1)
            axes = figure.add_axes(box, projection="3d")
            axes.patch.set_alpha(0)
            _draw(axes, textures[side], side, view, (low, high, name))
            figure.text(left + step / 2, bottom, f"{side}, {view}", ha="center")
    colour_bar(figure, (0.32, 0.105, 0.36, 0.025), np.concatenate(list(textures.values())), limits)
    figure.axes[-1].set_xlabel(label)
    return figure


def colour_map(limits: tuple[float, float]) -> str:
    """Return the name of the colours between two limits: diverging if the lower is negative."""
    return "RdBu_r" if limits[0] < 0 else "viridis"


def colour_bar(
    figure: Figure,
    box: tuple[float, float, float, float],
    shown: NDArray[np.floating[Any]],
    limits: tuple[float, float],
) -> None:
    """Draw a horizontal colour bar that points where values go beyond its limits.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        To draw in.
    box : tuple of float
        Left, bottom, width, height, as fractions of the figure.
    shown : ndarray
        All values of the picture, NaN allowed.
    limits : tuple of float
        Values of the ends.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ends = bool((shown < limits[0]).any()), bool((shown > limits[1]).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends]
    bar = figure.colorbar(
        ScalarMappable(Normalize(*limits), matplotlib.colormaps[colour_map(limits)]),
        cax=figure.add_axes(box),
        orientation="horizontal",
        extend=extend,
    )
    bar.outline.set_edgecolor(INK)


def _present(voxels: xr.Dataset) -> list[str]:
    return [side for side in _SIDES if (voxels["hemisphere"].to_numpy() == side).any()]


def _mean(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    if not columns:
        return np.full(_VERTICES, np.nan)
    stack = np.stack(columns)
    known = np.isfinite(stack)
    total, count = np.where(known, stack, 0).sum(axis=0), known.sum(axis=0)
    mean = np.full(_VERTICES, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _sampled(
    values: NDArray[np.float64], voxels: xr.Dataset, side: str, radius: float
) -> NDArray[np.float64]:
    from nilearn.surface import vol_to_surf
    from scipy.ndimage import distance_transform_edt

    filled = volume(values, voxels)
    empty = np.isnan(filled)
    if empty.all():
        return np.full(_VERTICES, np.nan)
    spacing = np.linalg.norm(affine(voxels)[:3, :3], axis=0)
    distance, nearest = distance_transform_edt(empty, sampling=spacing, return_indices=True)
    thick = np.where(distance <= radius, filled[tuple(nearest)], np.nan)
    image = nifti_image(thick.astype(np.float32), voxels)
    mesh = fsaverage5()
    with warnings.catch_warnings():
        # Most vertices are far from any voxel; their mean over no sample is the NaN wanted here.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        texture = vol_to_surf(image, mesh[f"pial_{side}"], inner_mesh=mesh[f"white_{side}"])
    return np.asarray(texture, dtype=np.float64)


def fsaverage5() -> Any:
    """Return the files of the mesh that is a part of nilearn; every other would be downloaded."""
    from nilearn.datasets import fetch_surf_fsaverage

    return fetch_surf_fsaverage("fsaverage5")


def _draw(
    axes: Any,
    texture: NDArray[np.float64],
    side: str,
    view: str,
    scale: tuple[float, float, str],
) -> None:
    from nilearn.plotting import plot_surf

    mesh = fsaverage5()
    low, high, name = scale
    plot_surf(
        mesh[f"infl_{side}"],
        np.clip(texture, low, high),
        bg_map=folds(mesh[f"sulc_{side}"]),
        hemi=side,
        view=view,
        engine="matplotlib",
        cmap=name,
        colorbar=False,
        vmin=low,
        vmax=high,
        axes=axes,
        figure=axes.get_figure(),
    )


def folds(path: str) -> NDArray[np.float64]:
    """Return a pale grey (vertex,) for each vertex, a little darker in the sulci."""
    from nilearn.surface import load_surf_data

    depth = np.asarray(load_surf_data(path), dtype=np.float64)
    return np.asarray(0.22 + 0.2 / (1 + np.exp(-depth / np.std(depth) * 4)))

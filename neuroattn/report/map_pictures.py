"""A map of the brain to look at: slices and surfaces as pictures, and as pages that turn."""

from __future__ import annotations

import base64
import html
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.report.style import new_figure, png, styled
from neuroattn.report.surface import (
    colour_bar,
    colour_map,
    folds,
    fsaverage5,
    surface_picture,
    surface_values,
    why_no_surface,
)
from neuroattn.report.volume import affine, has_volume, nifti_image, volume

_SLICES = 7
_GREY = 0.75
# Voxels around those that are drawn.
_MARGIN = 3


def map_pictures(
    values: NDArray[np.floating[Any]], voxels: xr.Dataset, name: str
) -> dict[str, bytes]:
    """Draw a map: slices of its volume, and the inflated cortex where there is a way to it.

    Parameters
    ----------
    values : ndarray
        (voxel,), NaN where unknown.
    voxels : xarray.Dataset
        Of one subject.
    name : str
        What the colours mean.

    Returns
    -------
    dict of str to bytes
        PNG files by the end of their name: "slices.png", "surface.png".
    """
    limits = colour_limits(values)
    pictures = {}
    if has_volume(voxels):
        pictures["slices.png"] = png(_slices(values, voxels, name, limits))
    figure = surface_picture(values, voxels, name, limits)
    if figure is not None:
        pictures["surface.png"] = png(figure)
    return pictures


def map_pages(values: NDArray[np.floating[Any]], voxels: xr.Dataset, name: str) -> dict[str, bytes]:
    """Make pages on which a map can be turned and cut; they need no network.

    Parameters
    ----------
    values : ndarray
        (voxel,), NaN where unknown.
    voxels : xarray.Dataset
        Of one subject.
    name : str
        The title; a name such as ``<script>`` is shown, not run.

    Returns
    -------
    dict of str to bytes
        HTML files by the end of their name: "slices.html" and/or "surface.html".
    """
    limits = colour_limits(values)
    pages = {}
    if has_volume(voxels):
        pages["slices.html"] = _slice_page(values, voxels, name, limits)
    if not why_no_surface(voxels):
        pages["surface.html"] = _surface_page(values, voxels, name, limits)
    return {kind: text.encode("utf-8") for kind, text in pages.items()}


def colour_limits(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return the values of the ends of the colours of a map.

    From 0 to the 98th percentile; from minus to plus the 98th percentile of the absolute values
    where the 2nd percentile is further below 0 than a quarter of that. A map without a value
    above 0 and a map of nothing go to 1.

    Parameters
    ----------
    values : ndarray
        (voxel,), NaN where unknown.
    """
    known = values[np.isfinite(values)]
    if known.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(known, [2, 98])
    if low < -0.25 * max(high, 0.0):
        end = float(np.percentile(np.abs(known), 98))
        return (-end, end) if end > 0 else (0.0, 1.0)
    return 0.0, float(high) if high > 0 else 1.0


@styled
def _slices(
    values: NDArray[np.floating[Any]],
    voxels: xr.Dataset,
    name: str,
    limits: tuple[float, float],
) -> Any:
    from nilearn.plotting import plot_img

    figure = new_figure(8.4, 4.8)
    # The engine of the other figures would move the panels of nilearn.
    figure.set_layout_engine("none")
    mni = voxels.attrs.get("space") == "MNI"
    image, least = _shown(values, voxels, limits)
    mode, cuts = _cuts(voxels)
    with _quiet():
        display = plot_img(
            _background(voxels),
            bg_img=None,
            display_mode=mode,
            cut_coords=cuts,
            figure=figure,
            axes=(0.0, 0.0, 1.0, 1.0),
            black_bg=False,
            draw_cross=False,
            colorbar=False,
            cmap="gray",
            threshold=1e-3,
            vmin=0,
            vmax=1,
            resampling_interpolation="continuous" if mni else "nearest",
        )
        display.add_overlay(
            image,
            threshold=least,
            cmap=colour_map(limits),
            vmin=limits[0],
            vmax=limits[1],
            resampling_interpolation="nearest",
        )
    _raise_panels(display)
    colour_bar(figure, (0.32, 0.09, 0.36, 0.02), values, limits)
    figure.axes[-1].set_xlabel(name)
    return figure


def _raise_panels(display: Any) -> None:
    """Make room for the colour bar below the panels, which nilearn spreads over all the figure."""
    for panel in display.axes.values():
        axes = panel.ax
        box = axes.get_axes_locator()(axes, None)
        axes.set_axes_locator(None)
        axes.set_position((box.x0, 0.15 + 0.85 * box.y0, box.width, 0.85 * box.height))


def _slice_page(
    values: NDArray[np.floating[Any]],
    voxels: xr.Dataset,
    name: str,
    limits: tuple[float, float],
) -> str:
    from nilearn.plotting import view_img

    image, least = _shown(values, voxels, limits)
    with _quiet():
        view = view_img(
            image,
            bg_img=_background(voxels),
            threshold=least,
            cmap=colour_map(limits),
            colorbar=False,
            symmetric_cmap=limits[0] < 0,
            vmin=limits[0],
            vmax=limits[1],
            black_bg=False,
            resampling_interpolation="nearest",
            width_view=900,
        )
    return _titled(view.html, name, limits)


def _surface_page(
    values: NDArray[np.floating[Any]],
    voxels: xr.Dataset,
    name: str,
    limits: tuple[float, float],
) -> str:
    import matplotlib
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from nilearn.surface import load_surf_mesh

    files, colours = fsaverage5(), matplotlib.colormaps[colour_map(limits)]
    sides = {}
    for side, texture in surface_values(values, voxels).items():
        mesh = load_surf_mesh(files[f"infl_{side}"])
        place = np.asarray(mesh.coordinates, dtype="<f4").copy()
        # Inflated, both sides lie about the middle: each is moved to its own.
        place[:, 0] -= place[:, 0].max() + 2 if side == "left" else place[:, 0].min() - 2
        grey = np.repeat(1 - folds(files[f"sulc_{side}"])[:, None], 3, axis=1)
        scaled = (texture - limits[0]) / (limits[1] - limits[0])
        known = np.isfinite(texture)[:, None]
        colour = np.where(known, colours(np.nan_to_num(scaled))[:, :3], grey)
        sides[side] = {
            "place": _text(place),
            "faces": _text(np.asarray(mesh.faces, dtype="<u2")),
            "colour": _text(np.round(255 * colour).astype(np.uint8)),
        }
    environment = Environment(
        loader=PackageLoader("neuroattn.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("surface_map.html.j2").render(
        title=name,
        sides=sides,
        low=f"{limits[0]:.3g}",
        high=f"{limits[1]:.3g}",
        gradient=_gradient(limits),
    )


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _titled(page: str, name: str, limits: tuple[float, float]) -> str:
    """Put name and colours into a page of nilearn, which never sees the name."""
    shown = html.escape(name)
    # The icon would be fetched from the network.
    page = re.sub(r"<link[^>]*>", "", page)
    page = re.sub(
        r"<title>.*?</title>", lambda _: f"<title>{shown}</title>", page, count=1, flags=re.DOTALL
    )
    heading = (
        f'<div style="font: 15px sans-serif; margin: 12px"><h1 style="font-size: 18px">{shown}</h1>'
        f'{limits[0]:.3g} <span style="display: inline-block; width: 260px; height: 14px; '
        f'background: linear-gradient(to right, {_gradient(limits)})"></span> {limits[1]:.3g}. '
        "Values beyond have the colour of the end; white or grey: no value. The left of the head "
        "is on the left. Click or drag to cut elsewhere.</div>"
    )
    return re.sub(r"<body[^>]*>", lambda found: found.group() + heading, page, count=1)


def _gradient(limits: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.colors import to_hex

    colours = matplotlib.colormaps[colour_map(limits)]
    return ", ".join(to_hex(colours(step)) for step in np.linspace(0, 1, 13))


def _shown(
    values: NDArray[np.floating[Any]], voxels: xr.Dataset, limits: tuple[float, float]
) -> tuple[Any, float]:
    """Return the image to draw and the threshold below which nothing is drawn.

    The drawing takes NaN for 0 and leaves out what is 0; a true 0 is moved a colour's millionth.
    It leaves out what is below the colours, too, so values beyond an end are drawn as the end.
    """
    least = 1e-6 * limits[1]
    seen = np.clip(values, *limits)
    seen = np.where(np.abs(seen) < 2 * least, 2 * least, seen)
    return _image(np.nan_to_num(volume(seen, voxels)), voxels), least


def _background(voxels: xr.Dataset) -> Any:
    """Return the MNI brain, or grey at the voxels: it shows those without a value."""
    if voxels.attrs.get("space") == "MNI":
        from nilearn.datasets import load_mni152_template

        return load_mni152_template(resolution=2)
    return _image(np.nan_to_num(volume(np.full(voxels.sizes["voxel"], _GREY), voxels)), voxels)


def _image(data: NDArray[np.float32], voxels: xr.Dataset) -> Any:
    """Return the part of a volume that has voxels, with a margin: the rest is empty."""
    box = []
    for axis in "ijk":
        places, length = voxels[axis].to_numpy(), data.shape["ijk".index(axis)]
        box.append(slice(max(places.min() - _MARGIN, 0), min(places.max() + _MARGIN + 1, length)))
    return nifti_image(data, voxels).slicer[tuple(box)]


def _cuts(voxels: xr.Dataset) -> tuple[str, Any]:
    """Return nilearn's mode and where to cut, in mm: evenly through the box around the voxels.

    Voxels of a single slice are drawn in its plane alone; edge-on there is nothing to see.
    """
    ijk = np.stack([voxels[axis].to_numpy() for axis in "ijk"])
    places = affine(voxels)[:3, :3] @ ijk + affine(voxels)[:3, 3:]
    low, high = places.min(axis=1), places.max(axis=1)
    flat = np.flatnonzero(high - low < 1e-3)
    if len(flat):
        return "xyz"[flat[0]], [float(low[flat[0]])]
    spacing = np.linalg.norm(affine(voxels)[:3, :3], axis=0).max()
    cuts = {}
    for n, axis in enumerate("xyz"):
        # Two cuts through one slice show the same twice.
        count = min(_SLICES, int((high[n] - low[n]) / spacing) + 1)
        steps = (np.arange(count) + 0.5) / count
        cuts[axis] = (low[n] + steps * (high[n] - low[n])).tolist()
    return "mosaic", cuts


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # NaN is meant: there is no voxel.
        warnings.filterwarnings("ignore", "Non-finite values detected")
        # A map of NaN alone (ceilings that nobody knows) is a picture of grey voxels.
        warnings.filterwarnings("ignore", "empty mask")
        yield

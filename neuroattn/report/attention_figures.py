"""Pictures of where queries look, with the true object outlined where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuroattn.errors import InputError, MismatchError
from neuroattn.report.style import new_figure, styled

Masks = NDArray[np.bool_] | Sequence[NDArray[np.bool_]]

_OUTLINE = "#0072B2"
_MOST = 48


@styled
def attention_figure(
    images: Sequence[NDArray[np.uint8]],
    attention: xr.DataArray,
    masks: Mapping[str, Masks] | None = None,
    heads: Mapping[str, int] | None = None,
) -> Figure:
    """Lay the attention of queries over images: one row an image, one column a query.

    Colour goes from none, through yellow and red, to purple at the largest weight of each map;
    the image below is grey. The true object of the query is outlined in blue.

    Parameters
    ----------
    images : sequence of uint8 (height, width, 3)
        Those of ``attention``, in its order, as the tokens see them (not cropped). Sizes may
        differ.
    attention : DataArray (image, query, head, row, column)
        From ``TransformerEncoder.attention_maps``, with the queries wanted, in order.
    masks : mapping of str to array_like of bool, optional
        Query to the true pixels of its object, (image, height, width) or one (height, width) an
        image; nothing is outlined where a mask is empty.
    heads : mapping of str to int, optional
        Query to the position of the head that is drawn; the mean of all heads for the others.

    Raises
    ------
    MismatchError
        If there are other numbers of images or masks than of maps.
    InputError
        If there are more than 48 rows or columns, or none.
    """
    rows, queries = attention.sizes["image"], [str(q) for q in attention["query"].to_numpy()]
    if len(images) != rows:
        raise MismatchError(f"images are {len(images)}, attention is of {rows}; give the same.")
    if not (0 < rows <= _MOST and 0 < len(queries) <= _MOST):
        raise InputError(
            f"attention is of {rows} images and {len(queries)} queries; a figure holds 1 to "
            f"{_MOST} of each: select some with attention.sel(query=[...])."
        )
    chosen, shown = heads or {}, masks or {}
    figure = new_figure(1.45 * (len(queries) + 1), 1.45 * rows + 0.35)
    grid = figure.subplots(rows, len(queries) + 1, squeeze=False)
    for row, picture in enumerate(images):
        _bare(grid[row, 0], picture)
        for column, query in enumerate(queries):
            maps = attention[row, column]
            level = maps.isel(head=chosen[query]) if query in chosen else maps.mean("head")
            axes = grid[row, column + 1]
            _bare(axes, _lit(picture, level.to_numpy().astype(float)))
            if query in shown:
                _outline(axes, query, shown[query], row, rows)
    grid[0, 0].set_title("image")
    for column, query in enumerate(queries):
        head = f"head {chosen[query] + 1}" if query in chosen else "mean of heads"
        grid[0, column + 1].set_title(f"{query}\n{head}")
    return figure


def _bare(axes: Axes, picture: NDArray[np.uint8]) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()


def _lit(picture: NDArray[np.uint8], level: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay a heat map over a pale grey version of the picture; tokens are smoothed to pixels."""
    from PIL import Image

    top = float(level.max())
    relative = np.clip(level / top, 0, 1) if top > 0 else np.zeros_like(level)
    size = picture.shape[1], picture.shape[0]
    large = Image.fromarray(relative.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    weight = np.clip(np.asarray(large, dtype=float), 0, 1)
    grey = 110 + 0.55 * (picture @ np.array([0.299, 0.587, 0.114]))
    colour = 255 * matplotlib.colormaps["inferno_r"](0.15 + 0.6 * weight)[..., :3]
    share = 0.85 * np.sqrt(weight)[..., None]
    mixed = np.rint(grey[..., None] * (1 - share) + colour * share)
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.uint8)


def _outline(axes: Axes, query: str, masks: Masks, row: int, rows: int) -> None:
    if len(masks) != rows:
        raise MismatchError(f"mask of {query!r} has {len(masks)} images, attention {rows}.")
    mask = np.asarray(masks[row], dtype=float)
    if mask.any():
        # A border of zeros closes the outline of an object that touches the edge.
        closed = np.pad(mask, 1)
        height, width = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        axes.contour(width, height, closed, levels=[0.5], colors=_OUTLINE, linewidths=1.3)
        axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))

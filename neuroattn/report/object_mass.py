"""How much attention lies on an object, in units of what a uniform map would put there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.errors import InputError, MismatchError

_DIMS = ("image", "query", "head", "row", "column")


def token_coverage(masks: ArrayLike, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the fraction of each token's area that a mask covers.

    Parameters
    ----------
    masks : array_like of bool
        (..., height, width), of the picture as the tokens see it: the grid tiles it evenly from
        edge to edge. Where features crop the picture, crop the mask likewise.
    grid : tuple of int
        Rows and columns of tokens; they need not divide height and width.

    Returns
    -------
    ndarray
        (..., row, column), 0..1. Pixels on the border of two tokens count for both by area, so
        that the mean over tokens is the mean over pixels.
    """
    pixels = np.asarray(masks, dtype=np.float64)
    rows, columns = (
        _overlap(length, parts) for length, parts in zip(pixels.shape[-2:], grid, strict=True)
    )
    return np.asarray(np.einsum("rh,...hw,cw->...rc", rows, pixels, columns, optimize=True))


def attention_mass(attention: xr.DataArray, masks: Mapping[str, ArrayLike]) -> xr.Dataset:
    r"""Compare the attention inside the true object with that of a map that looks everywhere alike.

    With :math:`a_{nt}` the attention to token t in image n (each map is divided by its sum) and
    :math:`c_{nt}` the fraction of the token's area that the object covers, over the N images in
    which the object is present and T tokens,

    .. math:: \mathrm{inside} = \frac1N \sum_n \sum_t a_{nt} c_{nt}, \qquad
              \mathrm{uniform} = \frac1N \sum_n \frac1T \sum_t c_{nt}, \qquad
              \mathrm{ratio} = \mathrm{inside} / \mathrm{uniform}.

    The ratio is of means, not the mean of ratios, which tiny objects would rule. It is 1 for
    uniform attention and 1 / (covered fraction of the image) for attention that lies wholly
    inside the object.

    Parameters
    ----------
    attention : DataArray (image, query, head, row, column)
        Not negative, from ``TransformerEncoder.attention_maps``.
    masks : mapping of str to array_like of bool
        Query to (image, height, width): the true pixels of its category in the images of
        ``attention``, in their order; all False where the object is absent. Queries without a
        mask are left out.

    Returns
    -------
    xarray.Dataset
        ``ratio (query, head)``; ``inside (query, head)`` and ``uniform (query)``, both 0..1;
        ``images (query)``, in how many the object is present. NaN where it never is.

    Raises
    ------
    InputError
        If attention is negative, not finite, or zero everywhere in a map.
    MismatchError
        If a mask is of another number of images, or names a query that is not there.
    """
    if attention.dims != _DIMS:
        raise InputError(f"attention has dimensions {attention.dims}; needed: {_DIMS}.")
    known = [str(name) for name in attention["query"].to_numpy()]
    grid = attention.sizes["row"], attention.sizes["column"]
    inside = np.full((len(masks), attention.sizes["head"]), np.nan)
    uniform = np.full(len(masks), np.nan)
    counts = np.zeros(len(masks), dtype=np.int64)
    for index, (query, mask) in enumerate(masks.items()):
        if query not in known:
            raise MismatchError(f"masks name the query {query!r}; attention has {known}.")
        pixels = _checked(query, mask, attention.sizes["image"])
        present = np.flatnonzero(pixels.any(axis=(1, 2)))
        counts[index] = present.size
        if not present.size:
            continue
        maps = attention[present, known.index(query)].to_numpy().astype(np.float64)
        total = maps.sum(axis=(2, 3))
        if not (np.isfinite(total).all() and (maps >= 0).all() and (total > 0).all()):
            raise InputError(
                f"attention of query {query!r} goes from {maps.min():g} to {maps.max():g}, with "
                f"sums from {total.min():g}; mass needs weights that are finite, not negative, "
                "and not all zero."
            )
        coverage = token_coverage(pixels[present], grid)
        shares = np.einsum("nhrc,nrc->nh", maps, coverage) / total
        inside[index], uniform[index] = shares.mean(axis=0), coverage.mean()
    data = {
        "ratio": (("query", "head"), inside / uniform[:, None]),
        "inside": (("query", "head"), inside),
        "uniform": ("query", uniform),
        "images": ("query", counts),
    }
    heads = {"head": attention["head"]} if "head" in attention.coords else {}
    return xr.Dataset(data, coords={"query": list(masks), **heads})


def best_heads(mass: xr.Dataset) -> dict[str, int]:
    """Return for each query the head with the largest ratio.

    Parameters
    ----------
    mass : xarray.Dataset
        From :func:`attention_mass`. A best head that is chosen on the images it is then judged
        on looks better than it is: choose on validation images, judge on test images.

    Returns
    -------
    dict of str to int
        Query to position of the head; queries whose object is in no image are left out.
    """
    ratios = mass["ratio"].to_numpy()
    names = [str(name) for name in mass["query"].to_numpy()]
    return {
        name: int(np.argmax(row))
        for name, row in zip(names, ratios, strict=True)
        if np.isfinite(row).all()
    }


def query_masks(
    queries: Iterable[str], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.bool_]]:
    """Give each query the mask of its ROI: "FFA" to "FFA", "left FFA" and "sub-01 left FFA".

    Parameters
    ----------
    queries : iterable of str
        Names of queries, such as ``attention["query"].values``.
    masks : mapping of str to ndarray
        ROI to the pixels of the category that it prefers, (image, height, width).

    Returns
    -------
    dict of str to ndarray
        For the queries whose ROI has a mask; the longest of several ROI names that fit.
    """
    given = {}
    for query in map(str, queries):
        fitting = [roi for roi in masks if f" {query}".endswith(f" {roi}")]
        if fitting:
            given[query] = masks[max(fitting, key=len)]
    return given


def _checked(query: str, mask: ArrayLike, images: int) -> NDArray[np.bool_]:
    pixels = np.asarray(mask)
    if pixels.dtype != np.bool_ or pixels.ndim != 3:
        raise InputError(
            f"mask of {query!r} is {pixels.dtype} of shape {pixels.shape}; "
            "needed: bool (image, height, width)."
        )
    if len(pixels) != images:
        raise MismatchError(f"mask of {query!r} has {len(pixels)} images, attention {images}.")
    return pixels


def _overlap(length: int, parts: int) -> NDArray[np.float64]:
    """Fraction (part, pixel) of each of ``parts`` equal stretches that lies on each pixel."""
    edges = np.arange(parts + 1) * (length / parts)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(length)
    shared = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0, None)
    return np.asarray(shared * (parts / length))

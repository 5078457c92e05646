"""Which context images wrote a voxel's encoder: pictures, distribution, and share by category."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from neuroattn.errors import InputError, MismatchError
from neuroattn.images import Images
from neuroattn.report.style import INK, OTHER_COLOUR, PALETTE, new_figure, styled
from neuroattn.report.table import number

Floats = NDArray[np.float64]

_DIMS = ("voxel", "head", "image")
_MOST, _COLUMNS = 48, 8
#: What sums of weights in half precision may be above 1.
_SLACK = 1e-2


@styled
def context_figure(
    attention: xr.DataArray,
    images: Images,
    response: xr.DataArray | None = None,
    count: int = 8,
    *,
    voxel: int | None = None,
    voxels: ArrayLike | None = None,
    name: str | None = None,
) -> tuple[Figure, str]:
    """Show the context images that wrote a voxel's encoder, and how weight is spread over all.

    The weight of an image is the mean over heads; for several voxels, also the mean over them, as
    is their response. What the context images leave of 1 lies on registers.

    Parameters
    ----------
    attention : DataArray (voxel, head, image)
        Weights of the readout token on the context images, 0 to 1, with their ids in ``image``;
        from ``InContextEncoder.context_attention``.
    images : Images
        Hold those that are shown, found by id.
    response : DataArray (image, voxel), optional
        Of the same voxels, one row an image, with the ids in the coordinate ``image``; rows of
        other images do not matter.
    count : int
        How many images are shown, 1 to 48; all of them where the context is smaller.
    voxel : int, optional
        Position of the one voxel to show. Give either this or ``voxels``.
    voxels : array_like of int or bool, optional
        Positions of several voxels, or a mask over all: those of a ROI.
    name : str, optional
        What the title calls them; by default "voxel 12" or "40 voxels".

    Returns
    -------
    Figure, str
        Figure and caption.

    Raises
    ------
    InputError
        If attention is not of that form, not finite, negative or sums to more than 1; if count is
        outside its range; if voxels are not there, none or not said.
    MismatchError
        If images or response lack a context image that is shown, or response is of other voxels.
    """
    if not 1 <= count <= _MOST:
        raise InputError(f"count={count}; a figure shows 1 to {_MOST} images.")
    _check_form(attention)
    chosen = _chosen(voxel, voxels, attention.sizes["voxel"])
    weight = _image_weights(attention.isel(voxel=chosen)).mean(axis=0)
    order = np.argsort(-weight, kind="stable")
    top = order[:count]
    ids = [str(image) for image in attention["image"].to_numpy()[top]]
    values = None if response is None else _responses(response, attention, chosen, ids)
    pictures = [images.read(index) for index in images.find(ids)]
    alone = f"voxel {chosen[0]}"
    called = name or (alone if len(chosen) == 1 else f"{len(chosen):,} voxels")
    columns = min(len(top), _COLUMNS)
    rows = -(-len(top) // columns)
    figure = new_figure(max(6.5, 1.2 * columns), 1.65 * rows + 2.8)
    ratios = [1.65 * rows + 0.4, 2.4]
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    _pictures(upper, columns, pictures, weight[top], values)
    upper.suptitle("\n".join(textwrap.wrap(f"Images that wrote {called}", 80)), fontsize=9.5)
    _bars(lower.subplots(), weight[order], len(top))
    return figure, _caption(attention, called, len(chosen), values is not None)


def context_mass(attention: xr.DataArray, labels: Mapping[str, str]) -> xr.DataArray:
    r"""Compare the attention to the context images of a category with their number.

    With :math:`a_{vi}` the weight of image i for voxel v (mean over heads) and :math:`S_c` those
    of the n context images whose category is c,

    .. math:: \mathrm{mass}_{vc} = \frac{\sum_{i \in S_c} a_{vi} / \sum_i a_{vi}}{|S_c| / n}.

    It is 1 where a voxel prefers no category, :math:`n / |S_c|` where all weight lies on one.
    Weight on registers does not count.

    Parameters
    ----------
    attention : DataArray (voxel, head, image)
        As in :func:`context_figure`.
    labels : mapping of str to str
        Id to category, of every context image; others do not matter.

    Returns
    -------
    DataArray (voxel, category)
        Categories in the order in which ``labels`` first names them. NaN for a category of no
        context image, and for a voxel whose weight lies wholly on registers.

    Raises
    ------
    InputError
        If attention is not of that form, not finite, negative or sums to more than 1.
    MismatchError
        If a context image has no label.
    """
    _check_form(attention)
    weight = _image_weights(attention)
    ids = [str(image) for image in attention["image"].to_numpy()]
    missing = [image for image in ids if image not in labels]
    if missing:
        raise MismatchError(
            f"labels name {len(labels)} images, but not {len(missing)} of the {len(ids)} context "
            f"images, the first is {missing[0]!r}; give each a category, if only 'other'."
        )
    categories = list(dict.fromkeys(labels.values()))
    member = np.array([[labels[image] == category for category in categories] for image in ids])
    share = member.mean(axis=0)
    total = weight.sum(axis=1, keepdims=True)
    expected = total * share
    mass = np.full(expected.shape, np.nan)
    np.divide(weight @ member, expected, out=mass, where=expected > 0)
    kept = {key: value for key, value in attention.coords.items() if value.dims == ("voxel",)}
    coords = {**kept, "category": categories}
    return xr.DataArray(mass, dims=("voxel", "category"), coords=coords, name="mass")


def _check_form(attention: xr.DataArray) -> None:
    if attention.dims != _DIMS or 0 in attention.shape or "image" not in attention.coords:
        raise InputError(
            f"attention has the sizes {dict(attention.sizes)} and the coordinates "
            f"{list(attention.coords)}; needed: {_DIMS}, none empty, and the ids of the context "
            "images in 'image', as context_attention returns it."
        )


def _image_weights(attention: xr.DataArray) -> Floats:
    """Return the mean weights over heads, (voxel, image)."""
    weight = attention.to_numpy().mean(axis=1, dtype=np.float64)
    total = weight.sum(axis=1)
    least, most = float(attention.min(skipna=False)), float(total.max())
    # Written so that NaN does not pass.
    if not (least >= 0 and most <= 1 + _SLACK):
        raise InputError(
            f"attention has weights from {least:g}, with sums over images up to {most:g}; needed: "
            "finite weights, not negative, with sums of at most 1."
        )
    return np.asarray(weight)


def _chosen(voxel: int | None, voxels: ArrayLike | None, known: int) -> NDArray[np.intp]:
    if (voxel is None) == (voxels is None):
        raise InputError(f"voxel={voxel!r} and voxels={voxels!r}; give one of them, and not both.")
    wanted = np.atleast_1d(np.asarray(voxel if voxels is None else voxels))
    if wanted.dtype == np.bool_ and wanted.shape == (known,):
        wanted = np.flatnonzero(wanted)
    if wanted.ndim != 1 or not wanted.size or wanted.dtype.kind not in "iu":
        raise InputError(
            f"voxels are {wanted.dtype} of shape {wanted.shape}; needed: at least one position "
            f"from 0 to {known - 1}, or a mask of {known} that is True somewhere."
        )
    if wanted.min() < 0 or wanted.max() >= known:
        raise InputError(
            f"voxels go from {wanted.min()} to {wanted.max()}; attention is of the voxels 0 to "
            f"{known - 1}."
        )
    return wanted.astype(np.intp)


def _responses(
    response: xr.DataArray, attention: xr.DataArray, chosen: NDArray[np.intp], ids: list[str]
) -> Floats:
    """Return the mean response of the chosen voxels to the images ``ids``."""
    if set(response.dims) != {"image", "voxel"} or "image" not in response.coords:
        raise InputError(
            f"response has sizes {dict(response.sizes)} and coordinates {list(response.coords)}; "
            "needed: ('image', 'voxel') and the ids in 'image'; of averaged responses that is "
            "responses['response'].swap_dims(presentation='image')."
        )
    places = [str(key) for key, value in response.coords.items() if value.dims == ("voxel",)]
    shared = [key for key in places if key in attention.coords]
    other = [
        key
        for key in shared
        if not np.array_equal(attention[key].to_numpy(), response[key].to_numpy())
    ]
    if response.sizes["voxel"] != attention.sizes["voxel"] or other:
        where = f" and other values of {', '.join(other)}" if other else ""
        raise MismatchError(
            f"response is of {response.sizes['voxel']} voxels, attention of "
            f"{attention.sizes['voxel']}{where}; select the same voxels from both."
        )
    known = [str(image) for image in response["image"].to_numpy()]
    wrong = {image: known.count(image) for image in ids if known.count(image) != 1}
    if wrong:
        image, times = next(iter(wrong.items()))
        raise MismatchError(
            f"response has {times} rows of the context image {image!r}; needed: one of each, its "
            "repetitions averaged."
        )
    rows = [known.index(image) for image in ids]
    values = response.isel(image=rows, voxel=chosen).transpose("image", "voxel").to_numpy()
    return np.asarray(values.mean(axis=1, dtype=np.float64))


def _pictures(
    figure: SubFigure,
    columns: int,
    pictures: list[NDArray[np.uint8]],
    weight: Floats,
    values: Floats | None,
) -> None:
    rows = -(-len(pictures) // columns)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for place, (axes, picture) in enumerate(zip(grid, pictures, strict=False)):
        axes.imshow(picture, interpolation="antialiased")
        # Upper edges, and with them the words, stand in line whatever the shapes.
        axes.set_anchor("N")
        words = f"weight {_percent(weight[place])}"
        if values is not None:
            words += f"\nresponse {_plain(values[place])}"
        axes.set_title(words, fontsize=8)


def _bars(axes: Axes, weight: Floats, shown: int) -> None:
    """Draw the weights, largest first; the first ``shown`` in colour."""
    count, total = len(weight), float(weight.sum())
    colour = [PALETTE[0]] * shown + [OTHER_COLOUR] * (count - shown)
    # Gaps between very many bars would show as stripes.
    axes.bar(np.arange(1, count + 1), weight, 0.85 if count <= 150 else 1.0, color=colour)
    axes.axhline(1 / count, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    axes.annotate(f"uniform\n1/{count:,}", (1.01, 1 / count), annotation_clip=False, **at)
    axes.set_xlim(0.4, count + 0.6)
    axes.set_ylim(0, 1.08 * max(float(weight[0]), 1 / count))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, place: _percent(y)))
    axes.set_xlabel("context images, largest weight first (blue: shown above)")
    axes.set_ylabel("weight")
    axes.set_title(
        f"{count:,} context images hold {_percent(total)} of the weight, registers "
        f"{_percent(max(0.0, 1 - total))}",
        loc="left",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _plain(value: float) -> str:
    return number(value).replace("-", "−")


def _caption(attention: xr.DataArray, called: str, voxels: int, responses: bool) -> str:
    heads = attention.sizes["head"]
    averaged = ["the mean over heads"] if heads > 1 else []
    averaged += [f"the mean over {voxels:,} voxels"] if voxels > 1 else []
    mean = f" ({', '.join(averaged)})" if averaged else ""
    shown = " and its response to each" if responses and voxels == 1 else ""
    shown = " and their mean response to each" if responses and voxels > 1 else shown
    return (
        f"Context images with the largest attention weights{mean} when the encoder of {called} "
        f"was written{shown}. Below: the weights of all context images; at the dashed line each "
        "would have the same. The rest of the attention lies on the registers, which are no image."
    )

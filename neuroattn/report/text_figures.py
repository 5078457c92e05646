"""The figure of text queries: how often the text that drives a voxel most names its category."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from neuroattn.errors import InputError
from neuroattn.report.labels import roi_group
from neuroattn.report.style import INK, group_colour, new_figure, styled

Floats = NDArray[np.float64]

_VARIABLES = ("accuracy", "low", "high", "chance", "voxels")
#: Inches that a character of a name takes.
_CHARACTER = 0.07


@styled
def text_figure(accuracy: xr.Dataset) -> tuple[Figure, str]:
    """Draw the category accuracy of text queries in every ROI, with intervals and chance.

    Parameters
    ----------
    accuracy : xarray.Dataset
        From ``neuroattn.encoders.category_accuracy``: ``accuracy``, ``low``, ``high`` and
        ``chance``, 0 to 1, and ``voxels``, each (roi,); those that are the same everywhere may be
        scalars. ROIs whose accuracy is NaN are left out, and named in the caption. Drawn where
        they are given: ``elsewhere (roi)``, the same share of the voxels outside, and the
        coordinate ``category (roi)``. An attribute ``level`` (0.95 if left out) is that of the
        intervals.

    Returns
    -------
    Figure, str
        Figure and caption.

    Raises
    ------
    InputError
        If a variable is missing or has other dimensions, a share is outside 0 to 1, or no ROI has
        an accuracy.
    """
    table = _checked(accuracy)
    names = [str(name) for name in table["roi"].to_numpy()]
    table = table.isel(roi=np.flatnonzero(np.isfinite(table["accuracy"].to_numpy())))
    shown = [str(name) for name in table["roi"].to_numpy()]
    if not shown:
        raise InputError(f"accuracy is NaN in all {len(names)} ROIs: none of them has a voxel.")
    value, low, high, chance, voxels = (table[name].to_numpy() for name in _VARIABLES)
    width = min(16.0, max(5.0, 0.72 * len(shown) + 1.6))
    turned = _CHARACTER * (max(map(len, shown)) + 1) > (width - 1.6) / len(shown)
    figure = new_figure(width, 4.2 if turned else 3.4)
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    kinds = table["category"].to_numpy() if "category" in table.coords else shown
    axes.bar(places, value, 0.72, color=[group_colour(roi_group(str(kind))) for kind in kinds])
    axes.vlines(places, low, high, color=INK, linewidth=1.1)
    if "elsewhere" in table:
        # Beside the interval, which would hide it.
        mark: dict[str, Any] = {"marker": "D", "s": 22, "color": "white", "edgecolor": INK}
        axes.scatter(
            places + 0.2,
            table["elsewhere"],
            **mark,
            zorder=3,
            clip_on=False,
            label="voxels elsewhere",
        )
        figure.legend(loc="outside upper right")
    _chance(axes, chance)
    labels = [f"{name}\n{count:,.0f}" for name, count in zip(shown, voxels, strict=True)]
    aligned = "right" if turned else "center"
    axes.set_xticks(places, labels, rotation=60 if turned else 0, ha=aligned)
    axes.tick_params(axis="x", length=0)
    # Beside few ROIs there is room, or their bars would be blocks.
    beside = max(0.6, (5 - len(shown)) / 2)
    axes.set_xlim(-beside, len(shown) - 1 + beside)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, place: f"{100 * y:g} %"))
    axes.set_xlabel("ROI and its voxels")
    axes.set_ylabel("voxels whose text is right")
    return figure, _caption(accuracy, [name for name in names if name not in shown])


def _checked(accuracy: xr.Dataset) -> xr.Dataset:
    """Return the variables, each (roi,)."""
    missing = [name for name in (*_VARIABLES, "roi") if name not in accuracy.variables]
    if missing or accuracy.sizes.get("roi", 0) == 0:
        raise InputError(
            f"accuracy holds {sorted(map(str, accuracy.variables))} of {accuracy.sizes.get('roi')} "
            f"ROIs; needed: {(*_VARIABLES, 'roi')} of at least one, as category_accuracy returns "
            "them."
        )
    drawn = [*_VARIABLES, *(["elsewhere"] if "elsewhere" in accuracy else [])]
    for name in drawn:
        if accuracy[name].dims not in ((), ("roi",)):
            raise InputError(
                f"accuracy has {name!r} with dimensions {accuracy[name].dims}; needed: ('roi',)."
            )
    table = accuracy[drawn].broadcast_like(accuracy["roi"])
    for name in [name for name in drawn if name != "voxels"]:
        share = table[name].to_numpy()
        wrong = share[~((share >= 0) & (share <= 1) | np.isnan(share) & (name != "chance"))]
        if wrong.size:
            raise InputError(
                f"accuracy holds {wrong[0]:g} in {name!r}; needed: shares from 0 to 1, and NaN "
                "where unknown, but not in 'chance'."
            )
    return table


def _chance(axes: Axes, chance: Floats) -> None:
    """Draw one line, or where ROIs differ one tick each, and say what it is."""
    alike = bool(np.ptp(chance) == 0)
    if alike:
        axes.axhline(chance[0], color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    else:
        places = np.arange(len(chance))
        axes.hlines(chance, places - 0.45, places + 0.45, color=INK, linewidth=1.2)
    words = f"chance\n{100 * chance[0]:.3g} %" if alike else "chance"
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    axes.annotate(words, (1.01, chance[-1]), annotation_clip=False, **at)


def _caption(accuracy: xr.Dataset, empty: list[str]) -> str:
    level = f"{100 * float(accuracy.attrs.get('level', 0.95)):g} %"
    text = (
        "Share of the voxels of each ROI whose encoder responds most to the text of the ROI's own "
        f"category, among the texts of all categories. Black lines: {level} bootstrap intervals "
        "over voxels; the line across: chance; below each name the number of voxels."
    )
    if "elsewhere" in accuracy:
        text += (
            " Diamonds: the same share of the voxels in no ROI of that category; it is as high "
            "where a text merely wins everywhere."
        )
    return f"{text} Left out for want of voxels: {', '.join(empty)}." if empty else text

"""The figure of test-time scaling: score over the number of context images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name
from neuroattn.report.labels import METRIC_LABELS
from neuroattn.report.style import FAINT, colours, new_figure, styled

Floats = NDArray[np.float64]
#: Encoder to colour and marker.
Style = Mapping[str, tuple[str, str]]

_DIMS = ("encoder", "length", "roi")
#: What a panel draws: the values, and the ends of their intervals.
_PANELS = {
    "mean": ("low", "high"),
    "difference": ("difference_low", "difference_high"),
}
_MARKERS = "osD^vP*"
_LEADER = {"arrowstyle": "-", "lw": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
_PANEL_WIDTH, _LABEL_COLUMNS = 3.0, 24
#: Inches: a line of a direct label, a character of it, and what stands around the axes.
_LINE, _CHARACTER, _AROUND = 0.16, 0.072, 0.95


@styled
def scaling_figure(curve: xr.Dataset, roi: str = "all") -> tuple[Figure, str]:
    """Draw scores over the number of context images, and differences from the reference.

    Parameters
    ----------
    curve : xarray.Dataset
        From ``neuroattn.encoders.scaling_curve``: ``mean``, ``low``, ``high``, ``difference``,
        ``difference_low`` and ``difference_high``, each (encoder, length, roi), and the attributes
        ``reference`` and ``metric``; ``units`` ("normalised" or "raw"), ``draws`` of the
        context and ``level`` of the intervals (0.95 if left out) are told where they are given.
        NaN where an encoder has no score: its line has a gap there.
    roi : str
        Whose voxels.

    Returns
    -------
    Figure, str
        Figure and caption. The second panel is left out where the reference is alone.

    Raises
    ------
    InputError
        If a variable is missing or has other dimensions, a length is below 1 or there twice, or
        no encoder has a score in the ROI.
    UnknownNameError
        If the curve has no such ROI.
    MismatchError
        If the reference is not among the encoders.
    """
    part = _checked(curve, roi)
    names = [str(name) for name in part["encoder"].to_numpy()]
    markers = [_MARKERS[index % len(_MARKERS)] for index in range(len(names))]
    style = dict(zip(names, zip(colours(len(names)), markers, strict=True), strict=True))
    reference = str(part.attrs["reference"])
    shown = {"mean": names, "difference": [name for name in names if name != reference]}
    panels = {variable: kept for variable, kept in shown.items() if kept}
    lines = "\n".join(map(_wrapped, names)).splitlines()
    room = max(3.4, _LINE * (len(lines) + 1) + _AROUND)
    margin = 0.9 + _CHARACTER * max(map(len, lines))
    figure = new_figure(len(panels) * (_PANEL_WIDTH + margin), room)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    metric = _metric(part)
    words = {
        "mean": (metric, "all voxels" if roi == "all" else roi),
        "difference": (f"difference in {metric}", f"minus {reference}, same images"),
    }
    for axes, (variable, kept) in zip(grid, panels.items(), strict=True):
        _curves(axes, part, variable, {name: style[name] for name in kept})
        _length_axis(axes, part["length"].to_numpy().astype(float))
        _direct_labels(axes, part[variable], {name: style[name] for name in kept}, room - _AROUND)
        axes.set_ylabel(words[variable][0])
        axes.set_title("\n".join(textwrap.wrap(words[variable][1], 48)), loc="left")
    return figure, _caption(part, roi, "difference" in panels)


def _checked(curve: xr.Dataset, roi: str) -> xr.Dataset:
    """Return the curve of one ROI, lengths rising, (encoder, length)."""
    for variable in [name for values, ends in _PANELS.items() for name in (values, *ends)]:
        dims = curve[variable].dims if variable in curve else ()
        if set(dims) != set(_DIMS):
            raise InputError(
                f"curve holds {variable!r} with dimensions {dims}; needed: {_DIMS}, as "
                "scaling_curve writes it."
            )
    rois = [str(name) for name in curve["roi"].to_numpy()]
    part = curve.isel(roi=rois.index(check_name("roi", roi, rois))).sortby("length")
    names = [str(name) for name in part["encoder"].to_numpy()]
    if str(curve.attrs.get("reference")) not in names:
        raise MismatchError(
            f"curve has the reference {curve.attrs.get('reference')!r}, which is not among its "
            f"encoders {names}."
        )
    lengths = part["length"].to_numpy()
    if lengths.min(initial=1) < 1 or (np.diff(lengths) <= 0).any():
        raise InputError(f"curve has the lengths {lengths.tolist()}; needed: 1 or more, each once.")
    if not np.isfinite(part["mean"].to_numpy()).any():
        raise InputError(
            f"curve has no finite score in the ROI {roi!r}: it holds no voxel, or none over the "
            "ceiling threshold. Draw another ROI."
        )
    return part.transpose("encoder", "length", ...)


def _metric(part: xr.Dataset) -> str:
    name = str(part.attrs.get("metric", "score"))
    label = METRIC_LABELS.get(name, name)
    return f"{label} / ceiling" if part.attrs.get("units") == "normalised" else label


def _curves(axes: Axes, part: xr.Dataset, variable: str, style: Style) -> None:
    names = [str(name) for name in part["encoder"].to_numpy()]
    lengths = part["length"].to_numpy().astype(float)
    value, low, high = (part[name].to_numpy() for name in (variable, *_PANELS[variable]))
    step = float(np.diff(np.log(lengths)).min(initial=np.log(2)))
    for place, (name, (colour, marker)) in enumerate(style.items()):
        row = names.index(name)
        x = lengths
        if variable == "mean":
            axes.fill_between(x, low[row], high[row], color=colour, alpha=0.16, linewidth=0)
            # A band has no width where a length stands alone.
            alone = _alone(np.isfinite(low[row] + high[row]))
            axes.vlines(x[alone], low[row, alone], high[row, alone], color=colour, linewidth=1.3)
        else:
            # Side by side, or the intervals of one length would hide each other.
            x = x * np.exp(0.24 * step * (place - (len(style) - 1) / 2) / len(style))
            axes.vlines(x, low[row], high[row], color=colour, linewidth=1.3)
        axes.plot(x, value[row], color=colour, marker=marker, ms=4, linewidth=1.5, label=name)
    axes.axhline(0, color=FAINT, linewidth=0.9, zorder=0.5)


def _alone(finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which points have a value, and no neighbour that has one."""
    padded = np.pad(finite, 1)
    return np.asarray(finite & ~padded[:-2] & ~padded[2:])


def _length_axis(axes: Axes, lengths: Floats) -> None:
    axes.set_xscale("log")
    axes.set_xlim(lengths[0] / 1.2, lengths[-1] * 1.2)
    axes.minorticks_off()
    labels = [f"{length:,.0f}" for length in lengths]
    inches = _PANEL_WIDTH * np.log(lengths) / np.log(1.44 * lengths[-1] / lengths[0])
    wide = _CHARACTER * (max(map(len, labels)) + 1)
    turned = bool(np.diff(inches).min(initial=wide) < wide)
    # Where even turned numbers would cover each other the tick stays alone, the last one aside.
    last = np.inf
    for index in reversed(range(len(labels))):
        if last - inches[index] < _LINE:
            labels[index] = ""
        else:
            last = inches[index]
    axes.set_xticks(lengths, labels, rotation=90 if turned else 0)
    axes.set_xlabel("context images")


def _direct_labels(axes: Axes, values: xr.DataArray, style: Style, height: float) -> None:
    """Write each name at the right of its line, moved up or down until none covers another."""
    lengths = values["length"].to_numpy().astype(float)
    ends = {}
    for name in style:
        line = values.sel(encoder=name).to_numpy()
        finite = np.flatnonzero(np.isfinite(line))
        if finite.size:
            ends[name] = lengths[finite[-1]], float(line[finite[-1]])
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    words = [_wrapped(name) for name in ends]
    wanted = np.array([(y - bottom) / (top - bottom) for _, y in ends.values()])
    sizes = np.array([_LINE * (word.count("\n") + 1) / height for word in words])
    for (name, end), word, place in zip(
        ends.items(), words, _apart(wanted, sizes).tolist(), strict=True
    ):
        axes.annotate(
            word,
            end,
            (1.04, place),
            textcoords="axes fraction",
            color=style[name][0],
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={**_LEADER, "color": style[name][0]},
        )


def _apart(wanted: Floats, sizes: Floats) -> Floats:
    """Return the middles nearest to those wanted (squared) at which no two stretches overlap.

    In their order, middles less the stretches below them must not fall: isotonic regression.
    """
    from scipy.optimize import isotonic_regression

    if not wanted.size:
        return wanted
    order = np.argsort(wanted, kind="stable")
    size = sizes[order]
    below = np.cumsum(size) - size / 2
    low, high = 0.0, max(0.0, 1 - float(size.sum()))
    fitted = np.clip(isotonic_regression(wanted[order] - below).x, low, high)
    found = np.empty_like(wanted)
    found[order] = fitted + below
    return found


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, _LABEL_COLUMNS)) or " "


def _caption(part: xr.Dataset, roi: str, compared: bool) -> str:
    level = f"{100 * float(part.attrs.get('level', 0.95)):g} %"
    draws = int(part.attrs.get("draws", 1))
    drawn = f" (mean of {draws} draws of the context)" if draws > 1 else ""
    of_whom = "all voxels" if roi == "all" else f"the voxels of {roi}"
    text = (
        f"Mean {_metric(part)} over {of_whom}, against the number of context images that each "
        f"encoder was given{drawn}. Bands: {level} bootstrap intervals over test images."
    )
    if compared:
        text += (
            f" Right: each encoder minus {part.attrs['reference']}, given the same context images; "
            f"vertical lines: {level} intervals of the paired difference. An encoder is better "
            "where its whole interval lies above zero."
        )
    return text

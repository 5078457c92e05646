"""Figures of scores: bars by ROI, encoder against encoder, distributions, gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import Score
from neuroattn.report.labels import GROUPS, METRIC_LABELS, OTHER, roi_group
from neuroattn.report.style import FAINT, INK, colours, group_colour, new_figure, styled

_MANY_ROIS = 12


@styled
def roi_bars(table: pd.DataFrame, normalised: bool = True) -> Figure:
    """Draw the score of every encoder in every ROI, with intervals and the ceiling.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`neuroattn.report.summary_table`. ROIs without a voxel are left out.
    normalised : bool
        Normalised scores with the ceiling as a line at 1; else raw scores with the mean noise
        ceiling of each ROI as a tick (its square root for ``pearson``).

    Raises
    ------
    InputError
        If no ROI has such a score.
    """
    kind = "" if normalised else "raw_"
    encoders = list(dict.fromkeys(table.index.get_level_values("encoder")))
    means = table[f"{kind}mean"].unstack("encoder")[encoders]
    order = dict.fromkeys(table.index.get_level_values("roi"))
    rois = [roi for roi in order if np.isfinite(means.loc[roi].to_numpy(dtype=float)).any()]
    if not rois:
        raise InputError(
            f"table has no finite {kind}mean in any of its {len(order)} ROIs; "
            "draw the raw scores (normalised=False) of data without a noise ceiling."
        )
    figure = new_figure(min(16.0, max(6.5, 0.14 * len(rois) * (len(encoders) + 2))), 3.4)
    axes = figure.add_subplot()
    # A gap keeps the average of everything apart from the ROIs.
    places = np.arange(len(rois)) + 0.35 * (np.asarray(rois) == "all")
    width = 0.8 / len(encoders)
    for index, (name, colour) in enumerate(zip(encoders, colours(len(encoders)), strict=True)):
        rows = table.xs(name, level="encoder").loc[rois]
        mean, low, high = (rows[f"{kind}{end}"].to_numpy(float) for end in ("mean", "low", "high"))
        x = places + (index - (len(encoders) - 1) / 2) * width
        axes.bar(x, mean, width * 0.92, color=colour, label=name)
        # An accelerated interval can, rarely, leave the mean outside; an error bar cannot.
        reach = np.nan_to_num(np.clip([mean - low, high - mean], 0, None))
        axes.errorbar(x, mean, reach, fmt="none", ecolor=INK, elinewidth=0.9, capsize=0)
    _ceiling_marks(axes, table, rois, places, normalised)
    turned = len(rois) > _MANY_ROIS
    axes.set_xticks(places, rois, rotation=60 if turned else 0, ha="right" if turned else "center")
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(x=0.01)
    metric = METRIC_LABELS[table.attrs["metric"]]
    axes.set_ylabel(f"{metric} / ceiling" if normalised else metric)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _ceiling_marks(
    axes: Axes, table: pd.DataFrame, rois: list[str], places: NDArray[np.float64], normalised: bool
) -> None:
    if normalised:
        axes.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (4, 2)), label="noise ceiling")
        return
    ceiling = table.groupby(level="roi", sort=False)["ceiling"].mean().loc[rois].to_numpy(float)
    level = np.sqrt(ceiling) if table.attrs["metric"] == "pearson" else ceiling
    if np.isfinite(level).any():
        axes.hlines(level, places - 0.45, places + 0.45, color=INK, label="noise ceiling")


@styled
def voxel_scatter(first: Score, second: Score, names: tuple[str, str]) -> Figure:
    """Draw the scores of two encoders against each other, one point a voxel.

    Parameters
    ----------
    first, second : Score
        Of the same voxels; normalised scores, or raw ones where no voxel has a ceiling.
    names : tuple of str
        Names of the encoders, x axis then y axis.

    Raises
    ------
    MismatchError
        If the scores are of different numbers of voxels.
    """
    if first.dataset.sizes["voxel"] != second.dataset.sizes["voxel"]:
        raise MismatchError(
            f"first has {first.dataset.sizes['voxel']} voxels, second "
            f"{second.dataset.sizes['voxel']}; score both encoders on the same ones."
        )
    variable = _variable([first, second])
    x, y = (score.dataset[variable].to_numpy() for score in (first, second))
    groups = voxel_groups(first.dataset)
    figure = new_figure(6.4, 4.5)
    axes = figure.add_subplot()
    low, high = _range(np.concatenate([x, y]))
    axes.plot([low, high], [low, high], color=FAINT, linewidth=1, zorder=1)
    size = float(np.clip(9000 / max(1, len(x)), 2, 18))
    for group in [OTHER, *(name for name in GROUPS if name != OTHER)]:
        here = (groups == group) & np.isfinite(x) & np.isfinite(y)
        if here.any():
            style: dict[str, Any] = {
                "s": size,
                "alpha": 0.65,
                "linewidths": 0,
                "zorder": 2,
                "clip_on": False,
            }
            label = f"{group} ({here.sum():,})"
            points = np.clip([x[here], y[here]], low, high)
            axes.scatter(*points, color=group_colour(group), label=label, **style)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    unit = _unit(first, variable)
    axes.set_xlabel(f"{names[0]}\n{unit}")
    axes.set_ylabel(f"{names[1]}\n{unit}")
    above, both = int((y > x).sum()), int((np.isfinite(x) & np.isfinite(y)).sum())
    axes.set_title(f"{names[1]} is higher in {above:,} of {both:,} voxels", loc="left")
    place: dict[str, Any] = {
        "loc": "center left",
        "bbox_to_anchor": (1.02, 0.5),
        "alignment": "left",
    }
    axes.legend(title="voxels", markerscale=1.4, **place)
    return figure


@styled
def score_histogram(scores: Mapping[str, Score]) -> Figure:
    """Draw the distribution of the voxel scores of each encoder.

    Parameters
    ----------
    scores : mapping of str to Score
        Normalised scores, or raw ones where no voxel has a ceiling.
    """
    variable = _variable(list(scores.values()))
    values = {name: score.dataset[variable].to_numpy() for name, score in scores.items()}
    low, high = _range(np.concatenate(list(values.values())))
    bins = np.linspace(low, high, 41)
    figure = new_figure(6.5, 2.9)
    axes = figure.add_subplot()
    for (name, value), colour in zip(values.items(), colours(len(values)), strict=True):
        known = np.clip(value[np.isfinite(value)], low, high)
        style: dict[str, Any] = {"histtype": "step", "linewidth": 1.6, "color": colour}
        axes.hist(known, bins.tolist(), label=f"{name} ({len(known):,} voxels)", **style)
        if len(known):
            axes.axvline(np.median(known), color=colour, linewidth=1, linestyle=":")
    axes.set_xlim(low, high)
    axes.set_xlabel(f"{_unit(next(iter(scores.values())), variable)} (dotted: median)")
    axes.set_ylabel("voxels")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled
def gate_figure(gates: xr.DataArray, roi_mask: xr.DataArray) -> Figure:
    """Draw the share of the static branch in the voxels of each ROI.

    Parameters
    ----------
    gates : DataArray (voxel,)
        0 (attention only) to 1 (static receptive field only), from ``TransformerEncoder.gates``.
    roi_mask : DataArray (roi, voxel)
        ROIs; those without a voxel are left out.

    Raises
    ------
    InputError
        If no ROI holds a voxel with a gate.
    """
    share = gates.to_numpy()
    masks = roi_mask.to_numpy().astype(bool) & np.isfinite(share)
    kept = np.flatnonzero(masks.any(axis=1))
    if not kept.size:
        raise InputError(
            f"gates are finite in {int(np.isfinite(share).sum())} voxels, none of them in a ROI; "
            "needed: an encoder with a static branch, and ROIs."
        )
    names = [str(roi_mask["roi"].to_numpy()[row]) for row in kept]
    figure = new_figure(min(16.0, max(6.5, 0.45 * len(names))), 2.9)
    axes = figure.add_subplot()
    for place, (row, name) in enumerate(zip(kept, names, strict=True)):
        level = np.sort(share[masks[row]])
        # Sorted along a short stretch: every voxel is seen, and no random jitter is needed.
        x = place + np.linspace(-0.28, 0.28, len(level)) if len(level) > 1 else [place]
        axes.scatter(x, level, s=7, color=group_colour(roi_group(name)), linewidths=0, alpha=0.8)
        axes.hlines(level.mean(), place - 0.38, place + 0.38, color=INK, linewidth=1.4)
    turned = len(names) > _MANY_ROIS
    axes.set_xticks(range(len(names)), names, rotation=60 if turned else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of the static branch")
    return figure


def voxel_groups(dataset: xr.Dataset) -> NDArray[np.str_]:
    """Return the functional group of each voxel (voxel,): that of its first ROI with a group.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``roi_mask (roi, voxel)`` with the names in ``roi``.
    """
    groups = np.full(dataset.sizes["voxel"], OTHER, dtype="<U16")
    for name, mask in zip(dataset["roi"].to_numpy(), dataset["roi_mask"].to_numpy(), strict=True):
        groups[mask.astype(bool) & (groups == OTHER)] = roi_group(str(name))
    return groups


def _variable(scores: list[Score]) -> str:
    known = all(np.isfinite(score.dataset["normalised"].to_numpy()).any() for score in scores)
    return "normalised" if known else "raw"


def _unit(score: Score, variable: str) -> str:
    metric = METRIC_LABELS[score.metric]
    return f"{metric} / ceiling" if variable == "normalised" else metric


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits that show the bulk: a few hopeless voxels must not squeeze all others together."""
    known = values[np.isfinite(values)]
    if not known.size:
        return -0.05, 1.05
    low, high = np.percentile(known, [0.5, 100])
    return min(-0.05, max(-1.0, float(low)) - 0.02), max(1.05, min(1.5, float(high) + 0.02))

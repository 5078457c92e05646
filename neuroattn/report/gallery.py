"""The figures that every report shows, with their captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from neuroattn.metrics import Score
from neuroattn.report.figures import roi_bars, score_histogram, voxel_scatter
from neuroattn.report.labels import METRIC_LABELS
from neuroattn.report.surface import surface_picture, why_no_surface
from neuroattn.report.table import has_ceilings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SCATTERS = 3


def standard_figures(
    scores: Mapping[str, Score], table: pd.DataFrame, voxels: xr.Dataset | None = None
) -> tuple[dict[str, tuple[Figure, str]], list[str]]:
    """Draw bars, scatters, histogram and surface pictures of a set of scores.

    Parameters
    ----------
    scores : mapping of str to Score
        The best or newest encoder last: it is the one compared with the others.
    table : pandas.DataFrame
        From :func:`neuroattn.report.summary_table` of the same scores.
    voxels : xarray.Dataset, optional
        Where the voxels are (a response set, or ``voxels_``): gives surface pictures of the last
        encoder and of its difference from the first.

    Returns
    -------
    figures : dict of str to (Figure, str)
        Name to figure and caption.
    notes : list of str
        What could not be drawn, and why.
    """
    metric = METRIC_LABELS[table.attrs["metric"]]
    interval = f"Black lines: {100 * table.attrs['level']:g} % bootstrap intervals over images."
    figures: dict[str, tuple[Figure, str]] = {}
    notes = []
    if has_ceilings(table):
        figures["Scores by ROI"] = (
            roi_bars(table),
            f"Mean {metric} over the voxels of each ROI, as a fraction of the noise ceiling. "
            f"{interval} Voxels under the ceiling threshold are excluded.",
        )
    else:
        notes.append("No voxel has a noise ceiling, so scores are raw, not normalised.")
    if np.isfinite(table["raw_mean"].to_numpy(dtype=float)).any():
        figures["Raw scores by ROI"] = (
            roi_bars(table, normalised=False),
            f"Mean {metric} before division by the ceiling, over all voxels of each ROI. "
            f"{interval} Ticks: mean noise ceiling of the voxels that are not excluded.",
        )
    *others, last = scores
    for other in others[-_MOST_SCATTERS:]:
        figures[f"{last} against {other}"] = (
            voxel_scatter(scores[other], scores[last], (other, last)),
            "One point a voxel, coloured by the group of its first ROI; on the line both encoders "
            "do equally well. Voxels beyond the axes stand on their edge.",
        )
    figures["Distribution over voxels"] = (
        score_histogram(scores),
        "Scores of all voxels that have one; the few beyond the axis are counted in its last bin.",
    )
    if voxels is not None:
        notes += _surfaces(figures, scores, voxels, metric)
    return figures, notes


def _surfaces(
    figures: dict[str, tuple[Figure, str]],
    scores: Mapping[str, Score],
    voxels: xr.Dataset,
    metric: str,
) -> list[str]:
    reason = why_no_surface(voxels)
    if reason:
        return [f"There is no surface picture: {reason}."]
    first, last = next(iter(scores)), list(scores)[-1]
    values = {name: scores[name].dataset["normalised"].to_numpy() for name in (first, last)}
    unit = f"{metric} / ceiling"
    if not all(np.isfinite(value).any() for value in values.values()):
        values = {name: scores[name].dataset["raw"].to_numpy() for name in values}
        unit = metric
    where = (
        "Inflated fsaverage5. Volume voxels are widened to 6 mm so that single ones stay visible; "
        "the maps hold the exact values."
        if voxels.attrs["space"] == "MNI"
        else "Inflated fsaverage5."
    )
    picture = surface_picture(values[last], voxels, f"{last}: {unit}")
    if picture is not None:
        figures[f"{last} on the cortex"] = (picture, where)
    if first != last:
        difference = values[last] - values[first]
        label = f"{last} minus {first}: {unit}"
        picture = surface_picture(difference, voxels, label, limits=(-0.5, 0.5))
        if picture is not None:
            figures[f"{last} minus {first} on the cortex"] = (picture, where)
    return []

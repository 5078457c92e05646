"""Tables of scores: ROI by encoder with intervals, and paired comparisons of encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import Score
from neuroattn.names import check_name
from neuroattn.report.labels import METRIC_LABELS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOTHING = "–"
_COMPARED = ["difference", "low", "high", "p", "q", "voxels", "interval"]


def summary_table(
    scores: Mapping[str, Score], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Return the score of each encoder in each ROI, with its 95 % bootstrap interval.

    Parameters
    ----------
    scores : mapping of str to Score
        Name of the encoder to its score; all of the same voxels, ROIs and images.
    resamples : int
        Bootstrap samples of the images; 0 leaves the intervals NaN.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Index (roi, encoder): ROIs in the order of the data, then "all"; encoders in the order
        given. Columns are those of :meth:`neuroattn.metrics.Score.by_roi`: ``mean``, ``median``,
        ``low``, ``high`` (normalised), ``raw_mean``, ``raw_low``, ``raw_high``, ``ceiling``,
        ``voxels``, ``excluded``, ``undefined``, ``interval``, ``raw_interval``. ``attrs`` hold
        ``metric``, ``averaging``, ``images``, ``threshold``, ``level``, ``resamples``, ``seed``.
        ``to_csv`` and ``to_latex`` of pandas write it.

    Raises
    ------
    InputError
        If no score is given.
    MismatchError
        If the scores differ in ROIs, voxels, images, metric or threshold.
    """
    _check_alike(scores)
    parts = {name: score.by_roi(resamples=resamples, seed=seed) for name, score in scores.items()}
    frames = {name: part.to_dataframe() for name, part in parts.items()}
    rois = list(next(iter(frames.values())).index)
    rows = pd.MultiIndex.from_product([rois, list(scores)], names=["roi", "encoder"])
    table: pd.DataFrame = pd.concat(frames, names=["encoder", "roi"]).swaplevel().reindex(rows)
    shared = ("metric", "averaging", "images", "threshold", "level", "resamples", "seed")
    attrs = next(iter(parts.values())).attrs
    table.attrs.update({key: attrs[key] for key in shared})
    return table


def comparison_table(
    scores: Mapping[str, Score], reference: str, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare one encoder with each of the others on the same images.

    Parameters
    ----------
    scores : mapping of str to Score
        Name of the encoder to its score.
    reference : str
        The encoder that the others are subtracted from.
    resamples : int
        Random swaps of the permutation test, and bootstrap samples of the interval.
    seed : int
        Of both.

    Returns
    -------
    pandas.DataFrame
        Index (roi, encoder), encoder being the other one: ``difference`` (reference minus other),
        ``low``, ``high`` (paired 95 % bootstrap interval over images), ``p`` (paired permutation
        test), ``q`` (false discovery rate over the ROIs of one comparison), ``voxels``,
        ``interval``. ``attrs`` hold ``reference``, ``units`` ("normalised" or "raw"), ``metric``,
        ``resamples``, ``seed``. Empty if there is no other encoder.

    Raises
    ------
    UnknownNameError
        If ``reference`` is not among the scores.
    MismatchError
        If two scores are not of the same images, voxels, responses or metric.
    """
    _check_alike(scores)
    check_name("reference", reference, scores)
    others = [name for name in scores if name != reference]
    own = scores[reference]
    rois = [str(roi) for roi in own.dataset["roi"].to_numpy()] + ["all"]
    rows = pd.MultiIndex.from_product([rois, others], names=["roi", "encoder"])
    frames, units = {}, "normalised"
    for name in others:
        compared = own.compare(scores[name], resamples=resamples, seed=seed)
        frames[name] = compared[_COMPARED].to_dataframe()
        units = compared.attrs["units"]
    table: pd.DataFrame = pd.DataFrame(index=rows, columns=pd.Index(_COMPARED))
    if frames:
        table = pd.concat(frames, names=["encoder", "roi"]).swaplevel().reindex(rows)
    table.attrs.update(
        reference=reference, units=units, metric=own.metric, resamples=resamples, seed=seed
    )
    return table


def has_ceilings(table: pd.DataFrame) -> bool:
    """Say whether any ROI of a summary table has a normalised score."""
    return bool(np.isfinite(table["mean"].to_numpy(dtype=float)).any())


def display_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a summary table as text for reading: one row an ROI, one column an encoder.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`summary_table`.

    Returns
    -------
    pandas.DataFrame
        ``"0.61 [0.58, 0.64]"`` by encoder (normalised; raw where no voxel has a ceiling), then
        ``voxels`` (those averaged, so without the excluded) and ``ceiling``.
    """
    kind = "" if has_ceilings(table) else "raw_"
    rois = list(dict.fromkeys(table.index.get_level_values("roi")))
    encoders = list(dict.fromkeys(table.index.get_level_values("encoder")))
    columns = {
        name: [with_interval(*_triple(table, (roi, name), kind)) for roi in rois]
        for name in encoders
    }
    first = table.xs(encoders[0], level="encoder").loc[rois]
    used = first["voxels"] - (first["excluded"] if kind == "" else 0)
    counts = pd.DataFrame(
        {
            "voxels": [f"{int(count):,}" for count in used],
            "ceiling": [number(value) for value in first["ceiling"]],
        },
        index=pd.Index(rois, name="roi"),
    )
    return pd.concat([pd.DataFrame(columns, index=counts.index), counts], axis=1)


def print_table(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a summary table to the terminal.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`summary_table`.
    console : rich.console.Console, optional
        Where to; standard output by default. On a narrow one, intervals stand under the means.
    """
    from rich.console import Console

    screen = console or Console()
    grid = _grid(table, "{mean} {interval}")
    # Measured on the screen itself, no table is ever wider than it.
    roomy = screen.options.update_width(10_000)
    if screen.measure(grid, options=roomy).maximum > screen.width:
        grid = _grid(table, "{mean}\n{interval}")
    screen.print(grid)


def _grid(table: pd.DataFrame, cell: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = display_table(table)
    # Text objects, so that a ROI called "[red]" is printed and not obeyed.
    grid = Table(title=Text(describe_numbers(table)), title_justify="left", title_style="")
    grid.box, grid.pad_edge, grid.collapse_padding = box.SIMPLE_HEAD, False, True
    grid.add_column("ROI", overflow="fold")
    for column in shown.columns:
        grid.add_column(Text(str(column)), justify="right", overflow="fold")
    for roi, row in shown.iterrows():
        if roi == "all":
            grid.add_section()
        split = (str(value).partition(" ") for value in row)
        texts = (cell.format(mean=mean, interval=rest).strip() for mean, _, rest in split)
        grid.add_row(Text(str(roi)), *(Text(text) for text in texts))
    return grid


def describe_numbers(table: pd.DataFrame) -> str:
    """Say in one line what the numbers of a summary table are."""
    attrs = table.attrs
    metric = METRIC_LABELS[attrs["metric"]]
    kind = f"{metric} / noise ceiling" if has_ceilings(table) else f"{metric} (raw: no ceiling)"
    level = f"{100 * attrs['level']:g} % bootstrap interval over {attrs['images']} images"
    return f"{kind}, mean over voxels [{level}]"


def with_interval(mean: float, low: float, high: float) -> str:
    """Write a number with its interval: ``0.61 [0.58, 0.64]``; a dash where there is none."""
    if not math.isfinite(mean):
        return NOTHING
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def number(value: float, digits: int = 2) -> str:
    """Write a number with fixed digits, never "-0.00"; a dash for NaN."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def probability(value: float) -> str:
    """Write a p-value: three digits, "<0.001" below, a dash for NaN."""
    return "<0.001" if value < 0.001 else number(value, 3)


def _triple(table: pd.DataFrame, row: tuple[str, str], kind: str) -> tuple[float, float, float]:
    mean, low, high = (float(table[f"{kind}{name}"][row]) for name in ("mean", "low", "high"))
    return mean, low, high


def _check_alike(scores: Mapping[str, Score]) -> None:
    if not scores:
        raise InputError("scores is empty; give at least one score, e.g. {'ridge': score}.")
    items = iter(scores.items())
    first, one = next(items)
    for name, other in items:
        for key in ("roi", "image"):
            left, right = (list(score.dataset[key].to_numpy()) for score in (one, other))
            if left != right:
                raise MismatchError(
                    f"scores {first!r} and {name!r} are of different {key}s ({len(left)} and "
                    f"{len(right)}; first: {left[:3]} and {right[:3]}). Score both encoders on "
                    "the same responses."
                )
        for key in ("metric", "threshold"):
            if one.dataset.attrs[key] != other.dataset.attrs[key]:
                raise MismatchError(
                    f"scores {first!r} and {name!r} have {key} {one.dataset.attrs[key]!r} and "
                    f"{other.dataset.attrs[key]!r}; compute both with the same."
                )
        if one.dataset.sizes["voxel"] != other.dataset.sizes["voxel"]:
            raise MismatchError(
                f"scores {first!r} and {name!r} are of {one.dataset.sizes['voxel']} and "
                f"{other.dataset.sizes['voxel']} voxels; score both encoders on the same ones."
            )

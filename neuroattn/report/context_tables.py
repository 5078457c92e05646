"""Tables of runs with a held-out subject: scores over context images, distance from the oracle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from neuroattn.names import check_name
from neuroattn.report.labels import METRIC_LABELS
from neuroattn.report.table import NOTHING, number

if TYPE_CHECKING:
    from rich.console import Console

_DIGITS = 3


def scaling_table(curve: xr.Dataset, roi: str = "all") -> pd.DataFrame:
    """Return a scaling curve as text for reading: one row a number of context images and encoder.

    Parameters
    ----------
    curve : xarray.Dataset
        From ``neuroattn.encoders.scaling_curve``.
    roi : str
        Whose voxels.

    Returns
    -------
    pandas.DataFrame
        Columns ``images``, ``encoder``, ``score`` and, where there are several encoders,
        ``minus REFERENCE``: ``"0.312 [0.280, 0.341]"``, a dash where there is none.
        ``attrs["title"]`` says what the numbers are.

    Raises
    ------
    UnknownNameError
        If the curve has no such ROI.
    """
    check_name("roi", roi, [str(name) for name in curve["roi"].values])
    part, reference = curve.sel(roi=roi), str(curve.attrs["reference"])
    rows = []
    for length in part["length"].values:
        for name in part["encoder"].values.astype(str):
            cell = part.sel(length=length, encoder=name)
            score = _with_interval(*(float(cell[key]) for key in ("mean", "low", "high")))
            ends = (float(cell[f"difference{end}"]) for end in ("", "_low", "_high"))
            difference = _with_interval(*ends, plus=True)
            rows.append((f"{length:,}", name, score, NOTHING if name == reference else difference))
    table = pd.DataFrame(rows, columns=["images", "encoder", "score", f"minus {reference}"])
    if part.sizes["encoder"] == 1:
        table = table.drop(columns=f"minus {reference}")
    metric = METRIC_LABELS.get(str(curve.attrs["metric"]), str(curve.attrs["metric"]))
    divided = " / noise ceiling" if curve.attrs["units"] == "normalised" else ""
    table.attrs["title"] = (
        f"{metric}{divided}, mean over {'all voxels' if roi == 'all' else roi}, by the number of "
        f"context images [95 % bootstrap interval over {curve.attrs['test_images']} test images]"
    )
    return table


def excess_table(excess: xr.Dataset, name: str) -> pd.DataFrame:
    """Return the distance from the Bayes oracle as text for reading: one row a context length.

    Parameters
    ----------
    excess : xarray.Dataset
        From ``neuroattn.encoders.excess_risk``.
    name : str
        What the encoder's column is called.

    Returns
    -------
    pandas.DataFrame
        Columns ``images``, the encoder's, ``Bayes oracle`` and ``excess``, the last with its
        standard error. ``attrs["title"]`` says what the numbers are.
    """
    rows = []
    for length in excess["length"].values:
        cell = excess.sel(length=length)
        risk, oracle, more, error = (
            _signed(float(cell[key])) for key in ("risk", "oracle", "excess", "error")
        )
        rows.append((f"{length:,}", risk, oracle, f"{more} ± {error}"))
    table = pd.DataFrame(rows, columns=["images", name, "Bayes oracle", "excess"])
    table.attrs["title"] = (
        f"mean squared error / signal on {excess.attrs['voxels']:,} voxels drawn from the "
        "estimated prior, by the number of context images (excess ± standard error over voxels)"
    )
    return table


def print_rows(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a table of text under its title; equal cells of the first column are a group.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`scaling_table` or :func:`excess_table`.
    console : rich.console.Console, optional
        Where to; standard output by default.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text objects, so that an encoder called "[red]" is printed and not obeyed.
    screen = console or Console()
    screen.print(Text(table.attrs["title"]))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        grid.add_column(
            Text(str(column)), justify="left" if column == "encoder" else "right", overflow="fold"
        )
    cells = table.to_numpy().astype(str).tolist()
    groups, last = len({row[0] for row in cells}) < len(cells), ""
    for first, *rest in cells:
        if groups and last and first != last:
            grid.add_section()
        grid.add_row(Text("" if first == last else first), *(Text(text) for text in rest))
        last = first
    screen.print(grid)


def _with_interval(mean: float, low: float, high: float, *, plus: bool = False) -> str:
    """Write a number with its interval; with signs where it is a difference."""
    if not math.isfinite(mean):
        return NOTHING
    texts = [_signed(value, plus) for value in (mean, low, high)]
    if not (math.isfinite(low) and math.isfinite(high)):
        return texts[0]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _signed(value: float, plus: bool = False) -> str:
    text = number(value, _DIGITS)
    sign = "+" if plus and math.isfinite(value) and float(text) > 0 else ""
    return sign + text.replace("-", "−")

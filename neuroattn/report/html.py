"""The report: one HTML file that opens without a network and looks the same in ten years."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from neuroattn import __version__
from neuroattn.errors import InputError
from neuroattn.io import atomic_path
from neuroattn.metrics import Score
from neuroattn.report.labels import METRIC_LABELS
from neuroattn.report.table import (
    NOTHING,
    comparison_table,
    describe_numbers,
    has_ceilings,
    number,
    probability,
    summary_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple["Figure | bytes", str]
_PNG = b"\x89PNG\r\n\x1a\n"


def write_report(
    path: str | Path,
    *,
    title: str,
    scores: Mapping[str, Score],
    manifest: Mapping[str, Any],
    split_sizes: Mapping[str, int],
    figures: Mapping[str, Picture],
    notes: Sequence[str] = (),
    table: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Path:
    """Write a self-contained HTML report.

    Everything is inside the file: figures, style, no script, no link. The same inputs give the
    same bytes. All names are escaped: a ROI called ``<script>`` is shown, not run.

    Parameters
    ----------
    path : str or Path
        The file to write, atomically.
    title : str
        Of the page.
    scores : mapping of str to Score
        Name of the encoder to its score; the last one is compared with the others.
    manifest : mapping
        Versions, seed, hashes, device: shown as a table, nested keys joined by dots.
    split_sizes : mapping of str to int
        Part of the split to its number of images.
    figures : mapping of str to (Figure or PNG bytes, caption)
        In the order in which they are shown.
    notes : sequence of str
        What a reader must know: limits, what was left out, what surprised.
    table : pandas.DataFrame, optional
        From :func:`summary_table`; computed (1,000 resamples, seed 0) if left out.
    comparison : pandas.DataFrame, optional
        From :func:`comparison_table`; computed likewise if left out.
    tables : mapping of str to pandas.DataFrame, optional
        More tables by title, such as attention inside the object; the index is their first
        columns, and ``attrs["title"]`` says what the numbers are.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If there is no score, or a figure is neither a Figure nor PNG bytes.
    MismatchError
        If the scores do not belong together.
    FileError
        If the file cannot be written; an older one stays.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    summary = summary_table(scores) if table is None else table
    paired = comparison_table(scores, list(scores)[-1]) if comparison is None else comparison
    environment = Environment(
        loader=PackageLoader("neuroattn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        title=title,
        version=__version__,
        lead=_lead(scores, summary, split_sizes),
        numbers=describe_numbers(summary),
        results=_results(summary),
        encoders=list(scores),
        comparison=_comparison(paired),
        reference=paired.attrs["reference"],
        figures=[_figure(name, *picture) for name, picture in figures.items()],
        exclusions=_exclusions(summary),
        threshold=f"{summary.attrs['threshold']:g}",
        averaging=summary.attrs["averaging"],
        notes=list(notes),
        tables=[(name, _plain_table(frame)) for name, frame in (tables or {}).items()],
        data=_data(scores, split_sizes),
        manifest=_flat(manifest),
        resamples=f"{summary.attrs['resamples']:,}",
        seed=summary.attrs["seed"],
    )
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def _lead(scores: Mapping[str, Score], table: pd.DataFrame, split_sizes: Mapping[str, int]) -> str:
    """Say in two sentences what was done."""
    dataset, attrs = next(iter(scores.values())).dataset, table.attrs
    names = list(scores)
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    people = _subjects(dataset)
    of_whom = f" of {len(people)} subject{'s'[: len(people) > 1]}" if people else ""
    trained = f" {split_sizes['train']:,} training" if "train" in split_sizes else " training"
    learned = f"learned from{trained} images"
    if "context" in split_sizes:
        learned = (
            f"were given {split_sizes['context']:,} context images (those that learn how voxels "
            "are learned it from other subjects)"
        )
    plural = "s" if len(names) > 1 else ""
    metric = METRIC_LABELS[attrs["metric"]]
    divided = ", divided by the noise ceiling of each voxel" if has_ceilings(table) else ""
    return (
        f"The encoder{plural} {listed} {learned} and predicted the "
        f"responses of {dataset.sizes['voxel']:,} voxels{of_whom} to {attrs['images']:,} test "
        f"images that were not used for training. Predictions are scored by {metric}{divided}; "
        f"intervals are {100 * attrs['level']:g} % bootstrap intervals over the test images."
    )


def _subjects(dataset: Any) -> list[str]:
    if "subject" not in dataset.coords:
        return []
    return sorted(set(dataset["subject"].to_numpy().astype(str).tolist()))


def _results(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the main table: ROI, one cell an encoder, voxels, ceiling."""
    kind = "" if has_ceilings(table) else "raw_"
    rows = []
    for roi, part in table.groupby(level="roi", sort=False):
        cells = []
        for _, row in part.iterrows():
            low, high = float(row[f"{kind}low"]), float(row[f"{kind}high"])
            known = math.isfinite(low) and math.isfinite(high)
            interval = f"{_signed(low)} to {_signed(high)}" if known else ""
            cells.append({"mean": _signed(float(row[f"{kind}mean"])), "interval": interval})
        first = part.iloc[0]
        used = int(first["voxels"]) - (int(first["excluded"]) if kind == "" else 0)
        ceiling = number(float(first["ceiling"]))
        rows.append({"roi": roi, "cells": cells, "voxels": f"{used:,}", "ceiling": ceiling})
    return rows


def _comparison(table: pd.DataFrame) -> list[dict[str, Any]]:
    groups = []
    for other, part in table.groupby(level="encoder", sort=False):
        rows = [
            {
                "roi": roi,
                "difference": _signed(float(row["difference"]), plus=True),
                "interval": (
                    f"{_signed(float(row['low']), plus=True)} to "
                    f"{_signed(float(row['high']), plus=True)}"
                    if math.isfinite(float(row["low"]))
                    else NOTHING
                ),
                "p": probability(float(row["p"])),
                "q": probability(float(row["q"])),
            }
            for roi, row in part.droplevel("encoder").iterrows()
        ]
        groups.append({"other": other, "rows": rows})
    return groups


def _exclusions(table: pd.DataFrame) -> list[dict[str, str]]:
    counts = table[["voxels", "excluded", "undefined"]].groupby(level="roi", sort=False).max()
    ceilings = table["ceiling"].groupby(level="roi", sort=False).first()
    return [
        {
            "roi": str(roi),
            "ceiling": number(float(ceilings.loc[str(roi)])),
            **{name: f"{int(row[name]):,}" for name in ("voxels", "excluded", "undefined")},
        }
        for roi, row in counts.iterrows()
    ]


def _data(scores: Mapping[str, Score], split_sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    score = next(iter(scores.values()))
    attrs = score.dataset.attrs
    least, most = int(attrs["repeats_min"]), int(attrs["repeats_max"])
    repeats = str(least) if least == most else f"{least} to {most}"
    rows = [(f"{part} images", f"{count:,}") for part, count in split_sizes.items()]
    rows.append(("presentations of each scored image", repeats if least > 0 else "unknown"))
    rows.append(("voxels", f"{score.dataset.sizes['voxel']:,}"))
    people = _subjects(score.dataset)
    if people:
        shown = ", ".join(people[:12]) + (" …" if len(people) > 12 else "")
        rows.append(("subjects", f"{len(people)}: {shown}"))
    return rows


def _figure(name: str, picture: Figure | bytes, caption: str) -> dict[str, str]:
    from matplotlib.figure import Figure

    if isinstance(picture, Figure):
        from neuroattn.report.style import png

        picture = png(picture)
    if not isinstance(picture, bytes) or not picture.startswith(_PNG):
        raise InputError(
            f"figure {name!r} is {type(picture).__name__}; give a matplotlib Figure or the bytes "
            "of a PNG."
        )
    return {**figure_data(name, picture), "caption": caption}


def figure_data(name: str, picture: Figure | bytes) -> dict[str, str]:
    """Return a figure, or the bytes of a PNG at 150 dpi, as a page embeds it."""
    if not isinstance(picture, bytes):
        from neuroattn.report.style import png

        picture = png(picture)
    width = int.from_bytes(picture[16:20], "big")
    data = base64.b64encode(picture).decode("ascii")
    return {"name": name, "data": data, "width": str(round(width / 150 * 96))}


def _plain_table(frame: pd.DataFrame) -> dict[str, Any]:
    """Return columns, formatted rows and title of any table; its index comes first."""
    flat = frame.reset_index() if any(frame.index.names) else frame
    rows = [
        [number(cell) if isinstance(cell, float) else str(cell) for cell in row]
        for row in flat.itertuples(index=False, name=None)
    ]
    columns = [str(column) for column in flat.columns]
    return {"columns": columns, "rows": rows, "caption": str(frame.attrs.get("title", ""))}


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in manifest.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", NOTHING if value is None else str(value)))
    return rows


def _signed(value: float, plus: bool = False) -> str:
    """Write a number with a true minus sign, and a plus where a difference is meant."""
    text = number(value)
    sign = "+" if plus and math.isfinite(value) and float(text) > 0 else ""
    return sign + text.replace("-", "−")

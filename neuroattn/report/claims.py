"""Verdicts on claims as files: figures, one page, the measured curves, and plain data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, ScalarFormatter

from neuroattn import __version__
from neuroattn.errors import InputError
from neuroattn.io import atomic_path, write_json
from neuroattn.report.formula import displayed, svg
from neuroattn.report.style import FAINT, PALETTE, colours, new_figure, styled
from neuroattn.report.table import number
from neuroattn.theory.claim import FINDINGS

if TYPE_CHECKING:
    import xarray as xr

    from neuroattn.theory import Comparison, Verdict

#: Curves drawn for one claim, and lines in one panel.
PANELS, LINES = 3, 7


@styled
def claim_figure(verdict: Verdict) -> Figure | None:
    """Draw a claim's measured curves: lines as predicted, points as measured.

    Parameters
    ----------
    verdict : Verdict
        Of one claim. Its first three comparisons that have axes are drawn, with bars of two
        standard errors where there are any.

    Returns
    -------
    Figure or None
        None if nothing it compares is a curve.
    """
    curves = [each for each in verdict.comparisons if each.axes][:PANELS]
    if not curves:
        return None
    figure = new_figure(3.6 * len(curves) + 0.4, 3.0)
    for place, curve in enumerate(curves, 1):
        _panel(figure.add_subplot(1, len(curves), place), curve, first=place == 1)
    return figure


def _panel(axes: Axes, curve: Comparison, first: bool) -> None:
    names = list(curve.axes)
    # The longer axis runs; the other tells the lines apart.
    along = max(names, key=lambda name: len(curve.axes[name]))
    others = [name for name in names if name != along]
    arrays = [curve.predicted, curve.measured]
    arrays.append(np.zeros_like(curve.predicted) if curve.spread is None else curve.spread)
    if others:
        arrays = [np.moveaxis(each, names.index(along), -1) for each in arrays]
        levels = curve.axes[others[0]]
    else:
        arrays, levels = [each[None] for each in arrays], np.array([np.nan])
    x, rows = curve.axes[along], range(min(len(levels), LINES))
    for row, colour in zip(rows, colours(len(rows)), strict=True):
        predicted, measured, spread = (each[row] for each in arrays)
        label = f"{others[0]} = {levels[row]:g}" if others else None
        axes.plot(x, predicted, color=colour, linewidth=1.2, label=label)
        bars = 2 * spread if curve.spread is not None else None
        axes.errorbar(x, measured, bars, fmt="o", color=colour, markersize=3.5, elinewidth=0.8)
    if len(x) > 2 and (x > 0).all() and x.max() / x.min() > 16:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    shown = np.concatenate([each.ravel() for each in arrays[:2]])
    shown = shown[np.isfinite(shown)]
    if shown.size and (shown > 0).all() and shown.max() / shown.min() > 50:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.set_xlabel(along)
    axes.set_title(_folded(curve.name, 44), loc="left")
    if others:
        axes.legend()
    elif first:
        axes.plot([], [], color=PALETTE[0], linewidth=1.2, label="predicted")
        axes.plot([], [], "o", color=PALETTE[0], markersize=3.5, label="measured")
        axes.legend()
    for axis in (axes.xaxis, axes.yaxis):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, ScalarFormatter):
            # A tick says the number itself, not its distance from another.
            formatter.set_useOffset(False)
    axes.grid(color=FAINT, alpha=0.2, linewidth=0.6)


def _plain_ticks(axis: Axis) -> None:
    # The style sets no mathematics, which matplotlib's own logarithmic labels need.
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _folded(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def curves(verdicts: Sequence[Verdict]) -> xr.DataTree:
    """Return every measured curve: a node a claim, beneath it one a comparison.

    Parameters
    ----------
    verdicts : sequence of Verdict
        Their comparisons with axes are kept.

    Returns
    -------
    xarray.DataTree
        ``tree["sdm.beta/0"]`` holds ``predicted``, ``measured``, ``tolerance`` and, where it is
        statistical, ``spread`` over the axes; the attribute ``name`` says what is compared.
    """
    import xarray as xr

    nodes = {}
    for verdict in verdicts:
        kept = [each for each in verdict.comparisons if each.axes]
        for place, each in enumerate(kept):
            dataset = each.dataset()
            # A slash would make a group of a coordinate's name.
            plain = {name: str(name).replace("/", " per ") for name in dataset.coords}
            nodes[f"{verdict.id}/{place}"] = dataset.rename(plain)
    return xr.DataTree.from_dict(nodes)


def write_verdicts(
    folder: str | Path, verdicts: Sequence[Verdict], facts: Mapping[str, Any]
) -> Path:
    """Write ``verdicts.json``, ``curves.nc`` and ``report.html`` into a new folder.

    Parameters
    ----------
    folder : str or Path
        Must not exist, or be empty.
    verdicts : sequence of Verdict
        At least one.
    facts : mapping
        What they were run with, plain data.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileError
        If it cannot be written; then nothing is there.
    """
    with atomic_path(folder) as beside:
        beside.mkdir(parents=True)
        write_json(beside / "verdicts.json", {"facts": dict(facts), "claims": plain(verdicts)})
        curves(verdicts).to_netcdf(beside / "curves.nc", engine="h5netcdf")
        (beside / "report.html").write_text(claims_page(verdicts, facts), encoding="utf-8")
    return Path(folder)


def plain(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts as JSON has them."""
    return [each.summary() for each in verdicts]


def claims_page(verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> str:
    """Return one self-contained HTML page: every claim, its numbers, figure and mutants.

    Parameters
    ----------
    verdicts : sequence of Verdict
        In the order in which they are shown.
    facts : mapping
        What they were run with, plain data.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("neuroattn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("claims.html.j2").render(
        version=__version__,
        lead=headline(verdicts),
        claims=[_shown(verdict) for verdict in verdicts],
        facts=[(name, str(value)) for name, value in facts.items()],
    )


def headline(verdicts: Sequence[Verdict]) -> str:
    """Return in one sentence how many claims hold and how many mutants were killed."""
    run = [each for each in verdicts if each.passed is not None]
    held = sum(bool(each.passed) for each in run)
    mutants = [mutant for each in run for mutant in each.mutants]
    killed = sum(each.killed for each in mutants)
    apart = len(verdicts) - len(run)
    found = Counter(each.finding for each in run)
    kinds = ", ".join(f"{found[kind]} {kind}" for kind in FINDINGS if found[kind])
    return (
        f"{held} of {len(run)} claims hold; {killed} of {len(mutants)} mutants killed"
        + (f"; {apart} cannot be held with these settings" if apart else "")
        + (f". Of what the literature says: {kinds}." if kinds else ".")
    )


def _shown(verdict: Verdict) -> dict[str, Any]:
    from neuroattn.report.html import figure_data

    figure = claim_figure(verdict)
    return {
        "verdict": verdict,
        "state": state(verdict),
        "formula": formula(verdict.statement),
        "steps": [
            (step.text, formula(step.latex) if step.latex else "", step.plain)
            for step in verdict.steps
        ],
        "figure": None if figure is None else figure_data(verdict.id, figure),
        "rows": [
            {
                "name": each.name + (f", at {each.where}" if each.where else ""),
                "relation": {"=": "", "<=": "≤ ", ">=": "≥ "}[each.relation],
                "cells": [compact(each.at_worst(key)) for key in ("predicted", "measured")],
                "error": " of ".join(compact(each.at_worst(key)) for key in ("error", "tolerance")),
                "z": "" if each.z is None else number(each.at_worst("z"), 1),
                "reason": each.reason,
                "passed": each.passed,
            }
            for each in verdict.comparisons
        ],
    }


def formula(tex: str) -> str:
    """Return a statement as SVG, or "" if it cannot be set."""
    try:
        return svg(displayed(settable(tex)))
    except InputError:
        return ""


def settable(tex: str) -> str:
    """Return LaTeX in mathtext's dialect; see :func:`neuroattn.attention.describe.settable`."""
    from neuroattn.attention.describe import settable as dialect

    return re.sub(r"\\[lr]vert(?![A-Za-z])", "|", dialect(tex))


def state(verdict: Verdict) -> str:
    """Return the verdict in a word or two."""
    if verdict.passed is None:
        return "left out"
    if not verdict.passed:
        return "FAILED"
    return "holds" if verdict.ok else "MUTANT SURVIVES"


def compact(value: float) -> str:
    """Return a number in four significant digits."""
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("-", "−")

"""The figure of capacities: how many associations mechanisms hold, over the width of their keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from neuroattn.attention import get
from neuroattn.errors import InputError
from neuroattn.report.style import FAINT, colours, new_figure, styled
from neuroattn.theory.capacity import CASES, Capacity

#: The rows: families whose curves share axes.
_ROWS: dict[str, tuple[str, ...]] = {
    "softmax": ("softmax",),
    "linear": ("linear",),
    "regression, memory": ("regression", "memory"),
}
_MARKERS = "osD^vP*"
_TITLES = {"average": "average case: random values", "worst": "worst case: the adversary's values"}


@styled
def capacity_figure(found: Sequence[Capacity]) -> Figure:
    """Draw capacities over the width, average case beside worst case, one row a family.

    Mechanisms with the same capacities everywhere share a curve. Bars are confidence intervals;
    a hollow triangle says that retrieval still held at the largest number tried. Dashed is the
    closed form of Hebbian memory.

    Parameters
    ----------
    found : sequence of Capacity
        Of one criterion, law of keys and noise.

    Raises
    ------
    InputError
        If no mechanism has a capacity, or they are of several criteria.
    """
    shown = [each for each in found if each.capacity]
    if not shown:
        raise InputError(f"none of the {len(found)} capacities is above 0; nothing can be drawn.")
    if len({(each.snr, each.law, each.noise, each.sweeps) for each in shown}) > 1:
        raise InputError("found is of several criteria, laws or noises; draw one figure each.")
    rows = {
        title: kept
        for title, families in _ROWS.items()
        if (kept := [each for each in shown if get(each.mechanism).family in families])
    }
    cases = [case for case in CASES if any(each.case == case for each in shown)]
    groups = {title: _groups(kept) for title, kept in rows.items()}
    heights = [max(2.9, 0.19 * len(group) + 0.6) for group in groups.values()]
    figure = new_figure(3.6 * len(cases) + 3.2, sum(heights) + 0.4)
    shared: dict[str, Any] = {"squeeze": False, "sharex": True, "sharey": "col"}
    grid = figure.subplots(len(rows), len(cases), height_ratios=heights, **shared)
    for line, (title, group) in zip(grid, groups.items(), strict=True):
        for axes, case in zip(line, cases, strict=True):
            _panel(axes, group, case)
            _closed_form(axes, shown[0], case, sorted({each.dim for each in shown}))
        line[0].set_ylabel(f"{title}\nassociations held")
        _legend(line, group)
    for axes, case in zip(grid[0], cases, strict=True):
        axes.set_title(_TITLES[case], loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("dim, width of a key")
    return figure


def _groups(found: Sequence[Capacity]) -> dict[str, list[Capacity]]:
    """Return label to capacities; those of equal mechanisms once, the highest curve first."""
    by_name = sorted(found, key=lambda each: each.mechanism)
    alike: dict[tuple[object, ...], list[tuple[str, list[Capacity]]]] = {}
    for name, several in groupby(by_name, key=lambda each: each.mechanism):
        kept = sorted(several, key=lambda each: (each.case, each.dim))
        signature = tuple((each.case, each.dim, each.capacity, each.censored) for each in kept)
        alike.setdefault(signature, []).append((name, kept))
    ordered = sorted(alike.values(), key=lambda same: -_height(same[0][1]))
    return {_label([name for name, _ in same]): same[0][1] for same in ordered}


def _height(found: Sequence[Capacity]) -> float:
    return float(np.mean([math.log(each.capacity or 1) for each in found]))


def _label(names: Sequence[str]) -> str:
    """Return the names in lines that fit the margin; one plain softmax stands for all of them."""
    first = ["softmax"] if "softmax" in names else []
    ordered = first + [name for name in names if name not in first]
    lines = [", ".join(ordered[at : at + 2]) for at in range(0, len(ordered), 2)]
    return ",\n".join(lines)


def _panel(axes: Axes, groups: dict[str, list[Capacity]], case: str) -> None:
    palette = colours(len(groups))
    for index, (label, found) in enumerate(groups.items()):
        points = [each for each in found if each.case == case]
        x = np.array([each.dim for each in points], dtype=float)
        y = np.array([each.capacity for each in points], dtype=float)
        low = y - [each.low or 0 for each in points]
        # An interval without an upper end is drawn to the largest number tried.
        high = np.array([each.largest if each.high is None else each.high for each in points]) - y
        marker, colour = _MARKERS[index // len(set(palette)) % len(_MARKERS)], palette[index]
        axes.errorbar(
            x, y, np.stack([low, high]), color=colour, marker=marker, ms=3.5, lw=1.1, label=label
        )
        beyond = np.array([each.censored for each in points], dtype=bool)
        hollow: dict[str, Any] = {"marker": "^", "facecolor": "white", "s": 34, "zorder": 3}
        axes.scatter(x[beyond], y[beyond], edgecolor=colour, **hollow)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.9)
    dims = sorted({each.dim for found in groups.values() for each in found})
    axes.set_xticks(dims, [str(dim) for dim in dims])
    # Tick labels are text here, not formulas.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, place: f"{y:,.0f}"))
    axes.minorticks_off()


def _closed_form(axes: Axes, one: Capacity, case: str, dims: Sequence[int]) -> None:
    if case == "worst" and one.snr != 1:
        return
    x = np.geomspace(dims[0], dims[-1], 50)
    if case == "average":
        line, words = 1 + x / (one.snr * (1 + one.noise**2)), "1 + dim / snr"
    else:
        line, words = 1 + np.sqrt(math.pi * x / 2), "1 + √(π dim / 2)"
    axes.plot(x, line, color=FAINT, linestyle=(0, (4, 2)), linewidth=1, zorder=0)
    # Below the line, whose label would cross it.
    axes.annotate(words, (x[-1], 0.62 * line[-1]), color=FAINT, fontsize=7.5, ha="right", va="top")


def _legend(line: Sequence[Axes], groups: dict[str, list[Capacity]]) -> None:
    handles = dict(zip(groups, line[0].get_legend_handles_labels()[0], strict=True))
    last = line[-1]
    last.legend(
        handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7
    )

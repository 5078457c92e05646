"""What all figures share: colours, type, and PNG bytes that do not change by themselves."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroattn.report.labels import GROUPS, OTHER

P = ParamSpec("P")
R = TypeVar("R")

DPI = 150
INK = "#222222"
FAINT = "#8a8a8a"
#: Colours that people with any common colour blindness tell apart (Okabe & Ito, 2008), without
#: the yellow, which is too pale on white; grey is kept for "other".
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#222222")
OTHER_COLOUR = "#b0b0b0"

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "text.usetex": False,
    # A ROI or encoder name is text, never a formula: "$" must not start one.
    "text.parse_math": False,
}


def group_colour(group: str) -> str:
    """Return the colour of a ROI group, grey for "other"."""
    return OTHER_COLOUR if group == OTHER else PALETTE[GROUPS.index(group)]


def colours(count: int) -> list[str]:
    """Return one colour for each of ``count`` encoders, in order, starting again after seven."""
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the report's type and lines, whatever the user's settings."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) that no global state knows."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def png(figure: Figure) -> bytes:
    """Return a figure as PNG at 150 dpi; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Any figure.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()

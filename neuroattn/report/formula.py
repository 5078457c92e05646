"""Formulae as inline SVG, set by matplotlib's mathtext: no script, no font, no network needed."""

from __future__ import annotations

import html
import re

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from neuroattn.errors import InputError

_SIZE = 100.0
_PROPERTIES = FontProperties(size=_SIZE, math_fontfamily="cm")
# Height of a lower-case letter of the text beside an inline formula: a little larger than 1em
# of the page's font makes both look alike.
_EM = 1.16
_COMMANDS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
# What LaTeX allows and mathtext does not: short names, and arguments without braces.
_NAMES = ((r"\\ge\b", r"\\geq"), (r"\\le\b", r"\\leq"), (r"\\ne\b", r"\\neq"))
_ARGUMENT = r"(\\[A-Za-z]+|[^\s{}\\])"


def normalised(tex: str) -> str:
    """Return LaTeX with the braces and names that mathtext wants."""
    tex = " ".join(tex.split())
    for pattern, name in _NAMES:
        tex = re.sub(pattern, name, tex)
    tex = re.sub(rf"\\(d?frac) ?{_ARGUMENT} ?{_ARGUMENT}", r"\\\1{\2}{\3}", tex)
    tex = re.sub(rf"\\(d?frac) ?{_ARGUMENT}", r"\\\1{\2}", tex)
    return re.sub(rf"\\(sqrt|mathbb|mathbf) ?{_ARGUMENT}", r"\\\1{\2}", tex)


def displayed(tex: str) -> str:
    """Return LaTeX whose outermost fractions are as large as a line of their own allows."""
    parts, depth = [], 0
    for piece in re.split(r"(\\frac|[{}])", tex):
        depth += (piece == "{") - (piece == "}")
        parts.append(r"\dfrac" if piece == r"\frac" and not depth else piece)
    return "".join(parts)


def svg(tex: str) -> str:
    """Return one formula as an ``<svg>`` whose depth hangs below the line.

    Parameters
    ----------
    tex : str
        LaTeX as far as matplotlib's mathtext knows it, without the dollars.

    Raises
    ------
    InputError
        If it cannot be set.
    """
    text = f"${normalised(tex)}$"
    try:
        width, height, depth, *_ = MathTextParser("path").parse(text, 72, _PROPERTIES)
        outline = TextPath((0, 0), text, prop=_PROPERTIES, usetex=False)
    except ValueError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{tex!r} is no formula for mathtext: {reason}") from error
    # Accents stand out of the box that mathtext reports.
    box = outline.get_extents() if len(outline.vertices) else None
    top = max(height - depth, box.y1 if box else 0.0) + 2
    bottom = min(-depth, box.y0 if box else 0.0) - 2
    scale = _EM / _SIZE
    return (
        f'<svg class="formula" role="img" aria-label="{html.escape(tex.strip())}" '
        f'style="width:{width * scale:.3f}em;height:{(top - bottom) * scale:.3f}em;'
        f'vertical-align:{bottom * scale:.3f}em" '
        f'viewBox="0 {-top:.1f} {width:.1f} {top - bottom:.1f}">'
        f'<path d="{_data(outline)}"/></svg>'
    )


def _data(outline: Path) -> str:
    parts = []
    for points, code in outline.iter_segments(curves=True, simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        flipped = np.asarray(points).reshape(-1, 2) * (1, -1)
        parts.append(_COMMANDS[code] + " ".join(f"{number:.1f}" for number in flipped.ravel()))
    return "".join(parts)

"""Show figures that a gallery block returns: those of neuroattn are not registered with pyplot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_SHOWN: WeakSet[Figure] = WeakSet()


def returned_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the value of the block's last expression if it is a figure, and return its rST."""
    value = block_vars["example_globals"].get("___")
    # A block without a last expression leaves the figure of an earlier one in its place.
    if not isinstance(value, Figure) or value in _SHOWN:
        return ""
    _SHOWN.add(value)
    path = next(block_vars["image_path_iterator"])
    value.savefig(path, dpi=150)
    return str(figure_rst([path], gallery_conf["src_dir"]))


def _get_sg_image_scraper() -> Callable[..., str]:
    """Give sphinx-gallery the scraper of this module by its name."""
    return returned_figures

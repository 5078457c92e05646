"""Formulae as inline SVG: the site's math renderer is the reports' own."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from neuroattn.report.formula import displayed, svg


def _inline(translator: Any, node: nodes.Node) -> None:
    translator.body.append(svg(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Node) -> None:
    translator.body.append(f'<div class="math-block">{svg(displayed(node.astext()))}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathtext", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

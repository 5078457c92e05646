"""Formulae as MathML, which browsers draw themselves: no script, no network, no pictures."""

from __future__ import annotations

from typing import Any

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _mathml(tex: str, as_block: bool) -> str:
    try:
        return str(tex2mathml(tex, as_block=as_block))
    except MathError as error:
        raise ExtensionError(f"{tex!r} is no LaTeX that docutils knows: {error}") from error


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    _done()


def _block(translator: Any, node: Any) -> None:
    translator.body.append(
        f'<div class="math">{_mathml(node.astext().strip(), as_block=True)}</div>'
    )
    _done()


def _done() -> None:
    from docutils import nodes

    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

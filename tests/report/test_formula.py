"""Formulae as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from neuroattn.errors import InputError
from neuroattn.report.formula import displayed, normalised, svg


def test_a_formula_is_one_path_that_says_what_it_is() -> None:
    """Catches a picture without words for those who cannot see it, and HTML in a formula."""
    root = ET.fromstring(svg(r"x < \frac12"))
    assert root.tag == "svg"
    assert root.attrib["aria-label"] == r"x < \frac12"
    assert len(root) == 1
    assert root[0].attrib["d"].startswith("M")


def test_a_larger_formula_takes_more_room() -> None:
    """Catches a box that cuts the formula."""

    def height(tex: str) -> float:
        return float(ET.fromstring(svg(tex)).attrib["viewBox"].split()[3])

    assert height(r"\frac{a}{b}") > 1.4 * height("a")
    assert height(displayed(r"\frac{a}{b}")) > height(r"\frac{a}{b}")


@pytest.mark.parametrize(
    ("tex", "same"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"a \le b", r"a \leq b"),
        (r"\sqrt n", r"\sqrt{n}"),
        (r"\left(x\right)", r"\left(x\right)"),
    ],
)
def test_short_latex_is_written_out(tex: str, same: str) -> None:
    assert normalised(tex) == same


def test_what_cannot_be_set_is_an_error_that_shows_it() -> None:
    with pytest.raises(InputError, match="no formula for mathtext"):
        svg(r"\begin{matrix}")

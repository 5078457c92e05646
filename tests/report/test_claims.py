"""Verdicts as figures, a page, curves and JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import sympy
import xarray as xr

from neuroattn.errors import FileError
from neuroattn.report import claims
from neuroattn.theory import Comparison, Lab, Proof, Verdict
from neuroattn.theory.verdict import MutantVerdict

LAB = Lab("a.claim")


def curve(name: str = "a law", **axes: list[float]) -> Comparison:
    shape = [len(each) for each in axes.values()]
    wanted = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    return LAB.estimate(name, wanted + 0.5, np.ones(shape), wanted, axes=axes)


def verdict(*comparisons: Comparison, **fields: object) -> Verdict:
    mutants = (MutantVerdict("N for N-1", True, "a law: error 9 x tolerance"),)
    base = Verdict(
        id="a.claim",
        title="It <b>grows</b>",
        paper="Me (2026)",
        place="here",
        statement=r"x^2=\frac{1}{N}",
        hypotheses=("N is a number",),
        finding="refuted",
        found="It does not.",
        passed=True,
    )
    return replace(base, comparisons=comparisons, mutants=mutants, seconds=1.0, **fields)


def test_a_figure_has_the_theory_as_a_line_and_the_measurement_as_points() -> None:
    """Catches a figure that draws the prediction twice."""
    figure = claims.claim_figure(verdict(curve(n=[1.0, 2.0, 4.0])))
    assert figure is not None
    (axes,) = figure.axes
    line, points = axes.lines[0], axes.lines[1]
    assert line.get_linestyle() == "-"
    assert line.get_ydata().tolist() == [1, 2, 3]
    assert points.get_marker() == "o"
    assert points.get_ydata().tolist() == [1.5, 2.5, 3.5]
    assert axes.get_xlabel() == "n"
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert (low, high) == (1.5 - 2, 1.5 + 2)


def test_the_longer_of_two_axes_runs_and_the_other_tells_lines_apart() -> None:
    """Catches axes that are swapped: the values of one line under the label of another."""
    figure = claims.claim_figure(verdict(curve(d=[8.0, 16.0], n=[1.0, 2.0, 3.0])))
    assert figure is not None
    labelled = {x.get_label(): x.get_ydata().tolist() for x in figure.axes[0].lines}
    assert labelled["d = 8"] == [1, 2, 3]
    assert labelled["d = 16"] == [4, 5, 6]
    turned = claims.claim_figure(verdict(curve(n=[1.0, 2.0, 3.0], d=[8.0, 16.0])))
    assert turned is not None
    labelled = {x.get_label(): x.get_ydata().tolist() for x in turned.axes[0].lines}
    assert labelled["d = 16"] == [2, 4, 6]


def test_a_logarithmic_axis_has_numbers_for_labels() -> None:
    """Catches labels that show their own markup."""
    figure = claims.claim_figure(verdict(curve(n=[1.0, 100.0, 10000.0])))
    assert figure is not None
    figure.canvas.draw()
    labels = [x.get_text() for x in figure.axes[0].get_xticklabels()]
    assert "100" in labels
    assert not any("$" in label for label in labels)


def test_what_is_no_curve_has_no_figure() -> None:
    assert claims.claim_figure(verdict(LAB.equal("x", 1.0, 1.0))) is None


def test_every_curve_is_kept_in_one_file(tmp_path: Path) -> None:
    """Catches curves that overwrite one another, and names that a file cannot hold."""
    many = verdict(
        curve(n=[1.0, 2.0]), LAB.equal("x", 1.0, 1.0), curve("b/c", **{"k / bit": [3.0]})
    )
    folder = claims.write_verdicts(tmp_path / "out", [many], {"seed": 0})
    with xr.open_datatree(folder / "curves.nc") as tree:
        assert tree["a.claim/0"]["measured"].values.tolist() == [1.5, 2.5]
        second = tree["a.claim/1"]
        assert second.attrs["name"] == "b/c"
        assert second["predicted"].dims == ("k  per  bit",)
    kept = json.loads((folder / "verdicts.json").read_text("utf-8"))
    assert kept["facts"] == {"seed": 0}
    assert [each["id"] for each in kept["claims"]] == ["a.claim"]
    assert sorted(x.name for x in folder.iterdir()) == ["curves.nc", "report.html", "verdicts.json"]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder with verdicts and no report after a full disk."""

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims, "claims_page", full)
    with pytest.raises(FileError, match="No space left"):
        claims.write_verdicts(tmp_path / "out", [verdict()], {})
    assert list(tmp_path.iterdir()) == []


class Text(HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_numbers_mutants_and_failures_and_escapes_names() -> None:
    """Catches a title that is run as HTML, a failure that is not shown, and a missing formula."""
    survivor = MutantVerdict("not seen", False, "every comparison passed")
    bad = verdict(curve(n=[1.0, 2.0]), passed=False, error="ValueError: <i>no</i>")
    bad = replace(bad, id="a.bad", mutants=(survivor,))
    page = claims.claims_page([verdict(curve(n=[1.0, 2.0])), bad], {"dtype": "float64"})
    found = Text()
    found.feed(page)
    assert {"b", "i", "script", "link"} & set(found.tags) == set()
    assert found.tags.count("svg") == 2
    assert found.tags.count("img") == 2
    for words in (
        "1 of 2 claims hold; 1 of 2 mutants killed. Of what the literature says: 2 refuted.",
        "Me (2026); here",
        "N is a number",
        "It does not.",
        "a law, at n = 1",
        "It <b>grows</b>",
        "FAILED",
        "ValueError: <i>no</i>",
        "Mutant SURVIVES: not seen",
        "Mutant killed: N for N-1",
        "float64",
    ):
        assert words in found.text


def test_the_page_shows_the_proof_and_which_way_a_bound_goes() -> None:
    """Catches a report that says of a proof only that it holds, and 0.6 beside 0.1 as equal."""
    proof = Proof()
    proof.say("Let", sympy.Symbol("x"))
    proof.equal("a matrix", sympy.eye(2), sympy.eye(2))
    bound = LAB.at_least("share", 0.6319, 0.1)
    page = claims.claims_page([verdict(bound, steps=tuple(proof.steps), proved=True)], {})
    found = Text()
    found.feed(page)
    assert found.tags.count("svg") == 2
    assert "[[1, 0], [0, 1]]" in found.text
    assert "≥ 0.1" in found.text


def test_a_statement_that_cannot_be_set_is_shown_as_latex() -> None:
    page = claims.claims_page([replace(verdict(), statement=r"\begin{x}<\end{x}")], {})
    assert r"\begin{x}&lt;\end{x}" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5678, "1235"), (-0.00012345, "−0.0001234"), (float("nan"), "–"), (float("-inf"), "−∞")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert claims.compact(value) == text


def test_states_and_headline() -> None:
    left = replace(verdict(), passed=None, mutants=())
    survives = replace(verdict(), mutants=(MutantVerdict("m", False, ""),))
    failed = replace(verdict(), passed=False)
    assert [claims.state(x) for x in (verdict(), left, survives, failed)] == [
        "holds",
        "left out",
        "MUTANT SURVIVES",
        "FAILED",
    ]
    assert "1 cannot be held" in claims.headline([verdict(), left])

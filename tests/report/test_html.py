"""The report: whole in one file, safe against its inputs, the same every time."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from neuroattn.errors import FileError, InputError
from neuroattn.metrics import Score
from neuroattn.report import comparison_table, png, roi_bars, summary_table, write_report
from neuroattn.report.table import number
from tests.report.small import small_scores

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Collects tags, attributes, table cells and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data + " "


def report(path: Path, scores: dict[str, Score] | None = None, **options: Any) -> str:
    given = scores or small_scores()
    arguments: dict[str, Any] = {
        "title": "A title",
        "scores": given,
        "manifest": {"seed": 0, "versions": {"numpy": "2"}, "empty": None, "list": [1, 2]},
        "split_sizes": {"train": 1420, "test": 23},
        "figures": {},
        "table": summary_table(given, resamples=20),
        "comparison": comparison_table(given, list(given)[-1], resamples=20),
        **options,
    }
    return write_report(path / "report.html", **arguments).read_text(encoding="utf-8")


def test_nothing_is_fetched_and_every_tag_is_closed(tmp_path: Path) -> None:
    # Catches any script, link, font or image from elsewhere, and broken nesting.
    figure = roi_bars(summary_table(small_scores(), resamples=0))
    text = report(tmp_path, figures={"Bars": (figure, "A caption.")})
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "base", "a"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                assert str(value).startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", text)


def test_figures_are_inside_byte_for_byte_with_their_captions(tmp_path: Path) -> None:
    # Catches a picture that is changed, or stands under the caption of another.
    picture = png(roi_bars(summary_table(small_scores(), resamples=0)))
    text = report(tmp_path, figures={"Bars": (picture, "What it shows.")})
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(source) == picture
    assert "<b>Bars.</b> What it shows." in text


def test_names_from_files_are_shown_and_not_run(tmp_path: Path) -> None:
    # Catches a name that reaches the page unescaped, through any of its ways in.
    scores = small_scores((EVIL, f"{EVIL}2"), rois=(EVIL, "b", "c"))
    text = report(
        tmp_path,
        scores,
        title=EVIL,
        notes=[EVIL],
        manifest={EVIL: EVIL},
        split_sizes={EVIL: 2},
        figures={f'"{EVIL}': (png(roi_bars(summary_table(small_scores(), resamples=0))), EVIL)},
        tables={EVIL: pd.DataFrame({EVIL: [EVIL]})},
    )
    assert "<script" not in text
    page = Page(text)
    assert any(EVIL in cell for row in page.cells for cell in row)
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == f'"{EVIL}'


def test_the_table_shows_the_numbers_of_the_scores(tmp_path: Path) -> None:
    # Catches cells under the wrong encoder or ROI.
    scores = small_scores()
    table = summary_table(scores, resamples=20)
    rows = {row[0].strip(): row for row in Page(report(tmp_path)).cells[:5]}
    assert [cell.strip() for cell in rows["ROI"]] == [
        "ROI", "ridge", "transformer", "voxels", "ceiling",
    ]  # fmt: skip
    for column, name in ((1, "ridge"), (2, "transformer")):
        mean, low = (float(table.loc[("V1", name), key]) for key in ("mean", "low"))
        assert rows["V1"][column].split()[:2] == [number(mean), number(low)]
    assert rows["V1"][3].strip() == "4"
    assert rows["nowhere"][1].strip() == "–"


def test_paired_differences_are_last_minus_each_other(tmp_path: Path) -> None:
    # Catches a difference without its sign, or under the wrong heading.
    scores = small_scores(("ridge", "factorised", "transformer"))
    text = report(tmp_path, scores)
    compared = comparison_table(scores, "transformer", resamples=20)
    assert "transformer minus ridge" in text
    assert "transformer minus factorised" in text
    value = number(float(compared.loc[("all", "ridge"), "difference"]))
    assert f"<td>+{value}</td>" in text.split("transformer minus factorised")[0]


def test_what_was_done_and_what_was_excluded_is_said(tmp_path: Path) -> None:
    # Catches a report that hides its exclusions or the size of its test set.
    text = report(tmp_path, notes=["Two voxels were constant."])
    assert "1,420 training images" in text
    assert "11 voxels of 1 subject to 23 test images" in text
    assert "<li>Two voxels were constant.</li>" in text
    cells = [[cell.strip() for cell in row] for row in Page(text).cells]
    assert ["V1", "5", "1", "0", "0.80"] in cells
    assert ["versions.numpy", "2"] in cells
    assert ["list", "1, 2"] in cells
    assert ["empty", "–"] in cells
    assert ["presentations of each scored image", "3"] in cells


def test_one_encoder_without_ceiling_gives_a_report_of_raw_scores(tmp_path: Path) -> None:
    # Catches a crash, or dashes, where nothing can be normalised or compared.
    text = report(tmp_path, small_scores(("ridge",), ceiling=None))
    assert "Paired comparisons" not in text
    assert "raw: no ceiling" in text
    assert "The encoder ridge learned" in text
    assert "divided by the noise ceiling" not in text


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    # Catches dates, random ids and the order of sets.
    figure = roi_bars(summary_table(small_scores(), resamples=0))
    first = report(tmp_path / "a", figures={"Bars": (figure, "x")})
    second = report(tmp_path / "b", figures={"Bars": (figure, "x")})
    assert first == second


def test_more_tables_are_shown_with_their_index(tmp_path: Path) -> None:
    # Catches a table that loses its row names.
    extra = pd.DataFrame({"times uniform": [3.14159]}, index=pd.Index(["FFA"], name="query"))
    cells = [
        [cell.strip() for cell in row] for row in Page(report(tmp_path, tables={"M": extra})).cells
    ]
    assert ["query", "times uniform"] in cells
    assert ["FFA", "3.14"] in cells


def test_a_table_says_what_its_numbers_are(tmp_path: Path) -> None:
    # Catches numbers without a caption, and a caption that is run.
    extra = pd.DataFrame({"score": ["0.1"]})
    assert "<caption>" not in report(tmp_path, tables={"M": extra}).partition("<h2>M</h2>")[2]
    extra.attrs["title"] = f"shares {EVIL}"
    text = report(tmp_path, tables={"M": extra}).partition("<h2>M</h2>")[2]
    assert "<caption>Shares &lt;" in text


def test_encoders_of_a_new_subject_learned_from_its_context(tmp_path: Path) -> None:
    # Catches the claim that ten images were a thousand.
    text = report(tmp_path, split_sizes={"context": 10, "train": 1420, "test": 23})
    assert "were given 10 context images (those that learn" in text
    assert "1,420 training images" not in text
    cells = [[cell.strip() for cell in row] for row in Page(text).cells]
    assert ["context images", "10"] in cells


def test_a_wrong_figure_is_named_and_an_older_report_stays(tmp_path: Path) -> None:
    # Catches a half-written report, and an error that does not say which figure.
    before = report(tmp_path)
    for wrong in (b"GIF89a", "text", np.zeros(3)):
        with pytest.raises(InputError, match="figure 'Bars' is"):
            report(tmp_path, figures={"Bars": (wrong, "")})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(FileError, match="could not be written"):
        report(tmp_path / "taken")

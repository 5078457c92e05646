"""Tables: the numbers are those of the scores, in the order of the data."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from neuroattn.errors import InputError, MismatchError, UnknownNameError
from neuroattn.report import comparison_table, display_table, print_table, summary_table
from neuroattn.report.table import number, probability, with_interval
from tests.report.small import ROIS, rows_of, small_scores
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]


def test_rows_keep_the_order_of_the_data_and_of_the_encoders() -> None:
    # Catches a table sorted by the alphabet: "FFA-1" before "V1", "all" in the middle.
    table = summary_table(small_scores(("z", "a")), resamples=0)
    wanted = [(roi, name) for roi in (*ROIS, "all") for name in ("z", "a")]
    assert rows_of(table) == wanted


def test_each_row_holds_the_score_of_its_own_encoder() -> None:
    # Catches encoders or ROIs that change places when the parts are joined.
    scores = small_scores()
    table = summary_table(scores, resamples=50, seed=4)
    for name, score in scores.items():
        expected = score.by_roi(resamples=50, seed=4)
        for column in ("mean", "low", "high", "raw_mean", "voxels", "excluded", "ceiling"):
            found = table.xs(name, level="encoder")[column].to_numpy(float)
            np.testing.assert_allclose(found, expected[column].values, **TIGHT)
    assert table.loc[("V1", "ridge"), "excluded"] == 1
    assert np.isnan(table.loc[("nowhere", "ridge"), "mean"])


def test_comparison_is_reference_minus_other() -> None:
    # Catches a difference with the wrong sign.
    scores = small_scores(("ridge", "middle", "transformer"))
    table = comparison_table(scores, "transformer", resamples=60, seed=2)
    expected = scores["transformer"].compare(scores["ridge"], resamples=60, seed=2)
    found = table.xs("ridge", level="encoder")
    for column in ("difference", "low", "high", "p", "q"):
        np.testing.assert_allclose(found[column].to_numpy(float), expected[column].values, **TIGHT)
    assert table.loc[("all", "ridge"), "difference"] > table.loc[("all", "middle"), "difference"]
    assert table.attrs["reference"] == "transformer"
    assert table.attrs["units"] == "normalised"


def test_comparison_of_one_encoder_with_nobody_is_empty() -> None:
    # Catches a crash of the report of a single encoder.
    scores = small_scores(("only",))
    assert len(comparison_table(scores, "only", resamples=10)) == 0


def test_display_counts_the_voxels_that_are_averaged() -> None:
    # Catches the total being shown where one voxel is excluded.
    shown = display_table(summary_table(small_scores(), resamples=20))
    assert shown.loc["V1", "voxels"] == "4"
    assert shown.loc["nowhere"].tolist() == ["–", "–", "0", "–"]
    assert re.fullmatch(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]", str(shown.loc["FFA-1", "transformer"]))


def test_display_falls_back_to_raw_scores_without_a_ceiling() -> None:
    # Catches a table of dashes for data that have no ceiling.
    table = summary_table(small_scores(ceiling=None), resamples=0)
    shown = display_table(table)
    assert shown.loc["V1", "transformer"] == number(table.loc[("V1", "transformer"), "raw_mean"])
    assert shown.loc["V1", "voxels"] == "5"


def test_print_shows_names_that_look_like_markup_and_never_cuts_a_number() -> None:
    # Catches "[red]" obeyed as a colour, and intervals that end in dots on narrow terminals.
    scores = small_scores(("ridge", "factorised", "transformer"), rois=("[red]V1", "b", "c"))
    table = summary_table(scores, resamples=20)
    for width in (76, 200):
        stream = io.StringIO()
        print_table(table, Console(file=stream, width=width))
        text = stream.getvalue()
        assert "[red]V1" in text
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        low = number(table.loc[("all", "ridge"), "low"])
        assert f"[{low}, " in text


def test_csv_holds_all_digits() -> None:
    # Catches a table that was rounded for the eye before it was written.
    table = summary_table(small_scores(), resamples=0)
    line = table[["mean"]].to_csv().splitlines()[1]
    assert float(line.split(",")[-1]) == table["mean"].iloc[0]


def test_scores_of_other_images_or_thresholds_are_refused() -> None:
    # Catches encoders compared on different test sets.
    scores = small_scores()
    with pytest.raises(MismatchError, match="'ridge' and 'other' are of different images"):
        summary_table({**scores, "other": small_scores(images=20)["ridge"]})
    with pytest.raises(MismatchError, match="different rois"):
        summary_table({**scores, "other": small_scores(rois=("a", "b", "c"))["ridge"]})
    with pytest.raises(MismatchError, match="have metric 'explained_variance' and 'pearson'"):
        summary_table({**scores, "other": small_scores(metric="pearson")["ridge"]})
    with pytest.raises(MismatchError, match="of 11 and 12 voxels"):
        summary_table({**scores, "other": small_scores(voxels=12)["ridge"]})
    with pytest.raises(InputError, match="scores is empty"):
        summary_table({})
    with pytest.raises(UnknownNameError, match="did you mean 'ridge'"):
        comparison_table(scores, "rigde")


def test_numbers_are_written_without_minus_zero_and_with_a_dash_for_nan() -> None:
    # Catches "-0.00", "nan" and p = 0.
    assert number(-0.001) == "0.00"
    assert number(-0.126) == "-0.13"
    assert number(float("nan")) == "–"
    assert with_interval(0.5, float("nan"), float("nan")) == "0.50"
    assert probability(0.0004) == "<0.001"
    assert probability(0.0123) == "0.012"
    assert probability(float("nan")) == "–"

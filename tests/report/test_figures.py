"""Figures: what is drawn is what was scored."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib import rcParams
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from neuroattn.errors import InputError, MismatchError
from neuroattn.report import (
    gate_figure,
    png,
    roi_bars,
    roi_group,
    score_histogram,
    summary_table,
    voxel_scatter,
)
from neuroattn.report.figures import voxel_groups
from neuroattn.report.style import PALETTE, group_colour
from tests.report.small import pixels, small_scores
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]


def bars_of(axes: matplotlib.axes.Axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("normalised", [True, False])
def test_bars_are_the_means_of_the_table_without_empty_rois(normalised: bool) -> None:
    # Catches bars in another order than their labels, and raw scores under a normalised axis.
    table = summary_table(small_scores(), resamples=30)
    axes = roi_bars(table, normalised=normalised).axes[0]
    column = "mean" if normalised else "raw_mean"
    wanted = [
        table.loc[(roi, name), column]
        for name in ("ridge", "transformer")
        for roi in ("V1", "FFA-1", "all")
    ]
    np.testing.assert_allclose(bars_of(axes), wanted, **TIGHT)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["V1", "FFA-1", "all"]
    assert ("ceiling" in axes.get_ylabel()) is normalised


def test_error_bars_end_at_the_interval() -> None:
    # Catches half-widths taken from the wrong end of the interval.
    table = summary_table(small_scores(("only",)), resamples=30)
    axes = roi_bars(table).axes[0]
    lines = [c for c in axes.collections if len(c.get_segments()) == 3]
    ends = np.array([segment[:, 1] for segment in lines[0].get_segments()])
    wanted = table[["low", "high"]].to_numpy(float)[[0, 1, 3]]
    np.testing.assert_allclose(ends, wanted, **TIGHT)


@pytest.mark.parametrize(("metric", "level"), [("explained_variance", 0.8), ("pearson", 0.8**0.5)])
def test_ceilings_are_ticks_in_the_unit_of_the_raw_score(metric: str, level: float) -> None:
    # Catches a ceiling of variance drawn over correlations.
    table = summary_table(small_scores(("only",), metric=metric), resamples=0)
    axes = roi_bars(table, normalised=False).axes[0]
    marks = next(c for c in axes.collections if c.get_label() == "noise ceiling")
    heights = [segment[0, 1] for segment in marks.get_segments()]
    np.testing.assert_allclose(heights, [level] * 3, **TIGHT)


def test_a_table_without_ceilings_has_raw_bars_only() -> None:
    # Catches an empty figure that looks like scores of zero.
    table = summary_table(small_scores(ceiling=None), resamples=0)
    with pytest.raises(InputError, match="no finite mean in any of its 4 ROIs"):
        roi_bars(table)
    assert len(bars_of(roi_bars(table, normalised=False).axes[0])) == 6


def test_scatter_puts_the_first_encoder_on_x_in_the_colours_of_the_groups() -> None:
    # Catches swapped axes, excluded voxels drawn, and colours of another group.
    scores = small_scores()
    axes = voxel_scatter(scores["ridge"], scores["transformer"], ("ridge", "transformer")).axes[0]
    assert axes.get_xlabel().startswith("ridge")
    assert axes.get_ylabel().startswith("transformer")
    x, y = (scores[name].dataset["normalised"].values for name in ("ridge", "transformer"))
    drawn = {c.get_label(): c for c in axes.collections}
    assert list(drawn) == ["other (2)", "early visual (4)", "faces (4)"]
    faces = drawn["faces (4)"]
    np.testing.assert_allclose(faces.get_offsets(), np.stack([x[5:9], y[5:9]], axis=1), **TIGHT)
    assert to_hex(faces.get_facecolor()[0]) == group_colour("faces").lower()
    assert (
        axes.get_title(loc="left") == f"transformer is higher in {int((y > x).sum())} of 10 voxels"
    )


def test_scatter_of_different_voxels_is_refused() -> None:
    # Catches scores of two data sets in one cloud.
    with pytest.raises(MismatchError, match="first has 11 voxels, second 12"):
        voxel_scatter(small_scores()["ridge"], small_scores(voxels=12)["ridge"], ("a", "b"))


def test_histogram_counts_every_voxel_that_has_a_score() -> None:
    # Catches voxels beyond the axis that disappear, and excluded ones counted as zero.
    scores = small_scores()
    axes = score_histogram(scores).axes[0]
    for patch in axes.patches:
        outline = patch.get_path().vertices
        steps = outline[:-1:2] if len(outline) % 2 else outline[::2]
        assert steps[:, 1].max() <= 10
    labels = [text.get_text() for text in axes.get_figure().legends[0].get_texts()]
    assert labels == ["ridge (10 voxels)", "transformer (10 voxels)"]


def test_gates_are_drawn_in_the_column_of_their_roi() -> None:
    # Catches gates of one ROI under the name of another.
    gates = xr.DataArray([0.1, 0.9, 0.2, np.nan], dims="voxel")
    masks = xr.DataArray(
        [[True, False, True, True], [False] * 4, [False, True, False, False]],
        dims=("roi", "voxel"),
        coords={"roi": ["V1", "empty", "FFA"]},
    )
    axes = gate_figure(gates, masks).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["V1", "FFA"]
    points = [np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) > 0]
    clouds = [cloud for cloud in points if cloud.any()]
    np.testing.assert_allclose(clouds[0][:, 1], [0.1, 0.2], **TIGHT)
    np.testing.assert_allclose(clouds[1], [[1, 0.9]], **TIGHT)
    with pytest.raises(InputError, match="gates are finite in 0 voxels"):
        gate_figure(gates * np.nan, masks)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("V1", "early visual"), ("V1v", "early visual"), ("hV4", "early visual"),
        ("V3ab", "early visual"), ("FFA-1", "faces"), ("aTL-faces", "faces"), ("EBA", "bodies"),
        ("mTL-bodies", "bodies"), ("FBA-2", "bodies"), ("PPA", "places"), ("RSC", "places"),
        ("mfs-words", "words"), ("VWFA-1", "words"), ("food", "food"), ("V10", "other"),
        ("ventral", "other"), ("early", "early visual"),
    ],
)  # fmt: skip
def test_rois_of_published_data_find_their_group(name: str, group: str) -> None:
    # Catches a rule so loose that it takes the names of another group.
    assert roi_group(name) == group


def test_a_voxel_belongs_to_the_group_of_its_first_roi() -> None:
    # Catches the last of overlapping ROIs winning.
    groups = voxel_groups(small_scores()["ridge"].dataset)
    assert groups.tolist() == ["early visual"] * 5 + ["faces"] * 4 + ["other"] * 2


def test_png_has_the_same_bytes_whatever_the_settings_of_the_user() -> None:
    # Catches fonts, sizes or dates of the machine in the picture, and settings left changed.
    table = summary_table(small_scores(rois=("V1", "a $^2 b", "c")), resamples=10)
    before = dict(rcParams)
    first = png(roi_bars(table))
    assert dict(rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        second = png(roi_bars(table))
    assert first == second
    assert b"Software" not in first
    height, width = pixels(first).shape[:2]
    assert width >= 900
    assert height >= 400


def test_colours_stay_apart_for_colour_blind_readers() -> None:
    # Catches a palette change: under simulated deuteranopia any two differ visibly.
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Viénot, Brettel & Mollon (1999): deuteranopes cannot tell these from what they see.
    seen = linear @ np.array([[0.29275, 0.29275, -0.02234], [0.70725, 0.70725, 0.02234], [0, 0, 1]])
    distance = np.linalg.norm(np.sqrt(seen.clip(0))[:, None] - np.sqrt(seen.clip(0))[None], axis=2)
    assert distance[np.triu_indices(len(PALETTE), 1)].min() > 0.1

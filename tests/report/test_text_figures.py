"""The figure of text queries: bars, intervals and chance of the right ROI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

from neuroattn.encoders import category_accuracy
from neuroattn.errors import InputError
from neuroattn.report import png, text_figure
from neuroattn.report.style import group_colour
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]


def accuracy(rois: tuple[str, ...] = ("PPA", "empty", "FFA", "EBA"), **more: Any) -> xr.Dataset:
    """Lopsided intervals; the ROI called "empty" has no voxel."""
    rng = np.random.default_rng(8)
    known = np.array([roi != "empty" for roi in rois])
    value = np.where(known, 0.3 + 0.5 * rng.random(len(rois)), np.nan)
    columns = {
        "accuracy": value,
        "low": value - 0.2 * rng.random(len(rois)),
        "high": value + 0.1 * rng.random(len(rois)),
        "chance": np.full(len(rois), 0.2),
        "voxels": np.where(known, 1200 + 7 * np.arange(len(rois)), 0),
        **more,
    }
    data = {name: ("roi", column) for name, column in columns.items()}
    return xr.Dataset(data, coords={"roi": list(rois)})


def segments(axes: Axes) -> list[np.ndarray]:
    found = [each for each in axes.collections if isinstance(each, LineCollection)]
    return [np.array(each.get_segments()) for each in found]


def test_bars_and_intervals_are_those_of_the_roi_under_them() -> None:
    # Catches an empty ROI that shifts the others, symmetric intervals, and wrong counts of voxels.
    data = accuracy()
    figure, caption = text_figure(data)
    (axes,) = figure.axes
    kept = data.isel(roi=[0, 2, 3])
    np.testing.assert_allclose(
        [bar.get_height() for bar in axes.patches], kept["accuracy"], **TIGHT
    )
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    np.testing.assert_allclose(middles, [0, 1, 2], **TIGHT)
    (intervals,) = segments(axes)
    ends = np.stack([kept["low"], kept["high"]], axis=1)
    np.testing.assert_allclose(intervals[:, :, 1], ends, **TIGHT)
    np.testing.assert_allclose(intervals[:, :, 0], [[0, 0], [1, 1], [2, 2]], **TIGHT)
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["PPA\n1,200", "FFA\n1,214", "EBA\n1,221"]
    assert axes.get_ylim() == (0, 1)
    assert caption.endswith("Left out for want of voxels: empty.")
    assert "Left out" not in text_figure(kept)[1]


def test_chance_is_one_line_where_it_is_the_same_everywhere() -> None:
    # Catches a line at one half, and a scalar that is refused.
    for data in (accuracy(), accuracy().assign(chance=0.2)):
        (axes,) = text_figure(data)[0].axes
        (line,) = axes.lines
        np.testing.assert_allclose(line.get_ydata(), 0.2, **TIGHT)
        assert [text.get_text() for text in axes.texts] == ["chance\n20 %"]
        assert axes.texts[0].xy[1] == 0.2


def test_chance_is_a_tick_a_roi_where_it_differs() -> None:
    # Catches the chance of the first ROI drawn for all, or that of the empty one.
    data = accuracy(chance=np.array([0.1, 0.9, 0.25, 0.5]))
    (axes,) = text_figure(data)[0].axes
    assert len(axes.lines) == 0
    _, ticks = segments(axes)
    np.testing.assert_allclose(ticks[:, 0, 1], [0.1, 0.25, 0.5], **TIGHT)
    np.testing.assert_allclose(ticks[:, :, 0].mean(axis=1), [0, 1, 2], **TIGHT)
    assert [text.get_text() for text in axes.texts] == ["chance"]


def test_the_share_elsewhere_is_drawn_where_it_is_known() -> None:
    # Catches the share of the wrong ROI, and a caption about marks that are not there.
    elsewhere = np.array([0.11, 0.99, 0.22, 0.33])
    figure, caption = text_figure(accuracy(elsewhere=elsewhere))
    (marks,) = [each for each in figure.axes[0].collections if isinstance(each, PathCollection)]
    places, heights = np.asarray(marks.get_offsets()).T
    np.testing.assert_allclose(heights, [0.11, 0.22, 0.33], **TIGHT)
    assert np.rint(places).tolist() == [0, 1, 2]
    assert "Diamonds" in caption
    figure, caption = text_figure(accuracy())
    assert not [each for each in figure.axes[0].collections if isinstance(each, PathCollection)]
    assert "Diamonds" not in caption


def test_a_bar_has_the_colour_of_its_category() -> None:
    # Catches colours in the order of the file; the category tells more than a name of one's own.
    plain = text_figure(accuracy())[0].axes[0].patches
    wanted = [group_colour(group).lower() for group in ("places", "faces", "bodies")]
    assert [to_hex(bar.get_facecolor()) for bar in plain] == wanted
    named = accuracy().assign_coords(category=("roi", ["food", "words", "words", "faces"]))
    bars = text_figure(named)[0].axes[0].patches
    wanted = [group_colour(group).lower() for group in ("food", "words", "faces")]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == wanted


def test_unknown_intervals_leave_the_bar() -> None:
    # Catches a ROI of one voxel, which cannot be resampled, taken for an empty one.
    data = accuracy(low=np.full(4, np.nan), high=np.full(4, np.nan))
    (axes,) = text_figure(data)[0].axes
    assert len(axes.patches) == 3
    png(axes.get_figure())


@pytest.mark.parametrize("count", [1, 9, 23])
def test_names_do_not_cover_each_other(count: int) -> None:
    # Catches long names side by side; turned ones are parallel, and one line high is enough.
    rois = tuple(f"a long name {index}" for index in range(count))
    figure, _ = text_figure(accuracy(rois))
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticklabels()
    turned = {text.get_rotation() for text in ticks}
    assert turned == ({0.0} if count == 1 else {60.0})
    boxes = [text.get_window_extent() for text in ticks]
    assert all(box.y0 >= 0 and box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    if count > 1:
        edges = np.diff([box.x1 for box in boxes])
        # Two lines of 8.5 points, at 60 degrees.
        assert edges.min() > 2 * 8.5 * figure.dpi / 72 / np.sin(np.pi / 3)


def test_names_are_never_formulas_and_the_picture_is_the_same_every_time() -> None:
    # Catches a ROI read as a formula (this one would not parse), and bytes that change.
    data = accuracy(("a", r"$\frac{$"))
    figure, _ = text_figure(data)
    assert figure.axes[0].get_xticklabels()[1].get_text() == "$\\frac{$\n1,207"
    assert png(figure) == png(text_figure(data)[0])
    figure.draw_without_rendering()


def test_tables_that_cannot_be_drawn_are_refused() -> None:
    # Catches shares in percent, and an empty picture.
    good = accuracy()
    with pytest.raises(InputError, match=r"needed: .*'low'"):
        text_figure(good.drop_vars("low"))
    with pytest.raises(InputError, match="of 0 ROIs"):
        text_figure(good.isel(roi=[]))
    with pytest.raises(InputError, match=r"holds \d\d\.\d+ in 'accuracy'"):
        text_figure(good.assign(accuracy=100 * good["accuracy"]))
    with pytest.raises(InputError, match=r"holds -0\.\d+ in 'low'"):
        text_figure(good.assign(low=good["low"] - 1))
    with pytest.raises(InputError, match="holds nan in 'chance'"):
        text_figure(accuracy(chance=np.full(4, np.nan)))
    with pytest.raises(InputError, match=r"'high' with dimensions \('roi', 'x'\)"):
        text_figure(good.assign(high=good["high"].expand_dims(x=2, axis=1)))
    with pytest.raises(InputError, match="NaN in all 1 ROIs"):
        text_figure(accuracy(("empty",)))


def test_what_category_accuracy_returns_can_be_drawn() -> None:
    # Catches names that only the tables of these tests have.
    values = xr.DataArray(
        np.random.default_rng(9).normal(size=(40, 3)),
        dims=("voxel", "category"),
        coords={"category": ["faces", "places", "food"]},
    )
    masks = xr.DataArray(
        [[True] * 20 + [False] * 20, [False] * 25 + [True] * 15, [False] * 40],
        dims=("roi", "voxel"),
        coords={"roi": ["FFA", "PPA", "food"]},
    )
    kinds = {"FFA": "faces", "PPA": "places", "food": "food"}
    made = category_accuracy(values, masks, kinds, resamples=50)
    figure, caption = text_figure(made)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    best = values.argmax("category").to_numpy()
    np.testing.assert_allclose(heights, [(best[:20] == 0).mean(), (best[25:] == 1).mean()], **TIGHT)
    assert "Diamonds" in caption
    assert caption.endswith("want of voxels: food.")

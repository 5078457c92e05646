"""The scaling figure: what is drawn is what the curve holds, at the lengths it was measured."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

from neuroattn.encoders import RidgeEncoder, scaling_curve
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from neuroattn.report import png, scaling_figure
from neuroattn.report.scaling_figures import _apart
from neuroattn.report.style import PALETTE
from tests.encoders.small import small_features, small_responses
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]
NAMES = ("ridge", "empirical Bayes", "in-context")
VIEWS = {"ridge": "flatten", "pooled": "mean"}
LENGTHS = (100, 10, 30)


def curve(names: tuple[str, ...] = NAMES, reference: str = "ridge", **attrs: object) -> xr.Dataset:
    """Every number differs from every other, lengths are in no order, intervals are lopsided."""
    rng = np.random.default_rng(4)
    shape = len(names), len(LENGTHS), 2
    mean, width = rng.random(shape), 0.1 + 0.1 * rng.random(shape)
    difference = mean - mean[list(names).index(reference)]
    columns = {
        "mean": mean,
        "low": mean - width,
        "high": mean + 2 * width,
        "difference": difference,
        "difference_low": difference - width / 2,
        "difference_high": difference + width / 3,
    }
    return xr.Dataset(
        {key: (("encoder", "length", "roi"), value) for key, value in columns.items()},
        coords={"encoder": list(names), "length": list(LENGTHS), "roi": ["FFA", "all"]},
        attrs={"reference": reference, "metric": "pearson", **attrs},
    )


def lines(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    kept = [line for line in axes.lines if not line.get_label().startswith("_")]
    return {str(line.get_label()): tuple(map(np.asarray, line.get_data())) for line in kept}


def labels(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("roi", ["FFA", "all"])
def test_lines_are_the_means_of_the_roi_at_the_real_lengths(roi: str) -> None:
    # Catches the mean of another ROI, lengths in the order of the file, and equidistant ticks.
    data = curve()
    figure, caption = scaling_figure(data, roi)
    axes = figure.axes[0]
    found = lines(axes)
    assert list(found) == list(NAMES)
    for name, (x, y) in found.items():
        assert x.tolist() == [10, 30, 100]
        wanted = data["mean"].sel(encoder=name, roi=roi, length=[10, 30, 100])
        np.testing.assert_allclose(y, wanted, **TIGHT)
    for each in figure.axes:
        assert each.get_xscale() == "log"
        assert each.get_xticks().tolist() == [10, 30, 100]
        assert [text.get_text() for text in each.get_xticklabels()] == ["10", "30", "100"]
        assert len(each.get_xticks(minor=True)) == 0
    assert axes.get_title(loc="left") == {"FFA": "FFA", "all": "all voxels"}[roi]
    assert f"over {'the voxels of FFA' if roi == 'FFA' else 'all voxels'}" in caption


def test_bands_end_at_the_intervals() -> None:
    # Catches symmetric bands, and a band around the line of another encoder.
    data = curve()
    axes = scaling_figure(data)[0].axes[0]
    bands = [each for each in axes.collections if len(each.get_facecolor())]
    assert len(bands) == len(NAMES)
    part = data.sel(roi="all", length=[10, 30, 100])
    for name, band, colour in zip(NAMES, bands, PALETTE, strict=False):
        assert to_hex(band.get_facecolor()[0]) == colour.lower()
        points = {(float(x), float(y)) for x, y in band.get_paths()[0].vertices}
        ends = [part[key].sel(encoder=name).to_numpy() for key in ("low", "high")]
        assert points == {
            (x, y) for end in ends for x, y in zip((10.0, 30.0, 100.0), end, strict=True)
        }


def test_differences_are_from_the_reference_with_their_intervals_and_a_zero_line() -> None:
    # Catches the reference drawn against itself, ends that are swapped, a missing zero line, and
    # intervals of one length that hide each other.
    data = curve(reference="empirical Bayes", level=0.9)
    figure, caption = scaling_figure(data, "FFA")
    axes = figure.axes[1]
    part = data.sel(roi="FFA", length=[10, 30, 100])
    found = lines(axes)
    assert list(found) == ["ridge", "in-context"]
    drawn = [np.array(each.get_segments()) for each in axes.collections]
    for (name, (x, y)), segments in zip(found.items(), drawn, strict=True):
        one = part.sel(encoder=name)
        np.testing.assert_allclose(y, one["difference"], **TIGHT)
        np.testing.assert_allclose(x, [10, 30, 100], rtol=0.15)
        np.testing.assert_allclose(segments[:, 0, 1], one["difference_low"], **TIGHT)
        np.testing.assert_allclose(segments[:, 1, 1], one["difference_high"], **TIGHT)
        np.testing.assert_allclose(segments[:, :, 0], np.stack([x, x], axis=1), **TIGHT)
    assert (found["ridge"][0] < found["in-context"][0]).all()
    zero = [line for line in axes.lines if np.all(np.asarray(line.get_ydata()) == 0)]
    assert len(zero) == 1
    assert axes.get_title(loc="left") == "minus empirical Bayes, same images"
    assert "minus empirical Bayes" in caption
    assert "90 % bootstrap" in caption


def test_an_encoder_has_one_colour_in_both_panels_and_in_its_labels() -> None:
    # Catches colours given anew in the second panel, where the reference is left out.
    figure, _ = scaling_figure(curve())
    for axes, names in zip(figure.axes, (NAMES, NAMES[1:]), strict=True):
        wanted = {name: PALETTE[NAMES.index(name)] for name in names}
        drawn = [line for line in axes.lines if not line.get_label().startswith("_")]
        assert {line.get_label(): line.get_color() for line in drawn} == wanted
        assert {text.get_text(): text.get_color() for text in labels(axes)} == wanted


def test_labels_stand_apart_in_the_order_of_the_lines_and_inside_the_picture() -> None:
    # Catches names on top of each other where lines meet, and names cut at the edge.
    names = tuple(f"encoder with the number {index}" for index in range(8))
    data = curve(names, names[3])
    level = 0.5 + 1e-4 * np.arange(8)[::-1, None, None]
    data["mean"][:] = np.broadcast_to(level, data["mean"].shape)
    data["difference"][:] = data["mean"].to_numpy() - level[3]
    figure, _ = scaling_figure(data)
    figure.draw_without_rendering()
    for axes, count in zip(figure.axes, (8, 7), strict=True):
        texts = labels(axes)
        # The box of the words alone: an annotation's own holds its leader too.
        boxes = [Text.get_window_extent(text) for text in texts]
        assert len(boxes) == count
        assert all(upper.y0 >= lower.y1 - 2 for upper, lower in pairwise(boxes))
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
        assert all(box.x0 > axes.bbox.x1 for box in boxes)
    # Those of the first panel must not run into the second.
    first = max(Text.get_window_extent(text).x1 for text in labels(figure.axes[0]))
    assert first < figure.axes[1].get_tightbbox().x0


def test_labels_point_to_the_last_score_of_their_line() -> None:
    # Catches a leader to the score of the first length, or to one that is missing.
    data = curve()
    data["mean"].loc[{"encoder": "in-context", "length": 100}] = np.nan
    axes = scaling_figure(data)[0].axes[0]
    ends = {text.get_text(): text.xy for text in labels(axes)}
    assert ends["ridge"] == (100, float(data["mean"].sel(encoder="ridge", length=100, roi="all")))
    last = float(data["mean"].sel(encoder="in-context", length=30, roi="all"))
    assert ends["in-context"] == (30, last)


def test_a_length_that_stands_alone_shows_its_interval() -> None:
    # Catches a band of no width, which cannot be seen.
    data = curve()
    lonely = {"encoder": "ridge", "length": 30}
    for key in ("mean", "low", "high"):
        data[key].loc[lonely] = np.nan
    axes = scaling_figure(data)[0].axes[0]
    segments = [
        np.array(s)
        for c in axes.collections
        if not len(c.get_facecolor())
        for s in c.get_segments()
    ]
    part = data.sel(encoder="ridge", roi="all")
    wanted = [[[x, part[end].sel(length=x)] for end in ("low", "high")] for x in (10, 100)]
    np.testing.assert_allclose(segments, np.array(wanted, dtype=float), **TIGHT)


def test_labels_are_moved_as_little_as_possible() -> None:
    # Catches labels pushed only one way: closed forms of two that meet, and of one at each edge.
    half = np.full(2, 0.5)
    np.testing.assert_allclose(_apart(half, np.array([0.2, 0.2])), [0.4, 0.6], **TIGHT)
    np.testing.assert_allclose(_apart(half, np.array([0.2, 0.4])), [0.35, 0.65], **TIGHT)
    np.testing.assert_allclose(_apart(half * 0, np.array([0.2, 0.2])), [0.1, 0.3], **TIGHT)
    np.testing.assert_allclose(_apart(half * 2, np.array([0.2, 0.2])), [0.7, 0.9], **TIGHT)
    far = np.array([0.9, 0.1, 0.5])
    np.testing.assert_allclose(_apart(far, np.full(3, 0.1)), far, **TIGHT)
    swapped = _apart(np.array([0.52, 0.5]), np.array([0.2, 0.2]))
    np.testing.assert_allclose(swapped, [0.61, 0.41], **TIGHT)


def test_the_reference_alone_has_no_second_panel() -> None:
    # Catches an empty panel, and a caption that tells of it.
    figure, caption = scaling_figure(curve(("ridge",)))
    assert len(figure.axes) == 1
    assert "minus" not in caption
    assert list(lines(figure.axes[0])) == ["ridge"]


def test_the_axis_says_the_units() -> None:
    # Catches raw scores under the name of normalised ones.
    for units, wanted in {"raw": "Pearson r", "normalised": "Pearson r / ceiling"}.items():
        first, second = scaling_figure(curve(units=units))[0].axes
        assert first.get_ylabel() == wanted
        assert second.get_ylabel() == f"difference in {wanted}"
    assert scaling_figure(curve())[0].axes[0].get_ylabel() == "Pearson r"


def test_the_caption_tells_of_several_draws() -> None:
    # Catches a mean over contexts that passes for the score of one.
    assert "mean of 3 draws" in scaling_figure(curve(draws=3))[1]
    assert "draws" not in scaling_figure(curve(draws=1))[1]


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [([1000, 700, 10], ["10", "700", "1,000"]), ([1000, 950, 10], ["10", "", "1,000"])],
)
def test_crowded_lengths_are_turned_or_keep_their_tick_only(
    lengths: list[int], shown: list[str]
) -> None:
    # Catches numbers printed over each other.
    figure, _ = scaling_figure(curve().assign_coords(length=lengths))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_xticks().tolist() == sorted(lengths)
        ticks = axes.get_xticklabels()
        assert [text.get_text() for text in ticks] == shown
        boxes = [text.get_window_extent() for text in ticks if text.get_text()]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def test_names_are_never_formulas() -> None:
    # Catches names read as formulas; this one would not even parse.
    name = r"a $\frac{$ b"
    data = curve((name, "plain"), name).assign_coords(roi=[name, "all"])
    figure, caption = scaling_figure(data, name)
    first, second = (png(each) for each in (figure, scaling_figure(data, name)[0]))
    assert first == second
    assert figure.axes[0].get_title(loc="left") == name
    assert labels(figure.axes[0])[0].get_text() == name
    assert name in caption
    # Also when somebody draws it elsewhere, without the settings of the report.
    figure.draw_without_rendering()


def test_curves_that_cannot_be_drawn_are_refused() -> None:
    # Catches errors of a plotting library where the input was wrong.
    good = curve()
    with pytest.raises(UnknownNameError, match="roi='FFa' is unknown; did you mean 'FFA'"):
        scaling_figure(good, "FFa")
    with pytest.raises(InputError, match="curve holds 'high' with dimensions"):
        scaling_figure(good.drop_vars("high"))
    with pytest.raises(InputError, match=r"'low' with dimensions \('encoder', 'length'\)"):
        scaling_figure(good.assign(low=good["low"].isel(roi=0)))
    with pytest.raises(MismatchError, match="reference 'lasso', which is not among"):
        scaling_figure(good.assign_attrs(reference="lasso"))
    for lengths in ([10, 10, 30], [0, 10, 30]):
        with pytest.raises(InputError, match="1 or more, each once"):
            scaling_figure(good.assign_coords(length=lengths))
    with pytest.raises(InputError, match="no finite score in the ROI 'FFA'"):
        scaling_figure(good.where(good["roi"] == "all"), "FFA")


def test_the_order_of_dimensions_does_not_matter() -> None:
    # Catches lengths drawn as encoders.
    data = curve()
    first, second = (png(scaling_figure(each)[0]) for each in (data, data.transpose("roi", ...)))
    turned = png(scaling_figure(data.transpose("length", "roi", "encoder"))[0])
    assert first == second == turned


def test_what_scaling_curve_returns_can_be_drawn(tmp_path: Path) -> None:
    # Catches names and attributes that only the curves of these tests have, also after a file.
    features = small_features(images=40)
    context, test = (small_responses(features, range(*ends)) for ends in ((0, 20), (20, 40)))
    encoders = {name: RidgeEncoder(view=view, folds=2) for name, view in VIEWS.items()}
    lengths = (8, 20)
    made = scaling_curve(encoders, features, context, test, lengths, draws=2, resamples=20)
    made.to_netcdf(tmp_path / "curve.nc")
    with xr.open_dataset(tmp_path / "curve.nc") as read:
        for data in (made, read):
            figure, caption = scaling_figure(data)
            for name, (x, y) in lines(figure.axes[0]).items():
                assert x.tolist() == [8, 20]
                np.testing.assert_allclose(y, made["mean"].sel(encoder=name, roi="all"), **TIGHT)
            assert list(lines(figure.axes[1])) == ["pooled"]
            assert "mean of 2 draws" in caption

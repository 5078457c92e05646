"""Pictures of attention: colour where the query looks, an outline where the object is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.errors import InputError, MismatchError
from neuroattn.report import attention_figure, png


def attention(values: np.ndarray) -> xr.DataArray:
    names = [f"q{index}" for index in range(values.shape[1])]
    dims = ("image", "query", "head", "row", "column")
    return xr.DataArray(values, dims=dims, coords={"query": names})


def corner_maps() -> xr.DataArray:
    """Head 0 looks at the top left token, head 1 at the bottom right one."""
    maps = np.zeros((1, 1, 2, 3, 3))
    maps[0, 0, 0, 0, 0] = 1
    maps[0, 0, 1, 2, 2] = 1
    return attention(maps)


def drawn(figure: object, column: int) -> np.ndarray:
    return np.asarray(figure.axes[column].images[0].get_array())  # type: ignore[attr-defined]


PICTURE = np.full((31, 21, 3), 128, np.uint8)


@pytest.mark.parametrize(("head", "here", "there"), [(0, (2, 2), (-3, -3)), (1, (-3, -3), (2, 2))])
def test_colour_is_where_the_chosen_head_looks(
    head: int, here: tuple[int, int], there: tuple[int, int]
) -> None:
    # Catches flipped maps, rows and columns that change places, and the wrong head.
    shown = drawn(attention_figure([PICTURE], corner_maps(), heads={"q0": head}), 1).astype(int)
    assert shown.shape == PICTURE.shape
    assert np.ptp(shown[here]) > 60
    assert np.ptp(shown[there]) <= 2


def test_without_a_chosen_head_the_mean_of_all_is_drawn() -> None:
    # Catches the first head passing for the mean.
    figure = attention_figure([PICTURE], corner_maps())
    shown = drawn(figure, 1).astype(int)
    assert np.ptp(shown[2, 2]) > 60
    assert np.ptp(shown[-3, -3]) > 60
    assert figure.axes[1].get_title() == "q0\nmean of heads"
    np.testing.assert_array_equal(drawn(figure, 0), PICTURE)


def test_the_true_object_is_outlined_also_at_the_edge_of_the_image() -> None:
    # Catches an outline that is shifted, or open where the object touches the border.
    mask = np.zeros((1, 31, 21), bool)
    mask[0, :10, 5:15] = True
    figure = attention_figure([PICTURE], corner_maps(), masks={"q0": mask})
    (outline,) = figure.axes[1].collections
    (path,) = outline.get_paths()
    low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
    np.testing.assert_allclose([*low, *high], [4.5, -0.5, 14.5, 9.5], atol=0.01)
    assert len(figure.axes[0].collections) == 0


def test_an_absent_object_has_no_outline() -> None:
    # Catches the warning of an empty contour, which is an error in these tests.
    figure = attention_figure([PICTURE], corner_maps(), {"q0": np.zeros((1, 31, 21), bool)})
    assert len(figure.axes[1].collections) == 0


def test_images_of_different_sizes_share_a_figure_that_is_the_same_every_time() -> None:
    # Catches stacking of images, and bytes that change from run to run.
    maps = attention(np.random.default_rng(0).random((2, 3, 2, 3, 3)))
    images = [PICTURE, np.zeros((8, 9, 3), np.uint8)]
    first, second = (png(attention_figure(images, maps)) for _ in range(2))
    assert first == second
    assert len(attention_figure(images, maps).axes) == 8


def test_counts_that_do_not_fit_are_refused() -> None:
    # Catches images under the maps of others, and figures of a thousand rows.
    with pytest.raises(MismatchError, match="images are 2, attention is of 1"):
        attention_figure([PICTURE] * 2, corner_maps())
    with pytest.raises(MismatchError, match="mask of 'q0' has 2 images"):
        attention_figure([PICTURE], corner_maps(), {"q0": np.ones((2, 31, 21), bool)})
    many = attention(np.ones((49, 1, 1, 2, 2)))
    with pytest.raises(InputError, match="49 images and 1 queries"):
        attention_figure([PICTURE] * 49, many)

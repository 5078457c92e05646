"""Attention inside objects: closed forms of the ratio, and coverage by area."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.errors import InputError, MismatchError
from neuroattn.report import attention_mass, best_heads, query_masks, token_coverage
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]


def maps(values: np.ndarray, queries: tuple[str, ...] = ("FFA",)) -> xr.DataArray:
    dims = ("image", "query", "head", "row", "column")
    return xr.DataArray(values, dims=dims, coords={"query": list(queries)})


def test_coverage_of_a_grid_that_does_not_divide_the_image_is_by_area() -> None:
    # Catches pixels given whole to one token: 5 pixels on 2 tokens share the middle one.
    mask = np.zeros((5, 3), bool)
    mask[2] = True
    np.testing.assert_allclose(token_coverage(mask, (2, 1)), [[0.2], [0.2]], **TIGHT)
    mask[:] = False
    mask[:3, 0] = True
    np.testing.assert_allclose(token_coverage(mask, (2, 3)), [[1, 0, 0], [0.2, 0, 0]], **TIGHT)


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (1, 1), (20, 13)])
def test_mean_coverage_is_the_covered_part_of_the_image(grid: tuple[int, int]) -> None:
    # Catches rows and columns that change places, and area that is lost on borders.
    masks = np.random.default_rng(0).random((4, 11, 13)) < 0.3
    found = token_coverage(masks, grid)
    assert found.shape == (4, *grid)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), masks.mean(axis=(1, 2)), **TIGHT)


def test_coverage_equals_counting_pixels_on_a_fine_grid() -> None:
    # Catches wrong overlap weights: the oracle repeats pixels until tokens and pixels align.
    mask = np.random.default_rng(1).random((7, 5)) < 0.5
    fine = np.kron(mask, np.ones((3, 4)))
    expected = fine.reshape(3, 7, 4, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(token_coverage(mask, (3, 4)), expected, **TIGHT)


def test_uniform_attention_has_ratio_one_exactly() -> None:
    # Catches a baseline that is not the mass of a uniform map.
    masks = np.random.default_rng(2).random((6, 9, 11)) < 0.2
    found = attention_mass(maps(np.full((6, 1, 2, 3, 4), 1 / 12)), {"FFA": masks})
    np.testing.assert_allclose(found["ratio"].values, np.ones((1, 2)), **TIGHT)


def test_attention_inside_the_object_has_one_over_the_covered_fraction() -> None:
    # Catches a ratio that is not inside over uniform.
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:4, 4:6] = True
    attention = np.zeros((1, 1, 1, 4, 4))
    attention[0, 0, 0, 1, 2] = 1
    found = attention_mass(maps(attention), {"FFA": mask})
    np.testing.assert_allclose(found["ratio"].values, [[16.0]], **TIGHT)
    np.testing.assert_allclose(found["uniform"].values, [1 / 16], **TIGHT)


def test_ratio_is_of_means_over_images_that_show_the_object() -> None:
    # Catches absent images in the mean, and the mean of ratios (which would be 34 here).
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :4] = True
    masks[2, 0, 0] = True
    attention = np.full((3, 1, 1, 8, 8), 1 / 64)
    attention[0, 0, 0] = 0
    attention[0, 0, 0, 1, 1] = 5.0
    attention[2, 0, 0] = 0
    attention[2, 0, 0, 0, 0] = 1.0
    found = attention_mass(maps(attention), {"FFA": masks})
    assert found["images"].values.tolist() == [2]
    np.testing.assert_allclose(found["inside"].values, [[1.0]], **TIGHT)
    np.testing.assert_allclose(found["ratio"].values, [[1 / ((0.5 + 1 / 64) / 2)]], **TIGHT)


def test_each_query_is_held_against_its_own_mask() -> None:
    # Catches masks taken in the order of the queries instead of by name.
    top, bottom = np.zeros((2, 1, 4, 4), bool)
    top[0, :2], bottom[0, 2:] = True, True
    attention = np.zeros((1, 2, 1, 2, 2))
    attention[0, 0, 0, 0], attention[0, 1, 0, 1] = 0.5, 0.5
    found = attention_mass(maps(attention, ("up", "down")), {"down": bottom, "up": top})
    assert found["query"].values.tolist() == ["down", "up"]
    np.testing.assert_allclose(found["ratio"].values, [[2.0], [2.0]], **TIGHT)


def test_an_object_that_is_never_there_gives_nan_and_no_best_head() -> None:
    # Catches 0 / 0 reported as a number.
    uniform = maps(np.full((2, 2, 3, 2, 2), 0.25), ("FFA", "PPA"))
    shown = np.ones((2, 4, 4), bool)
    found = attention_mass(uniform, {"FFA": np.zeros((2, 4, 4), bool), "PPA": shown})
    assert np.isnan(found["ratio"].values[0]).all()
    assert best_heads(found) == {"PPA": 0}


def test_best_head_is_the_one_with_the_largest_ratio() -> None:
    # Catches argmin, and a label where a position is meant.
    mass = xr.Dataset({"ratio": (("query", "head"), [[1.0, 3.0, 2.0]])}, coords={"query": ["q"]})
    assert best_heads(mass) == {"q": 1}


def test_queries_of_hemispheres_and_subjects_find_their_roi() -> None:
    # Catches "mFFA" taken for "FFA", and a shorter name taken before a longer one.
    face, other = np.ones((1, 2, 2), bool), np.zeros((1, 2, 2), bool)
    names = ("FFA", "left FFA", "sub-01 right FFA", "mFFA", "left V1")
    found = query_masks(names, {"FFA": face, "right FFA": other})
    assert list(found) == ["FFA", "left FFA", "sub-01 right FFA"]
    assert found["sub-01 right FFA"] is other


def test_wrong_input_is_refused_with_what_came() -> None:
    # Catches numbers made from signed weights, or from masks of other images.
    good = np.full((2, 1, 1, 2, 2), 0.25)
    mask = np.ones((2, 4, 4), bool)
    negative = good.copy()
    negative[0, 0, 0, 0, 0] = -0.1
    with pytest.raises(InputError, match=r"goes from -0\.1 to 0\.25"):
        attention_mass(maps(negative), {"FFA": mask})
    with pytest.raises(InputError, match="not all zero"):
        attention_mass(maps(good * 0), {"FFA": mask})
    with pytest.raises(MismatchError, match="mask of 'FFA' has 3 images, attention 2"):
        attention_mass(maps(good), {"FFA": np.ones((3, 4, 4), bool)})
    with pytest.raises(MismatchError, match="masks name the query 'EBA'"):
        attention_mass(maps(good), {"EBA": mask})
    with pytest.raises(InputError, match="float64 of shape"):
        attention_mass(maps(good), {"FFA": mask.astype(float)})
    with pytest.raises(InputError, match="attention has dimensions"):
        attention_mass(maps(good).transpose("query", ...), {"FFA": mask})

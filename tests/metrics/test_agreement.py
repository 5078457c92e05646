from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.errors import MismatchError
from neuroattn.metrics.agreement import check_same, coordinates, no_rois, normaliser


def test_the_first_difference_is_named():
    # Catches a message that prints the two values the wrong way round or the wrong place.
    mine = xr.DataArray(np.zeros(3), {"image": ["a", "b", "c"]}, "image")
    theirs = xr.DataArray(np.zeros(3), {"image": ["a", "x", "c"]}, "image")
    with pytest.raises(MismatchError, match=r"guess and response differ in image.*1: x and b"):
        check_same(mine, theirs, "guess")
    check_same(mine, mine, "guess")
    check_same(mine, xr.DataArray(np.zeros(3), dims="image"), "guess")


def test_a_ceiling_at_the_threshold_is_kept():
    # Catches > in place of >=, 0 in place of NaN, and r divided by a share of variance.
    limits = np.array([0.25, 0.2499, np.nan, 1.0])
    np.testing.assert_array_equal(normaliser("r2", limits, 0.25), [4, np.nan, np.nan, 1])
    np.testing.assert_array_equal(normaliser("pearson", limits, 0.25), [2, np.nan, np.nan, 1])


def test_coordinates_of_images_and_voxels_are_kept_and_others_are_not():
    # Catches scalar coordinates (a subject that was selected) that break the dataset.
    response = xr.DataArray(
        np.zeros((2, 3)),
        {"image": ["a", "b"], "vertex": ("voxel", [4, 5, 6]), "repeats": ("image", [1, 2]), "s": 1},
        ("image", "voxel"),
    )
    kept = coordinates(response, no_rois(3))
    assert sorted(kept) == ["image", "roi", "vertex"]
    assert kept["roi"][1].shape == (0,)

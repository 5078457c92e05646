"""Alignment by image id, and what is asked of features and responses."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.encoders.base import align
from neuroattn.encoders.inputs import ceiling_of, check_finite, describe_features, voxel_table
from neuroattn.errors import InputError, MismatchError
from tests.encoders.small import small_features, small_responses

FEATURES = small_features()


def test_presentations_find_their_rows_by_image_id():
    # Catches alignment by position, and repeats that are lost.
    responses = small_responses(FEATURES, [3, 0, 39, 3])
    assert align(FEATURES, responses).tolist() == [3, 0, 39, 3]
    turned = FEATURES.isel(image=slice(None, None, -1))
    assert align(turned, responses).tolist() == [36, 39, 0, 36]


def test_ids_match_whatever_kind_of_text_they_are():
    # Catches features read from disk (object text) that match nothing.
    responses = small_responses(FEATURES, [1, 2])
    stored = FEATURES.assign_coords(image=FEATURES["image"].values.astype(object))
    assert align(stored, responses).tolist() == [1, 2]


def test_images_without_features_are_named_and_counted():
    # Catches an index of -1 that silently reads the last image.
    responses = small_responses(FEATURES, [8, 2, 8, 9, 10, 11, 12, 13, 1])
    with pytest.raises(MismatchError, match=r"6 of 8 images .*\['im8', 'im9'.*'im12'\].* 5 images"):
        align(FEATURES.isel(image=slice(5)), responses)


def test_an_id_that_occurs_twice_in_the_features_is_refused():
    # Catches an ambiguous look-up.
    twice = xr.concat([FEATURES, FEATURES.isel(image=[4])], "image")
    with pytest.raises(InputError, match=r"1 image ids more than once.*im4"):
        align(twice, small_responses(FEATURES, [1]))


@pytest.mark.parametrize("dim", ["presentation", "voxel"])
def test_empty_responses_are_refused(dim):
    # Catches a fit of nothing, which would fail somewhere deep.
    with pytest.raises(InputError, match="nothing to work on"):
        align(FEATURES, small_responses(FEATURES, [1]).isel({dim: []}))


def test_values_are_checked_in_every_block():
    # Catches a check that sees the first block only.
    responses = small_responses(FEATURES, [1] * 9)
    check_finite(responses, block=2)
    responses["response"].values[[0, 8, 8], [3, 3, 5]] = np.nan
    with pytest.raises(InputError, match=r"3 values .* in 2 of 7 .*voxel 3"):
        check_finite(responses, block=2)


def test_features_without_a_key_are_refused():
    # Catches features made by hand, for which nobody could check the basis later.
    with pytest.raises(InputError, match="needed: tokens"):
        describe_features(FEATURES.drop_attrs())
    with pytest.raises(InputError, match="needed: tokens"):
        describe_features(FEATURES.drop_vars("tokens"))


def test_the_voxel_table_leaves_presentations_behind():
    # Catches a table that keeps the responses alive in memory.
    table = voxel_table(small_responses(FEATURES, [1, 2]))
    assert dict(table.sizes) == {"voxel": 7, "roi": 3}
    assert set(table.coords) == {"subject", "hemisphere", "vertex", "roi"}


def test_an_unknown_ceiling_is_nan():
    # Catches a default ceiling.
    responses = small_responses(FEATURES, [1, 2])
    np.testing.assert_array_equal(ceiling_of(responses), np.full(7, np.nan))

"""A voxel set holds what the responses and features say, in one order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.voxel_set import voxel_set
from neuroattn.errors import InputError, MismatchError
from tests.encoders.small import VOXELS, small_features, small_responses
from tests.tolerances import TOLERANCE

FEATURES = small_features()
EMBEDDING = fit_embedding(EmbeddingConfig(normalise=False), FEATURES, ["im0"])
SHOWN = [31, 4, 17, 4, 31, 31]


def test_rows_of_images_responses_and_ids_belong_together():
    # Catches images sorted by id while responses keep the order of the session.
    responses = small_responses(FEATURES, SHOWN)
    found = voxel_set(EMBEDDING, FEATURES, average_repetitions(responses))
    assert found.images == ("im31", "im4", "im17")
    mean = FEATURES["tokens"].values.mean(1, dtype=float)
    np.testing.assert_allclose(found.embedded, mean[[31, 4, 17]], **TOLERANCE["float32"])
    raw = responses["response"].values.astype(float)
    expected = [raw[[0, 4, 5]].mean(0), raw[[1, 3]].mean(0), raw[2]]
    np.testing.assert_allclose(found.response, expected, **TOLERANCE["float32"])
    assert found.embedded.dtype == found.response.dtype == torch.float32


def test_voxels_keep_their_places_and_rois_and_lose_the_images():
    # Catches a table that drops what the group average and the maps need.
    responses = small_responses(FEATURES, SHOWN)
    table = voxel_set(EMBEDDING, FEATURES, average_repetitions(responses)).voxels
    assert set(table.dims) == {"voxel", "roi"}
    for name in ("subject", "hemisphere", "vertex"):
        np.testing.assert_array_equal(table[name], responses[name])
    np.testing.assert_array_equal(table["roi_mask"], responses["roi_mask"])
    assert table.attrs["space"] == "fsaverage"


def test_images_without_features_and_no_images_are_refused():
    # Catches rows taken from the end by index -1.
    averaged = average_repetitions(small_responses(FEATURES, SHOWN))
    with pytest.raises(MismatchError, match=r"2 of 3 images have no features .*'im31', 'im17'"):
        voxel_set(EMBEDDING, FEATURES.isel(image=slice(0, 10)), averaged)
    with pytest.raises(InputError, match="0 presentations"):
        voxel_set(EMBEDDING, FEATURES, averaged.isel(presentation=[]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_with_the_image(value):
    # Catches NaN that reaches every weight of every voxel; other images' features may be broken.
    averaged = average_repetitions(small_responses(FEATURES, SHOWN))
    broken = FEATURES.copy(deep=True)
    broken["tokens"][5, 1, 2] = value
    assert voxel_set(EMBEDDING, broken, averaged).response.shape == (3, VOXELS)
    broken["tokens"][17, 1, 2] = value
    with pytest.raises(InputError, match=r"1 of 3 images hold NaN or infinity \(first: 'im17'\)"):
        voxel_set(EMBEDDING, broken, averaged)

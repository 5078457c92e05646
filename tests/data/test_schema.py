"""The builder, the counts and the removal of voxels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.rules import validate
from neuroattn.data.schema import (
    count_repetitions,
    describe,
    drop_unusable_voxels,
    response_set,
    voxel_blocks,
)
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.data.layouts import small_set


def test_the_builder_labels_every_presentation_and_voxel() -> None:
    # Catches labels that land on the wrong axis, and float64 that slips through.
    data = small_set()
    assert data["response"].dtype == np.float32
    assert data["response"].dims == ("presentation", "voxel")
    assert data["image"].values.tolist()[:5] == ["img-a", "img-b", "img-c", "img-d", "img-a"]
    assert data["subject"].values.tolist() == ["s1"] * 5
    assert data["roi_mask"].sel(roi="ventral").values.tolist() == [False, False, True, True, True]
    assert np.isnan(data.attrs["tr"])


def test_repetitions_are_counted_from_zero_in_the_order_of_showing() -> None:
    # Catches counting in sorted order or from one.
    images = ["b", "a", "b", "b", "a", "c"]
    assert count_repetitions(images).tolist() == [0, 0, 1, 2, 1, 0]
    assert count_repetitions([]).tolist() == []


def test_repetitions_match_a_brute_force_count() -> None:
    # Catches a mistake in the sorting that short lists hide.
    images = np.random.default_rng(0).integers(0, 17, 203).astype(str)
    expected = [int((images[:n] == images[n]).sum()) for n in range(len(images))]
    assert count_repetitions(images).tolist() == expected


def test_a_set_without_rois_and_without_places_is_valid() -> None:
    # Catches code that needs a ROI or a vertex where the space is "none".
    data = response_set(
        np.eye(3), presentation={"image": list("abc")}, voxel={"subject": "s", "hemisphere": "both"}
    )
    assert data.sizes["roi"] == 0
    assert validate(data) is data


def test_numpy_attributes_become_plain_data() -> None:
    # Catches an affine that JSON cannot hold.
    data = small_set(attrs={**small_set().attrs, "affine": np.eye(4).ravel(), "n": np.int64(3)})
    assert data.attrs["affine"] == np.eye(4).ravel().tolist()
    assert type(data.attrs["n"]) is int


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"response": np.zeros(4)}, InputError, ["response", "(4,)"]),
        ({"presentation": {"image": ["a"] * 3}}, MismatchError, ["image", "(3,)", "9 present"]),
        ({"roi": {"V1": np.ones(4, bool)}}, MismatchError, ["V1", "(4,)", "5 voxels"]),
        ({"roi": {"V1": np.ones(5)}}, InputError, ["V1", "float64", "bool"]),
        ({"ncsnr": np.ones(2)}, MismatchError, ["ncsnr", "(2,)"]),
        ({"voxel": {"subjekt": "s"}}, UnknownNameError, ["subjekt", "did you mean 'subject'"]),
        ({"presentation": {"images": ["a"]}}, UnknownNameError, ["did you mean 'image'"]),
        ({"presentation": {}}, InputError, ["coordinate image"]),
    ],
)
def test_the_builder_says_which_argument_does_not_fit(changes, error, words) -> None:
    # Catches numpy's own broadcasting messages reaching the user.
    with pytest.raises(error) as caught:
        small_set(**changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def _spoiled() -> xr.Dataset:
    data = small_set()
    values = data["response"].values
    values[2, 1] = np.nan
    values[:, 3] = 0.1
    values[:, 4] = 0.3
    values[5, 4] = np.nan
    return data


def test_describe_counts_nan_and_constant_voxels_once() -> None:
    # Catches a voxel of NaN and a constant being counted twice.
    counts = describe(_spoiled())
    assert counts == {
        "presentations": 9,
        "images": 4,
        "subjects": 1,
        "sessions": 2,
        "voxels": 5,
        "nan_voxels": 2,
        "constant_voxels": 1,
        "rois": 3,
        "empty_rois": 1,
    }


def test_unusable_voxels_go_with_their_labels_and_are_counted() -> None:
    # Catches a mask that is applied to the response but not to vertices and ROIs.
    data = _spoiled()
    kept, counts = drop_unusable_voxels(data)
    assert counts == {"voxels": 5, "nan_voxels": 2, "constant_voxels": 1, "kept": 2}
    assert kept["vertex"].values.tolist() == data["vertex"].values[[0, 2]].tolist()
    assert kept["roi_mask"].sel(roi="ventral").values.tolist() == [False, True]
    np.testing.assert_array_equal(kept["response"], data["response"].values[:, [0, 2]])
    validate(kept)


def test_a_set_in_which_no_voxel_is_usable_is_refused_with_the_counts() -> None:
    # Catches an empty set that goes on to a fit.
    data = small_set(response=np.ones((9, 5)))
    with pytest.raises(InputError, match=r"none of the 5 voxels.*0 hold NaN, 5 are constant"):
        drop_unusable_voxels(data)


def test_blocks_of_voxels_cover_each_voxel_once(monkeypatch) -> None:
    # Catches a last block that is left out.
    monkeypatch.setattr("neuroattn.data.schema._BLOCK_BYTES", 4 * 9 * 2)
    data = small_set()
    blocks = list(voxel_blocks(data))
    assert [block.stop - block.start for block, _ in blocks] == [2, 2, 1]
    joined = np.concatenate([values for _, values in blocks], axis=1)
    np.testing.assert_array_equal(joined, data["response"].values)

"""Which query a voxel reads, for ROIs that overlap, are empty or leave voxels over."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.schema import response_set
from neuroattn.encoders.queries import QueryMap, query_map
from neuroattn.errors import InputError, UnknownNameError


def responses(hemisphere, subject="s1", roi=None, images=40, values=None):
    hemisphere = np.asarray(hemisphere)
    draw = np.random.default_rng(0)
    if values is None:
        values = draw.normal(size=(images, len(hemisphere)))
    return response_set(
        values,
        presentation={"image": [f"im{i}" for i in range(len(values))]},
        voxel={"subject": subject, "hemisphere": hemisphere},
        roi={name: np.isin(np.arange(len(hemisphere)), v) for name, v in (roi or {}).items()},
    )


def members(found: QueryMap) -> dict[str, list[int]]:
    return {name: found.voxel[found.query == q].tolist() for q, name in enumerate(found.names)}


SIDES = ["left", "right", "left", "left", "right", "right", "left"]


def test_each_roi_of_each_hemisphere_has_a_query_and_the_rest_has_one():
    # Catches lost overlaps, queries without voxels, and voxels without a query.
    found = query_map(responses(SIDES, roi={"A": [0, 1, 2], "B": [2, 3], "none": []}), "roi")
    assert members(found) == {
        "left A": [0, 2],
        "left B": [2, 3],
        "left rest": [6],
        "right A": [1],
        "right rest": [4, 5],
    }


def test_memberships_are_sorted_by_query_and_then_by_voxel():
    # Catches an order that the readout's views do not expect.
    found = query_map(responses(SIDES, roi={"A": [6, 0, 1], "B": [2, 0, 5]}), "roi")
    order = np.lexsort((found.voxel, found.query))
    np.testing.assert_array_equal(order, np.arange(len(found.voxel)))
    assert found.voxel.dtype == found.query.dtype == np.int64
    assert set(found.voxel) == set(range(7))


def test_without_rois_every_voxel_is_of_the_rest():
    # Catches an empty table of ROIs taken for "no voxel".
    assert members(query_map(responses(SIDES), "roi")) == {
        "left rest": [0, 2, 3, 6],
        "right rest": [1, 4, 5],
    }


def test_where_rois_cover_everything_there_is_no_rest():
    # Catches a query that nobody reads and that is trained by nothing.
    assert query_map(responses(["both"] * 3, roi={"A": [0, 1, 2]}), "roi").names == ("both A",)


def test_an_roi_that_is_called_rest_keeps_its_voxels():
    # Catches a clash of names that leaves voxels without a query.
    found = query_map(responses(["left"] * 4, roi={"rest": [1], "A": [1, 2]}), "roi")
    assert members(found) == {"left rest": [0, 1, 3], "left A": [1, 2]}


def test_subjects_do_not_share_queries():
    # Catches one query for the FFA of several brains.
    subject = ["s1", "s2", "s1", "s2", "s1", "s2", "s1"]
    found = query_map(responses(SIDES, subject, roi={"A": [0, 1, 2, 3]}), "roi")
    assert members(found) == {
        "s1 left A": [0, 2],
        "s1 left rest": [6],
        "s1 right rest": [4],
        "s2 left A": [3],
        "s2 right A": [1],
        "s2 right rest": [5],
    }
    names = query_map(responses(SIDES, subject), "hemisphere").names
    assert names == ("s1 left", "s1 right", "s2 left", "s2 right")


def test_hemisphere_queries_ignore_rois():
    # Catches several memberships where one was asked for.
    found = query_map(responses(SIDES, roi={"A": [0, 1], "B": [0]}), "hemisphere")
    assert members(found) == {"left": [0, 2, 3, 6], "right": [1, 4, 5]}


def test_voxel_queries_are_one_each():
    # Catches an order that differs from the voxels'.
    found = query_map(responses(SIDES), "voxel")
    np.testing.assert_array_equal(found.voxel, np.arange(7))
    np.testing.assert_array_equal(found.query, np.arange(7))
    assert len(set(found.names)) == 7


@pytest.mark.parametrize("parcels", [2, 3, 9, 20, 59, 60])
def test_parcels_are_exactly_as_many_as_asked(parcels):
    # Catches rounding per hemisphere, and clusters that k-means leaves empty.
    sides = np.array(["left"] * 41 + ["right"] * 19)
    found = query_map(responses(sides), "parcel", parcels)
    assert len(found.names) == len(set(found.names)) == parcels
    assert sorted(found.voxel.tolist()) == list(range(60))
    assert set(found.query) == set(range(parcels))
    for name, voxels in members(found).items():
        assert set(sides[voxels]) == {name.split()[0]}
    left = sum(name.startswith("left") for name in found.names)
    assert abs(left - parcels * 41 / 60) <= 1


@pytest.mark.parametrize("parcels", [12, 14, 18])
def test_parcels_are_shared_when_some_hemispheres_are_tiny(parcels):
    # Catches negative shares, and more clusters than voxels: three big brains, nine of one voxel.
    sizes = [3, 3, 3, *[1] * 9]
    subject = np.repeat([f"s{i:02d}" for i in range(12)], sizes)
    found = query_map(responses(["left"] * 18, subject), "parcel", parcels)
    assert len(found.names) == parcels
    assert len(found.voxel) == 18


def test_parcels_gather_voxels_that_respond_alike():
    # Catches clusters of anything but the responses' course: scale and offset do not count.
    draw = np.random.default_rng(3)
    course, kind = draw.normal(size=(80, 3)), np.arange(30) % 3
    values = course[:, kind] * draw.uniform(0.1, 9, 30) + 50 * draw.normal(size=30)
    values += 0.01 * draw.normal(size=values.shape)
    found = query_map(responses(["left"] * 30, values=values), "parcel", 3, seed=4)
    groups = {tuple(sorted(set(kind[v]))) for v in members(found).values()}
    assert groups == {(0,), (1,), (2,)}


def test_identical_voxels_still_fill_every_parcel():
    # Catches a query count that depends on luck.
    values = np.repeat(np.random.default_rng(0).normal(size=(20, 2)), 6, axis=1)
    found = query_map(responses(["left"] * 12, values=values), "parcel", 5)
    assert len(found.names) == 5


def test_parcels_follow_the_seed():
    # Catches a global random state.
    data = responses(["left"] * 50)
    first, again, other = (query_map(data, "parcel", 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.voxel, again.voxel)
    np.testing.assert_array_equal(first.query, again.query)
    assert (first.voxel != other.voxel).any()


def test_wrong_requests_are_named():
    # Catches an error from inside k-means.
    for parcels in (0, 1, 8):
        with pytest.raises(InputError, match=rf"parcels={parcels} .*hemispheres \(2\).*\(7\)"):
            query_map(responses(SIDES), "parcel", parcels)
    with pytest.raises(UnknownNameError, match=r"queries='rois'.*did you mean 'roi'"):
        query_map(responses(SIDES), "rois")

"""Whom and what an adaptive encoder has learned from."""

from __future__ import annotations

import pytest
import xarray as xr

from neuroattn.encoders.provenance import check_unseen, joined, learned_from
from neuroattn.errors import MismatchError


def voxels(*subjects: str, source: str = "study") -> xr.Dataset:
    return xr.Dataset(coords={"subject": ("voxel", list(subjects))}, attrs={"source": source})


def test_every_subject_and_image_is_named_once():
    # Catches the last set alone, and subjects of two studies that share a name.
    parts = [
        (voxels("sub-01", "sub-01"), ["b", "a"]),
        (voxels("sub-01", source="other"), ["a", "c"]),
    ]
    found = learned_from(parts)
    assert found == {"subjects": ["sub-01 of other", "sub-01 of study"], "images": ["a", "b", "c"]}
    assert joined(found, {"subjects": ["x of y"], "images": ["a", "z"]}) == {
        "subjects": ["sub-01 of other", "sub-01 of study", "x of y"],
        "images": ["a", "b", "c", "z"],
    }
    assert learned_from([]) == joined({}, {}) == {"subjects": [], "images": []}


def test_a_start_that_knows_the_held_out_subject_or_a_test_image_is_refused():
    before = learned_from([(voxels("sub-01", "sub-02"), ["a", "b"])])
    check_unseen("runs/a", before, voxels("sub-03"), ["c"])
    check_unseen("runs/a", before, voxels("sub-02", source="other"), ["c"])
    with pytest.raises(MismatchError, match="start=runs/a has learned from 1 of the held-out sub"):
        check_unseen("runs/a", before, voxels("sub-03", "sub-02"), ["c"])
    with pytest.raises(MismatchError, match=r"2 of the test images of this stage \(first: a\)"):
        check_unseen("runs/a", before, voxels("sub-03"), ["a", "b", "c"])

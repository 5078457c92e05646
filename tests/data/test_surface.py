"""Scatter to the mesh."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.surface import to_fsaverage
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.data.layouts import small_set


def test_values_land_on_their_vertices_and_nan_elsewhere() -> None:
    # Catches values of the other hemisphere, and zeros where nothing is known.
    data = small_set()
    values = np.arange(10.0).reshape(2, 5)
    mesh = to_fsaverage(values, data, "right")
    assert mesh.shape == (2, 10242)
    for voxel in (2, 3, 4):
        assert mesh[:, int(data["vertex"][voxel])].tolist() == values[:, voxel].tolist()
    assert int(np.isfinite(mesh).sum()) == 6
    assert int(np.isfinite(to_fsaverage(values[0], data, "left")).sum()) == 2


def test_the_floating_type_is_kept_and_integers_become_floating() -> None:
    # Catches NaN cast to an integer.
    data = small_set()
    assert to_fsaverage(np.ones(5, np.float32), data, "left").dtype == np.float32
    assert to_fsaverage(np.ones(5), data, "left").dtype == np.float64
    mesh = to_fsaverage(np.ones(5, bool), data, "left")
    assert np.isnan(mesh).sum() == 10240


def test_what_has_no_place_on_the_mesh_is_refused() -> None:
    # Catches values of one hemisphere given for both, volumes, and subjects on top of each other.
    data = small_set()
    with pytest.raises(MismatchError, match=r"\(3,\); the dataset has 5 voxels"):
        to_fsaverage(np.ones(3), data, "left")
    with pytest.raises(UnknownNameError, match="'lh'"):
        to_fsaverage(np.ones(5), data, "lh")
    with pytest.raises(InputError, match="vertices_left=None"):
        to_fsaverage(np.ones(5), data.drop_attrs(), "left")
    two = data.assign_coords(subject=("voxel", ["s1", "s2"] * 2 + ["s1"]))
    with pytest.raises(InputError, match=r"\['s1', 's2'\]"):
        to_fsaverage(np.ones(5), two, "left")

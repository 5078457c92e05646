"""Scatter to the mesh."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.surface import surface_image, to_fsaverage
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


def test_a_surface_image_has_the_values_at_their_vertices() -> None:
    # Catches hemispheres that are swapped, and samples taken for vertices.
    data = small_set()
    values = np.arange(10.0).reshape(2, 5)
    image = surface_image(values, data)
    for side in ("left", "right"):
        found = image.data.parts[side]
        np.testing.assert_array_equal(found, to_fsaverage(values, data, side).T)
        assert image.mesh.parts[side].n_vertices == 10242
    assert surface_image(values[0], data).data.parts["left"].shape == (10242,)


def test_a_surface_image_wants_its_own_mesh(tmp_path) -> None:
    # Catches a map that is drawn on another subject's brain.
    from nilearn.datasets import load_fsaverage

    data = small_set().assign_attrs(vertices_left=10300)
    with pytest.raises(MismatchError, match="has 10242 vertices, the dataset 10300"):
        surface_image(np.ones(5), data)
    meshes = {}
    for side, part in load_fsaverage("fsaverage5")["white_matter"].parts.items():
        meshes[side] = tmp_path / f"{side}.gii"
        part.to_gifti(meshes[side])
    given = surface_image(np.ones(5), small_set(), meshes)
    white = load_fsaverage("fsaverage5")["white_matter"].parts["left"].coordinates
    np.testing.assert_allclose(given.mesh.parts["left"].coordinates, white, rtol=1e-5, atol=1e-4)

"""Surface pictures: values reach the right vertices, and only those."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.schema import response_set
from neuroattn.errors import InputError, MismatchError
from neuroattn.report import png, surface_picture, surface_values, why_no_surface
from tests.report.small import pixels, surface_voxels, volume_voxels

V1_LEFT = (-8, -92, 2)


def mni_voxels(subjects: int = 1) -> xr.Dataset:
    """Return one voxel a subject at the left V1 of a 2 mm MNI grid."""
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    ijk = np.rint(np.linalg.inv(affine) @ (*V1_LEFT, 1))[:3].astype(int)
    return response_set(
        np.zeros((1, subjects)),
        presentation={"image": ["a"]},
        voxel={
            "subject": [f"s{index}" for index in range(subjects)],
            "hemisphere": "left",
            **{axis: np.full(subjects, ijk[a]) for a, axis in enumerate("ijk")},
        },
        attrs={"space": "MNI", "affine": affine.ravel().tolist(), "shape": [91, 109, 91]},
    )


def test_a_voxel_of_a_volume_colours_the_vertices_near_it_with_its_own_value() -> None:
    # Catches a wrong affine, values watered down by the empty space around, and NaN that spreads.
    from nilearn.datasets import load_fsaverage

    values = surface_values([0.7], mni_voxels())
    near = np.flatnonzero(np.isfinite(values["left"]))
    assert 3 <= near.size <= 200
    np.testing.assert_allclose(values["left"][near], 0.7, rtol=1e-6)
    assert np.isnan(values["right"]).all()
    # A vertex reads points from white matter to pia: both ends are within reach of one of them.
    mesh = load_fsaverage("fsaverage5")
    middle = (
        mesh["pial"].parts["left"].coordinates + mesh["white_matter"].parts["left"].coordinates
    ) / 2
    distance = np.linalg.norm(middle[near] - V1_LEFT, axis=1)
    assert distance.max() < 6 + 4


def test_subjects_are_averaged_where_they_have_values() -> None:
    # Catches the last subject winning, and NaN of one subject hiding the others.
    values = surface_values([0.2, 0.6, np.nan], mni_voxels(3))["left"]
    np.testing.assert_allclose(values[np.isfinite(values)], 0.4, rtol=1e-6)


@pytest.mark.parametrize(
    ("count", "space"), [(10242, "fsaverage5"), (163842, "challenge"), (40962, "fsaverage")]
)
def test_vertices_of_finer_meshes_are_read_where_fsaverage5_has_them(
    count: int, space: str
) -> None:
    # Catches sides that change places, and a fine mesh squeezed or refused.
    voxels = surface_voxels(count, count, space, last=count - 1)
    values = surface_values(np.arange(1.0, 6.0), voxels)
    assert values["left"].shape == values["right"].shape == (10242,)
    assert values["left"][[7, 0, 11]].tolist() == [1, 3, 5]
    assert np.isfinite(values["left"]).sum() == 3
    # Vertex count - 1 exists on fsaverage5 only if the mesh is fsaverage5.
    assert np.isfinite(values["right"]).sum() == (2 if count == 10242 else 1)


def test_the_picture_shows_colour_where_values_are_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches an all-grey brain, a picture that depends on when it is drawn, and downloads.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", "/tmp"))
    rng = np.random.default_rng(0)
    count = 10242
    voxels = response_set(
        np.zeros((1, 4000)),
        presentation={"image": ["a"]},
        voxel={"subject": "s", "hemisphere": "left", "vertex": np.arange(4000)},
        attrs={"space": "fsaverage5", "vertices_left": count, "vertices_right": count},
    )
    values = rng.random(4000)
    first = surface_picture(values, voxels, "score")
    bare = surface_picture(np.full(4000, np.nan), voxels, "score")
    assert first is not None
    assert bare is not None
    shown, empty = pixels(png(first)).astype(int), pixels(png(bare)).astype(int)
    coloured = (np.ptp(shown, axis=2) > 40) & (np.ptp(empty, axis=2) <= 40)
    height = coloured.shape[0]
    assert coloured[: int(height * 0.42)].sum() > 5000
    # The right hemisphere has no voxels; its row stands between the labels of both rows.
    assert coloured[int(height * 0.47) : int(height * 0.75)].sum() == 0
    again = surface_picture(values, voxels, "score")
    assert again is not None
    assert png(again) == png(first)
    assert not list(tmp_path.iterdir())


def test_other_spaces_have_no_picture_and_a_reason() -> None:
    # Catches a picture of voxels that nobody can place on the template.
    voxels = volume_voxels()
    assert "space 'native'" in why_no_surface(voxels)
    assert surface_picture(np.ones(3), voxels, "score") is None
    with pytest.raises(InputError, match="no surface picture: the voxels are in space 'native'"):
        surface_values(np.ones(3), voxels)
    assert "13" in why_no_surface(surface_voxels())
    with pytest.raises(MismatchError, match=r"shape \(2,\).*1 voxels"):
        surface_values(np.ones(2), mni_voxels())

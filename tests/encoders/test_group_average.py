"""The group map against brute-force averages of separately fitted ridge encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.schema import response_set
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.group_average import GroupAverageEncoder
from neuroattn.encoders.saving import read_encoder
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.encoders.small import small_features

FEATURES = small_features(images=70)
EMBEDDING = {"view": "mean", "normalise": False}
MESH = {"space": "fsaverage", "vertices_left": 500, "vertices_right": 500}
#: Slices are 5 mm apart, so that neighbours in mm are not neighbours in indices.
AFFINE = [0, 1, 0, -30, 2, 0, 0, -40, 0, 0, 5, -50, 0, 0, 0, 1]
GRID = {"space": "MNI", "affine": AFFINE, "shape": [9, 9, 9]}
CONTEXT = range(60, 66)


def subject(
    name: str,
    places: dict[str, Any],
    attrs: dict[str, Any],
    images: range = range(60),
    rois: dict[str, list[int]] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Responses, linear in the mean token, of voxels at some places; ``rois`` lists members."""
    draw = np.random.default_rng([seed, *name.encode()])
    count = len(next(iter(places.values())))
    pooled = FEATURES["tokens"].values.mean(1)[list(images)]
    signal = pooled @ draw.normal(size=(5, count)) + draw.normal(size=count)
    return response_set(
        signal + draw.normal(size=signal.shape),
        presentation={"image": FEATURES["image"].values[list(images)]},
        voxel={"subject": name, "hemisphere": "left", **places},
        roi={roi: np.isin(np.arange(count), members) for roi, members in (rois or {}).items()},
        attrs=attrs,
    )


def alone(responses: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Weights (voxel, E) and intercepts of the ridge encoder of one subject."""
    encoder = RidgeEncoder(view="mean", standardise=False).fit(FEATURES, responses)
    scale = encoder.view_.scale.numpy()[:, None]
    weights = encoder.weights_ * scale
    return weights.T, encoder.intercept_ - encoder.view_.mean.numpy() @ weights


def grid(draw: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    cells = draw.permutation(9**3)[:count]
    return dict(zip("ijk", np.unravel_index(cells, (9, 9, 9)), strict=True))


FIRST = subject("a", {"vertex": [3, 10, 7, 499]}, MESH, rois={"V1": [0, 1], "FFA": [1, 2, 3]})
SECOND = subject(
    "b", {"vertex": [10, 11, 3]}, MESH, range(5, 50), rois={"PPA": [0], "V1": [0, 2], "empty": []}
)
NEW = {"vertex": [10, 3, 499]}


def encoder(**parameters: Any) -> GroupAverageEncoder:
    return GroupAverageEncoder(embedding=EMBEDDING, **parameters)


def test_training_voxels_have_the_encoders_of_ridge_alone():
    # Catches weights that stay in scaled columns, and a subject fitted on another's images.
    fitted = encoder().fit(FEATURES, [FIRST, SECOND])
    for rows, responses in ((slice(0, 4), FIRST), (slice(4, 7), SECOND)):
        weights, intercept = alone(responses)
        np.testing.assert_allclose(fitted.group_weights_[rows], weights, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fitted.group_intercept_[rows], intercept, rtol=1e-4, atol=1e-4)


def test_a_vertex_takes_the_mean_over_the_subjects_that_have_it():
    # Catches sums, a mean over all vertices, and rows in the order of the training.
    fitted = encoder().fit(FEATURES, [FIRST, SECOND])
    written = fitted.adapt(FEATURES, subject("c", NEW, MESH, CONTEXT)).written()
    weights, intercept = fitted.group_weights_.numpy(), fitted.group_intercept_.numpy()
    for voxel, members in enumerate(([1, 4], [0, 6], [3])):
        np.testing.assert_allclose(written["weights"][voxel], weights[members].mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            written["intercept"][voxel], intercept[members].mean(), rtol=1e-5
        )


def test_responses_of_the_new_subject_are_not_read():
    # Catches a baseline that is fitted to the context after all.
    fitted = encoder().fit(FEATURES, [FIRST, SECOND])
    one = fitted.adapt(FEATURES, subject("c", NEW, MESH, CONTEXT, seed=1)).written()
    other = fitted.adapt(FEATURES, subject("c", NEW, MESH, range(50, 69), seed=2)).written()
    np.testing.assert_array_equal(one["weights"], other["weights"])


def test_a_group_that_is_alike_is_predicted():
    # Catches intercepts or weights of the wrong sign or voxel, from the outside.
    new = subject("a", NEW, MESH, CONTEXT)
    truth = subject("a", {"vertex": [3, 10, 7, 499]}, MESH, range(66, 70))
    fitted = encoder().fit(FEATURES, [FIRST]).adapt(FEATURES, new)
    predicted = fitted.predict(FEATURES, truth["image"].values)
    assert predicted.dims == ("image", "voxel")
    weights, intercept = alone(FIRST)
    pooled = FEATURES["tokens"].values.mean(1)[66:70]
    expected = (pooled @ weights.T + intercept)[:, [1, 0, 3]]
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-3)


def test_the_same_number_on_the_other_side_is_another_vertex():
    # Catches hemispheres that are mixed up.
    fitted = encoder().fit(FEATURES, [FIRST, SECOND])
    other = subject("c", {**NEW, "hemisphere": ["left", "right", "left"]}, MESH, CONTEXT)
    assert fitted.covered(other).tolist() == [True, False, True]


def test_vertices_that_no_training_subject_has_are_refused_and_can_be_left_out():
    # Catches zeros or NaN where nothing is known, and the neighbour in a sorted list.
    fitted = encoder().fit(FEATURES, [FIRST, SECOND])
    new = subject("c", {"vertex": [10, 4, 499, 498]}, MESH, CONTEXT)
    with pytest.raises(InputError, match=r"2 of 4 voxels are at no vertex.*voxel 1.*covered"):
        fitted.adapt(FEATURES, new)
    kept = new.isel(voxel=fitted.covered(new))
    assert kept["vertex"].values.tolist() == [10, 499]
    written = fitted.adapt(FEATURES, kept).written()
    np.testing.assert_allclose(written["weights"][1], fitted.group_weights_[3], rtol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 8, 100])
def test_a_voxel_of_a_volume_takes_the_nearest_in_millimetres(neighbours):
    # Catches distances between indices, an affine by columns, and a crash with few voxels.
    draw = np.random.default_rng(4)
    sets = [subject(name, grid(draw, 20), GRID) for name in "ab"]
    new = subject("c", grid(draw, 6), GRID, CONTEXT)
    fitted = encoder(neighbours=neighbours).fit(FEATURES, sets)
    assert fitted.covered(new).all()
    written = fitted.adapt(FEATURES, new).written()
    affine = np.reshape(AFFINE, (4, 4))

    def millimetres(responses: xr.Dataset) -> np.ndarray:
        cells = [responses[axis].values for axis in "ijk"]
        return (affine @ np.stack([*cells, np.ones_like(cells[0])]))[:3].T

    there = np.concatenate([millimetres(each) for each in sets])
    np.testing.assert_allclose(fitted.group_places_, there)
    for voxel, place in enumerate(millimetres(new)):
        distance = np.linalg.norm(there - place, axis=1)
        order = np.argsort(distance)[:neighbours]
        if neighbours < 40 and np.isclose(*np.sort(distance)[neighbours - 1 : neighbours + 1]):
            continue  # a tie: either is right
        expected = fitted.group_weights_.numpy()[order].mean(0)
        np.testing.assert_allclose(written["weights"][voxel], expected, rtol=1e-4, atol=1e-6)


def test_an_roi_takes_the_mean_over_all_training_voxels_in_it_each_once():
    # Catches masks matched by position, and voxels of two ROIs that count twice.
    fitted = encoder(by="roi").fit(FEATURES, [FIRST, SECOND])
    rois = {"PPA": [3], "new": [0, 1, 2], "FFA": [1, 2], "V1": [0, 2]}
    native = {**MESH, "space": "native"}
    new = subject("c", {"vertex": [0, 1, 2, 5]}, native, CONTEXT, rois)
    written = fitted.adapt(FEATURES, new).written()
    members = [[0, 1, 4, 6], [1, 2, 3], [0, 1, 2, 3, 4, 6], [4]]
    for voxel, expected in enumerate(members):
        np.testing.assert_allclose(
            written["weights"][voxel], fitted.group_weights_.numpy()[expected].mean(0), rtol=1e-4
        )


def test_voxels_whose_rois_the_training_does_not_know_are_refused():
    # Catches a division by zero members, also of an ROI that is there and empty.
    fitted = encoder(by="roi").fit(FEATURES, [FIRST, SECOND])
    new = subject("c", NEW, MESH, CONTEXT, {"V1": [2], "empty": [0], "other": [1]})
    with pytest.raises(InputError, match="2 of 3 voxels share no ROI"):
        fitted.adapt(FEATURES, new)
    assert fitted.covered(new).tolist() == [False, False, True]


@pytest.mark.parametrize("by", ["place", "roi"])
@pytest.mark.parametrize("where", ["surface", "volume"])
def test_it_survives_save_and_load_bit_for_bit(by, where, tmp_path):
    # Catches a part of the group that is forgotten, and frames that JSON changes.
    draw = np.random.default_rng(1)
    attrs = MESH if where == "surface" else GRID
    rois = {"V1": [0, 1, 2, 3, 4]}
    places = [{"vertex": np.arange(5)} if where == "surface" else grid(draw, 5) for _ in "ab"]
    new = subject("c", places[0], attrs, CONTEXT, rois)
    fitted = encoder(by=by).fit(FEATURES, [subject(n, places[0], attrs, rois=rois) for n in "ab"])
    fitted.adapt(FEATURES, new).save(tmp_path)
    config, _, _ = read_encoder(tmp_path)
    assert config["class"] == "GroupAverageEncoder"
    loaded = GroupAverageEncoder.from_directory(tmp_path)
    xr.testing.assert_identical(loaded.predict(FEATURES), fitted.predict(FEATURES))
    again = subject("d", places[1], attrs, CONTEXT, rois)
    xr.testing.assert_identical(
        loaded.adapt(FEATURES, again).written(), fitted.adapt(FEATURES, again).written()
    )


@pytest.mark.parametrize("space", ["native", "none"])
def test_without_a_common_space_there_is_no_group_map(space):
    # Catches vertices of one's own surface that are taken for those of fsaverage.
    own = subject("a", {"vertex": [3, 10]}, {**MESH, "space": space})
    with pytest.raises(InputError, match=rf"space '{space}'.*vertex.*by='roi'"):
        encoder().fit(FEATURES, own)
    with pytest.raises(InputError, match=f"space '{space}'"):
        encoder().fit(FEATURES, FIRST).adapt(FEATURES, own)


def test_meshes_and_grids_must_be_the_same():
    # Catches vertex 10 of a coarse mesh taken for that of a fine one, and indices of other grids.
    coarse = subject("c", NEW, {**MESH, "vertices_left": 1000}, CONTEXT)
    with pytest.raises(MismatchError, match=r"vertices_left \(500 and 1000\)"):
        encoder().fit(FEATURES, FIRST).adapt(FEATURES, coarse)
    with pytest.raises(MismatchError, match="vertices_left"):
        encoder().fit(FEATURES, [FIRST, coarse.assign_attrs(vertices_right=7)])
    volume = subject("a", grid(np.random.default_rng(0), 9), GRID)
    moved = volume.assign_attrs(affine=[*AFFINE[:3], -29.5, *AFFINE[4:]], shape=[9, 9, 10])
    with pytest.raises(MismatchError, match=r"affine .* and .*, shape .*9, 10"):
        encoder().fit(FEATURES, volume).adapt(FEATURES, moved)
    with pytest.raises(MismatchError, match=r"kind \(surface and volume\)"):
        encoder().fit(FEATURES, FIRST).adapt(FEATURES, volume)
    rounded = volume.assign_attrs(affine=[x + 1e-6 for x in AFFINE])
    assert encoder().fit(FEATURES, volume).covered(rounded).all()


def test_a_set_of_one_hemisphere_belongs_to_the_mesh():
    # Catches an unknown number of vertices that is taken for another mesh, or forgotten.
    left = {key: value for key, value in FIRST.attrs.items() if key != "vertices_right"}
    first = FIRST.drop_attrs().assign_attrs(left)
    right = subject("b", {"vertex": [3], "hemisphere": ["right"]}, MESH)
    fitted = encoder().fit(FEATURES, [first, right])
    assert fitted.frame_["vertices_right"] == 500
    assert encoder().fit(FEATURES, [right, first]).frame_ == fitted.frame_


def test_challenge_vertices_are_those_of_fsaverage():
    # Catches two names of one mesh that are held apart.
    challenge = FIRST.assign_attrs(space="challenge")
    assert encoder().fit(FEATURES, challenge).covered(SECOND).tolist() == [True, False, True]


def test_wrong_arguments_are_named():
    # Catches a typo that runs with a default.
    with pytest.raises(UnknownNameError, match=r"by='rio'.*'roi'"):
        encoder(by="rio").fit(FEATURES, FIRST)
    with pytest.raises(InputError, match="neighbours=0"):
        encoder(neighbours=0).fit(FEATURES, FIRST)
    with pytest.raises(InputError, match="folds=61"):
        encoder(folds=61).fit(FEATURES, FIRST)
    without = FIRST.isel(roi=[])
    with pytest.raises(InputError, match="needs ROIs"):
        encoder(by="roi").fit(FEATURES, without)
    same = FEATURES.isel(image=[0] * 60).assign_coords(image=FEATURES["image"].values[:60])
    with pytest.raises(InputError, match="same embedding"):
        encoder().fit(same, FIRST)

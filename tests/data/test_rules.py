"""Every rule of a response set has a data set that breaks it, and a message that says so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.rules import as_text, validate
from neuroattn.errors import InputError
from tests.data.layouts import small_set


def _volume(**attrs) -> xr.Dataset:
    ijk = {"i": [0, 1, 2, 3, 4], "j": [0, 1, 2, 3, 4], "k": [0, 0, 0, 0, 1]}
    base = {"space": "MNI", "affine": np.eye(4).ravel().tolist(), "shape": [5, 5, 2]}
    return small_set(voxel={"subject": "s1", "hemisphere": "both", **ijk}, attrs={**base, **attrs})


def _set(name: str, place: int, value):
    def change(data: xr.Dataset) -> xr.Dataset:
        array = data[name].values.copy()
        array[place] = value
        return data.assign_coords({name: (data[name].dims, array)})

    return change


BROKEN = {
    "no response": (lambda d: d.drop_vars("response"), ["variable response", "roi_mask"]),
    "response of another type": (
        lambda d: d.assign(response=d["response"].astype("f8")),
        ["variable response", "float32", "float64"],
    ),
    "axes the wrong way round": (
        lambda d: d.assign(response=d["response"].T),
        ["variable response", "('voxel', 'presentation')"],
    ),
    "masks of integers": (
        lambda d: d.assign(roi_mask=d["roi_mask"].astype(int)),
        ["roi_mask", "bool", "int64"],
    ),
    "no presentations": (lambda d: d.isel(presentation=[]), ["dimension presentation"]),
    "no voxels": (lambda d: d.isel(voxel=[]), ["dimension voxel"]),
    "ROI names twice": (
        lambda d: d.assign_coords(roi=["a", "b", "a"]),
        ["ROI names", "'a' 2 times"],
    ),
    "no ROI names": (lambda d: d.drop_vars("roi"), ["coordinate roi"]),
    "an image without id": (_set("image", 4, ""), ["coordinate image[4]"]),
    "images as numbers": (
        lambda d: d.assign_coords(image=("presentation", np.arange(9))),
        ["coordinate image", "text", "int64"],
    ),
    "session as fraction": (
        lambda d: d.assign_coords(session=("presentation", np.ones(9))),
        ["coordinate session", "integer", "float64"],
    ),
    "run under -1": (_set("run", 3, -2), ["coordinate run[3]", "-2"]),
    "one repetition twice": (
        _set("repetition", 4, 0),
        ["repetition once", "img-a"],
    ),
    "some averaged": (_set("repetition", 4, -1), ["coordinate repetition[0]", "-1"]),
    "averaged without repeats": (
        lambda d: d.assign_coords(repetition=("presentation", np.full(9, -1))),
        ["coordinate repeats"],
    ),
    "an unknown hemisphere": (
        lambda d: d.assign_coords(hemisphere=("voxel", ["left", "lh", "left", "right", "right"])),
        ["coordinate hemisphere[1]", "'lh'", "'both'"],
    ),
    "no subject": (lambda d: d.drop_vars("subject"), ["coordinate subject"]),
    "an empty voxel name": (
        lambda d: d.assign_coords(name=("voxel", ["a", "", "c", "d", "e"])),
        ["coordinate name[1]"],
    ),
    "no place": (lambda d: d.drop_vars("vertex"), ["vertex or i, j, k", "fsaverage5"]),
    "a negative vertex": (_set("vertex", 2, -5), ["coordinate vertex[2]", "-5"]),
    "a vertex beyond the mesh": (_set("vertex", 4, 10242), ["coordinate vertex[4]", "10242"]),
    "a vertex twice": (_set("vertex", 1, 1), ["location occurs once", "vertex"]),
    "mesh size missing": (
        lambda d: d.assign_attrs(vertices_right=None),
        ["attribute vertices_right", "None"],
    ),
    "an unknown space": (lambda d: d.assign_attrs(space="MNi"), ["attribute space", "'MNi'"]),
    "an unknown z-score": (lambda d: d.assign_attrs(zscored="run"), ["zscored", "'run'"]),
    "units missing": (lambda d: d.assign_attrs(units=None), ["attribute units", "None"]),
    "a negative TR": (lambda d: d.assign_attrs(tr=-1.0), ["attribute tr", "-1.0"]),
    "an attribute that is no plain data": (
        lambda d: d.assign_attrs(note={"a": [np.float32(1)]}),
        ["attribute note", "plain data"],
    ),
    "a negative ncsnr": (
        lambda d: d.assign(ncsnr=("voxel", [0, 1, -0.5, 1, np.nan])),
        ["ncsnr[2]", "-0.5", "0 or more"],
    ),
    "a ceiling in percent": (
        lambda d: d.assign(ceiling=("voxel", [0, 1, 0.5, 45.0, np.nan])),
        ["ceiling[3]", "45.0", "0 to 1"],
    ),
    "a ceiling an image": (
        lambda d: d.assign(ceiling=("presentation", np.ones(9))),
        ["ceiling", "presentation"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_told_with_its_place_and_value(name: str) -> None:
    # Catches a rule that is not checked, or a message without place or value.
    change, words = BROKEN[name]
    data = change(small_set())
    with pytest.raises(InputError) as caught:
        validate(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_infinity_is_found_with_row_column_and_image() -> None:
    # Catches an infinity beyond the first block, and one that a lazy check must not read.
    data = small_set(presentations=3, voxels=2501, response=np.zeros((3, 2501), np.float32))
    data["response"].values[1, 2400] = -np.inf
    with pytest.raises(InputError, match=r"response\[1, 2400\] \(image img-b\).*-inf"):
        validate(data)
    assert validate(data, values=False) is data


def test_nan_is_allowed_in_responses_and_ceilings() -> None:
    # Catches a check that refuses what must only be counted.
    data = small_set(ncsnr=[np.nan, 0, 1, 2, np.inf], ceiling=[np.nan, 0, 1, 0.5, 0.25])
    data["response"].values[0] = np.nan
    assert validate(data) is data


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"affine": None}, ["attribute affine", "None", "16"]),
        ({"affine": [1.0] * 12}, ["attribute affine"]),
        ({"shape": [5, 5]}, ["attribute shape", "[5, 5]"]),
        ({"shape": [5, 5, 1]}, ["coordinate k[4]", "below shape 1", "1"]),
    ],
)
def test_a_volume_needs_affine_and_shape_that_hold_its_voxels(attrs, words) -> None:
    # Catches voxels that no NIfTI can hold.
    with pytest.raises(InputError) as caught:
        _volume(**attrs)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert validate(_volume()) is not None


def test_i_without_j_and_k_is_refused() -> None:
    # Catches half a place.
    data = small_set().assign_coords(i=("voxel", np.arange(5)))
    with pytest.raises(InputError, match=r"i, j and k come together.*\['i'\]"):
        validate(data)


def test_the_same_vertex_may_stand_in_both_hemispheres_and_subjects() -> None:
    # Catches a uniqueness check that forgets hemisphere or subject.
    voxel = {
        "subject": ["s1", "s1", "s2", "s2", "s2"],
        "hemisphere": ["left", "right", "left", "right", "right"],
        "vertex": [7, 7, 7, 7, 8],
    }
    assert small_set(voxel=voxel).sizes["voxel"] == 5


def test_two_voxels_at_one_place_of_a_volume_are_refused() -> None:
    # Catches a map in which one voxel would overwrite another.
    data = _volume()
    data["i"].values[1] = 0
    data["j"].values[1] = 0
    with pytest.raises(InputError, match=r"location occurs once.*'s1', 0, 0, 0"):
        validate(data)


def test_text_of_every_storage_type_becomes_fixed_width() -> None:
    # Catches variable-width text of zarr, which numpy cannot cast directly.
    for kind in (object, np.dtypes.StringDType(), "<U9"):
        text = as_text(np.array(["a", "éé"], dtype=kind))
        assert text.dtype.kind == "U"
        assert text.tolist() == ["a", "éé"]

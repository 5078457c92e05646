"""Own data that are images of the brain: volumes with masks and atlases, surfaces a side."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from neuroattn.data.brain_images import read_vertices
from neuroattn.data.own import TableData
from neuroattn.data.rules import validate
from neuroattn.data.sources import ArraySource, ResponseSource, RoiSource, VoxelSource
from neuroattn.errors import FileError, InputError, MismatchError

SHAPE, COUNT, VERTICES = (4, 3, 5), 6, {"left": 7, "right": 9}
AFFINE = np.array([[-2.0, 0.1, 0, 50], [0, 2, 0.3, -60], [0, -0.3, 2, -10], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
VOLUME = RNG.integers(-3000, 3000, (*SHAPE, COUNT)).astype(np.int16)
MASK = RNG.random(SHAPE) < 0.5
ATLAS = RNG.integers(-1, 4, SHAPE).astype(np.int16)
SURFACE = {side: RNG.standard_normal((COUNT, n)).astype(np.float32) for side, n in VERTICES.items()}


def _gifti(path, columns, labels=None, intent="NIFTI_INTENT_NONE"):
    arrays = [nibabel.gifti.GiftiDataArray(np.asarray(c), intent=intent) for c in columns]
    table = nibabel.gifti.GiftiLabelTable()
    for key, name in (labels or {}).items():
        label = nibabel.gifti.GiftiLabel(key, 1, 1, 1, 1)
        label.label = name
        table.labels.append(label)
    nibabel.save(nibabel.GiftiImage(darrays=arrays, labeltable=table), path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stimuli").mkdir()
    for n in range(COUNT):
        Image.new("RGB", (3, 5), (n, 9, 2 * n)).save(tmp_path / "stimuli" / f"img-{n}.png")

    def put(name, data):
        image = nibabel.Nifti1Image(data, AFFINE)
        image.to_filename(tmp_path / name)

    put("betas.nii.gz", VOLUME)
    put("mask.nii", MASK.astype(np.uint8))
    put("atlas.nii", ATLAS)
    put("ceiling.nii", RNG.random(SHAPE).astype(np.float32))
    (tmp_path / "masks").mkdir()
    put("masks/FFA.nii.gz", (ATLAS == 1).astype(np.float32))
    put("masks/V1.left.nii", (ATLAS > 1).astype(np.uint8))
    put("masks/none.nii", np.zeros(SHAPE, np.uint8))
    (tmp_path / "masks" / "README.txt").write_text("masks")
    (tmp_path / "labels.tsv").write_text("index\tname\n0\tunknown\n1\tFFA\n2\tV1\n9\tgone\n")
    for side, data in SURFACE.items():
        _gifti(tmp_path / f"{side}.func.gii", data)
        nibabel.MGHImage(data.T[:, None, None, :], np.eye(4)).to_filename(tmp_path / f"{side}.mgh")
        _gifti(tmp_path / f"{side}.shape.gii", [(np.arange(VERTICES[side]) % 2).astype(np.float32)])
        labels = np.arange(VERTICES[side], dtype=np.int32) % 3
        names = {0: "???", 1: "V1", 2: f"only-{side}"}
        _gifti(tmp_path / f"{side}.label.gii", [labels], names, "NIFTI_INTENT_LABEL")
    return tmp_path


def _data(folder, responses="betas.nii.gz", **options):
    given = {"voxels": VoxelSource(mask="mask.nii", subject="s1"), **options}
    return TableData("stimuli", responses, folder=str(folder), **given)


def test_a_volume_gives_the_voxels_of_its_mask_in_fortran_order(folder) -> None:
    # Catches C order, a transposed volume, and a presentation axis that is not the last.
    data = _data(folder).responses()
    validate(data)
    i, j, k = (data[axis].values for axis in "ijk")
    assert MASK[i, j, k].all()
    assert len(i) == MASK.sum()
    order = i + SHAPE[0] * (j + SHAPE[1] * k)
    assert (np.diff(order) > 0).all()
    np.testing.assert_array_equal(data["response"].values, VOLUME[i, j, k].T)
    assert data["image"].values.tolist() == [f"img-{n}" for n in range(COUNT)]
    np.testing.assert_allclose(np.reshape(data.attrs["affine"], (4, 4)), AFFINE, atol=1e-6)
    assert data.attrs["shape"] == list(SHAPE)
    assert len(data.attrs["header"]) == 4 * 348 // 3
    assert (data.attrs["space"], data["subject"].values[0]) == ("native", "s1")


def test_without_a_mask_every_voxel_is_kept_and_blocks_join(folder, monkeypatch) -> None:
    # Catches volumes lost or doubled at the end of a block.
    monkeypatch.setattr("neuroattn.data.brain_images._BLOCK", 4)
    data = _data(folder, voxels=None).responses()
    expected = VOLUME.reshape((-1, COUNT), order="F").T
    np.testing.assert_array_equal(data["response"].values, expected)


def test_rois_come_from_a_folder_of_masks_or_an_atlas_with_names(folder) -> None:
    # Catches 0 and -1 as ROIs, names that lose a part, ROIs on the voxels before the mask.
    kept = ATLAS.ravel(order="F")[MASK.ravel(order="F")]
    cases = {
        "masks": ("masks", {"FFA": kept == 1, "V1.left": kept > 1, "none": kept > 9}),
        "named": (
            RoiSource("atlas.nii", labels="labels.tsv"),
            {"FFA": kept == 1, "V1": kept == 2, "gone": kept == 9, "3": kept == 3},
        ),
        "numbers": ("atlas.nii", {str(n): kept == n for n in (1, 2, 3)}),
    }
    for source, expected in cases.values():
        data = _data(folder, rois=source).responses()
        assert data["roi"].values.tolist() == list(expected)
        for name, mask in expected.items():
            np.testing.assert_array_equal(data["roi_mask"].sel(roi=name).values, mask)


def test_a_ceiling_may_be_a_volume(folder) -> None:
    # Catches a ceiling in another order than the voxels.
    data = _data(folder, ceiling=ArraySource("ceiling.nii")).responses()
    i, j, k = (data[axis].values for axis in "ijk")
    stored = np.asanyarray(nibabel.load(folder / "ceiling.nii").dataobj)
    np.testing.assert_array_equal(data["ceiling"].values, stored[i, j, k].astype(np.float64))


@pytest.mark.parametrize("ending", ["func.gii", "mgh"])
def test_surfaces_come_one_file_a_side(folder, ending) -> None:
    # Catches swapped sides, and vertices counted through both.
    source = ResponseSource(left=f"left.{ending}", right=f"right.{ending}")
    voxels = VoxelSource(mask_left="left.shape.gii")
    rois = RoiSource(left="left.label.gii", right="right.label.gii")
    data = _data(folder, source, voxels=voxels, rois=rois).responses()
    validate(data)
    assert data["vertex"].values.tolist() == [1, 3, 5, *range(9)]
    assert data["hemisphere"].values.tolist() == ["left"] * 3 + ["right"] * 9
    assert (data.attrs["vertices_left"], data.attrs["vertices_right"]) == (7, 9)
    expected = np.concatenate([SURFACE["left"][:, [1, 3, 5]], SURFACE["right"]], axis=1)
    np.testing.assert_array_equal(data["response"].values, expected)
    assert data["roi"].values.tolist() == ["V1", "only-left", "only-right"]
    vertex = data["vertex"].values
    np.testing.assert_array_equal(data["roi_mask"].sel(roi="V1").values, vertex % 3 == 1)
    left = data["hemisphere"].values == "left"
    np.testing.assert_array_equal(
        data["roi_mask"].sel(roi="only-left").values, left & (vertex % 3 == 2)
    )


def test_a_surface_file_may_hold_one_matrix_but_not_several(tmp_path) -> None:
    # Catches presentations that are dropped with the second matrix, and vertices taken for them.
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    _gifti(tmp_path / "one.func.gii", [matrix])
    np.testing.assert_array_equal(read_vertices(tmp_path / "one.func.gii"), matrix.T)
    _gifti(tmp_path / "two.func.gii", [matrix, matrix + 10])
    with pytest.raises(FileError, match=r"\(3, 2\), \(3, 2\).*a single one"):
        read_vertices(tmp_path / "two.func.gii")


def test_a_surface_file_reads_no_file_of_another_folder(tmp_path) -> None:
    # Catches a file of somebody else's whose values are those of any file of this machine.
    (tmp_path / "mine").mkdir()
    for place in (tmp_path / "values.bin", tmp_path / "mine/values.bin"):
        np.arange(3, dtype="<f4").tofile(place)
    attributes = (
        'Intent="NIFTI_INTENT_NONE" DataType="NIFTI_TYPE_FLOAT32" Dimensionality="1" Dim0="3" '
        'ArrayIndexingOrder="RowMajorOrder" Encoding="ExternalFileBinary" Endian="LittleEndian" '
        'ExternalFileOffset="0"'
    )
    given = tmp_path / "mine/lh.func.gii"
    for name in ("values.bin", "../values.bin", str(tmp_path / "values.bin")):
        given.write_text(
            f'<GIFTI Version="1.0" NumberOfDataArrays="1"><DataArray {attributes} '
            f'ExternalFileName="{name}"><Data></Data></DataArray></GIFTI>'
        )
        if name == "values.bin":
            assert read_vertices(given).tolist() == [[0, 1, 2]]
            continue
        with pytest.raises(FileError, match=r"not beside it"):
            read_vertices(given)


def _shifted(folder):
    moved = AFFINE.copy()
    moved[2, 3] += 2
    nibabel.Nifti1Image(MASK.astype(np.uint8), moved).to_filename(folder / "mask.nii")
    return {}


def _zeros(folder):
    nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE).to_filename(folder / "mask.nii")
    return {}


def _probabilities(folder):
    nibabel.Nifti1Image(RNG.random(SHAPE), AFFINE).to_filename(folder / "atlas.nii")
    return {"rois": "atlas.nii"}


def _truncated(folder):
    content = (folder / "betas.nii.gz").read_bytes()
    (folder / "betas.nii.gz").write_bytes(content[:-200])
    return {}


def _few(folder):
    _gifti(folder / "right.func.gii", SURFACE["right"][:4])
    return {
        "responses": ResponseSource(left="left.func.gii", right="right.func.gii"),
        "voxels": None,
    }


def _torn(folder):
    content = (folder / "left.func.gii").read_bytes()
    (folder / "left.func.gii").write_bytes(content[:-300])
    return {"responses": ResponseSource(left="left.func.gii"), "voxels": None}


WRONG = {
    "a mask in another place": (_shifted, MismatchError, ["mask.nii", "betas.nii.gz", "affine"]),
    "an empty mask": (_zeros, MismatchError, ["mask.nii", "0 everywhere"]),
    "a truncated volume": (_truncated, FileError, ["betas.nii.gz", "truncated"]),
    "a map of probabilities": (_probabilities, InputError, ["atlas.nii", "whole numbers"]),
    "a 3-D volume": (
        lambda f: {"responses": "ceiling.nii"},
        InputError,
        ["ceiling.nii", "presentation"],
    ),
    "sides of two sessions": (_few, MismatchError, ["left.func.gii has 6", "right.func.gii has 4"]),
    "a truncated surface": (_torn, FileError, ["left.func.gii"]),
    "a mask of the other side": (
        lambda f: {
            "responses": ResponseSource(left="left.func.gii"),
            "voxels": VoxelSource(mask_left="right.shape.gii"),
        },
        MismatchError,
        ["right.shape.gii", "9 vertices", "left.func.gii has 7"],
    ),
    "a mask of no volume": (
        lambda f: {"responses": ResponseSource(left="left.func.gii")},
        InputError,
        ["mask_left"],
    ),
    "rois of the side that is not there": (
        lambda f: {
            "responses": ResponseSource(left="left.func.gii"),
            "voxels": None,
            "rois": RoiSource(right="right.label.gii"),
        },
        InputError,
        ["['right']", "['left']"],
    ),
    "a folder without masks": (lambda f: {"rois": "stimuli"}, FileError, ["stimuli", "no ROI"]),
    "labels without names": (
        lambda f: {"rois": RoiSource("atlas.nii", labels="wrong.tsv")},
        FileError,
        ["wrong.tsv", "index, name"],
    ),
    "places given twice": (
        lambda f: {"voxels": VoxelSource(path="places.csv")},
        InputError,
        ["i, j, k", "Leave it out"],
    ),
    "a path and a side": (
        lambda f: {"responses": {"path": "a.nii", "left": "b.gii"}},
        InputError,
        ["give path, or left and right"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_fit_are_told_by_name(folder, case) -> None:
    # Catches an error that names no file, and data of another place taken as if they fitted.
    (folder / "wrong.tsv").write_text("number\tname\n1\tFFA\n")
    rows = "\n".join(f"{n % 4},{n // 4 % 3},{n // 12}" for n in range(60))
    (folder / "places.csv").write_text(f"i,j,k\n{rows}\n")
    make, kind, parts = WRONG[case]
    options = make(folder)
    with pytest.raises(kind) as caught:
        _data(folder, **options).responses()
    for part in parts:
        assert part in str(caught.value)


def test_masks_need_responses_that_have_a_place(folder) -> None:
    # Catches an atlas applied to a table by the number of its rows.
    np.save(folder / "r.npy", np.zeros((COUNT, 60), np.float32))
    with pytest.raises(InputError, match="no image of the brain"):
        _data(folder, "r.npy", voxels=None, rois="atlas.nii").responses()

"""Maps: what is written is read back by nibabel in the same place."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from neuroattn.data.schema import response_set
from neuroattn.data.volumes import grid_of
from neuroattn.errors import InputError, MismatchError
from neuroattn.report import why_no_format, why_no_maps, write_maps
from tests.report.small import surface_voxels, volume_voxels

VALUES = np.array([0.1, -2.5, np.nan])


def test_nifti_holds_each_value_at_its_voxel_with_the_stored_affine(tmp_path: Path) -> None:
    # Catches axes that change places, zeros outside, and a rounded or diagonal affine.
    voxels = volume_voxels()
    (path,) = write_maps({"score": VALUES}, voxels, tmp_path)
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    assert path.name == "sub-01_score.nii.gz"
    assert data.dtype == np.float32
    assert data.shape == (5, 7, 9)
    stored = np.asarray(voxels.attrs["affine"], np.float32).reshape(4, 4)
    np.testing.assert_array_equal(image.affine, stored)
    assert data[0, 6, 1] == np.float32(0.1)
    assert data[4, 0, 8] == np.float32(-2.5)
    assert np.isfinite(data).sum() == 2


def test_mni_maps_say_so_in_their_header(tmp_path: Path) -> None:
    # Catches viewers that take MNI coordinates for the scanner's.
    voxels = volume_voxels()
    voxels.attrs["space"] = "MNI"
    (path,) = write_maps({"score": VALUES}, voxels, tmp_path)
    assert nibabel.load(path).header["sform_code"] == 4


def test_each_subject_has_a_file_of_its_own(tmp_path: Path) -> None:
    # Catches subjects that overwrite each other in one volume.
    voxels = volume_voxels(("sub-01", "sub-02"))
    first, second = write_maps({"score": np.arange(6.0)}, voxels, tmp_path)
    assert [first.name, second.name] == ["sub-01_score.nii.gz", "sub-02_score.nii.gz"]
    assert nibabel.load(first).dataobj[4, 0, 8] == 1
    assert nibabel.load(second).dataobj[4, 0, 8] == 4


def test_gifti_holds_each_value_at_its_vertex_of_its_hemisphere(tmp_path: Path) -> None:
    # Catches swapped hemispheres, values in storage order, and zeros outside.
    left, right = write_maps({"r": np.arange(1.0, 6.0)}, surface_voxels(), tmp_path, ["gifti"])
    assert [left.name, right.name] == ["sub-01_r_hemi-L.func.gii", "sub-01_r_hemi-R.func.gii"]
    image = nibabel.load(left)
    (column,) = image.darrays
    expected = np.full(13, np.nan)
    expected[[7, 0, 11]] = [1, 3, 5]
    np.testing.assert_array_equal(column.data, expected.astype(np.float32))
    assert column.data.dtype == np.float32
    assert image.meta["AnatomicalStructurePrimary"] == "CortexLeft"
    other = nibabel.load(right).darrays[0].data
    assert other.shape == (12,)
    assert (other[11], other[3], np.isfinite(other).sum()) == (2, 4, 2)


def test_a_side_without_voxels_has_no_file(tmp_path: Path) -> None:
    # Catches an empty map of a hemisphere that was not measured, or a crash over it.
    voxels = surface_voxels().isel(voxel=[0, 2])
    left = [path.name for path in write_maps({"r": np.ones(2)}, voxels, tmp_path)]
    assert left == ["sub-01_r_hemi-L.func.gii", "lh.sub-01_r.mgh"]


def test_voxels_that_share_a_place_are_averaged(tmp_path: Path) -> None:
    # Catches the last of several vertices that were sampled from one voxel winning.
    voxels = surface_voxels().assign_coords(
        i=("voxel", [1, 1, 1, 0, 0]), j=("voxel", [0] * 5), k=("voxel", [0] * 5)
    )
    voxels.attrs.update(affine=list(np.eye(4).ravel()), shape=[2, 1, 1])
    values = np.array([1.0, 4.0, np.nan, 8.0, 8.0])
    files = write_maps({"r": values}, voxels, tmp_path, ["nifti", "gifti"])
    assert [path.suffixes[-1] for path in files] == [".gz", ".gii", ".gii"]
    np.testing.assert_array_equal(np.asarray(nibabel.load(files[0]).dataobj).ravel(), [8, 2.5])


def test_equal_maps_are_equal_bytes(tmp_path: Path) -> None:
    # Catches a time stamp in the archive.
    for voxels, values in ((volume_voxels(), VALUES), (surface_voxels(), np.arange(5.0))):
        first = write_maps({"m": values}, voxels, tmp_path / "a")
        second = write_maps({"m": values}, voxels, tmp_path / "b")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        assert first[0].read_bytes()[4:8] == bytes(4) or first[0].suffix == ".gii"


@pytest.mark.parametrize("name", ["../../escape", "/etc/map", "..", "a/b\\c:d*e", ""])
def test_no_name_of_a_map_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    # Catches a path in a ROI or encoder name that is followed.
    voxels = volume_voxels(("../sub",))
    (path,) = write_maps({name: VALUES}, voxels, tmp_path / "maps")
    assert path.resolve().parent == (tmp_path / "maps").resolve()
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == [path.name]
    assert not path.name.startswith(".")


def test_names_that_become_one_file_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    # Catches one map silently overwriting another, also where capitals do not count.
    for pair in (("a b", "a/b"), ("Map", "map")):
        with pytest.raises(InputError, match="would both be written"):
            write_maps(dict.fromkeys(pair, VALUES), volume_voxels(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_maps_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    # Catches a map of another data set, and half of the maps on disk after an error.
    with pytest.raises(MismatchError, match=r"map 'bad' has shape \(4,\).*3 voxels"):
        write_maps({"good": VALUES, "bad": np.ones(4)}, volume_voxels(), tmp_path)
    with pytest.raises(InputError, match="map 'text' is <U1"):
        write_maps({"text": np.array(["a", "b", "c"])}, volume_voxels(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_voxels_without_a_place_are_refused_with_the_reason(tmp_path: Path) -> None:
    # Catches an empty folder that looks like success.
    voxels = response_set(
        np.zeros((1, 2)),
        presentation={"image": ["a"]},
        voxel={"subject": "s", "hemisphere": "left"},
    )
    assert "space 'none'" in why_no_maps(voxels)
    assert why_no_maps(volume_voxels()) == ""
    with pytest.raises(InputError, match="neither vertex nor i, j, k"):
        write_maps({"m": np.ones(2)}, voxels, tmp_path)


def _with_header(tmp_path, affine, space="native"):
    """Voxels of a NIfTI file with every field of its header set."""
    image = nibabel.Nifti1Image(np.zeros((5, 7, 9, 4), np.int16), affine)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=3)
    image.header.set_zooms((*image.header.get_zooms()[:3], 1.6))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(tmp_path / "source.nii")
    voxels = volume_voxels()
    voxels.attrs.update(grid_of(tmp_path / "source.nii").attrs(), space=space)
    return voxels, nibabel.load(tmp_path / "source.nii")


def test_a_map_is_on_the_grid_of_the_source_header_and_all(tmp_path: Path) -> None:
    # Catches resampling, a qform made from the sform, and the source's codes that get lost.
    for name, flip in {"RAS": 1, "LAS": -1}.items():
        affine = np.array(volume_voxels().attrs["affine"]).reshape(4, 4) @ np.diag([flip, 1, 1, 1])
        voxels, source = _with_header(tmp_path, affine, "MNI")
        (path,) = write_maps({"score": VALUES}, voxels, tmp_path / name)
        image = nibabel.load(path)
        data = np.asanyarray(image.dataobj)
        assert (data[0, 6, 1], data[4, 0, 8]) == (np.float32(0.1), np.float32(-2.5))
        assert np.isfinite(data).sum() == 2
        np.testing.assert_array_equal(image.affine, source.affine)
        for field in (
            *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
            *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
        ):
            assert image.header[field].tobytes() == source.header[field].tobytes(), field


def _overlay(path: Path) -> np.ndarray:
    # By its name nibabel leaves such a file open.
    return np.asanyarray(nibabel.MGHImage.from_bytes(path.read_bytes()).dataobj)


def test_freesurfer_finds_each_value_at_its_vertex(tmp_path: Path) -> None:
    # Catches swapped hemispheres, and a shape that FreeSurfer does not take for an overlay.
    left, right = write_maps({"r": np.arange(1.0, 6.0)}, surface_voxels(), tmp_path, ["mgh"])
    assert [left.name, right.name] == ["lh.sub-01_r.mgh", "rh.sub-01_r.mgh"]
    data = _overlay(left)
    assert data.shape == (13, 1, 1)
    assert data.dtype.kind + str(data.dtype.itemsize) == "f4"
    assert data[[7, 0, 11], 0, 0].tolist() == [1, 3, 5]
    assert np.isfinite(data).sum() == 3
    other = _overlay(right)[:, 0, 0]
    assert (len(other), other[11], other[3], np.isfinite(other).sum()) == (12, 2, 4, 2)


def test_challenge_vertices_of_several_subjects_fill_whole_fsaverage_meshes(tmp_path: Path) -> None:
    # Catches maps of as many vertices as the challenge has, and subjects that share a file.
    rng = np.random.default_rng(5)
    columns: dict = {"subject": [], "hemisphere": [], "vertex": []}
    for subject, counts in {"subj01": (40, 30), "subj07": (20, 50)}.items():
        for side, count in zip(("left", "right"), counts, strict=True):
            columns["subject"] += [subject] * count
            columns["hemisphere"] += [side] * count
            columns["vertex"] += sorted(rng.choice(163842, count, replace=False).tolist())
    voxels = response_set(
        np.zeros((1, 140)),
        presentation={"image": ["a"]},
        voxel=columns,
        attrs={"space": "challenge", "vertices_left": 163842, "vertices_right": 163842},
    )
    values = np.arange(1.0, 141)
    files = write_maps({"raw": values}, voxels, tmp_path)
    assert len(files) == 8
    for path in files:
        is_left = "hemi-L" in path.name or path.name.startswith("lh.")
        data = nibabel.load(path).darrays[0].data if path.suffix == ".gii" else _overlay(path)
        assert data.size == 163842
        subject = "subj01" if "subj01" in path.name else "subj07"
        side = "left" if is_left else "right"
        here = (voxels["subject"].values == subject) & (voxels["hemisphere"].values == side)
        np.testing.assert_array_equal(data.ravel()[voxels["vertex"].values[here]], values[here])
        assert np.isfinite(data).sum() == here.sum()


def test_a_format_that_the_voxels_do_not_allow_is_refused_with_the_reason(tmp_path: Path) -> None:
    # Catches an empty folder for --format gifti, and a picture of a mesh that nobody ships.
    assert why_no_format(volume_voxels()) == {
        **dict.fromkeys(("nifti", "png", "html"), ""),
        **dict.fromkeys(("gifti", "mgh"), why_no_format(volume_voxels())["mgh"]),
    }
    for wanted, voxels, part in (
        ("gifti", volume_voxels(), "no vertex"),
        ("nifti", surface_voxels(), "in no volume"),
        ("png", surface_voxels(), "the mesh has"),
        ("html", surface_voxels(space="native"), "needs vertices of fsaverage"),
    ):
        values = np.ones(voxels.sizes["voxel"])
        with pytest.raises(InputError, match=f"format '{wanted}' cannot be written.*{part}"):
            write_maps({"m": values}, voxels, tmp_path, [wanted])
    with pytest.raises(InputError, match="did you mean 'gifti'"):
        write_maps({"m": np.ones(5)}, surface_voxels(), tmp_path, ["gifty"])
    assert not list(tmp_path.iterdir())

"""Volumes: the grid, the header's own bytes, the values as stored, the order of the voxels."""

from __future__ import annotations

import base64

import nibabel
import numpy as np
import pytest

from neuroattn.data.volumes import (
    check_same_grid,
    grid_of,
    is_volume,
    mask_voxels,
    open_volume,
    read_volume,
)
from neuroattn.errors import FileError, InputError, MismatchError

SHAPE = (5, 3, 7)
OBLIQUE = np.array([[-1.8, 0.1, 0, 70], [0.1, 1.7, 0.2, -60], [0, -0.2, 1.9, -50], [0, 0, 0, 1.0]])
STORED = np.arange(np.prod(SHAPE) * 2, dtype=np.int16).reshape((*SHAPE, 2)) - 100

KINDS = {
    "a.nii": nibabel.Nifti1Image,
    "a.nii.gz": nibabel.Nifti1Image,
    "b.nii.gz": nibabel.Nifti2Image,
    "pair.img": nibabel.Nifti1Pair,
    "pair2.hdr": nibabel.Nifti2Pair,
}


@pytest.mark.parametrize("name", KINDS)
def test_the_header_is_that_of_the_file_to_the_byte(tmp_path, name) -> None:
    # Catches nibabel's copy of the header, which forgets slope, intercept and offset.
    image = KINDS[name](STORED, OBLIQUE)
    image.header.set_slope_inter(1 / 300, 0)
    image.header["descrip"] = b"made by a scanner"
    image.to_filename(tmp_path / name)
    grid = grid_of(tmp_path / name)
    content = base64.b64decode(grid.header)
    with nibabel.openers.ImageOpener(
        image.file_map.get("header", image.file_map["image"]).filename
    ) as f:
        assert content == f.read(len(content))
    assert len(content) == (540 if "2" in type(image).__name__ else 348)
    kind = type(image.header)(content)
    assert float(kind["scl_slope"]) == pytest.approx(1 / 300)
    assert grid.shape == SHAPE
    np.testing.assert_array_equal(grid.affine, nibabel.load(tmp_path / name).affine)
    assert grid.attrs()["affine"] == grid.affine.ravel().tolist()
    assert grid.attrs()["shape"] == list(SHAPE)


def test_a_volume_of_freesurfer_has_a_grid_and_no_nifti_header(tmp_path) -> None:
    # Catches an empty header among the attributes, which would be taken for a broken one.
    for name in ("a.mgz", "a.mgh"):
        nibabel.MGHImage(STORED.astype(np.float32), OBLIQUE).to_filename(tmp_path / name)
        grid = grid_of(tmp_path / name)
        np.testing.assert_allclose(grid.affine, OBLIQUE, atol=1e-5)
        assert set(grid.attrs()) == {"affine", "shape"}
        np.testing.assert_array_equal(read_volume(tmp_path / name), STORED)


def test_values_are_those_of_the_file(tmp_path) -> None:
    # Catches int16 that becomes float, and a slope that is forgotten.
    nibabel.Nifti1Image(STORED, OBLIQUE).to_filename(tmp_path / "plain.nii")
    plain = read_volume(tmp_path / "plain.nii")
    assert plain.dtype == np.int16
    np.testing.assert_array_equal(plain, STORED)
    scaled = nibabel.Nifti1Image(STORED, OBLIQUE)
    scaled.header.set_slope_inter(0.5, 3)
    scaled.to_filename(tmp_path / "scaled.nii")
    found = read_volume(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(found, nibabel.load(tmp_path / "scaled.nii").get_fdata())
    np.testing.assert_array_equal(found, 0.5 * STORED + 3)


def test_voxels_are_in_fortran_order() -> None:
    # Catches C order, in which the first axis runs slowest.
    mask = np.zeros(SHAPE, bool)
    for place in ((4, 0, 0), (0, 1, 0), (0, 0, 6), (1, 0, 6)):
        mask[place] = True
    flat, places = mask_voxels(mask)
    assert list(zip(*(places[axis].tolist() for axis in "ijk"), strict=True)) == [
        (4, 0, 0),
        (0, 1, 0),
        (0, 0, 6),
        (1, 0, 6),
    ]
    values = np.arange(mask.size).reshape(SHAPE)
    np.testing.assert_array_equal(
        values.ravel(order="F")[flat], values[places["i"], places["j"], places["k"]]
    )
    for wrong in (mask.astype(int), mask[0]):
        with pytest.raises(InputError, match="bool"):
            mask_voxels(wrong)


def test_another_grid_is_told_with_both_files(tmp_path) -> None:
    # Catches a mask of another subject or space that has the same number of voxels.
    nibabel.Nifti1Image(STORED, OBLIQUE).to_filename(tmp_path / "betas.nii")
    grid = grid_of(tmp_path / "betas.nii")
    near, far = OBLIQUE.copy(), OBLIQUE.copy()
    near[0, 3] += 4e-5
    far[0, 3] += 4e-4
    nibabel.Nifti1Image(STORED[..., 0], near).to_filename(tmp_path / "near.nii")
    check_same_grid(tmp_path / "near.nii", grid, "betas.nii")
    nibabel.Nifti1Image(STORED[..., 0], far).to_filename(tmp_path / "far.nii")
    with pytest.raises(MismatchError, match=r"far\.nii has the affine .* betas\.nii has"):
        check_same_grid(tmp_path / "far.nii", grid, "betas.nii")
    nibabel.Nifti1Image(STORED[:, :, :6, 0], OBLIQUE).to_filename(tmp_path / "short.nii")
    with pytest.raises(
        MismatchError, match=r"short\.nii has 5 x 3 x 6 .* betas\.nii has 5 x 3 x 7"
    ):
        check_same_grid(tmp_path / "short.nii", grid, "betas.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
@pytest.mark.parametrize("kept", [0, 100, 0.7])
def test_a_truncated_volume_is_told_by_name(tmp_path, name, kept) -> None:
    # Catches errors of zlib, of struct and of nibabel that do not say which file.
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    kind = nibabel.MGHImage if name.startswith("a.mg") else nibabel.Nifti1Image
    kind(values, OBLIQUE).to_filename(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    size = kept if isinstance(kept, int) else int(kept * len(content))
    (tmp_path / name).write_bytes(content[:size])
    with pytest.raises(FileError, match=rf"{name} \({size} bytes\)"):
        read_volume(tmp_path / name)


def test_what_has_no_grid_is_refused(tmp_path) -> None:
    # Catches a surface, a table and a picture taken for a volume.
    surface = nibabel.GiftiImage(darrays=[nibabel.gifti.GiftiDataArray(np.ones(3, np.float32))])
    nibabel.save(surface, tmp_path / "a.func.gii")
    (tmp_path / "a.nii.gz").write_bytes(b"no archive" * 50)
    nibabel.Nifti1Image(np.ones((3, 4), np.float32), OBLIQUE).to_filename(tmp_path / "flat.nii")
    for name in ("a.func.gii", "a.nii.gz", "flat.nii", "gone.nii"):
        with pytest.raises(FileError, match=name):
            open_volume(tmp_path / name)
    assert is_volume("A.NII.GZ")
    assert is_volume("lh.mgz")
    assert not is_volume("a.func.gii")

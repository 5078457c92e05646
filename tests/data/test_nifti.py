"""NIfTI to response set and back: the same numbers, the same header."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from neuroattn.data.brain_images import read_volume_responses
from neuroattn.data.nifti import nifti_bytes, nifti_header, write_responses_nifti
from neuroattn.data.schema import response_set
from neuroattn.data.storage import open_responses, save
from neuroattn.errors import InputError
from neuroattn.training.run_directory import RunDirectory

SHAPE, COUNT = (5, 3, 7), 4
TILT = np.array([[1.8, 0.1, 0, -70], [-0.1, 1.7, 0.2, -60], [0, -0.2, 1.9, -50], [0, 0, 0, 1.0]])
FLIP = np.diag([-1.0, 1, 1, 1])
AFFINES = {
    "RAS": np.diag([2.0, 2, 2, 1]),
    "LAS": FLIP @ np.diag([2.0, 2, 3, 1]),
    "oblique": TILT,
    "oblique LAS": FLIP @ TILT,
}
#: What may differ between the source and what is written.
MAY_CHANGE = {"datatype", "bitpix", "scl_slope", "scl_inter", "vox_offset", "magic", "dim"}


def _source(path, affine, kind=nibabel.Nifti1Image, dtype="float32", slope=None):
    """Write a 4-D image with everything in its header that could get lost."""
    rng = np.random.default_rng(0)
    data = (1000 * rng.standard_normal((*SHAPE, COUNT))).astype(dtype)
    if dtype == "float32":
        data[1, 2, 3, 1] = np.nan
    image = kind(data, affine)
    header = image.header
    # qform and sform differ, as they do after a registration.
    header.set_sform(affine, code=3)
    moved = affine.copy()
    moved[:3, 3] += 1.25
    header.set_qform(moved, code=1)
    header.set_xyzt_units("mm", "sec")
    header.set_zooms((*header.get_zooms()[:3], 1.333))
    header.set_intent("t test", (11.0,), name="betas")
    header.set_dim_info(freq=1, phase=0, slice=2)
    header["toffset"], header["cal_max"] = 2.5, 7.0
    header["descrip"], header["aux_file"] = b"a scanner", b"none"
    if slope is not None:
        header.set_slope_inter(slope, 0.25)
    image.to_filename(path)
    return nibabel.load(path)


def _mask(path, affine, kind=nibabel.Nifti1Image):
    mask = np.random.default_rng(1).random(SHAPE) < 0.4
    mask[1, 2, 3] = True
    kind(mask.astype(np.uint8), affine).to_filename(path)
    return mask


def _read(source, mask):
    found = read_volume_responses(source, mask)
    return response_set(
        found.values,
        presentation={"image": [f"i{n}" for n in range(len(found.values))]},
        voxel={"subject": "s", "hemisphere": "both", **found.voxel},
        attrs={"space": "native", **found.attrs},
    )


def _raw(path):
    """Return the header of a file as it is there: nibabel's loading forgets the scaling."""
    with nibabel.openers.ImageOpener(str(path)) as stream:
        kind = type(nibabel.load(path).header)
        return kind(stream.read(kind.sizeof_hdr), check=False)


@pytest.mark.parametrize("orientation", AFFINES)
@pytest.mark.parametrize(
    ("kind", "dtype", "slope"),
    [
        (nibabel.Nifti1Image, "float32", None),
        (nibabel.Nifti1Image, "int16", None),
        (nibabel.Nifti1Image, "int16", 1 / 300),
        (nibabel.Nifti2Image, "int16", 0.125),
        (nibabel.Nifti2Image, "float32", None),
    ],
)
def test_the_way_there_and_back_is_exact_inside_the_mask(tmp_path, orientation, kind, dtype, slope):
    # Catches C order, a swapped or rounded axis, a header rebuilt from the affine, and a slope
    # that is applied twice or not at all.
    affine = AFFINES[orientation]
    source = _source(tmp_path / "source.nii.gz", affine, kind, dtype, slope)
    mask = _mask(tmp_path / "mask.nii.gz", affine)
    data = _read(tmp_path / "source.nii.gz", tmp_path / "mask.nii.gz")
    save(data, tmp_path / "data.zarr")
    write_responses_nifti(open_responses(tmp_path / "data.zarr"), tmp_path / "back.nii.gz")
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert type(back) is type(source)
    values = np.asanyarray(back.dataobj)
    assert values.dtype == np.float32
    expected = np.asanyarray(source.dataobj).astype(np.float32)
    np.testing.assert_array_equal(values[mask].view(np.uint32), expected[mask].view(np.uint32))
    assert np.isnan(values[~mask]).all()
    before, after = _raw(tmp_path / "source.nii.gz"), _raw(tmp_path / "back.nii.gz")
    for field in before.structarr.dtype.names:
        if field not in MAY_CHANGE:
            assert before[field].tobytes() == after[field].tobytes(), field
    assert after["dim"].tolist() == before["dim"].tolist()
    np.testing.assert_array_equal(back.affine, source.affine)


def test_a_map_has_the_places_of_its_source_and_not_its_range_of_display(tmp_path) -> None:
    # Catches a map that a viewer shows black because the betas went to 7.
    _source(tmp_path / "source.nii", TILT)
    _mask(tmp_path / "mask.nii", TILT)
    data = _read(tmp_path / "source.nii", tmp_path / "mask.nii")
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    (tmp_path / "map.nii").write_bytes(nifti_bytes(values, data, "a map"))
    image, before, after = (
        nibabel.load(tmp_path / "map.nii"),
        _raw(tmp_path / "source.nii"),
        _raw(tmp_path / "map.nii"),
    )
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), values)
    for field in (
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "srow_x",
        "srow_y",
        "srow_z",
        "pixdim",
        "xyzt_units",
        "dim_info",
    ):
        assert before[field].tobytes() == after[field].tobytes(), field
    assert (float(after["cal_max"]), int(after["intent_code"])) == (0, 0)
    assert bytes(after["descrip"]).rstrip(b"\0") == b"a map"


def test_a_header_in_the_other_byte_order_is_kept(tmp_path) -> None:
    # Catches bytes that are read in this machine's order.
    header = nibabel.Nifti1Header(endianness=">")
    values = np.random.default_rng(2).standard_normal((*SHAPE, COUNT)).astype(">f4")
    image = nibabel.Nifti1Image(values, TILT, header)
    image.to_filename(tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    write_responses_nifti(_read(tmp_path / "big.nii", None), tmp_path / "back.nii")
    assert (tmp_path / "back.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    np.testing.assert_array_equal(
        np.asanyarray(nibabel.load(tmp_path / "back.nii").dataobj), values
    )


def test_a_qfac_of_zero_stays_as_it_is(tmp_path) -> None:
    # Catches a header that is refused, or mended, for what many programs write.
    _source(tmp_path / "source.nii", np.diag([2.0, 2, 2, 1]))
    content = bytearray((tmp_path / "source.nii").read_bytes())
    content[76:80] = bytes(4)
    (tmp_path / "source.nii").write_bytes(content)
    write_responses_nifti(_read(tmp_path / "source.nii", None), tmp_path / "back.nii")
    assert (tmp_path / "back.nii").read_bytes()[76:80] == bytes(4)


def test_predictions_of_a_run_become_a_volume(tmp_path) -> None:
    # Catches predictions.zarr without the grid, or with rows in another order.
    import xarray as xr

    _source(tmp_path / "source.nii", TILT)
    mask = _mask(tmp_path / "mask.nii", TILT)
    data = _read(tmp_path / "source.nii", tmp_path / "mask.nii")
    values = np.random.default_rng(3).standard_normal((3, data.sizes["voxel"]))
    prediction = xr.DataArray(values, dims=("image", "voxel"), coords={"image": ["c", "a", "b"]})
    run = RunDirectory(tmp_path / "run")
    run.write_predictions(prediction, data.drop_vars("response"), "RidgeEncoder")
    found = open_responses(run.predictions)
    seen = []
    write_responses_nifti(
        found, tmp_path / "p.nii.gz", progress=lambda n, all_: seen.append((n, all_))
    )
    volumes = np.asanyarray(nibabel.load(tmp_path / "p.nii.gz").dataobj)
    assert found["image"].values.tolist() == ["c", "a", "b"]
    i, j, k = (data[axis].values for axis in "ijk")
    np.testing.assert_array_equal(volumes[i, j, k].T, values.astype(np.float32))
    assert np.isfinite(volumes).sum() == 3 * mask.sum()
    assert seen[-1] == (3, 3)


def test_the_same_responses_are_the_same_bytes_in_blocks_of_any_size(tmp_path, monkeypatch) -> None:
    # Catches a time stamp, and volumes lost between blocks.
    _source(tmp_path / "source.nii", TILT)
    data = _read(tmp_path / "source.nii", None)
    write_responses_nifti(data, tmp_path / "a.nii.gz")
    monkeypatch.setattr("neuroattn.data.nifti._BLOCK_BYTES", 3 * 4 * 105)
    write_responses_nifti(data, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    write_responses_nifti(data, tmp_path / "c.nii")
    assert (tmp_path / "c.nii").read_bytes() == gzip.decompress(
        (tmp_path / "a.nii.gz").read_bytes()
    )


def test_what_cannot_be_a_volume_is_refused_with_the_reason(tmp_path) -> None:
    # Catches two subjects in one volume, the last of two voxels winning, a wrong header used.
    _source(tmp_path / "source.nii", TILT)
    data = _read(tmp_path / "source.nii", None)
    two = data.assign_coords(subject=("voxel", ["a", "b"] + ["b"] * (data.sizes["voxel"] - 2)))
    same = data.assign_coords(i=("voxel", np.zeros(data.sizes["voxel"], int)))
    cases = {
        "2 subjects": two,
        "105 voxels are at 21 places": same,
        "no i, j, k": data.drop_vars(["i", "j", "k"]),
        "attribute header .* is no base64": data.assign_attrs(header="AAAA"),
        r"attribute header is of a grid of \(5, 3, 7\)": data.assign_attrs(shape=[7, 3, 7]),
        "attribute header is of a grid .* affine": data.assign_attrs(
            affine=np.eye(4).ravel().tolist()
        ),
    }
    for part, wrong in cases.items():
        with pytest.raises(InputError, match=part):
            write_responses_nifti(wrong, tmp_path / "no.nii")
    with pytest.raises(InputError, match=r"\.nii or \.nii\.gz"):
        write_responses_nifti(data, tmp_path / "no.img")
    many = data.isel(presentation=np.zeros(32768, int), voxel=[0])
    with pytest.raises(InputError, match="32768 presentations"):
        write_responses_nifti(many, tmp_path / "no.nii")
    assert not list(tmp_path.glob("no*"))


def test_voxels_without_a_header_say_their_space(tmp_path) -> None:
    # Catches MNI coordinates that are taken for the scanner's.
    _source(tmp_path / "source.nii", TILT)
    data = _read(tmp_path / "source.nii", None)
    del data.attrs["header"]
    for space, code in {"native": 1, "MNI": 4}.items():
        header = nifti_header(data.assign_attrs(space=space))
        assert int(header["sform_code"]) == code
        np.testing.assert_allclose(header.get_best_affine(), TILT, atol=1e-5)
        assert header.get_xyzt_units()[0] == "mm"

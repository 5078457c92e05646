"""Round trips to the bit, and files that are not whole."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.rules import validate
from neuroattn.data.schema import response_set
from neuroattn.data.storage import open_responses, save
from neuroattn.data.transforms import average_repetitions
from neuroattn.errors import FileError, InputError
from tests.data.layouts import small_set

ENDINGS = ("zarr", "nc")


def _rich() -> xr.Dataset:
    attrs = {
        **small_set().attrs,
        "affine": [[1.5, -0.1], [2, 3]],
        "note": {"é": [1, [2.5, "x", None, True]], "empty": []},
        "tr": 4 / 3,
        "licence": "",
    }
    data = small_set(attrs=attrs, ncsnr=[0, 1, np.nan, np.inf, 1 / 3], ceiling=np.full(5, np.nan))
    data["image"].values[3] = "ünï/çødé image 3.png"
    values = data["response"].values
    values[0, 0] = np.nan
    values[1, 1] = -0.0
    values[2, 2] = np.finfo(np.float32).tiny / 8
    # A NaN with a payload: other bits than the NaN of numpy.
    values.view(np.uint32)[3, 3] = 0x7FC01234
    data["ncsnr"].attrs["method"] = {"repeats": [3, 2]}
    return data


def _assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    assert one.identical(other)
    assert list(one) == list(other)
    assert repr(one.attrs) == repr(other.attrs)
    for name in other.variables:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].attrs == other[name].attrs
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_round_trip_is_lossless_to_the_bit(tmp_path, ending) -> None:
    # Catches fill values, lost signs, lost payloads, bools as integers, flattened attributes.
    data = _rich()
    save(data, tmp_path / f"set.{ending}")
    _assert_same(open_responses(tmp_path / f"set.{ending}").load(), data)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_set_of_zeros_of_both_signs_keeps_them(tmp_path, ending) -> None:
    # Catches a chunk of -0.0 that is taken for the fill value and not written.
    data = small_set(response=np.full((9, 5), -0.0))
    save(data, tmp_path / f"set.{ending}")
    assert np.signbit(open_responses(tmp_path / f"set.{ending}")["response"].values).all()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_set_without_rois_and_an_averaged_set_come_back(tmp_path, ending) -> None:
    # Catches an empty dimension that changes type or becomes unlimited.
    bare = response_set(
        np.eye(3), presentation={"image": list("abc")}, voxel={"subject": "s", "hemisphere": "both"}
    )
    for data in (bare, average_repetitions(small_set())):
        save(data, tmp_path / f"set.{ending}")
        _assert_same(open_responses(tmp_path / f"set.{ending}").load(), data)


@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("second", ENDINGS)
def test_an_opened_set_can_be_saved_in_either_format(tmp_path, first, second) -> None:
    # Catches the encoding of one format reaching the other, and a file replaced while it is read.
    data = _rich()
    save(data, tmp_path / f"set.{first}")
    opened = open_responses(tmp_path / f"set.{first}")
    save(opened, tmp_path / f"set.{second}")
    save(opened.isel(voxel=[0, 3]), tmp_path / f"part.{second}")
    _assert_same(open_responses(tmp_path / f"set.{second}").load(), data)
    part = open_responses(tmp_path / f"part.{second}")
    assert part["vertex"].values.tolist() == data["vertex"].values[[0, 3]].tolist()
    assert part["response"].values.tobytes() == data["response"].values[:, [0, 3]].tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_responses_stay_on_disk_until_they_are_used(tmp_path, ending) -> None:
    # Catches an opening that reads everything (here: several chunks in both directions).
    mesh = {"space": "fsaverage", "vertices_left": 163842, "vertices_right": 163842}
    shown = {"image": np.arange(1100).astype(str)}
    data = small_set(1100, 9000, presentation=shown, attrs=mesh)
    save(data, tmp_path / f"set.{ending}")
    opened = open_responses(tmp_path / f"set.{ending}")
    assert not opened["response"].variable._in_memory
    assert opened["vertex"].variable._in_memory
    block = opened["response"].isel(voxel=slice(4090, 4100))
    np.testing.assert_array_equal(block, data["response"].isel(voxel=slice(4090, 4100)))
    assert not opened["response"].variable._in_memory
    np.testing.assert_array_equal(opened["response"][1050], data["response"][1050])


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.6, 0.99])
def test_a_truncated_netcdf_file_is_named(tmp_path, keep) -> None:
    # Catches a library error without file name, and rows of zeros for what is cut off.
    path = tmp_path / "set.nc"
    save(small_set(presentations=200, voxels=50), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match=r"set\.nc.*bytes"):
        open_responses(path)


def test_a_flipped_bit_in_a_netcdf_file_is_no_number(tmp_path) -> None:
    # Catches damage that only shows as a strange response.
    path = tmp_path / "set.nc"
    data = small_set(presentations=200, voxels=50)
    save(data, path)
    content = bytearray(path.read_bytes())
    place = content.index(data["response"].values[:5].tobytes())
    content[place + 2] ^= 0x40
    path.write_bytes(bytes(content))
    with pytest.raises(OSError):
        open_responses(path)["response"].load()


def _files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_every_missing_or_truncated_file_of_a_zarr_directory_is_noticed(tmp_path) -> None:
    # Catches zarr's reading of a missing chunk as zeros.
    whole = tmp_path / "whole.zarr"
    save(small_set(presentations=600, voxels=50), whole)
    files = _files(whole)
    assert len(files) > 15
    for number, file in enumerate(files):
        for change in ("missing", "truncated"):
            path = tmp_path / f"set-{number}-{change}.zarr"
            shutil.copytree(whole, path)
            broken = path / file.relative_to(whole)
            if change == "missing":
                broken.unlink()
            else:
                broken.write_bytes(broken.read_bytes()[:-3])
            with pytest.raises(FileError, match=path.name):
                open_responses(path)
    assert open_responses(whole).sizes["presentation"] == 600


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_breaks_a_rule_is_named_with_the_rule(tmp_path, ending, monkeypatch) -> None:
    # Catches a reading that is not checked.
    path = tmp_path / f"set.{ending}"
    monkeypatch.setattr("neuroattn.data.storage.validate", lambda data, values=True: data)
    save(small_set().assign_attrs(space="moon"), path)
    monkeypatch.setattr("neuroattn.data.storage.validate", validate)
    with pytest.raises(FileError, match=rf"set\.{ending} holds no valid.*'moon'"):
        open_responses(path)


def test_files_of_others_endings_and_missing_files_are_named(tmp_path) -> None:
    # Catches xarray's list of engines as an error message.
    with pytest.raises(InputError, match=r"'\.h5'; allowed: '\.zarr', '\.nc'"):
        save(small_set(), tmp_path / "set.h5")
    for ending in ENDINGS:
        with pytest.raises(FileError, match="does not exist"):
            open_responses(tmp_path / f"none.{ending}")
    xr.Dataset({"x": ("y", np.arange(3))}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(FileError, match=r"foreign\.nc"):
        open_responses(tmp_path / "foreign.nc")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FileError, match=r"empty\.zarr"):
        open_responses(tmp_path / "empty.zarr")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_save_leaves_the_old_set_and_nothing_else(tmp_path, ending) -> None:
    # Catches a write in place.
    path = tmp_path / f"set.{ending}"
    save(small_set(), path)
    with pytest.raises(InputError, match="attribute space"):
        save(small_set().assign_attrs(space="moon"), path)
    broken = small_set()
    broken["ncsnr"] = ("voxel", np.ones(5), {"note": object()})
    with pytest.raises(InputError, match="not plain data"):
        save(broken, path)
    assert open_responses(path).identical(small_set())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, ending, monkeypatch) -> None:
    # Catches a half-written set under the final name.
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(FileError, match=rf"set\.{ending}.*No space left"):
        save(small_set(), tmp_path / f"set.{ending}")
    assert list(tmp_path.iterdir()) == []

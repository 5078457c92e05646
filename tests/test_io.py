"""Nothing is half-written, nothing foreign is executed, and the message names the file."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn import io
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import (
    atomic_path,
    existing,
    open_hdf5,
    read_json,
    read_netcdf,
    read_tensors,
    write_json,
    write_netcdf,
    write_tensors,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_whole_under_its_name_and_its_folder_is_made(tmp_path: Path) -> None:
    """Catches a writer whose reader can see a part of the file."""
    target = tmp_path / "runs" / "first" / "scores.nc"
    with atomic_path(target) as beside:
        beside.write_text("half")
        assert not target.exists()
        beside.write_text("whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["scores.nc"]


def test_writing_beside_stays_in_the_same_folder(tmp_path: Path) -> None:
    """Catches a temporary file on another disk, from where a rename is no longer atomic."""
    with atomic_path(tmp_path / "a.txt") as beside:
        assert beside.parent == tmp_path
        beside.write_text("x")


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), FileError("mine")])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    """Catches lost results after Ctrl-C, leftovers, and errors of ours that are wrapped twice."""
    target = tmp_path / "weights.bin"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        interrupted()
    assert caught.value is error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["weights.bin"]


def test_a_disk_that_fills_up_while_writing_is_told_with_the_path(tmp_path: Path) -> None:
    """Catches a traceback of OSError, a lost old file, and a leftover that fills the disk."""
    target = tmp_path / "scores.nc"
    target.write_text("old")

    def write() -> None:
        with atomic_path(target) as beside:
            beside.write_text("half")
            full_disk()

    with pytest.raises(FileError, match=r"scores\.nc could not be written \(No space left") as e:
        write()
    assert isinstance(e.value.__cause__, OSError)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["scores.nc"]


def test_a_rename_that_the_system_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a target that is deleted before the new one is in place."""
    target = tmp_path / "split.json"
    write_json(target, {"old": 1})
    monkeypatch.setattr(io.os, "replace", full_disk)
    with pytest.raises(FileError, match=r"split\.json could not be written"):
        write_json(target, {"new": 2})
    assert read_json(target) == {"old": 1}
    assert names(tmp_path) == ["split.json"]


def test_a_folder_that_cannot_be_made_is_told_with_the_path(tmp_path: Path) -> None:
    """Catches a parent that is a file."""
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(FileError, match=r"manifest\.json could not be written"):
        write_json(tmp_path / "runs" / "manifest.json", {})


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Catches files of the old directory that live on in the new one."""
    target = tmp_path / "predictions.zarr"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_path(target) as beside:
        beside.mkdir()
        (beside / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["predictions.zarr"]


def test_an_interrupted_directory_leaves_the_old_one(tmp_path: Path) -> None:
    """Catches a half-filled directory in the place of a good one."""
    target = tmp_path / "entry"
    target.mkdir()
    (target / "old").write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as beside:
            beside.mkdir()
            (beside / "new").write_text("new")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        interrupted()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["entry"]


def test_a_directory_whose_second_rename_fails_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a swap that moves the old directory away and cannot bring the new one."""
    target = tmp_path / "entry"
    target.mkdir()
    (target / "old").write_text("old")
    rename, calls = os.replace, []

    def second_fails(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:
            full_disk()
        rename(source, destination)

    def write() -> None:
        with atomic_path(target) as beside:
            beside.mkdir()
            monkeypatch.setattr(io.os, "replace", second_fails)

    with pytest.raises(FileError, match=r"entry could not be written.*nothing was changed"):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["entry"]


def test_json_comes_back_as_it_was_and_reads_like_text(tmp_path: Path) -> None:
    """Catches escaped letters, one long line, and rounded numbers."""
    data = {"name": "Käthe", "seed": 0, "values": [0.1, 1e-300, None, True], "empty": {}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "Käthe" in text
    assert text.count("\n") > 4
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_does_not_have(tmp_path: Path, number: float) -> None:
    """Catches a NaN that other programs cannot read, and an old file lost over it."""
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [number])
    assert read_json(tmp_path / "a.json") == [1]
    assert names(tmp_path) == ["a.json"]


def test_broken_json_is_told_with_file_line_and_column(tmp_path: Path) -> None:
    """Catches a message that says only that something was expected."""
    path = tmp_path / "split.json"
    path.write_text('{"train": [1],\n "test" [2]}', "utf-8")
    with pytest.raises(FileError, match=r"split\.json is not valid JSON.*line 2 column 9"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{}", b'{"a": 1'])
def test_truncated_or_undecodable_json_is_a_file_error(tmp_path: Path, content: bytes) -> None:
    """Catches an empty file after a crash, or one in another encoding."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"config\.json is not valid JSON"):
        read_json(path)


def test_a_missing_path_is_told_with_the_nearest_parent_that_exists(tmp_path: Path) -> None:
    """Catches a message that leaves the typing error in a long path to be found by eye."""
    with pytest.raises(FileError) as caught:
        existing(tmp_path / "runs" / "a" / "b.json", "configuration")
    assert str(caught.value) == (
        f"configuration {tmp_path / 'runs' / 'a' / 'b.json'} does not exist "
        f"(the path exists as far as {tmp_path})."
    )
    assert existing(str(tmp_path), "folder") == tmp_path


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return {"grid": grid.T, "half": torch.ones(1, dtype=torch.float16), "none": torch.zeros(0, 7)}


def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Catches a lost dtype, a transposed tensor saved in memory order, a dropped empty one."""
    path = tmp_path / "weights.safetensors"
    written = weights()
    write_tensors(path, written, {"class": "RidgeEncoder"})
    found, metadata = read_tensors(path)
    assert metadata == {"class": "RidgeEncoder"}
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name].numpy(), tensor.numpy())
    assert names(tmp_path) == ["weights.safetensors"]


def test_tensors_with_gradients_are_written_without_them(tmp_path: Path) -> None:
    """Catches parameters that are refused because they still hang on a graph."""
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.ones(2, requires_grad=True) * 2}, {})
    assert not read_tensors(path)[0]["a"].requires_grad
    assert read_tensors(path)[1] == {}


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_truncated_weights_file_is_told_with_its_name_and_size(tmp_path: Path, kept: int) -> None:
    """Catches a broken copy that is read as zeros, or ends in an error of another library."""
    path = tmp_path / "weights.safetensors"
    write_tensors(path, weights(), {})
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"weights\.safetensors .*\({len(content)} bytes\)"):
        read_tensors(path)


def test_a_weights_file_that_is_not_there_is_a_file_error(tmp_path: Path) -> None:
    """Catches the bare FileNotFoundError of the reading library."""
    with pytest.raises(FileError, match=r"weights file .*gone\.safetensors does not exist"):
        read_tensors(tmp_path / "gone.safetensors")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the operating system refuse larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_weights(tmp_path: Path) -> None:
    """Catches safetensors' own error for a full disk, which is no OSError, and lost weights."""
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {})
    expected = r"weights\.safetensors could not be written"
    with files_of_at_most(1000), pytest.raises(FileError, match=expected):
        write_tensors(path, {"a": torch.zeros(10_000)}, {})
    assert torch.equal(read_tensors(path)[0]["a"], torch.ones(2))
    assert names(tmp_path) == ["weights.safetensors"]


def test_a_full_disk_leaves_the_old_json(tmp_path: Path) -> None:
    """Catches a split that is lost while a longer one is written over it."""
    write_json(tmp_path / "split.json", [1])
    expected = r"split\.json could not be written"
    with files_of_at_most(1000), pytest.raises(FileError, match=expected):
        write_json(tmp_path / "split.json", list(range(10_000)))
    assert read_json(tmp_path / "split.json") == [1]
    assert names(tmp_path) == ["split.json"]


def test_a_dataset_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    """Catches the HDF5 library's own error, which names no file."""
    path = tmp_path / "curve.nc"
    written = xr.Dataset({"a": ("x", [1.5, -2.0])}, coords={"x": ["b", "c"]}, attrs={"n": 3})
    write_netcdf(path, written)
    found = read_netcdf(path, "curve")
    assert found.attrs["n"] == 3
    assert found["x"].values.astype(str).tolist() == ["b", "c"]
    assert found["a"].values.tolist() == [1.5, -2.0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=r"curve .*curve\.nc is not whole"):
        read_netcdf(path, "curve")
    with pytest.raises(FileError, match=r"none\.nc"):
        read_netcdf(tmp_path / "none.nc")


def small_hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(6.0), chunks=(3,), fletcher32=True)
    return path


def values(path: Path, name: str = "a") -> list[float]:
    with open_hdf5(path, "betas", "Ask for it again.") as file:
        return list(file[name][()])


def test_an_hdf5_file_is_read_and_closed_again(tmp_path: Path) -> None:
    """Catches a file that stays open, and one that is opened for writing."""
    path = small_hdf5(tmp_path / "a.h5")
    (tmp_path / "linked.h5").symlink_to("a.h5")
    assert values(tmp_path / "linked.h5") == [0, 1, 2, 3, 4, 5]
    with open_hdf5(str(path), "betas") as file:
        assert file.mode == "r"
    assert not file


def test_a_missing_hdf5_file_is_told_by_what_it_is(tmp_path: Path) -> None:
    """Catches the bare FileNotFoundError of the reading library."""
    with pytest.raises(FileError, match=r"^betas .*gone\.h5 does not exist"):
        values(tmp_path / "gone.h5")


@pytest.mark.parametrize("content", [None, 100, b"", b"subject,voxel\n", b"annex/objects/"])
def test_a_file_that_is_no_whole_hdf5_is_told_with_size_and_advice(
    tmp_path: Path, content: bytes | int | None
) -> None:
    """Catches a library error without a name, and every small text taken for a pointer."""
    path = small_hdf5(tmp_path / "a.h5")
    whole = path.read_bytes()
    kept = content if isinstance(content, bytes) else whole[: content or len(whole) - 20]
    path.write_bytes(kept)
    expected = rf"betas .*a\.h5 \({len(kept)} bytes\) is truncated or not HDF5: .*Ask for it again"
    with pytest.raises(FileError, match=expected) as caught:
        values(path)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("target", [".git/annex/objects/none", "nothing"])
def test_a_link_to_nothing_is_told_with_the_command_that_fetches_it(
    tmp_path: Path, target: str
) -> None:
    """Catches 'does not exist' of a file that the folder lists."""
    path = tmp_path / "a.h5"
    path.symlink_to(tmp_path / target)
    with pytest.raises(FileError, match=r"betas .*a\.h5 is a link to .*`datalad get .*a\.h5`"):
        values(path)


@pytest.mark.parametrize(
    "text",
    [
        "/annex/objects/MD5E-s123--0123abcd.h5\n",
        "../../.git/annex/objects/k7/Vx/MD5E-s123--0123abcd.h5/MD5E-s123--0123abcd.h5",
        "../.git/modules/movie-10/annex/objects/k7/Vx/MD5E-s123--0123abcd.h5",
    ],
)
def test_a_text_in_the_place_of_content_is_told_with_the_command(tmp_path: Path, text: str) -> None:
    """Catches advice to compare sizes for what git-annex has not fetched yet."""
    path = tmp_path / "a.h5"
    path.write_text(text)
    expected = rf"a\.h5 \({len(text)} bytes\) is a text .*not fetched: .*`datalad get .*a\.h5`"
    with pytest.raises(FileError, match=expected):
        values(path)


def test_damage_that_shows_when_it_is_read_is_told_with_the_file(tmp_path: Path) -> None:
    """Catches a checksum or a name that fails inside the block, where no file is named."""
    path = small_hdf5(tmp_path / "a.h5")
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(6.0)[1:3].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"a\.h5 \(\d+ bytes\) is .*: .*read.*Ask for it again"):
        values(path)
    with pytest.raises(FileError, match=r"betas .*a\.h5 .*'b'"):
        values(path, "b")
    expected = r"Copy it again and compare sizes\.$"
    with pytest.raises(FileError, match=expected), open_hdf5(path, "betas"):
        raise RuntimeError


@pytest.mark.parametrize("error", [FileError("mine"), MismatchError("ours"), ValueError("bug")])
def test_other_errors_in_the_block_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    """Catches a message of ours that ends up inside another, and a bug told as a damaged file."""

    def read() -> None:
        with open_hdf5(small_hdf5(tmp_path / "a.h5"), "betas"):
            raise error

    with pytest.raises(type(error)) as caught:
        read()
    assert caught.value is error

"""Volumes of trials: one pass, scaled as the header says, undefined voxels and copies told."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from neuroattn.data import trial_volumes
from neuroattn.data.trial_volumes import (
    check_distinct,
    defined,
    first_trial,
    pieces,
    read_trials,
    trial_blocks,
)
from neuroattn.errors import FileError, MismatchError


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-300, 300, (3, 4, 5, 7)).astype(np.int16)


def write(path: Path, volume: np.ndarray, slope: float | None = None) -> Path:
    image = nibabel.Nifti1Image(volume, np.eye(4))
    if slope is not None:
        image.header.set_slope_inter(slope, 1.0)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("block", [1, 60 * 8 * 3, 2**25])
def test_trials_are_those_of_nibabel(tmp_path, volume, monkeypatch, name, block) -> None:
    # Catches blocks that overlap, C order, a scaling that is forgotten or applied twice.
    monkeypatch.setattr(trial_volumes, "_BLOCK_BYTES", block)
    path = write(tmp_path / name, volume, slope=0.5)
    expected = np.asarray(nibabel.load(path).dataobj)
    assert not np.array_equal(expected, volume)
    voxels = np.array([0, 7, 59])
    whole = expected.reshape(60, 7, order="F")
    np.testing.assert_array_equal(read_trials(path, voxels), whole[voxels].T)
    np.testing.assert_array_equal(first_trial(path), whole[:, 0])
    assert sum(part.shape[1] for part in trial_blocks(path)) == 7


def test_a_compressed_file_is_unpacked_once(tmp_path, volume, monkeypatch) -> None:
    # Catches a file that is opened again for each block: hours instead of minutes.
    monkeypatch.setattr(trial_volumes, "_BLOCK_BYTES", 1)
    path = write(tmp_path / "a.nii.gz", volume)
    rewound = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: (rewound.append(1), rewind(self)))
    assert len(list(trial_blocks(path))) == 7
    assert not rewound


def test_files_without_trials_are_told(tmp_path, volume) -> None:
    # Catches a mask in place of estimates.
    with pytest.raises(FileError, match="four axes"):
        read_trials(write(tmp_path / "a.nii", volume[..., 0]), np.array([0]))
    path = write(tmp_path / "b.nii.gz", volume)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(FileError, match=r"b\.nii\.gz.*truncated"):
        read_trials(path, np.array([0]))


def test_trials_may_be_empty_in_a_piece_but_not_in_all() -> None:
    # Catches a refusal of narrow pieces, and a failed trial that passes.
    one, two = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    one[1], two[:, 1] = np.nan, 0
    parts = list(defined([one, two], "session 4", Path("a.nii")))
    assert np.isnan(parts[1][:, 1]).all()
    assert np.isnan(parts[0][1]).all()
    two[1] = np.nan
    with pytest.raises(FileError, match=r"session 4 \(a\.nii\): 1 of 3 trials .*trial 1,"):
        list(defined([one, two], "session 4", Path("a.nii")))
    assert list(defined([], "session 4", Path("a.nii"))) == []


def test_pieces_cover_all_voxels_once(monkeypatch) -> None:
    # Catches a last piece that is left out.
    monkeypatch.setattr(trial_volumes, "_PIECE_BYTES", 4 * 3 * 2)
    values = np.arange(21, dtype=np.float32).reshape(3, 7)
    parts = list(pieces(values))
    assert [part.shape[1] for part in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.hstack(parts), values)


def test_equal_first_trials_are_refused() -> None:
    # Catches a session saved twice; values that are equal but stored otherwise are no copy.
    paths = [Path("a"), Path("b"), Path("c")]
    trials = [np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([1.0, 2.0])]
    check_distinct(paths[:2], trials[:2])
    with pytest.raises(MismatchError, match="a and c begin"):
        check_distinct(paths, trials)

"""fsaverage and the native surface: hemispheres, units, labels."""

from __future__ import annotations

import tracemalloc

import nibabel
import numpy as np
import pytest

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd import betas as betas_module
from neuroattn.data.nsd.betas import MghBetas
from neuroattn.errors import FileError, InputError, MismatchError
from tests.data.nsd_mini import FSAVERAGE, MESHES, Mini, surface_labels


def expected(mini: Mini, space: str) -> np.ndarray:
    parts = []
    for side in ("lh", "rh"):
        kept = np.flatnonzero(surface_labels(space, side)["nsdgeneral"] == 1)
        both = np.concatenate([mini.surface(space, side, number) for number in (1, 2)])
        parts.append(both[:, kept] / (1 if space == "fsaverage" else 300))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("space", ["fsaverage", "nativesurface"])
@pytest.mark.parametrize("budget", [1, 12 * 4 * 5, 2**26])
def test_surfaces_give_the_written_numbers_left_first(
    mini: Mini, monkeypatch: pytest.MonkeyPatch, space: str, budget: int
) -> None:
    """Catches swapped hemispheres, fsaverage divided by 300, and the native one not divided."""
    monkeypatch.setattr(betas_module, "_PIECE_BYTES", budget)
    data = NSD(str(mini.root), 1, space=space).responses()
    np.testing.assert_allclose(data["response"], expected(mini, space), rtol=1e-6)
    counts = [(surface_labels(space, side)["nsdgeneral"] == 1).sum() for side in MESHES]
    assert data["hemisphere"].values.tolist() == ["left"] * counts[0] + ["right"] * counts[1]
    vertices = [np.flatnonzero(surface_labels(space, side)["nsdgeneral"] == 1) for side in MESHES]
    assert data["vertex"].values.tolist() == np.concatenate(vertices).tolist()


def test_meshes_and_spaces_are_named(mini: Mini) -> None:
    """Catches the vertex counts of the two hemispheres swapped, or a wrong space."""
    native = NSD(str(mini.root), 1, space="nativesurface").responses().attrs
    assert (native["vertices_left"], native["vertices_right"]) == (MESHES["lh"], MESHES["rh"])
    assert native["space"] == "native"
    average = NSD(str(mini.root), 1, space="fsaverage").responses().attrs
    assert (average["vertices_left"], average["vertices_right"]) == (FSAVERAGE, FSAVERAGE)
    assert average["space"] == "fsaverage"
    assert np.isnan(average["tr"])


def test_rois_of_a_surface_hold_both_hemispheres(mini: Mini) -> None:
    """Catches the labels of one hemisphere laid over the other."""
    data = NSD(str(mini.root), 1, space="nativesurface", roi=["V2v"]).responses()
    wanted = [
        np.flatnonzero(surface_labels("nativesurface", s)["prf-visualrois"] == 3) for s in MESHES
    ]
    assert data["vertex"].values.tolist() == np.concatenate(wanted).tolist()
    assert data["roi_mask"].sel(roi="V2v").values.all()
    assert not data["roi_mask"].sel(roi="V1v").values.any()


def test_a_roi_of_one_hemisphere_reads_that_file_alone(own: Mini) -> None:
    """Catches a hemisphere without wanted vertices that stops the reading."""
    path = own.root / "nsddata/freesurfer/fsaverage/label/rh.nsdgeneral.mgz"
    nibabel.save(nibabel.MGHImage(np.zeros((FSAVERAGE, 1, 1), np.int32), np.eye(4)), path)
    data = NSD(str(own.root), 1, space="fsaverage").responses()
    assert set(data["hemisphere"].values) == {"left"}
    assert np.isfinite(data["response"].values).all()


def test_the_whole_mesh_can_be_kept(mini: Mini) -> None:
    """Catches 'all' that still masks."""
    data = NSD(str(mini.root), 1, space="fsaverage", roi=["all"]).responses()
    assert data.sizes["voxel"] == 2 * FSAVERAGE


def test_a_brain_mask_is_for_volumes(mini: Mini) -> None:
    """Catches a mask name that has no meaning on a mesh."""
    with pytest.raises(InputError, match="brainmask"):
        NSD(str(mini.root), 1, space="fsaverage", roi=["brainmask"]).labels()


def test_labels_of_another_mesh_are_refused(own: Mini) -> None:
    """Catches labels of fsaverage5 or of another subject."""
    path = own.root / "nsddata/freesurfer/fsaverage/label/lh.prf-visualrois.mgz"
    nibabel.save(nibabel.MGHImage(np.zeros((17, 1, 1), np.int32), np.eye(4)), path)
    with pytest.raises(MismatchError, match="17 vertices"):
        NSD(str(own.root), 1, space="fsaverage").labels()


def test_vertices_that_are_nan_stay_nan(own: Mini) -> None:
    """Catches undefined vertices (subjects 6 and 8) that become numbers or stop the reading."""
    path = own.folder("fsaverage") / "lh.betas_session01.mgh"
    values = own.surface("fsaverage", "lh", 1).T.copy()
    values[0] = np.nan  # vertex 0 is in nsdgeneral
    values[3] = 0
    nibabel.save(nibabel.MGHImage(values[:, None, None, :], np.eye(4)), path)
    data = NSD(str(own.root), 1, space="fsaverage").responses()["response"].values
    assert np.isnan(data[:12, :2]).all()
    assert np.isfinite(data[12:]).all()
    assert np.isfinite(data[:12, 2:]).all()


def test_a_truncated_mgh_file_is_named_with_its_sizes(own: Mini) -> None:
    """Catches a mapped file that ends early and would be read as zeros or crash."""
    path = own.folder("fsaverage") / "rh.betas_session02.mgh"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileError, match=r"rh\.betas_session02\.mgh.*truncated"):
        NSD(str(own.root), 1, space="fsaverage").labels()


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\0\0\0\1" + b"\xff" * 400])
def test_what_is_no_mgh_is_named(own: Mini, content: bytes) -> None:
    """Catches a TypeError or KeyError from the header of an empty or foreign file."""
    path = own.folder("fsaverage") / "rh.betas_session02.mgh"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"rh\.betas_session02\.mgh"):
        NSD(str(own.root), 1, space="fsaverage").labels()


def test_few_vertices_of_a_large_mesh_take_little_memory(tmp_path) -> None:
    """Catches a copy of all vertices between the first and the last that are wanted."""
    values = np.random.default_rng(0).standard_normal((90_000, 20)).astype(np.float32)
    path = tmp_path / "lh.betas_session01.mgh"
    nibabel.save(nibabel.MGHImage(values[:, None, None], np.eye(4)), path)
    keep = np.arange(7, 90_000, 300)
    tracemalloc.start()
    try:
        read = np.concatenate(list(MghBetas(path).raw(keep)), axis=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(read, values[keep].T)
    assert peak < values.nbytes / 5


def test_shipped_ncsnr_joins_the_hemispheres(mini: Mini) -> None:
    """Catches the maps of the two hemispheres swapped."""
    shipped = NSD(str(mini.root), 1, space="fsaverage").shipped_ncsnr()
    level = np.linspace(0.1, 1.0, FSAVERAGE, dtype=np.float32)
    kept = [np.flatnonzero(surface_labels("fsaverage", side)["nsdgeneral"] == 1) for side in MESHES]
    np.testing.assert_allclose(shipped, np.r_[level[kept[0]], 1 + level[kept[1]]], rtol=1e-6)

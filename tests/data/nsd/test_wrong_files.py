"""Files that are wrong by content: each message names the file, what was found, what is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from neuroattn.data.nsd import NSD
from neuroattn.data.nsd.layout import REPETITION_TIME, SESSIONS, Layout
from neuroattn.errors import FileError, MismatchError
from tests.data.nsd_mini import AFFINE, Mini, write_design, write_session, write_volume


def whole(mini: Mini, **options) -> None:
    NSD(str(mini.root), 1, **options).responses()


def empty_betas(mini: Mini, number: int, shape: tuple[int, ...]) -> None:
    """Write a dataset of that shape, no byte of which takes room."""
    with h5py.File(mini.betas_folder / f"betas_session{number:02d}.hdf5", "w") as file:
        file.create_dataset("betas", shape, np.int16, chunks=True)


def test_a_session_of_another_subject_is_named(own: Mini) -> None:
    """Catches a file of subject 5 in the folder of subject 1."""
    empty_betas(own, 2, (12, 78, 97, 79))
    with pytest.raises(MismatchError, match=r"betas_session02\.hdf5.*grid of subject 5"):
        whole(own)


def test_a_session_of_the_other_resolution_is_refused(own: Mini) -> None:
    """Catches func1mm betas beside func1pt8mm masks."""
    empty_betas(own, 1, (12, 7, 5, 4))
    with pytest.raises(MismatchError, match=r"4 x 5 x 7.*4 x 5 x 6"):
        whole(own)


def test_a_folder_of_another_subject_is_known_by_its_masks(own: Mini) -> None:
    """Catches a whole folder under a wrong name, whose files fit each other."""
    write_volume(own.anatomy / "roi/nsdgeneral.nii.gz", np.zeros((82, 106, 84), np.int8))
    with pytest.raises(MismatchError, match=r"nsdgeneral.*grid of subject 2.*subject 1"):
        whole(own)


def test_a_native_surface_of_another_subject_is_named(own: Mini) -> None:
    """Catches the mesh of subject 3 in the folder of subject 1, and the hemispheres swapped."""
    path = own.folder("nativesurface") / "lh.betas_session01.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", (12, 240830), np.int16, chunks=True)
    with pytest.raises(MismatchError, match=r"left hemisphere of subject 3"):
        whole(own, space="nativesurface")


def test_a_nifti_in_another_space_is_refused(own: Mini) -> None:
    """Catches betas whose voxels lie elsewhere than the mask's, with the same numbers of them."""
    moved = AFFINE.copy()
    moved[2, 3] = 40
    write_volume(own.betas_folder / "betas_session01.nii.gz", own.session(1), moved)
    with pytest.raises(MismatchError, match=r"betas_session01\.nii\.gz.*affine"):
        whole(own, format="nifti")


@pytest.mark.parametrize("format", ["hdf5", "nifti"])
def test_a_session_under_two_numbers_is_found(own: Mini, format: str) -> None:
    """Catches a download script that saved one session twice: the repeats would be wrong."""
    ending = {"hdf5": "hdf5", "nifti": "nii.gz"}[format]
    folder = own.betas_folder
    shutil.copy(folder / f"betas_session01.{ending}", folder / f"betas_session02.{ending}")
    with pytest.raises(MismatchError, match=r"betas_session02.*same numbers as session 1"):
        whole(own, format=format)


def test_a_copy_is_found_where_the_voxel_in_the_middle_is_invalid(own: Mini) -> None:
    """Catches a sample of zeros that says nothing, so that a copy passes."""
    path = own.betas_folder / "betas_session01.hdf5"
    keep = np.flatnonzero((own.labels["nsdgeneral"] == 1).ravel(order="F"))
    middle = np.unravel_index(keep[len(keep) // 2], own.dims, order="F")
    with h5py.File(path, "r+") as file:
        file["betas"][(slice(None), *middle[::-1])] = 0
    shutil.copy(path, own.betas_folder / "betas_session02.hdf5")
    with pytest.raises(MismatchError, match=r"betas_session02.*same numbers as session 1"):
        whole(own, format="hdf5")


@pytest.mark.parametrize("name", [b"\xff\xfe", None])
def test_names_of_labels_that_are_no_text_are_refused(own: Mini, name: bytes | None) -> None:
    """Catches a UnicodeDecodeError, and a folder of that name."""
    path = own.root / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab"
    path.unlink()
    path.mkdir() if name is None else path.write_bytes(name)
    with pytest.raises(FileError, match=r"floc-faces\.mgz\.ctab"):
        whole(own)


@pytest.mark.parametrize("space", ["fsaverage", "nativesurface"])
def test_a_surface_session_under_two_numbers_is_found(own: Mini, space: str) -> None:
    """Catches the same in the right hemisphere alone."""
    ending = "mgh" if space == "fsaverage" else "hdf5"
    folder = own.folder(space)
    shutil.copy(folder / f"rh.betas_session01.{ending}", folder / f"rh.betas_session02.{ending}")
    with pytest.raises(MismatchError, match=r"rh\.betas_session02.*same numbers as session 1"):
        whole(own, space=space)


def test_hdf5_truncated_in_the_middle_is_named_with_its_size(own: Mini) -> None:
    """Catches an interrupted download, which h5py tells without the file's name."""
    path = own.betas_folder / "betas_session02.hdf5"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=rf"betas_session02\.hdf5 \({len(content) // 2} bytes"):
        whole(own)


def test_nifti_truncated_in_the_middle_is_refused(own: Mini) -> None:
    """Catches a packed file that ends early, in the stream and between two trials."""
    path = own.betas_folder / "betas_session02.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=r"betas_session02\.nii\.gz.*truncated"):
        whole(own, format="nifti")
    image = nibabel.Nifti1Image(own.session(2), AFFINE).to_bytes()
    plain = path.with_name("betas_session02.nii.gz")
    import gzip

    plain.write_bytes(gzip.compress(image[:-500]))
    with pytest.raises(FileError, match=r"end in trial 1[0-2] of 12.*truncated"):
        whole(own, format="nifti")


@pytest.mark.parametrize(
    ("kind", "message"),
    [(np.float32, "float32"), (np.int32, "int32")],
)
def test_hdf5_of_another_type_is_refused(own: Mini, kind, message: str) -> None:
    """Catches betas that somebody divided by 300 already, which would be divided again."""
    path = own.betas_folder / "betas_session01.hdf5"
    with h5py.File(path, "w") as file:
        file["betas"] = (own.session(1).T / 300).astype(kind)
    with pytest.raises(FileError, match=rf"betas_session01\.hdf5.*{message}.*needed: int16"):
        whole(own)


def test_nifti_with_a_scale_in_its_header_is_refused(own: Mini) -> None:
    """Catches a file that a tool saved again with slope 1/300: dividing by 300 would be twice."""
    image = nibabel.Nifti1Image(own.session(1), AFFINE)
    image.header.set_slope_inter(1 / 300, 0)
    nibabel.save(image, own.betas_folder / "betas_session01.nii.gz")
    with pytest.raises(FileError, match="slope"):
        whole(own, format="nifti")


def test_hdf5_without_betas_says_what_it_holds(own: Mini) -> None:
    """Catches another file of NSD under this name."""
    path = own.betas_folder / "betas_session01.hdf5"
    with h5py.File(path, "w") as file:
        file["R2"] = np.zeros(3)
    with pytest.raises(FileError, match=r"hold \['R2'\]"):
        whole(own)


@pytest.mark.parametrize("format", ["hdf5", "nifti"])
def test_a_trial_without_any_value_is_refused(own: Mini, format: str) -> None:
    """Catches a block that was never written: zeros that would pass for responses."""
    values = own.session(1)
    values[..., 4:6] = 0
    write_volume(own.betas_folder / "betas_session01.nii.gz", values)
    with h5py.File(own.betas_folder / "betas_session01.hdf5", "w") as file:
        file["betas"] = values.T
    with pytest.raises(FileError, match=r"betas_session01.*2 of 12 trials.*first is trial 5"):
        whole(own, format=format)


def test_a_block_of_nan_is_refused(own: Mini) -> None:
    """Catches NaN trials of a surface, which a mean over repeats would spread."""
    path = own.folder("fsaverage") / "lh.betas_session02.mgh"
    values = own.surface("fsaverage", "lh", 2).T.copy()
    values[:, 11] = np.nan
    nibabel.save(nibabel.MGHImage(values[:, None, None, :], np.eye(4)), path)
    with pytest.raises(FileError, match=r"lh\.betas_session02.*1 of 12 trials.*trial 12"):
        whole(own, space="fsaverage")


def test_one_voxel_may_be_zero_in_a_trial_by_chance(own: Mini) -> None:
    """Catches a small ROI that is refused because |percent| < 1/600 rounds to 0."""
    values = own.session(1)
    where = np.argwhere(own.labels["floc-faces"] == 2)
    for i, j, k in where[1:]:
        values[i, j, k] = 0
    i, j, k = where[0]
    values[i, j, k, 3] = 0
    write_volume(own.betas_folder / "betas_session01.nii.gz", values)
    reader = NSD(str(own.root), 1, format="nifti", roi=["FFA-1"], sessions=1)
    column = np.concatenate(list(reader.read(0)), axis=1)[:, np.isfinite(reader_values(reader))]
    assert column[3, 0] == 0


def reader_values(reader: NSD) -> np.ndarray:
    return np.concatenate(list(reader.read(0)), axis=1)[0]


def test_a_session_without_any_value_is_refused(own: Mini) -> None:
    """Catches a file that was allocated and never filled."""
    empty_betas(own, 2, (12, 6, 5, 4))
    with pytest.raises(FileError, match=r"betas_session02.*0 or NaN in all trials"):
        whole(own)


def test_a_session_with_fewer_trials_than_the_design_is_refused(own: Mini) -> None:
    """Catches a file of 10 trials whose images would be taken from 12."""
    path = own.betas_folder / "betas_session02.hdf5"
    with h5py.File(path, "w") as file:
        file["betas"] = own.session(2).T[:10]
    with pytest.raises(MismatchError, match=r"betas_session02.*10 trials.*12 a session"):
        whole(own)


def test_a_design_with_too_few_trials_is_refused(own: Mini) -> None:
    """Catches the last session dropped in silence, or joined with images that are not there."""
    write_design(own, masterordering=own.ordering[None, :20] + 1.0)
    with pytest.raises(MismatchError, match=r"20 trials, enough for 1 sessions.*too few"):
        whole(own)
    with pytest.raises(MismatchError, match=r"nsd_expdesign\.mat has 20 trials.*needs 24"):
        whole(own, sessions=2)


def test_sessions_of_unlike_length_are_refused_without_a_pattern(own: Mini) -> None:
    """Catches a truncated session where the design does not say how long they are."""
    from scipy.io import loadmat, savemat

    path = own.experiment / "nsd_expdesign.mat"
    arrays = {k: v for k, v in loadmat(path).items() if k[0] != "_" and k != "stimpattern"}
    savemat(path, arrays)
    assert NSD(str(own.root), 1).responses()["run"].values.tolist() == [0] * 24
    with h5py.File(own.betas_folder / "betas_session02.hdf5", "w") as file:
        file["betas"] = own.session(2).T[:9]
    with pytest.raises(MismatchError, match=r"betas_session02.*9 trials"):
        whole(own)


def test_a_shipped_ncsnr_of_another_grid_is_refused(own: Mini) -> None:
    """Catches the map of another subject laid over these voxels; a missing one is None."""
    path = own.betas_folder / "ncsnr.nii.gz"
    write_volume(path, np.zeros((6, 5, 4), np.float32))
    with pytest.raises(MismatchError, match="ncsnr"):
        NSD(str(own.root), 1).shipped_ncsnr()
    path.unlink()
    assert NSD(str(own.root), 1).shipped_ncsnr() is None


def test_a_missing_folder_is_told_first(tmp_path) -> None:
    """Catches a wrong path that is told as a missing ROI file."""
    with pytest.raises(FileError, match="none"):
        NSD(str(tmp_path / "none"), 1).responses()


def test_session_copies_keep_their_count(own: Mini) -> None:
    """Catches more sessions than the subject had: 30 of subject 4, 40 of subject 1."""
    assert SESSIONS == (40, 40, 32, 30, 40, 32, 40, 30)
    write_session(own, 1)
    whole(own)


def test_the_published_sizes_are_those_of_the_subjects() -> None:
    """Catches a digit of a published size: a right file would be refused, or a wrong one taken."""
    grids = (
        (81, 104, 83),
        (82, 106, 84),
        (81, 106, 82),
        (85, 99, 80),
        (79, 97, 78),
        (85, 113, 83),
        (78, 95, 81),
        (80, 103, 78),
    )
    meshes = {
        "left": (227021, 239633, 240830, 228495, 197594, 253634, 198770, 224364),
        "right": (226601, 239309, 243023, 227262, 198908, 259406, 200392, 224398),
    }
    for row in range(8):
        layout = Layout(Path(), row + 1, "func1pt8mm", "betas_fithrf")
        assert layout.owner(grids[row]) == row + 1
        native = Layout(Path(), row + 1, "nativesurface", "betas_fithrf")
        for side, counts in meshes.items():
            assert native.owner((counts[row],), side) == row + 1
    assert {name: round(tr, 3) for name, tr in REPETITION_TIME.items()} == {
        "func1pt8mm": 1.333,
        "func1mm": 1.0,
    }
